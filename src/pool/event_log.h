#pragma once
// The last events of this pool process, numbered, for /v1/events. An event is a change of state that a person wants to
// see; docs/api.md lists the kinds.
// Threading: reactor thread.
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/timeline.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::pool {

struct EventEntry {
  std::uint64_t number = 0;
  std::int64_t time_ms = 0;  // wall clock, for people only
  std::string kind;
  std::string text;
  std::vector<TimePart> parts;  // of `serving`
};

class EventLog {
 public:
  static constexpr std::size_t capacity = 1000;

  void add(std::string kind, std::string text, std::vector<TimePart> parts = {});  // logs it too
  std::uint64_t last() const { return last_; }
  std::vector<EventEntry> since(std::uint64_t number) const;
  // Returns at once when there is one newer than `number`, else at the first one, the deadline, or close().
  block::Task<std::vector<EventEntry>> wait_since(std::uint64_t number, Deadline deadline);
  void close();  // ends every wait

 private:
  std::deque<EventEntry> entries_;
  std::uint64_t last_ = 0;
  bool closed_ = false;
  block::Signal changed_;
};

}  // namespace zpair::pool
