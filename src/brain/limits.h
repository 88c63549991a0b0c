#pragma once
// The times and bounds of the rules (design, section 3). Tests may change them; nothing else does.
#include <cstdint>

#include "base/clock.h"

namespace zpair::brain {

struct Limits {
  Nanoseconds tick_ns = 50 * ns_per_ms;            // the driver sends Ticked this often
  Nanoseconds late_ns = 100 * ns_per_ms;           // a tick later than this means: we ourselves were paused
  Nanoseconds promise_ns = 1000 * ns_per_ms;       // D; the owner counts D x 0.99, the partner D x 1.01 (rule 6)
  Nanoseconds promise_every_ns = 100 * ns_per_ms;  // on each path
  Nanoseconds hold_window_ns = 600 * ns_per_ms;    // H: a silent leg is held this long from its last progress
  Nanoseconds suspect_ns = 250 * ns_per_ms;        // a leg silent for longer does not count as reached
  Nanoseconds slow_write_ns = 1000 * ns_per_ms;    // a write or flush older than this makes a leg too slow
  Nanoseconds slow_trim_ns = 30'000 * ns_per_ms;
  Nanoseconds fence_window_ns = 600 * ns_per_ms;         // a named leg confirms its fence within this or is taken off
  Nanoseconds retry_ns = 100 * ns_per_ms;                // orders that failed are given again after this
  Nanoseconds gather_ns = 300 * ns_per_ms;               // a returning side waits this long for its last legs
  Nanoseconds back_off_ns = 10'000 * ns_per_ms;          // first back-off of a leg that was shrunk twice ...
  Nanoseconds back_off_most_ns = 600'000 * ns_per_ms;    // ... doubling up to this
  Nanoseconds back_off_memory_ns = 600'000 * ns_per_ms;  // ... within this time
  Nanoseconds ask_partner_ns = 500 * ns_per_ms;          // while holding: how often the partner and the store are asked
  Nanoseconds silence_ns = 900 * ns_per_ms;              // the partner swaps no earlier after it last heard the owner
  Nanoseconds survey_ns = 300 * ns_per_ms;  // the partner's agent answers a survey within this or counts as away
  Nanoseconds partner_wait_ns = 10'000 * ns_per_ms;  // cold start: how long to wait for the partner's agent
  Nanoseconds home_grace_ns =
      5'000 * ns_per_ms;  // how long the other node lets the owner's (or home) agent restart the pool
  Nanoseconds heartbeat_ns = 900 * ns_per_ms;      // watchdog: a pool process silent for longer is killed
  Nanoseconds start_bound_ns = 5'000 * ns_per_ms;  // ... before its first heartbeat (exec, ZFS's start)
  Nanoseconds yield_ns = 10'000 * ns_per_ms;       // a planned switchover drains and exports within this or is given up
  Nanoseconds look_again_ns = 1'000 * ns_per_ms;   // a refused import is judged again this often
  Nanoseconds read_again_ns =
      5'000 * ns_per_ms;  // the record of a pool that nobody serves is read this often: the watch is only a hint
  Nanoseconds restart_back_off_ns = 500 * ns_per_ms;  // a pool process that dies again and again: doubling ...
  Nanoseconds restart_back_off_most_ns = 10'000 * ns_per_ms;
};

}  // namespace zpair::brain
