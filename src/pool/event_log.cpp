#include "pool/event_log.h"

#include <chrono>
#include <utility>

#include "base/log.h"

namespace zpair::pool {

void EventLog::add(std::string kind, std::string text, std::vector<TimePart> parts) {
  log_info("{}: {}", kind, text);
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  entries_.push_back({++last_, std::chrono::duration_cast<std::chrono::milliseconds>(wall).count(), std::move(kind),
                      std::move(text), std::move(parts)});
  if (entries_.size() > capacity) entries_.pop_front();
  changed_.set();
  changed_.reset();  // only those that wait now
}

std::vector<EventEntry> EventLog::since(std::uint64_t number) const {
  std::vector<EventEntry> newer;
  for (const EventEntry& entry : entries_) {
    if (entry.number > number) newer.push_back(entry);
  }
  return newer;
}

block::Task<std::vector<EventEntry>> EventLog::wait_since(std::uint64_t number, Deadline deadline) {
  while (last_ <= number && !closed_ && !deadline.passed()) co_await block::wait_for(changed_, deadline);
  co_return since(number);
}

void EventLog::close() {
  closed_ = true;
  changed_.set();
}

}  // namespace zpair::pool
