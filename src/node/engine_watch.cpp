#include "node/engine_watch.h"

#include <utility>

namespace zpair::node {

bool EngineWatch::hangs(std::uint64_t engine_moves, Nanoseconds now_ns) {
  const Nanoseconds gap = now_ns - std::exchange(beat_ns_, now_ns);
  const bool moved = std::exchange(moves_, engine_moves) != engine_moves;
  if (moved || engine_moves == 0) {
    still_ns_ = 0;
  } else if (gap <= gap_ns) {
    still_ns_ += gap;
  }
  return still_ns_ >= hang_ns;
}

}  // namespace zpair::node
