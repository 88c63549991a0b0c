#pragma once
// How long a client waited: the longest time in which something was outstanding and nothing completed, and the slowest
// single operation. Reads and writes are watched apart (a held write stalls a client although reads go on); a stall is
// the longer of the two.
// Ownership: plain values. Threading: none; the caller gives the time.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

namespace zpair::drill {

enum class StallKind : std::uint8_t { read, write };

class StallMeter {
 public:
  void started(StallKind kind, Nanoseconds now);
  void completed(StallKind kind, Nanoseconds started_at, Nanoseconds now);

  // Windows: an event is one, so is the whole run. What is going on at begin() counts whole.
  using WindowId = std::size_t;
  WindowId begin(std::string name, Nanoseconds now);
  void end(WindowId window, Nanoseconds now);
  void restart(WindowId window, Nanoseconds now);  // an open one: as if it had just begun

  struct Window {
    std::string name;
    Nanoseconds began_ns = 0;
    Nanoseconds ended_ns = 0;        // 0: still open
    Nanoseconds stall_ns = 0;        // without what goes on now: see stall_of()
    Nanoseconds stall_ended_ns = 0;  // 0: it goes on, or there was none
    Nanoseconds slowest_ns = 0;
    std::uint64_t completed_count = 0;
  };
  const std::vector<Window>& windows() const { return windows_; }
  Nanoseconds stall_of(WindowId window, Nanoseconds now) const;
  Nanoseconds going_on(Nanoseconds now) const;  // the stall right now: 0 when nothing is outstanding

 private:
  struct Kind {
    std::uint32_t outstanding = 0;
    Nanoseconds quiet_since_ns = 0;  // last completion, or when the first of the outstanding started
  };
  std::array<Kind, 2> kinds_;
  std::vector<Window> windows_;
  std::vector<WindowId> open_;
};

}  // namespace zpair::drill
