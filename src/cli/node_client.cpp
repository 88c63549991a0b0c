#include "cli/node_client.h"

#include <algorithm>

#include "api/http_client.h"
#include "cli/peer_process.h"
#include "cli/sandbox_layout.h"
#include "cli/sizes.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

Result<json> ask_one(const Nodes::Place& place, const std::string& method, const std::string& target,
                     const std::string& body, std::int64_t timeout_ms) {
  ZP_TRY(text, api::call_and_wait({place.socket, method, target, body}, timeout_ms));
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded())
    return fail(ErrorCode::internal, "{} answered something that is no JSON: {}", place.socket, text.substr(0, 100));
  return answer;
}

}  // namespace

Result<Nodes> Nodes::of_sandbox(const std::string& dir) {
  ZP_TRY(layout, load_layout(dir));
  const auto processes = find_processes(layout.dir);
  std::vector<Place> places;
  for (std::string_view node : node_names) {
    const bool lives = std::any_of(processes.begin(), processes.end(), [&](const SandboxProcess& process) {
      return process.node == node && process.name == "zpaird" && process.state == "running";
    });
    if (lives) places.push_back({std::string(node), layout.api_socket(node)});
  }
  return Nodes(std::move(places), dir);
}

Result<json> Nodes::ask(const std::string& method, const std::string& target, const std::string& body,
                        std::int64_t timeout_ms) const {
  if (places_.empty())
    return fail(ErrorCode::unreachable, "no node of the sandbox {} runs: zpair sandbox up {}", sandbox_,
                quoted(sandbox_));
  for (std::size_t i = 0; i < places_.size(); ++i) {
    auto answer = ask_one(places_[i], method, target, body, timeout_ms);
    const bool next_may_know = !answer && answer.error().code == ErrorCode::unreachable && i + 1 < places_.size();
    if (!next_may_know) return answer;
  }
  return fail(ErrorCode::internal, "no node was asked");
}

Result<json> Nodes::get(const std::string& target) const { return ask("GET", target, "", look_timeout_ms); }
Result<json> Nodes::get(const std::string& target, std::int64_t timeout_ms) const {
  return ask("GET", target, "", timeout_ms);
}
Result<json> Nodes::post(const std::string& target, const json& body) const {
  return ask("POST", target, body.dump(), change_timeout_ms);
}

std::vector<json> Nodes::get_all(const std::string& target) const {
  std::vector<json> answers;
  for (const Place& place : places_) {
    if (auto answer = ask_one(place, "GET", target, "", look_timeout_ms)) answers.push_back(std::move(*answer));
  }
  return answers;
}

bool Nodes::has(const std::string& node) const {
  return std::any_of(places_.begin(), places_.end(), [&](const Place& place) { return place.name == node; });
}

Nodes Nodes::only(const std::string& node) const {
  if (sandbox_.empty()) return *this;
  std::vector<Place> places;
  for (const Place& place : places_) {
    if (place.name == node) places.push_back(place);
  }
  return Nodes(std::move(places), sandbox_);
}

}  // namespace zpair::cli
