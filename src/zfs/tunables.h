#pragma once
// OpenZFS's own settings that can be reached from outside the library. They count for the whole process, at once.
// Threading: any thread. Errors: not_found (no such tunable, or static in this library), invalid (out of its bounds).
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace zpair::zfs {

struct Tunable {
  std::string name;
  std::string unit;  // bytes, seconds, percent, count, ...
  std::string meaning;
  std::uint64_t value = 0;
  std::uint64_t least = 0, most = 0;
};

std::vector<Tunable> tunables();
Result<std::uint64_t> tunable(std::string_view name);
Result<void> set_tunable(std::string_view name, std::uint64_t value);

}  // namespace zpair::zfs
