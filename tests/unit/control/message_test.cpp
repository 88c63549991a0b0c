#include "control/message.h"

#include <gtest/gtest.h>

namespace zpair::control {
namespace {

record::Stored a_record() {
  record::Record record;
  record.name = "tank-a";
  record.pool_guid = PoolGuid{UINT64_MAX - 5};
  record.epoch = Epoch{4};
  record.rev = Revision{17};
  record.op = "op";
  record.zfs_host_ids = {1, 2};
  record.mirrors = {
      {MirrorId{1}, "normal", {{LegId{UINT64_MAX - 1}, NodeId::a, "drive-1", true, false, Txg{0}, false}}}};
  return {record, 99};
}

// What comes out is what went in: compared by its JSON, which names every field.
void expect_round_trip(const Message& message) {
  auto parsed = parse_message(to_json(message));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->index(), message.index());
  EXPECT_EQ(to_json(*parsed), to_json(message));
}

TEST(ControlMessage, every_kind_survives_the_way_over_the_socket) {
  StartDocument document;
  document.mode = StartDocument::Mode::create;
  document.stored = a_record();
  document.drives = {{NodeId::b, "drive-2", "/dev/x", 7, 1 << 30}};
  document.floor = {Txg{12}, {{UINT64_MAX, 3}}};
  document.first_ack_not_before_ns = 123456789;
  document.newest_txg = Txg{11};
  document.force = document.accept_data_loss = true;
  expect_round_trip(Start{document});
  expect_round_trip(VolumeSocket{"vm1", ~0ull});
  expect_round_trip(VolumeClient{"vm1", 7});
  expect_round_trip(RelayLink{"vm1", "session", 3});
  expect_round_trip(Export{record::Wanted::exported});
  expect_round_trip(ReleasePromise{});
  expect_round_trip(RecordHint{a_record()});
  expect_round_trip(PartnerHint{true, true});
  expect_round_trip(CannotFence{{LegId{UINT64_MAX}, LegId{2}}});
  expect_round_trip(DrivePlaces{document.drives});
  expect_round_trip(MemoryShare{1 << 30, 2 << 20, 3 << 20});
  expect_round_trip(RecordKept{Epoch{4}, Revision{17}});
  expect_round_trip(Heartbeat{44});
  expect_round_trip(State{"tank-a", "serving", "why", a_record(), true, {{"vm1", 4096, UINT64_MAX}}, 4711});
  expect_round_trip(KeepRecord{a_record().record});
  expect_round_trip(Exiting{"fenced", "by epoch 5"});
}

TEST(ControlMessage, the_start_document_keeps_every_field) {
  StartDocument document;
  document.mode = StartDocument::Mode::import;
  document.stored = a_record();
  document.drives = {{NodeId::a, "id", "/p", 1, 2}};
  document.newest_txg = Txg{5};
  document.accept_corruption = true;
  auto parsed = parse_start_document(to_json(document));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(*parsed, document);
}

TEST(ControlMessage, an_unknown_kind_is_told_apart_from_damage) {
  auto newer = parse_message(R"({"kind": "from_the_future"})");
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, ErrorCode::not_found);
  for (const char* damaged :
       {"", "{}", "[1]", R"({"kind": "start"})", R"({"kind": "record_kept", "epoch": "x", "rev": 1})"}) {
    auto parsed = parse_message(damaged);
    ASSERT_FALSE(parsed) << damaged;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid) << damaged;
  }
}

TEST(StartDocument, an_unknown_mode_is_refused) {
  StartDocument document;
  document.stored = a_record();
  std::string text = to_json(document);
  text.replace(text.find("\"import\""), 8, "\"adopt\"");
  auto parsed = parse_start_document(text);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::invalid);
}

}  // namespace
}  // namespace zpair::control
