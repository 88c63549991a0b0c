#pragma once
// The node's events, for `zpair events`: numbered, the newest thousand in memory, all of them in the state folder.
// Threading: reactor thread.
// Errors:    none: an event that cannot be written to the file is in memory still, and logged.
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/timeline.h"
#include "base/unique_fd.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::node {

struct Event {
  std::uint64_t number = 0;  // goes on over restarts
  std::int64_t time_ms = 0;  // wall clock, for people only
  std::string node;
  std::string pool;  // empty: of the node
  std::string kind;
  std::string text;
  std::uint64_t origin_number = 0;   // an event of the partner: its number there; 0: our own
  std::vector<TimePart> parts = {};  // of `serving`
};

class Events {
 public:
  static constexpr std::size_t capacity = 1000;
  Events(NodeId node, std::string file);  // goes on where the file ends

  void add(std::string pool, std::string kind, std::string text, std::vector<TimePart> parts = {});
  void add_of_partner(Event event);                     // as it was told; twice is once
  void partner_starts_anew() { last_of_partner_ = 0; }  // its state folder is a new one
  std::uint64_t last_of_partner() const { return last_of_partner_; }
  std::uint64_t last() const { return last_; }
  std::vector<Event> since(std::uint64_t number) const;
  block::Task<std::vector<Event>> wait_since(std::uint64_t number, Deadline deadline);
  // When a drill of the pool passed last, on the wall clock; of all events that the file has.
  std::optional<std::int64_t> last_good_drill_ms(const std::string& pool) const;
  void close();  // ends every wait

 private:
  NodeId node_;
  UniqueFd file_;
  std::deque<Event> events_;
  std::map<std::string, std::int64_t> good_drills_ms_;  // by pool
  void keep(Event event);
  void remember(Event event);
  std::uint64_t last_ = 0;
  std::uint64_t last_of_partner_ = 0;
  bool closed_ = false;
  block::Signal changed_;
};

}  // namespace zpair::node
