// Rules 4, 5, 6, 9, 11 at the agent.
#include "bench.h"

namespace zpair::brain::test {
namespace {

using namespace agent;

struct Agent : testing::Test {
  FakeStore store;
  AgentBench agent{store};
  std::vector<LegId> legs_of(NodeId node, int count) {
    std::vector<LegId> legs;
    for (int mirror = 0; mirror < count; ++mirror) legs.push_back(leg_id(mirror, node));
    return legs;
  }
};

// ---------------------------------------------------------------- rule 4

using Rule4 = Agent;

TEST_F(Rule4, every_import_takes_the_next_epoch) {
  agent.own(node_a, make_record(1));
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});  // restart in place
  agent.pass_ms(1500);
  EXPECT_EQ(store.record().epoch, Epoch{6});
  EXPECT_EQ(agent.last<StartPool>().stored.record.epoch, Epoch{6});
}

TEST_F(Rule4, legs_of_the_other_node_are_named_only_with_its_agents_word) {
  agent.own(node_a, make_record(2));
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = std::vector{leg_id(0, node_b)};
  agent.tick();
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(500);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_b))) << "not agreed to";
  EXPECT_EQ(record::find_leg(store.record(), leg_id(1, node_b))->since, Txg{61})
      << "1 + the newest uberblock on the own legs";
}

// Simulator, seed 0xb7a4a: the leg that was off had flushed a txg that the owner's own leg lost with its power.
TEST_F(Rule4, an_import_lowers_since_to_what_it_will_find_itself) {
  Record record = make_record(2);
  take_off(record, leg_id(0, node_b), Txg{62});
  take_off(record, leg_id(1, node_b), Txg{30});
  agent.own(node_a, record);
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(1500);
  ASSERT_EQ(store.record().epoch, Epoch{6});
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b))->since, Txg{61}) << "txg 61 will be written anew";
  EXPECT_EQ(record::find_leg(store.record(), leg_id(1, node_b))->since, Txg{30});
}

TEST_F(Rule4, only_named_legs_say_what_an_import_will_find) {
  Record record = make_record(2);
  take_off(record, leg_id(1, node_a), Txg{20});
  agent.newest_of[leg_id(1, node_a)] = Txg{90};  // of a history that is gone
  agent.own(node_a, record);
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = std::vector{leg_id(1, node_b)};
  agent.tick();
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(500);
  ASSERT_EQ(store.record().epoch, Epoch{6});
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b))->since, Txg{61}) << "not 91";
  EXPECT_EQ(agent.last<StartPool>().newest_txg, Txg{60});
}

TEST_F(Rule4, at_least_one_in_sync_leg_for_each_mirror_or_no_swap) {
  Record record = make_record(3);
  take_off(record, leg_id(2, node_b), Txg{812});
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(3000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  EXPECT_EQ(agent.count<StartPool>(), 0u);
}

TEST_F(Rule4, a_newer_revision_means_read_and_decide_again) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  agent.pass_ms(1000);
  ASSERT_EQ(agent.count<SwapRecord>(), 1u);
  Record shrunk = store.record();  // the owner came first
  take_off(shrunk, leg_id(0, node_b), Txg{70});
  shrunk.rev = shrunk.rev.next();
  store.put(shrunk);
  agent.feed(SwapOther{agent.now_ns, agent.last<SwapRecord>().record.op, store.stored});
  agent.pass_ms(500);
  EXPECT_EQ(agent.count<SwapRecord>(), 1u);
  EXPECT_NE(agent.state.refused, "");
}

TEST_F(Rule4, an_agent_does_not_agree_while_its_own_process_lives_or_its_own_import_is_open) {
  agent.own(node_a, make_record(1));
  agent.feed(SurveyAsked{agent.now_ns, 1, Epoch{6}});
  EXPECT_FALSE(agent.last<AnswerSurvey>().agreed);

  FakeStore other_store;
  AgentBench other{other_store};
  other.watch_owner(node_b, make_record(1));
  other.feed(SurveyAsked{other.now_ns, 1, Epoch{5}});
  EXPECT_FALSE(other.last<AnswerSurvey>().agreed) << "that epoch is taken";
  other.feed(SurveyAsked{other.now_ns, 2, Epoch{6}});
  EXPECT_TRUE(other.last<AnswerSurvey>().agreed);
  EXPECT_EQ(other.last<AnswerSurvey>().legs, std::vector{leg_id(0, node_b)});
  other.hold<SwapRecord>();
  other.owner_asks = false;
  other.pass_ms(7000);
  ASSERT_EQ(other.count<SwapRecord>(), 1u);
  other.feed(SurveyAsked{other.now_ns, 3, Epoch{6}});
  EXPECT_FALSE(other.last<AnswerSurvey>().agreed);
}

