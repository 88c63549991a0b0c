#include "base/timeline.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace zpair {
namespace {

TEST(Timeline, parts_follow_each_other_and_sum_up) {
  Timeline timeline{"node a was last heard", 10 * ns_per_ms, 0, {}};
  timeline.end_part("detect", 822 * ns_per_ms);
  timeline.end_part("survey", 830 * ns_per_ms);
  timeline.end_part("swap", 850 * ns_per_ms);
  timeline.end_part("survey", 900 * ns_per_ms);  // began anew
  EXPECT_EQ(to_text(timeline), "0.89 s after node a was last heard: detect 812 ms, survey 58 ms, swap 20 ms");
  Nanoseconds sum = 0;
  for (const TimePart& part : timeline.parts) sum += part.took_ns;
  EXPECT_EQ(sum, timeline.ended_ns - timeline.began_ns);
}

TEST(Timeline, nothing_is_noted_while_nothing_is_timed_and_no_part_is_negative) {
  Timeline none;
  none.end_part("detect", ns_per_s);
  EXPECT_EQ(none, Timeline{});
  Timeline timeline{"the order", 5 * ns_per_s, 0, {}};
  timeline.end_part("yield", 4 * ns_per_s);
  EXPECT_EQ(timeline.parts.front().took_ns, 0);
  EXPECT_EQ(timeline.ended_ns, 5 * ns_per_s);
}

TEST(Timeline, a_part_is_milliseconds_in_json) {
  const nlohmann::json value = TimePart{"import", 83'149'000};
  EXPECT_EQ(value.dump(), R"({"ms":83.1,"part":"import"})");
  EXPECT_EQ(value.get<TimePart>(), (TimePart{"import", 83'100'000}));
}

}  // namespace
}  // namespace zpair
