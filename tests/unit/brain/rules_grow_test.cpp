// Rule 8: grow after resync; and rule 2 for legs that grow.
#include "bench.h"

namespace zpair::brain::test {
namespace {

using namespace owner;

struct Rule8 : testing::Test {
  FakeStore store;
  OwnerBench owner{store};

  // Serving alone: every leg of b is off since txg 9 (mirror 0), 12 (mirror 1), ... and silent.
  void serve_alone(int mirror_count) {
    Record record = make_record(mirror_count);
    for (int mirror = 0; mirror < mirror_count; ++mirror) {
      take_off(record, leg_id(mirror, node_b), Txg{9 + 3 * static_cast<std::uint64_t>(mirror)});
      owner.silent.insert(leg_id(mirror, node_b));
    }
    owner.serve(record);
  }
  SwapRecord open_swap() { return owner.last<SwapRecord>(); }
  void apply() {
    const SwapRecord swap = open_swap();
    ASSERT_TRUE(store.swap(swap));
    owner.feed(SwapApplied{owner.now_ns, swap.record.op, *store.stored});
  }
};

TEST_F(Rule8, a_side_returns_in_one_step_and_grows_in_one_swap) {
  serve_alone(12);
  owner.silent.clear();
  owner.pass_ms(500);
  ASSERT_EQ(owner.count<ReturnLegs>(), 1u);
  EXPECT_EQ(owner.last<ReturnLegs>().legs.size(), 12u);
  EXPECT_EQ(owner.last<ReturnLegs>().since, Txg{9}) << "the smallest of all";
  EXPECT_EQ(owner.count<SwapRecord>(), 2u) << "resyncing, in sync";
  for (int mirror = 0; mirror < 12; ++mirror) EXPECT_TRUE(in_sync(store.record(), leg_id(mirror, node_b)));
  EXPECT_EQ(store.record().mirrors[0].legs[1].since, Txg{});
  EXPECT_FALSE(store.record().mirrors[0].legs[1].resyncing);
  EXPECT_EQ(why(owner.state, leg_id(0, node_b)), "in sync");
}

TEST_F(Rule8, fence_quiesce_inspect_mark_resync_ack_set_swap_in_this_order) {
  serve_alone(1);
  owner.silent.clear();
  owner.pass_ms(500);
  EXPECT_LT(owner.place<FenceLeg>(), owner.place<QuiesceLeg>());
  EXPECT_LT(owner.place<QuiesceLeg>(), owner.place<InspectLegs>());
  EXPECT_LT(owner.place<InspectLegs>(), owner.place<SwapRecord>());
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<ReturnLegs>())
      << "a half-copied leg never passes for a whole one (rule 11)";
  EXPECT_LT(owner.place<ReturnLegs>(), owner.place<SetAckSet>());
  ASSERT_EQ(owner.count<SwapRecord>(), 2u);
  EXPECT_TRUE(owner.all<SwapRecord>()[0].record.mirrors[0].legs[1].resyncing);
  EXPECT_TRUE(owner.all<SwapRecord>()[1].record.mirrors[0].legs[1].in_sync);
}

TEST_F(Rule8, nothing_goes_online_before_its_older_connections_are_quiesced) {
  serve_alone(1);
  owner.hold<QuiesceLeg>();
  owner.silent.clear();
  owner.pass_ms(5000);
  EXPECT_EQ(owner.count<QuiesceLeg>(), 1u);
  EXPECT_EQ(owner.count<ReturnLegs>(), 0u);
  owner.feed(LegQuiesced{owner.now_ns, leg_id(0, node_b)});
  owner.pass_ms(400);
  EXPECT_EQ(owner.count<ReturnLegs>(), 1u);
}

TEST_F(Rule8, it_joins_the_ack_set_before_the_swap_and_leaves_no_gap) {
  serve_alone(1);
  owner.hold<SetAckSet>();
  owner.silent.clear();
  owner.pass_ms(1000);
  ASSERT_EQ(owner.count<SetAckSet>(), 1u);
  EXPECT_EQ(owner.last<SetAckSet>().legs.size(), 2u);
  EXPECT_EQ(owner.count<SwapRecord>(), 1u) << "not asked to be named before the gate waits for it";
  owner.feed(AckSetStands{owner.now_ns, owner.last<SetAckSet>().generation});
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule8, while_the_grows_outcome_is_unknown_the_leg_must_acknowledge) {
  serve_alone(1);
  owner.hold<SwapRecord>();
  owner.silent.clear();
  owner.pass_ms(500);
  apply();  // resyncing is recorded
  ASSERT_TRUE(in_sync(open_swap().record, leg_id(0, node_b)));
  store.up = false;
  owner.feed(SwapUnknown{owner.now_ns, open_swap().record.op});
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  owner.pass_ms(2000);
  EXPECT_EQ(ack_set(owner.state).size(), 2u);
  EXPECT_EQ(owner.count<FailLegs>(), 0u) << "H20: it may be named";
  store.swap(open_swap());  // and so it was, late
  store.up = true;
  owner.pass_ms(200);
  ASSERT_EQ(owner.last<SwapRecord>().expected_mod_revision, store.stored->mod_revision);
  apply();  // only now the shrink
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_EQ(owner.last<FailLegs>().legs, std::vector{leg_id(0, node_b)});
}

struct BadReport {
  const char* name;
  ScanReport report;
};
class Rule8Report : public Rule8, public testing::WithParamInterface<BadReport> {};

TEST_P(Rule8Report, a_resync_is_believed_only_by_the_scans_own_record) {
  serve_alone(1);
  owner.scan = GetParam().report;
  owner.silent.clear();
  owner.pass_ms(800);
  EXPECT_EQ(owner.count<ReturnLegs>(), 1u);
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_EQ(ack_set(owner.state).size(), 1u);
  EXPECT_EQ(owner.count<FailLegs>(), 1u);
  owner.scan = ScanReport{true, 0, Txg{8}, true, true, true};
  owner.pass_ms(2000);
  EXPECT_EQ(owner.count<ReturnLegs>(), 2u) << "from the first step again";
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

INSTANTIATE_TEST_SUITE_P(Reports, Rule8Report,
                         testing::Values(BadReport{"not_finished", {false, 0, Txg{0}, true, true, true}},
                                         BadReport{"errors", {true, 1, Txg{0}, true, true, true}},
                                         BadReport{"scan_min_too_high", {true, 0, Txg{9}, true, true, true}},
                                         BadReport{"dtl_not_empty", {true, 0, Txg{0}, false, true, true}},
                                         BadReport{"no_txg_after_online", {true, 0, Txg{0}, true, false, true}},
                                         BadReport{"a_log_not_replayed", {true, 0, Txg{0}, true, true, false}}),
                         [](const auto& info) { return info.param.name; });

TEST_F(Rule8, a_late_answer_of_a_former_resync_is_not_taken_for_the_new_one) {
  serve_alone(1);
  owner.hold<ReturnLegs>();
  owner.silent.clear();
  owner.pass_ms(500);
  const ReturnLegs first = owner.last<ReturnLegs>();
  owner.silent.insert(leg_id(0, node_b));  // gone in mid-resync
  owner.pass_ms(700);
  EXPECT_EQ(owner.count<FailLegs>(), 1u) << "at once: the record does not name it";
  owner.silent.clear();
  owner.pass_ms(2000);
  ASSERT_EQ(owner.count<ReturnLegs>(), 2u);
  owner.feed(ResyncEnded{owner.now_ns, first.legs, owner.scan, first.resync_id});
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
  owner.feed(ResyncEnded{owner.now_ns, first.legs, owner.scan, owner.last<ReturnLegs>().resync_id});
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule8, one_leg_fails_in_mid_resync_the_others_go_on) {
  serve_alone(3);
  owner.hold<ReturnLegs>();
  owner.silent.clear();
  owner.pass_ms(500);
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_b), LegFault::io_error, "EIO"});
  EXPECT_EQ(owner.last<FailLegs>().legs, std::vector{leg_id(1, node_b)});
  const ReturnLegs order = owner.last<ReturnLegs>();
  owner.feed(ResyncEnded{owner.now_ns, order.legs, owner.scan, order.resync_id});
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_b)));
  EXPECT_TRUE(in_sync(store.record(), leg_id(2, node_b)));
}