// ---------------------------------------------------------------- rule 5

using Rule5Agent = Agent;

TEST_F(Rule5Agent, copy_kept_then_own_drives_closed_then_the_pool_process) {
  agent.watch_owner(node_b, make_record(1));
  agent.owner_asks = false;
  agent.pass_ms(1500);
  EXPECT_LT(agent.place<SwapRecord>(), agent.place<KeepCopy>());
  EXPECT_LT(agent.place<KeepCopy>(), agent.place<CloseLocalDrives>());
  EXPECT_LT(agent.place<CloseLocalDrives>(), agent.place<StartPool>());
}

TEST_F(Rule5Agent, a_handover_is_done_only_after_kill_and_drain) {
  agent.own(node_a, make_record(1));
  agent.hold<KillPool>();
  agent.hold<OpenLocalDrives>();
  Record taken = store.record();
  taken.epoch = Epoch{6};
  taken.rev = taken.rev.next();
  taken.owner = node_b;
  store.put(taken);
  agent.feed(HandoverAsked{agent.now_ns, *store.stored});
  EXPECT_EQ(agent.count<KillPool>(), 1u);
  agent.pass_ms(200);
  EXPECT_EQ(agent.count<AnswerHandover>(), 0u);
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "killed"});
  EXPECT_EQ(agent.count<AnswerHandover>(), 0u) << "dead is not drained";
  agent.feed(LocalDrivesOpened{agent.now_ns, {}});
  EXPECT_EQ(agent.last<AnswerHandover>(), (AnswerHandover{Epoch{6}, true, {}}));
}

TEST_F(Rule5Agent, drives_that_cannot_be_drained_are_named) {
  agent.own(node_a, make_record(2));
  agent.drives_failed = {leg_id(1, node_a)};
  Record taken = store.record();
  taken.epoch = Epoch{6};
  taken.rev = taken.rev.next();
  taken.owner = node_b;
  store.put(taken);
  agent.feed(HandoverAsked{agent.now_ns, *store.stored});
  EXPECT_EQ(agent.last<AnswerHandover>(), (AnswerHandover{Epoch{6}, false, {leg_id(1, node_a)}}));
}

TEST_F(Rule5Agent, the_new_owners_agent_asks_for_the_handover_until_it_is_answered) {
  agent.own(node_a, make_record(1));
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = legs_of(node_b, 1);
  agent.tick();
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(500);
  EXPECT_GE(agent.count<SendHandover>(), 3u);
  agent.feed(HandoverAnswered{agent.now_ns, Epoch{6}, true, {}});
  EXPECT_EQ(agent.last<ReleasePromise>().epoch, Epoch{6});
  agent.clear();
  agent.pass_ms(500);
  EXPECT_EQ(agent.count<SendHandover>(), 0u);
}

TEST_F(Rule5Agent, the_release_is_said_again_to_a_process_that_did_not_listen_yet) {
  agent.own(node_a, make_record(1));
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = legs_of(node_b, 1);
  agent.pool_beats = false;
  agent.tick();
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(100);
  agent.feed(HandoverAnswered{agent.now_ns, Epoch{6}, true, {}});  // before its first heartbeat
  agent.clear();
  agent.feed(PoolHeartbeat{agent.now_ns, Epoch{6}, owner::Phase::fencing});
  EXPECT_EQ(agent.count<ReleasePromise>(), 1u);
  agent.feed(PoolHeartbeat{agent.now_ns, Epoch{6}, owner::Phase::serving});
  EXPECT_EQ(agent.count<ReleasePromise>(), 1u);
}

