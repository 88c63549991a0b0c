// What the agent says, and when it rather waits than says no.
#include "bench.h"

namespace zpair::brain::test {
namespace {

using namespace agent;

TEST(AgentWords, a_whole_side_that_is_gone_is_told_in_one_line) {
  Record record = make_record(12);
  const std::string text = lacking(record, {});
  EXPECT_NE(text.find("mirror-2 has no in-sync leg in reach"), std::string::npos) << text;
  EXPECT_EQ(text.find("mirror-3"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("; and 9 more")) << text;
  EXPECT_EQ(lacking(make_record(3), {}).find(" more"), std::string::npos);
}

// `failback` right after `switchover`.
TEST(AgentWords, a_yield_that_comes_before_the_pool_serves_is_not_refused) {
  FakeStore store;
  AgentBench agent{store};
  agent.own(node_a, make_record(1));
  agent.feed(PoolHeartbeat{agent.now_ns, Epoch{5}, owner::Phase::replaying});
  agent.feed(YieldAsked{agent.now_ns, Epoch{5}});
  EXPECT_EQ(agent.count<AnswerYield>(), 0u);
  EXPECT_EQ(agent.count<DrainPool>(), 0u);
  agent.feed(PoolHeartbeat{agent.now_ns, Epoch{5}, owner::Phase::serving});
  agent.feed(YieldAsked{agent.now_ns, Epoch{5}});
  EXPECT_EQ(agent.count<DrainPool>(), 1u);
  agent.feed(YieldAsked{agent.now_ns, Epoch{4}});
  EXPECT_FALSE(agent.last<AnswerYield>().done) << "an epoch that is over";
}

}  // namespace
}  // namespace zpair::brain::test
