#pragma once
// What a process of this node has used so far: for measuring (GET /v1/usage). Counters only go up; whoever asks takes differences.
// Errors: not_found (the process is gone, or is another user's), internal (the kernel's text is not as expected).
// Source: proc(5), /proc/PID/stat and /proc/PID/io: all threads, those that ended too.
#include <sys/types.h>

#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace zpair::node {

struct Usage {
  std::uint64_t cpu_ticks = 0;      // user and system, of ticks_per_second()
  std::uint64_t read_bytes = 0;     // from drives
  std::uint64_t written_bytes = 0;  // to drives
  std::uint64_t resident_bytes = 0;
};

std::uint64_t ticks_per_second();
Result<Usage> usage_of(pid_t pid);

// The texts of /proc/PID/stat and /proc/PID/io.
Result<Usage> parse_usage(std::string_view stat, std::string_view io);

}  // namespace zpair::node
