#pragma once
// Reading what a node answered (docs/api.md): an older one may lack a key, and what it does not know is null.
#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace zpair::cli {

inline std::string text_of(const nlohmann::json& object, const char* key, std::string otherwise = "-") {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return otherwise;
  return found->is_string() ? found->get<std::string>() : found->dump();
}

inline std::uint64_t number_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

inline const nlohmann::json& list_of(const nlohmann::json& object, const char* key) {
  static const nlohmann::json nothing = nlohmann::json::array();
  const auto found = object.find(key);
  return found != object.end() && found->is_array() ? *found : nothing;
}

}  // namespace zpair::cli