TEST_F(Rule5Agent, cannot_is_told_to_the_pool_process_and_releases_nothing) {
  agent.own(node_a, make_record(1));
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = legs_of(node_b, 1);
  agent.tick();
  agent.feed(PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(200);
  agent.feed(HandoverAnswered{agent.now_ns, Epoch{6}, false, {leg_id(0, node_b)}});
  EXPECT_EQ(agent.last<TellCannotFence>().legs, legs_of(node_b, 1));
  EXPECT_EQ(agent.count<ReleasePromise>(), 0u);
}

// ---------------------------------------------------------------- rule 6

using Rule6Agent = Agent;

TEST_F(Rule6Agent, promises_only_to_the_highest_epoch_it_knows) {
  agent.watch_owner(node_b, make_record(1));
  agent.feed(PromiseAsked{agent.now_ns, 1, Epoch{4}, 9, {}});
  EXPECT_EQ(agent.last<AnswerPromise>(), (AnswerPromise{1, 9, false, Epoch{5}}));
  agent.feed(PromiseAsked{agent.now_ns, 0, Epoch{6}, 10, {}});
  EXPECT_TRUE(agent.last<AnswerPromise>().granted);
  agent.feed(PromiseAsked{agent.now_ns, 0, Epoch{5}, 11, {}});
  EXPECT_FALSE(agent.last<AnswerPromise>().granted);
}

TEST_F(Rule6Agent, never_while_its_own_import_is_open) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  agent.pass_ms(1200);
  ASSERT_EQ(agent.count<SwapRecord>(), 1u);
  store.up = false;
  agent.feed(SwapUnknown{agent.now_ns, agent.last<SwapRecord>().record.op});
  agent.feed(PromiseAsked{agent.now_ns, 0, Epoch{5}, 9, {}});
  EXPECT_FALSE(agent.last<AnswerPromise>().granted) << "the swap may have been applied";
  EXPECT_EQ(agent.last<AnswerPromise>().known, Epoch{5}) << "and may not: the owner need not exit";
}

TEST_F(Rule6Agent, the_pool_process_waits_for_the_nodes_last_promise) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  const Nanoseconds granted_at_ns = agent.now_ns;  // the last promise
  agent.pass_ms(1000);
  const SwapRecord swap = agent.last<SwapRecord>();
  store.swap(swap);
  agent.feed(SwapApplied{agent.now_ns, swap.record.op, *store.stored});
  EXPECT_EQ(agent.last<StartPool>().first_ack_at_ns, granted_at_ns + 1010 * ns_per_ms);
  EXPECT_FALSE(agent.last<StartPool>().promise_released);
}

TEST_F(Rule6Agent, a_start_of_the_agent_counts_as_a_promise) {
  const Nanoseconds started_at_ns = agent.now_ns;
  agent.state.limits.partner_wait_ns = 0;
  agent.start(node_b, make_record(1));
  agent.pass_ms(100);
  ASSERT_EQ(agent.count<StartPool>(), 1u);
  EXPECT_EQ(agent.last<StartPool>().first_ack_at_ns, started_at_ns + 1010 * ns_per_ms);
}

TEST_F(Rule6Agent, never_while_an_own_newer_process_lives) {
  agent.own(node_a, make_record(1));
  EXPECT_FALSE(may_promise(agent.state, Epoch{4}));
  EXPECT_FALSE(may_promise(agent.state, Epoch{5}));
  EXPECT_TRUE(may_promise(agent.state, Epoch{6}));
}

// ---------------------------------------------------------------- rule 9

using Rule9Agent = Agent;

