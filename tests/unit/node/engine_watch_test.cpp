#include "node/engine_watch.h"

#include <gtest/gtest.h>

namespace zpair::node {
namespace {

struct Beats {
  EngineWatch watch;
  Nanoseconds now_ns = 1000 * ns_per_s;
  // Whether any heartbeat of `seconds`, each 100 ms, was judged a hang.
  bool hang_within(std::int64_t seconds, std::uint64_t moves, std::uint64_t step) {
    bool hang = false;
    for (std::int64_t beat = 0; beat < seconds * 10; ++beat) {
      now_ns += 100 * ns_per_ms;
      hang = watch.hangs(moves + static_cast<std::uint64_t>(beat) * step, now_ns) || hang;
    }
    return hang;
  }
};

TEST(EngineWatch, an_engine_that_moves_does_not_hang) { EXPECT_FALSE(Beats().hang_within(300, 1, 1)); }

TEST(EngineWatch, before_the_import_nothing_is_judged) { EXPECT_FALSE(Beats().hang_within(300, 0, 0)); }

TEST(EngineWatch, an_engine_that_stands_still_hangs_after_its_bound) {
  Beats beats;
  EXPECT_FALSE(beats.hang_within(29, 7, 0));
  EXPECT_TRUE(beats.hang_within(3, 7, 0));
  EXPECT_FALSE(beats.hang_within(1, 8, 1)) << "it moved again before it was killed";
}

TEST(EngineWatch, a_pause_of_the_machine_is_no_hang) {
  Beats beats;
  EXPECT_FALSE(beats.hang_within(20, 7, 0));
  beats.now_ns += 3600 * ns_per_s;
  EXPECT_FALSE(beats.hang_within(5, 7, 0));
}

}  // namespace
}  // namespace zpair::node
