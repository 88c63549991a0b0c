#pragma once
// Time is CLOCK_BOOTTIME in nanoseconds: it goes on while a machine sleeps; wall clocks decide nothing (design, section 2).
#include <cstdint>

namespace zpair {

using Nanoseconds = std::int64_t;  // a duration, or an instant since boot

inline constexpr Nanoseconds ns_per_us = 1'000;
inline constexpr Nanoseconds ns_per_ms = 1'000'000;
inline constexpr Nanoseconds ns_per_s = 1'000'000'000;

Nanoseconds boot_time_ns();

// When a wait ends with `timed_out`. `Deadline::never()` is only for I/O that the brain holds.
struct Deadline {
  Nanoseconds at_ns;
  static Deadline never() { return Deadline{INT64_MAX}; }
  static Deadline in_ms(std::int64_t ms) { return Deadline{boot_time_ns() + ms * ns_per_ms}; }
  bool passed() const { return at_ns != INT64_MAX && boot_time_ns() >= at_ns; }
};

}  // namespace zpair
