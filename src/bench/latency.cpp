#include "latency.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace zpair::bench {

nlohmann::json Latencies::summary_us() {
  if (took_ns_.empty()) return nullptr;
  std::sort(took_ns_.begin(), took_ns_.end());
  const auto count = static_cast<double>(took_ns_.size());
  // The smallest that at least this part of all did not exceed.
  const auto at = [&](double part) {
    const auto rank = static_cast<std::size_t>(std::ceil(part * count));
    return static_cast<double>(took_ns_[std::max<std::size_t>(rank, 1) - 1]) / 1e3;
  };
  const double sum_ns = std::accumulate(took_ns_.begin(), took_ns_.end(), 0.0);
  return {{"mean", sum_ns / count / 1e3}, {"p50", at(0.5)}, {"p99", at(0.99)}, {"p99_9", at(0.999)}};
}

}  // namespace zpair::bench
