#pragma once
// Whom `zpair` asks: one zpaird by its socket, or those of a sandbox that live. What one node cannot answer because nobody
// is there, the other is asked; an answer that is an error stands.
// Errors: unreachable, naming how to start the node; else what the node answered.
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace zpair::cli {

inline constexpr std::string_view default_socket = "/run/zpair/zpaird.sock";
inline constexpr std::int64_t look_timeout_ms = 3000;  // of requests that change nothing
inline constexpr std::int64_t change_timeout_ms = 120000;

class Nodes {
 public:
  struct Place {
    std::string name;  // of a sandbox's node; else empty
    std::string socket;
  };

  static Nodes at_socket(const std::string& socket) { return Nodes({{"", socket}}, ""); }
  // Nodes whose zpaird lives and is not paused.
  static Result<Nodes> of_sandbox(const std::string& dir);

  Result<nlohmann::json> get(const std::string& target) const;
  Result<nlohmann::json> get(const std::string& target, std::int64_t timeout_ms) const;
  Result<nlohmann::json> post(const std::string& target, const nlohmann::json& body) const;
  // Every node that answers.
  std::vector<nlohmann::json> get_all(const std::string& target) const;
  // The named node's answers only (sandbox), or those of whoever is there (socket).
  Nodes only(const std::string& node) const;
  bool has(const std::string& node) const;
  const std::vector<Place>& places() const { return places_; }

 private:
  Nodes(std::vector<Place> places, std::string sandbox) : places_(std::move(places)), sandbox_(std::move(sandbox)) {}
  Result<nlohmann::json> ask(const std::string& method, const std::string& target, const std::string& body,
                             std::int64_t timeout_ms) const;

  std::vector<Place> places_;
  std::string sandbox_;
};

}  // namespace zpair::cli
