#include "agent/messages.h"

#include <gtest/gtest.h>

namespace zpair::agent {
namespace {

record::Record some_record() {
  record::Record record;
  record.name = "tank-a";
  record.pool_guid = PoolGuid{0xffff'ffff'ffff'fff1};
  record.epoch = Epoch{7};
  record.rev = Revision{12};
  record::Mirror mirror;
  mirror.guid = MirrorId{3};
  mirror.legs.push_back({LegId{0x8000'0000'0000'0001}, NodeId::a, "file:1", true, false, Txg{}, false});
  mirror.legs.push_back({LegId{5}, NodeId::b, "file:2", false, true, Txg{99}, false});
  record.mirrors.push_back(mirror);
  return record;
}

TEST(Messages, a_hello_comes_back_as_it_was) {
  Hello hello{1, NodeId::b, Role::pool, Uuid::random(), "path2"};
  auto back = parse<Hello>(to_json(hello));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->node, NodeId::b);
  EXPECT_EQ(back->role, Role::pool);
  EXPECT_EQ(back->start, hello.start);
  EXPECT_EQ(back->path, "path2");
}

TEST(Messages, a_heartbeat_keeps_64_bit_guids) {
  Heartbeat heartbeat;
  heartbeat.sequence = 5;
  PoolState state;
  state.pool = "tank-a";
  state.vouch = "serving";
  state.process_epoch = Epoch{4};
  state.known_epoch = Epoch{5};
  state.knows_volumes = true;
  state.volumes = {{"vm1", 1 << 20, 0xffff'ffff'ffff'fffe}};
  heartbeat.pools.push_back(state);
  auto back = parse<Heartbeat>(to_json(heartbeat));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->sequence, 5U);
  ASSERT_EQ(back->pools.size(), 1U);
  EXPECT_EQ(back->pools[0], state);
}

TEST(Messages, a_promise_request_carries_the_floor) {
  PromiseRequest request{"tank-a", Epoch{3}, 0xffff'ffff'ffff'ffff, {Txg{70}, {{11, 12}}}};
  auto back = parse<PromiseRequest>(to_json(request));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->nonce, request.nonce);
  EXPECT_EQ(back->floor, request.floor);
}

TEST(Messages, a_handover_carries_the_whole_record) {
  HandoverRequest request{{some_record(), 44}};
  auto back = parse<HandoverRequest>(to_json(request));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->stored, request.stored);
  auto answer = parse<HandoverAnswer>(to_json(HandoverAnswer{Epoch{7}, false, {LegId{0x8000'0000'0000'0001}}}));
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->cannot, std::vector{LegId{0x8000'0000'0000'0001}});
}

TEST(Messages, survey_and_yield_come_back_as_they_were) {
  auto survey = parse<SurveyAnswer>(to_json(SurveyAnswer{true, {LegId{1}, LegId{2}}, "fine"}));
  ASSERT_TRUE(survey);
  EXPECT_TRUE(survey->agreed);
  EXPECT_EQ(survey->legs.size(), 2U);
  auto yield = parse<YieldAnswer>(to_json(YieldAnswer{true, "exported"}));
  ASSERT_TRUE(yield);
  EXPECT_TRUE(yield->done);
  auto relay = parse<RelayHello>(to_json(RelayHello{"p", "v", Uuid::random(), 9}));
  ASSERT_TRUE(relay);
  EXPECT_EQ(relay->link_number, 9U);
}

TEST(Messages, a_body_that_is_no_utf_8_is_no_crash) {
  CallAnswer answer{200, "\"\xff\xfe\""};
  EXPECT_TRUE(parse<CallAnswer>(to_json(answer)));
}

TEST(Messages, an_error_keeps_its_code) {
  Error back = parse_error(to_json(Error{ErrorCode::refused, "because"}));
  EXPECT_EQ(back.code, ErrorCode::refused);
  EXPECT_EQ(back.message, "because");
  EXPECT_EQ(parse_error("[1]").code, ErrorCode::internal);
}

struct BadBytes {
  const char* name;
  const char* text;
};

class BadPromise : public testing::TestWithParam<BadBytes> {};

TEST_P(BadPromise, is_invalid_and_nothing_else) {
  auto parsed = parse<PromiseRequest>(GetParam().text);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::invalid);
  EXPECT_NE(parsed.error().message.find("promise request"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Messages, BadPromise,
    testing::Values(BadBytes{"empty", ""}, BadBytes{"no_json", "{"}, BadBytes{"list", "[]"}, BadBytes{"number", "3"},
                    BadBytes{"key_missing", R"({"pool":"p"})"},
                    BadBytes{"negative_epoch", R"({"pool":"p","epoch":-1,"nonce":1,"floor":{"txg":0,"logs":[]}})"},
                    BadBytes{"epoch_is_text", R"({"pool":"p","epoch":"x","nonce":1,"floor":{"txg":0,"logs":[]}})"},
                    BadBytes{"pool_is_number", R"({"pool":1,"epoch":1,"nonce":1,"floor":{"txg":0,"logs":[]}})"}),
    [](const auto& info) { return info.param.name; });

TEST(Messages, a_frame_is_its_length_and_json) {
  std::string bytes = to_bytes(Frame{"promise", 9, R"({"a":1})"});
  std::size_t length = static_cast<unsigned char>(bytes[0]) | static_cast<unsigned char>(bytes[1]) << 8;
  EXPECT_EQ(length, bytes.size() - 4);
  auto frame = parse_frame(bytes.substr(4));
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->type, "promise");
  EXPECT_EQ(frame->id, 9U);
  EXPECT_EQ(frame->body, R"({"a":1})");
  EXPECT_FALSE(parse_frame(R"({"type":"x"})"));
  EXPECT_FALSE(parse_frame("nonsense"));
}

}  // namespace
}  // namespace zpair::agent