TEST_F(Rule9Agent, a_store_that_went_back_starts_nothing) {
  agent.watch_owner(node_b, make_record(1));
  Record old = store.record();
  old.rev = Revision{3};
  store.put(old);
  agent.owner_asks = false;
  agent.pass_ms(3000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  EXPECT_NE(why(agent.state).find("the store went back"), std::string::npos) << why(agent.state);
}

TEST_F(Rule9Agent, a_leg_that_was_told_more_than_the_record_starts_nothing) {
  agent.watch_owner(node_b, make_record(1));
  agent.local_legs[0].kept_rev = Revision{99};
  agent.owner_asks = false;
  agent.pass_ms(3000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
}

TEST_F(Rule9Agent, an_unknown_swap_is_resolved_by_reading) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  agent.pass_ms(1000);
  const SwapRecord swap = agent.last<SwapRecord>();
  agent.feed(SwapUnknown{agent.now_ns, swap.record.op});
  EXPECT_EQ(agent.last<SwapRecord>(), swap) << "not applied: the same again";
  EXPECT_EQ(agent.count<SwapRecord>(), 2u);
  store.swap(swap);
  agent.feed(SwapUnknown{agent.now_ns, swap.record.op});
  EXPECT_EQ(agent.count<StartPool>(), 1u);
}

// Simulator, seed 0x7b97c: a restored store showed the revision that an old, unresolved swap compares.
TEST_F(Rule9Agent, an_unresolved_swap_is_not_sent_again_to_a_store_that_went_back) {
  agent.watch_owner(node_b, make_record(1));
  const Stored before = *store.stored;
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  agent.pass_ms(1000);
  ASSERT_EQ(agent.count<SwapRecord>(), 1u);
  const SwapRecord ours = agent.last<SwapRecord>();
  Record shrunk = store.record();  // the owner's shrink came first, and this node has kept it
  take_off(shrunk, leg_id(0, node_a), Txg{70});
  shrunk.rev = shrunk.rev.next();
  store.put(shrunk);
  agent.feed(RecordSeen{agent.now_ns, *store.stored});
  store.stored = before;  // restored from a snapshot older than that
  agent.feed(SwapUnknown{agent.now_ns, ours.record.op});
  agent.pass_ms(5000);
  EXPECT_EQ(agent.count<SwapRecord>(), 1u);
  EXPECT_EQ(agent.count<StartPool>(), 0u);
}

TEST_F(Rule9Agent, a_read_that_shows_our_swap_before_the_stores_answer_is_an_answer) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<SwapRecord>();
  agent.owner_asks = false;
  agent.pass_ms(1000);
  const SwapRecord swap = agent.last<SwapRecord>();
  store.swap(swap);
  agent.partner = PartnerReport{Vouch::none, {}, Epoch{6}};  // it has seen it already: so we read
  agent.tick();
  EXPECT_EQ(agent.count<StartPool>(), 1u);
  agent.feed(SwapApplied{agent.now_ns, swap.record.op, *store.stored});
  EXPECT_EQ(agent.count<StartPool>(), 1u);
}

TEST_F(Rule9Agent, nothing_starts_before_the_copy_is_durable) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<KeepCopy>();
  agent.owner_asks = false;
  agent.pass_ms(2000);
  EXPECT_EQ(agent.count<KeepCopy>(), 1u);
  EXPECT_EQ(agent.count<CloseLocalDrives>(), 0u);
  const Record& record = agent.last<KeepCopy>().stored.record;
  agent.feed(RecordKept{agent.now_ns, record.epoch, record.rev});
  EXPECT_EQ(agent.count<StartPool>(), 1u);
}

TEST_F(Rule9Agent, a_newer_import_overtakes_ours_before_our_process_starts) {
  agent.watch_owner(node_b, make_record(1));
  agent.hold<CloseLocalDrives>();
  agent.owner_asks = false;
  agent.pass_ms(1500);
  ASSERT_EQ(agent.count<CloseLocalDrives>(), 1u);
  Record newer = store.record();
  newer.epoch = Epoch{7};
  newer.rev = newer.rev.next();
  newer.owner = node_a;
  store.put(newer);
  agent.feed(RecordSeen{agent.now_ns, *store.stored});
  agent.feed(LocalDrivesClosed{agent.now_ns, Epoch{6}});
  EXPECT_EQ(agent.count<StartPool>(), 0u);
}

// ---------------------------------------------------------------- rule 11

using Rule11 = Agent;

TEST_F(Rule11, the_pool_is_down_and_says_which_mirror_lacks_which_leg_since_when) {
  Record record = make_record(2);
  take_off(record, leg_id(1, node_b), Txg{812});
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  EXPECT_EQ(why(agent.state),
            "down: mirror-1 has no in-sync leg in reach (drive1@a is in sync, not in reach, drive1x@b is missing since "
            "txg 812)");
  EXPECT_EQ(agent.count<Report>(), 1u) << "one clear line, once";
  agent.owner_asks = true;  // node a is back
  agent.pass_ms(200);
  EXPECT_EQ(why(agent.state), "node a owns it");
}

