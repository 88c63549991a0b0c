#include "node/events.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "state/durable_file.h"

namespace zpair::node {

namespace {

using nlohmann::json;

std::int64_t wall_clock_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Events::Events(NodeId node, std::string file) : node_(node) {
  auto text = state::load_file(file);
  if (text) {
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      try {
        json value = json::parse(line);
        Event event{value.at("number"),
                    value.at("time_ms"),
                    value.at("node"),
                    value.at("pool"),
                    value.at("kind"),
                    value.at("text"),
                    value.value("origin_number", std::uint64_t{0}),
                    value.value("parts", std::vector<TimePart>{})};
        last_ = std::max(last_, event.number);
        last_of_partner_ = std::max(last_of_partner_, event.origin_number);
        remember(std::move(event));
      } catch (const std::exception&) {
        continue;  // a line cut short by a crash
      }
    }
  }
  file_ = UniqueFd(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file_) log_warning("events are kept in memory only: {} cannot be opened", file);
}

void Events::add(std::string pool, std::string kind, std::string text, std::vector<TimePart> parts) {
  Event event{0, wall_clock_ms(), std::string(name_of(node_)), std::move(pool), std::move(kind), std::move(text),
              0, std::move(parts)};
  if (event.pool.empty()) {
    log_info("{}: {}", event.kind, event.text);
  } else {
    log_info("pool {}: {}: {}", event.pool, event.kind, event.text);
  }
  keep(std::move(event));
}

void Events::add_of_partner(Event event) {
  if (event.number <= last_of_partner_) return;
  event.origin_number = last_of_partner_ = event.number;
  keep(std::move(event));
}

void Events::keep(Event event) {
  event.number = ++last_;
  if (file_) {
    json value{{"number", event.number}, {"time_ms", event.time_ms}, {"node", event.node},
               {"pool", event.pool},     {"kind", event.kind},       {"text", event.text}};
    if (event.origin_number > 0) value["origin_number"] = event.origin_number;
    if (!event.parts.empty()) value["parts"] = event.parts;
    std::string line = value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    if (::write(file_.get(), line.data(), line.size()) < 0)
      log_warning("an event could not be written to the state folder");
  }
  remember(std::move(event));
  changed_.set();
  changed_.reset();
}

void Events::remember(Event event) {
  if (event.kind == "pool-destroyed") good_drills_ms_.erase(event.pool);
  if (event.kind == "drill-passed") {
    std::int64_t& last_ms = good_drills_ms_[event.pool];
    last_ms = std::max(last_ms, event.time_ms);
  }
  events_.push_back(std::move(event));
  if (events_.size() > capacity) events_.pop_front();
}

std::optional<std::int64_t> Events::last_good_drill_ms(const std::string& pool) const {
  auto found = good_drills_ms_.find(pool);
  return found == good_drills_ms_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<Event> Events::since(std::uint64_t number) const {
  std::vector<Event> newer;
  for (const Event& event : events_) {
    if (event.number > number) newer.push_back(event);
  }
  return newer;
}

block::Task<std::vector<Event>> Events::wait_since(std::uint64_t number, Deadline deadline) {
  while (last_ <= number && !closed_ && !deadline.passed()) co_await block::wait_for(changed_, deadline);
  co_return since(number);
}

void Events::close() {
  closed_ = true;
  changed_.set();
}

}  // namespace zpair::node
