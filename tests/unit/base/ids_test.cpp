#include "base/ids.h"

#include <gtest/gtest.h>

#include <set>

namespace zpair {
namespace {

TEST(Uuid, its_text_parses_back) {
  Uuid uuid = Uuid::random();
  auto parsed = Uuid::parse(uuid.to_string());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, uuid);
  EXPECT_EQ(uuid.to_string().size(), 36u);
}

TEST(Uuid, from_name_is_version_5_and_depends_on_the_name_alone) {
  Uuid one = Uuid::from_name("drive/1");
  EXPECT_EQ(one, Uuid::from_name("drive/1"));
  EXPECT_NE(one, Uuid::from_name("drive/2"));
  EXPECT_EQ(one.bytes[6] >> 4, 5);
  EXPECT_EQ(one.bytes[8] >> 6, 2);
}

TEST(Uuid, bad_text_is_an_error) {
  for (const char* text : {"", "5", "zz000000-0000-0000-0000-000000000000", "000000000000000000000000000000000"}) {
    auto parsed = Uuid::parse(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid);
  }
}

TEST(HostId, no_two_pools_nodes_or_epochs_share_one) {
  std::set<Uuid> seen;
  for (std::uint64_t pool : {1, 12}) {
    for (NodeId node : {NodeId::a, NodeId::b}) {
      for (std::uint64_t epoch : {1, 2, 21}) seen.insert(host_id_of(PoolGuid{pool}, node, Epoch{epoch}));
    }
  }
  EXPECT_EQ(seen.size(), 12u);
}

TEST(NodeId, only_a_and_b_parse) {
  EXPECT_EQ(*parse_node("a"), NodeId::a);
  EXPECT_EQ(*parse_node("b"), NodeId::b);
  auto other = parse_node("witness");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("'witness'"), std::string::npos);
}

}  // namespace
}  // namespace zpair