TEST_F(Rule11, only_an_operator_overrides_and_the_losers_become_new_legs) {
  Record record = make_record(2);
  for (int mirror : {0, 1}) take_off(record, leg_id(mirror, node_b), Txg{812});
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 5, false, false});
  EXPECT_FALSE(agent.last<AnswerCommand>().done);
  agent.feed(ImportOrdered{agent.now_ns, 6, true, false});
  agent.pass_ms(200);
  EXPECT_TRUE(agent.last<AnswerCommand>().done);
  EXPECT_TRUE(agent.last<StartPool>().skip_floor);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_TRUE(in_sync(store.record(), leg_id(1, node_b)));
  EXPECT_TRUE(store.record().mirrors[0].legs[0].full);
  EXPECT_TRUE(store.record().mirrors[1].legs[0].full);
  EXPECT_NE(store.record().why.find("data may be lost"), std::string::npos);
  EXPECT_EQ(store.record().epoch, Epoch{6});
}

TEST_F(Rule11, the_floor_that_an_override_skips_refuses_no_later_start) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{812});
  agent.watch_owner(node_b, record);
  agent.feed(PromiseAsked{agent.now_ns, PathIndex{0}, Epoch{5}, 1, record::Floor{.txg = Txg{900}}});
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 6, true, false});
  agent.pass_ms(200);
  ASSERT_TRUE(agent.last<StartPool>().skip_floor);
  EXPECT_EQ(agent.last<StartPool>().floor.txg, Txg{});
  agent.feed(PoolExited{agent.now_ns, Epoch{6}, std::nullopt, "SIGKILL"});  // restart in place
  agent.pass_ms(2000);
  ASSERT_EQ(agent.count<StartPool>(), 2u);
  EXPECT_FALSE(agent.last<StartPool>().skip_floor);
  EXPECT_EQ(agent.last<StartPool>().floor.txg, Txg{});
}

TEST_F(Rule11, a_leg_in_mid_resync_wants_a_second_flag) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{812});
  record.mirrors[0].legs[1].resyncing = true;
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 5, true, false});
  EXPECT_FALSE(agent.last<AnswerCommand>().done);
  EXPECT_NE(agent.last<AnswerCommand>().text.find("incomplete"), std::string::npos);
  agent.feed(ImportOrdered{agent.now_ns, 6, true, true});
  agent.pass_ms(200);
  EXPECT_TRUE(agent.last<AnswerCommand>().done);
}

// The drive had failed before its node was lost: what its mirror was given in between is on no leg in reach.
TEST_F(Rule11, legs_that_went_off_at_different_times_are_no_complete_side) {
  Record record = make_record(2);
  for (int mirror : {0, 1}) take_off(record, leg_id(mirror, node_b), Txg{812});
  record::find_leg(record, leg_id(0, node_b))->off_rev = Revision{3};
  record::find_leg(record, leg_id(1, node_b))->off_rev = Revision{4};
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 5, true, false});
  EXPECT_FALSE(agent.last<AnswerCommand>().done);
  EXPECT_NE(agent.last<AnswerCommand>().text.find("did not go off together"), std::string::npos)
      << agent.last<AnswerCommand>().text;
  agent.feed(ImportOrdered{agent.now_ns, 6, true, true});
  agent.pass_ms(200);
  EXPECT_TRUE(agent.last<AnswerCommand>().done);
  EXPECT_NE(store.record().why.find("incomplete"), std::string::npos);
}

// Records written before they had off_rev.
TEST_F(Rule11, legs_that_went_off_nobody_knows_when_are_no_complete_side) {
  Record record = make_record(2);
  for (int mirror : {0, 1}) {
    take_off(record, leg_id(mirror, node_b), Txg{812});
    record::find_leg(record, leg_id(mirror, node_b))->off_rev = Revision{};
  }
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 5, true, false});
  EXPECT_FALSE(agent.last<AnswerCommand>().done);
  EXPECT_NE(agent.last<AnswerCommand>().text.find("is not recorded"), std::string::npos)
      << agent.last<AnswerCommand>().text;
  agent.feed(ImportOrdered{agent.now_ns, 6, true, true});
  agent.pass_ms(200);
  EXPECT_TRUE(agent.last<AnswerCommand>().done);
}

TEST_F(Rule11, a_new_leg_is_no_complete_one) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{});
  record.mirrors[0].legs[1].full = true;
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  agent.pass_ms(2000);
  agent.feed(ImportOrdered{agent.now_ns, 5, true, false});
  EXPECT_FALSE(agent.last<AnswerCommand>().done);
  EXPECT_NE(agent.last<AnswerCommand>().text.find("incomplete"), std::string::npos);
}

}  // namespace
}  // namespace zpair::brain::test
