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
  auto plan = plan_rebuild({of_a, of_b}, {});
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_EQ(plan->size(), 2u);
  EXPECT_EQ((*plan)[0].record, record_at("tank-a", 3, 12));
  EXPECT_EQ((*plan)[0].from, NodeId::a);
  EXPECT_EQ((*plan)[1].record, record_at("tank-b", 4, 9));
  EXPECT_EQ((*plan)[1].from, NodeId::b);
}

TEST(Rebuild, a_pool_that_one_node_alone_knows_must_be_named) {
  const NodeCopies of_a{NodeId::a, {record_at("tank-a", 3, 12), record_at("gone", 1, 4)}};
  const NodeCopies of_b{NodeId::b, {record_at("tank-a", 3, 12)}};
  auto refused = plan_rebuild({of_a, of_b}, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::refused);
  auto without = plan_rebuild({of_a, of_b}, {"tank-a"});
  ASSERT_TRUE(without);
  EXPECT_EQ(without->size(), 1u);
  auto with = plan_rebuild({of_a, of_b}, {"tank-a", "gone"});
  ASSERT_TRUE(with);
  EXPECT_EQ((*with)[1].record, record_at("gone", 1, 4));
  EXPECT_FALSE(plan_rebuild({of_a, of_b}, {"unknown"}));
}

TEST(Rebuild, one_node_s_copies_are_taken_where_the_other_is_left_out) {
  auto plan = plan_rebuild({NodeCopies{NodeId::b, {record_at("tank-a", 3, 11)}}}, {});
  ASSERT_TRUE(plan);
  EXPECT_EQ((*plan)[0].from, NodeId::b);
}

TEST(Rebuild, two_pools_of_one_name_are_told_apart) {
  auto plan = plan_rebuild(
      {NodeCopies{NodeId::a, {record_at("tank", 3, 12)}}, NodeCopies{NodeId::b, {record_at("tank", 1, 2, 10)}}}, {});
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::refused);
  EXPECT_NE(plan.error().message.find("records/tank.json"), std::string::npos);
}

}  // namespace
}  // namespace zpair::state
