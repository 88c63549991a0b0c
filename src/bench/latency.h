#pragma once
// How long each of many operations took: their mean and percentiles, as the programs of this room print them.
#include <cstdint>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"

namespace zpair::bench {

class Latencies {
 public:
  void add(Nanoseconds took_ns) { took_ns_.push_back(took_ns); }
  std::size_t count() const { return took_ns_.size(); }
  // {"mean", "p50", "p99", "p99_9"} in microseconds; null without any operation.
  nlohmann::json summary_us();

 private:
  std::vector<Nanoseconds> took_ns_;
};

}  // namespace zpair::bench
