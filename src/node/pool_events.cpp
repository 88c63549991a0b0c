// The pool process's own events become the node's: asked for as they come, over its API.
#include <nlohmann/json.hpp>

#include "api/http_client.h"
#include "base/log.h"
#include "control/channel.h"
#include "node/pool_agent.h"

namespace zpair::node {

namespace {
constexpr std::int64_t wait_ms = 1000;
constexpr std::int64_t answer_limit_ms = 3000;
constexpr std::int64_t pause_ms = 100;
}  // namespace

block::Task<void> PoolAgent::follow_process_events(pid_t pid, EventsFrom from) {
  using nlohmann::json;
  std::uint64_t last = 0;
  bool skip = from == EventsFrom::now;  // a former zpaird has taken those before
  while (!closed_ && process_ && process_->pid() == pid) {
    api::Call call;
    call.socket_path = control::api_path(node_.config->run_dir, pool_);
    call.target = fmt::format("/v1/events?since={}&wait_ms={}", last, wait_ms);
    auto answer = co_await api::call(std::move(call), Deadline::in_ms(answer_limit_ms));
    if (closed_) co_return;
    if (!answer) {
      co_await block::wait_for(closing_, Deadline::in_ms(pause_ms));
      continue;
    }
    try {
      json value = json::parse(*answer);
      for (const json& event : value.at("events")) {
        std::uint64_t number = event.at("number");
        if (number <= last) continue;
        last = number;
        if (!skip)
          node_.events->add(pool_, event.at("kind"), event.at("text"), event.value("parts", std::vector<TimePart>{}));
      }
      skip = false;
    } catch (const std::exception& error) {
      log_warning("pool {}: its events cannot be read: {}", pool_, error.what());
      co_return;
    }
  }
}

}  // namespace zpair::node
