#include "state/rebuild.h"

#include <gtest/gtest.h>

namespace zpair::state {
namespace {

record::Record record_at(const char* pool, std::uint64_t epoch, std::uint64_t rev, std::uint64_t guid = 9) {
  record::Record record;
  record.name = pool;
  record.pool_guid = PoolGuid{guid};
  record.epoch = Epoch{epoch};
  record.rev = Revision{rev};
  record.op = "op";
  return record;
}

TEST(Rebuild, takes_of_each_pool_the_newest_copy_as_it_was) {
  const NodeCopies of_a{NodeId::a, {record_at("tank-a", 3, 12), record_at("tank-b", 2, 7)}};
  const NodeCopies of_b{NodeId::b, {record_at("tank-a", 3, 11), record_at("tank-b", 4, 9)}};
  auto plan = plan_rebuild({of_a, of_b}, {}, false);
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_EQ(plan->size(), 2u);
  EXPECT_EQ((*plan)[0].record, record_at("tank-a", 3, 12));
  EXPECT_EQ((*plan)[0].from, NodeId::a);
  EXPECT_EQ((*plan)[1].record, record_at("tank-b", 4, 9));
  EXPECT_EQ((*plan)[1].from, NodeId::b);
  EXPECT_FALSE((*plan)[0].with_loss || (*plan)[1].with_loss);
}

// The other node may have lost its copies, and with them the knowledge that it went on alone.
TEST(Rebuild, one_node_s_copy_is_taken_only_with_accepted_loss) {
  const NodeCopies of_a{NodeId::a, {record_at("tank-a", 3, 12), record_at("lone", 1, 4)}};
  const NodeCopies of_b{NodeId::b, {record_at("tank-a", 3, 12)}};
  for (const std::vector<std::string>& named : {std::vector<std::string>{}, {"lone"}, {"tank-a", "lone"}}) {
    auto refused = plan_rebuild({of_a, of_b}, named, false);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::refused);
  }
  EXPECT_FALSE(plan_rebuild({of_a}, {}, false)) << "the other node was not asked";
  EXPECT_EQ(plan_rebuild({of_a, of_b}, {"unknown"}, true).error().code, ErrorCode::not_found);
  auto whole = plan_rebuild({of_a, of_b}, {"tank-a"}, true);
  ASSERT_TRUE(whole);
  EXPECT_EQ((*whole)[0].record, record_at("tank-a", 3, 12)) << "both have it: nothing is lost";
}

TEST(Rebuild, with_accepted_loss_what_the_other_node_did_is_never_believed_again) {
  record::Record copy = record_at("tank", 4, 9);
  record::Mirror mirror;
  mirror.legs = {{LegId{1}, NodeId::a, "A"}, {LegId{2}, NodeId::b, "B"}};
  mirror.legs[0].in_sync = mirror.legs[1].in_sync = true;
  copy.mirrors = {mirror};
  auto plan = plan_rebuild({NodeCopies{NodeId::a, {copy}}}, {}, true);
  ASSERT_TRUE(plan) << plan.error().message;
  const record::Record& built = (*plan)[0].record;
  EXPECT_TRUE((*plan)[0].with_loss);
  EXPECT_GT(built.epoch.value, 1000u) << "above whatever b may have seen alone";
  EXPECT_GT(built.rev.value, 1000u);
  EXPECT_NE(built.op, copy.op);
  EXPECT_TRUE(built.mirrors[0].legs[0].in_sync);
  EXPECT_FALSE(built.mirrors[0].legs[1].in_sync);
  EXPECT_TRUE(built.mirrors[0].legs[1].full) << "it comes back as a new leg";

  copy.mirrors[0].legs[0].in_sync = false;  // the copy names only the lost node: an override of the pool decides
  plan = plan_rebuild({NodeCopies{NodeId::a, {copy}}}, {}, true);
  ASSERT_TRUE(plan);
  EXPECT_EQ((*plan)[0].record.mirrors, copy.mirrors);
}

TEST(Rebuild, copies_of_which_neither_is_the_newer_one_are_refused) {
  record::Record other = record_at("tank", 3, 12);
  other.op = "another swap";
  for (const record::Record& of_b : {record_at("tank", 4, 8), other}) {
    auto plan =
        plan_rebuild({NodeCopies{NodeId::a, {record_at("tank", 3, 12)}}, NodeCopies{NodeId::b, {of_b}}}, {}, true);
    ASSERT_FALSE(plan);
    EXPECT_NE(plan.error().message.find("neither is the newer"), std::string::npos) << plan.error().message;
  }
}

TEST(Rebuild, two_pools_of_one_name_are_told_apart) {
  auto plan = plan_rebuild(
      {NodeCopies{NodeId::a, {record_at("tank", 3, 12)}}, NodeCopies{NodeId::b, {record_at("tank", 1, 2, 10)}}}, {},
      false);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::refused);
  EXPECT_NE(plan.error().message.find("records/tank.json"), std::string::npos);
}

}  // namespace
}  // namespace zpair::state
