#include "record/record.h"

#include <gtest/gtest.h>

namespace zpair::record {
namespace {

Record two_mirrors() {
  Record record;
  record.name = "tank-a";
  record.pool_guid = PoolGuid{0xffff'ffff'ffff'fff1};
  record.home = NodeId::a;
  record.zfs_host_ids = {0x5a7a0001, 0x5a7a0002};
  record.epoch = Epoch{7};
  record.rev = Revision{12};
  record.op = "op-1";
  record.owner = NodeId::b;
  record.floor_txg = Txg{900};
  record.why = "takeover";
  for (std::uint64_t i = 0; i < 2; ++i) {
    Mirror mirror{MirrorId{100 + i}, "normal", {}};
    mirror.legs.push_back({LegId{200 + i}, NodeId::a, "file:a", false, false, Txg{880}, false, "file:c", Revision{9}});
    mirror.legs.push_back({LegId{300 + i}, NodeId::b, "file:b", true, false, Txg{}, false, "", Revision{}});
    record.mirrors.push_back(mirror);
  }
  return record;
}

TEST(Record, json_keeps_every_field_and_every_bit_of_a_guid) {
  Record record = two_mirrors();
  auto parsed = parse_record(to_json(record));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(*parsed, record);
}

TEST(Record, a_leg_that_replaces_none_is_written_as_by_programs_that_knew_no_replacement) {
  Record record = two_mirrors();
  EXPECT_NE(to_json(record).find("\"replaces\":\"file:c\""), std::string::npos);
  for (Mirror& mirror : record.mirrors) mirror.legs[0].replaces.clear();
  EXPECT_EQ(to_json(record).find("replaces"), std::string::npos)
      << "the digests in the fence files would not be its own any more";
  auto parsed = parse_record(to_json(record));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(*parsed, record);
}

TEST(Record, a_replacement_has_begun_where_one_leg_came_for_the_others_drive) {
  Record record = two_mirrors();
  Leg& old = record.mirrors[0].legs[0];
  Leg came = old;
  came.drive = "file:new";
  came.replaces = old.drive;
  old.replaces.clear();
  EXPECT_TRUE(replacement_begun(came, old));
  EXPECT_TRUE(replacement_begun(old, came)) << "or it is taken back";
  Leg sibling = old;
  sibling.drive = "file:sibling";
  EXPECT_FALSE(replacement_begun(sibling, old));
  came.node = NodeId::b;
  EXPECT_FALSE(replacement_begun(came, old)) << "of another node";
  EXPECT_EQ(find_drive(record, "file:b"), &record.mirrors[0].legs[1]);
  EXPECT_EQ(find_drive(record, "file:nosuch"), nullptr);
}

TEST(Record, a_newer_format_is_refused_with_the_mend) {
  Record record = two_mirrors();
  record.version = format_version + 1;
  auto parsed = parse_record(to_json(record));
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::unsupported);
}

TEST(Record, damaged_text_is_an_error_not_an_exception) {
  std::string good = to_json(two_mirrors());
  for (std::size_t size = 0; size < good.size(); size += 7) {
    EXPECT_FALSE(parse_record(good.substr(0, size))) << size;
  }
  EXPECT_FALSE(parse_record("{}"));
  EXPECT_FALSE(parse_record("[1,2]"));
}

TEST(Record, the_digest_tells_records_apart) {
  Record one = two_mirrors();
  Record other = one;
  other.mirrors[1].legs[1].in_sync = false;
  EXPECT_EQ(digest_of(one), digest_of(two_mirrors()));
  EXPECT_NE(digest_of(one), digest_of(other));
}

TEST(Record, only_on_needs_one_mirror_that_the_partner_cannot_serve) {
  Record record = two_mirrors();
  EXPECT_TRUE(only_on(record, NodeId::b));
  EXPECT_TRUE(serves_alone(record, NodeId::b));
  EXPECT_FALSE(serves_alone(record, NodeId::a));
  for (Mirror& mirror : record.mirrors) mirror.legs[0].in_sync = true;
  EXPECT_FALSE(only_on(record, NodeId::b));
  EXPECT_TRUE(serves_alone(record, NodeId::a));
}

TEST(Floor, json_keeps_it) {
  Floor floor{Txg{77}, {{0xffff'ffff'ffff'ff00, 12}, {5, 6}}};
  auto parsed = parse_floor(to_json(floor));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, floor);
}

}  // namespace
}  // namespace zpair::record