TEST_F(Rule8, a_shrink_in_mid_resync_has_its_own_swap) {
  serve_alone(1);
  Record record = make_record(2);
  FakeStore other;
  OwnerBench two{other};
  take_off(record, leg_id(0, node_b), Txg{9});
  two.silent.insert(leg_id(0, node_b));
  two.serve(record);
  two.hold<ReturnLegs>();
  two.silent.clear();
  two.pass_ms(500);
  ASSERT_EQ(two.count<ReturnLegs>(), 1u);
  two.feed(LegErred{two.now_ns, leg_id(1, node_b), LegFault::io_error, "EIO"});
  EXPECT_FALSE(in_sync(other.record(), leg_id(1, node_b)));
  two.pass_ms(3000);
  EXPECT_EQ(two.count<ReturnLegs>(), 1u) << "while a side is returning no other leg goes online";
  const ReturnLegs order = two.last<ReturnLegs>();
  two.feed(ResyncEnded{two.now_ns, order.legs, two.scan, order.resync_id});
  EXPECT_TRUE(in_sync(other.record(), leg_id(0, node_b)));
  two.pass_ms(1000);
  EXPECT_EQ(two.count<ReturnLegs>(), 2u) << "then its turn comes";
}

TEST_F(Rule8, no_leg_returns_before_the_pool_serves) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  owner.start(record, node_a, 3000 * ns_per_ms);
  owner.pass_ms(2500);
  for (const FenceLeg& fence : owner.all<FenceLeg>()) EXPECT_NE(fence.leg, leg_id(0, node_b));
  owner.pass_ms(1500);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule8, a_leg_shrunk_twice_in_ten_minutes_backs_off) {
  owner.serve(make_record(1));
  auto shrink = [&] { owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"}); };
  auto is_in_sync = [&] { return in_sync(store.record(), leg_id(0, node_b)); };
  shrink();
  EXPECT_FALSE(is_in_sync());
  owner.pass_ms(1000);
  EXPECT_TRUE(is_in_sync()) << "once: at once";
  shrink();
  owner.pass_ms(9'000);
  EXPECT_FALSE(is_in_sync());
  EXPECT_NE(why(owner.state, leg_id(0, node_b)).find("backing off"), std::string::npos);
  owner.pass_ms(2'000);
  EXPECT_TRUE(is_in_sync());
  shrink();
  owner.pass_ms(19'000);
  EXPECT_FALSE(is_in_sync()) << "doubled";
  owner.pass_ms(2'000);
  EXPECT_TRUE(is_in_sync());
}

TEST_F(Rule8, a_leg_whose_node_dies_again_and_again_returns_at_once) {
  owner.serve(make_record(1));
  for (int death = 0; death < 4; ++death) {
    owner.silent.insert(leg_id(0, node_b));
    owner.pass_ms(1000);
    ASSERT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
    owner.silent.clear();
    owner.pass_ms(2000);
    EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)))
        << "death " << death << ": its drive has done nothing wrong";
  }
}

TEST_F(Rule8, a_leg_whose_drive_comes_and_goes_returns_at_once) {
  for (LegFault fault : {LegFault::verifier_changed, LegFault::drive_gone}) {
    FakeStore other;
    OwnerBench plugged{other};
    plugged.serve(make_record(1));
    for (int time = 0; time < 3; ++time) {
      plugged.feed(LegErred{plugged.now_ns, leg_id(0, node_b), fault, "gone"});
      ASSERT_FALSE(in_sync(other.record(), leg_id(0, node_b)));
      plugged.pass_ms(2000);
      EXPECT_TRUE(in_sync(other.record(), leg_id(0, node_b)))
          << "fault " << static_cast<int>(fault) << ", time " << time;
    }
  }
}

TEST_F(Rule8, a_leg_with_too_many_read_errors_again_backs_off) {
  owner.serve(make_record(1));
  for (int time = 0; time < 2; ++time) {
    owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::read_errors, "17 in a minute"});
    owner.pass_ms(2000);
  }
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule8, a_diverged_side_comes_back_as_new_legs_by_full_resync) {
  serve_alone(2);
  owner.foreign_txg_count = 2;
  owner.silent.clear();
  owner.hold<AwaitResync>();
  owner.pass_ms(1000);
  EXPECT_EQ(owner.count<ReturnLegs>(), 0u);
  ASSERT_EQ(owner.count<AttachLeg>(), 1u) << "one at a time";
  const AttachLeg attach = owner.last<AttachLeg>();
  EXPECT_EQ(attach.discard, leg_id(0, node_b));
  const LegId built{leg_id(0, node_b).value + 1000};
  ASSERT_NE(record::find_leg(store.record(), built), nullptr) << "under its new guid";
  EXPECT_TRUE(record::find_leg(store.record(), built)->resyncing);
  owner.release<AwaitResync>();
  const AwaitResync wait = owner.last<AwaitResync>();
  owner.feed(ResyncEnded{owner.now_ns, wait.legs, owner.scan, wait.resync_id});
  owner.pass_ms(1000);
  EXPECT_TRUE(in_sync(store.record(), built));
  EXPECT_TRUE(in_sync(store.record(), LegId{leg_id(1, node_b).value + 1000}));
}

TEST_F(Rule8, one_foreign_uberblock_txg_is_no_divergence) {
  serve_alone(1);
  owner.foreign_txg_count = 1;
  owner.silent.clear();
  owner.pass_ms(500);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule8, status_shows_progress) {
  serve_alone(1);
  owner.hold<ReturnLegs>();
  owner.silent.clear();
  owner.pass_ms(500);
  owner.feed(ResyncProgressed{owner.now_ns, 40, 12});
  EXPECT_EQ(why(owner.state, leg_id(0, node_b)), "resyncing 40 %, 12 s left");
}

}  // namespace
}  // namespace zpair::brain::test
