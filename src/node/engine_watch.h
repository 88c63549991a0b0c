#pragma once
// The watchdog's second half: a pool process whose reactor lives (its heartbeat passes) and whose engine hangs. Its heartbeat
// carries a count that goes up while the engine moves, and also while it has a reason not to (control/message.h).
// Only time between heartbeats that came in order counts: a machine that was paused does not make a hang.
// Threading: none; a plain value.
#include <cstdint>

#include "base/clock.h"

namespace zpair::node {

class EngineWatch {
 public:
  // Far above the longest txg of a healthy engine: a false alarm costs a restart in place.
  static constexpr Nanoseconds hang_ns = 30 * ns_per_s;
  static constexpr Nanoseconds gap_ns = 500 * ns_per_ms;  // heartbeats come each 100 ms

  // True: it hangs. `engine_moves` 0: nothing is imported yet.
  bool hangs(std::uint64_t engine_moves, Nanoseconds now_ns);

 private:
  std::uint64_t moves_ = 0;
  Nanoseconds beat_ns_ = 0;
  Nanoseconds still_ns_ = 0;
};

}  // namespace zpair::node
