#include "base/clock.h"

#include <ctime>

namespace zpair {

Nanoseconds boot_time_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<Nanoseconds>(now.tv_sec) * ns_per_s + now.tv_nsec;
}

}  // namespace zpair
