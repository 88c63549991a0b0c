// Schedules that once broke an invariant, written out: a seed goes stale when the code changes, these do not. Each runs with
// a number of seeds, which decide only the delays.
#include <gtest/gtest.h>

#include "world.h"

namespace zpair::sim {
namespace {

struct Row {
  std::string name;
  std::vector<Fault> faults;
};

constexpr Nanoseconds ms(std::int64_t count) { return count * ns_per_ms; }

class Schedules : public testing::TestWithParam<Row> {};

TEST_P(Schedules, break_no_invariant) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Plan plan;
    plan.seed = seed;
    plan.faults = GetParam().faults;
    plan.length_ns = plan.faults.back().at_ns + ms(1'000);
    plan.promise_ns = ms(1'000);
    World world(plan, brain::Mutation::none, ModelMutation::none, false, World::Liveness::checked);
    EXPECT_TRUE(world.run()) << "seed " << seed << ": " << world.broken();
  }
}

const Row rows[] = {
    // The answers to the connects of a paused target arrive when it has crashed since: those connections are dead, and what
    // is sent over them while nobody listens must be sent again.
    {"connections_of_a_target_that_has_crashed",
     {{ms(1'477), FaultKind::agent_pause, NodeId::b, 1, ms(1'787), true},
      {ms(1'979), FaultKind::node_isolated, NodeId::a, 0, ms(1'930), true},
      {ms(3'609), FaultKind::node_crash, NodeId::b, 0, ms(425), true}}},
    // The partner takes over between an import's order and the import, which reads an older state then: its claim must not end.
    {"an_overtaken_import", {{ms(250), FaultKind::node_pause, NodeId::a, 0, ms(4'473), true}}},
    // A drive that no record known to its node names yet does not open at once: zpaird tries again by itself.
    {"a_drive_that_opens_late",
     {{ms(1'500), FaultKind::store_cut, NodeId::b, 0, ms(5'000), false},
      {ms(2'000), FaultKind::add_mirror, NodeId::a, 0, ms(1'000), false},
      {ms(4'000), FaultKind::agent_restart, NodeId::b, 0, ms(500), false}}},
};

INSTANTIATE_TEST_SUITE_P(Found, Schedules, testing::ValuesIn(rows), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace zpair::sim
