// Rules 1, 2, 3, 5, 6, 7, 9 at the owner.
#include "bench.h"

namespace zpair::brain::test {
namespace {

using namespace owner;

struct Owner : testing::Test {
  FakeStore store;
  OwnerBench owner{store};
  void silence(NodeId node, int mirror_count) {
    for (int mirror = 0; mirror < mirror_count; ++mirror) owner.silent.insert(leg_id(mirror, node));
  }
};

// ---------------------------------------------------------------- rule 2

using Rule2 = Owner;

TEST_F(Rule2, the_ack_set_is_what_the_record_names) {
  Record record = make_record(2);
  take_off(record, leg_id(1, node_b), Txg{9});
  owner.silent.insert(leg_id(1, node_b));
  owner.serve(record);
  EXPECT_EQ(ack_set(owner.state), (std::vector{leg_id(0, node_a), leg_id(0, node_b), leg_id(1, node_a)}));
}

TEST_F(Rule2, a_leg_stays_in_the_ack_set_until_the_swap_that_drops_it_is_known_and_kept) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.hold<KeepCopy>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  ASSERT_EQ(owner.count<SwapRecord>(), 1u);
  EXPECT_EQ(ack_set(owner.state).size(), 2u);
  const SwapRecord swap = owner.last<SwapRecord>();
  ASSERT_TRUE(store.swap(swap));
  owner.feed(SwapApplied{owner.now_ns, swap.record.op, *store.stored});
  EXPECT_EQ(ack_set(owner.state).size(), 2u) << "applied, but the copy is not durable yet";
  EXPECT_EQ(owner.count<FailLegs>(), 0u);
  owner.feed(RecordKept{owner.now_ns, swap.record.epoch, swap.record.rev});
  EXPECT_EQ(ack_set(owner.state), std::vector{leg_id(0, node_a)});
}

// ---------------------------------------------------------------- rule 3

using Rule3 = Owner;

TEST_F(Rule3, a_leg_fails_only_after_the_record_drops_it) {
  owner.serve(make_record(2));
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_b), LegFault::io_error, "EIO"});
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_b)));
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b))) << "only that leg";
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<KeepCopy>());
  EXPECT_LT(owner.place<KeepCopy>(), owner.place<SetAckSet>());
  EXPECT_LT(owner.place<SetAckSet>(), owner.place<FailLegs>());
}

TEST_F(Rule3, since_is_one_more_than_the_newest_txg_flushed_on_that_leg) {
  owner.serve(make_record(1));
  owner.flushed[leg_id(0, node_b)] = Txg{70};
  owner.flushed[leg_id(0, node_a)] = Txg{72};
  owner.tick();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::verifier_changed, "boot"});
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b))->since, Txg{71});
  EXPECT_EQ(store.record().floor_txg, Txg{69})
      << "what both had flushed, less the one whose uberblock may be on its way";
}

TEST_F(Rule3, since_at_an_import_is_one_more_than_the_newest_uberblock_found_before) {
  owner.hold<FenceLeg>();
  owner.start(make_record(1));
  owner.feed(LegFenced{owner.now_ns, leg_id(0, node_a)});
  owner.pass_ms(700);
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b))->since, Txg{41});
}

TEST_F(Rule3, a_silent_side_goes_off_in_one_swap) {
  owner.serve(make_record(12));
  silence(node_b, 12);
  owner.pass_ms(550);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u) << "held within the window";
  owner.pass_ms(100);
  EXPECT_EQ(owner.count<SwapRecord>(), 1u);
  EXPECT_EQ(owner.last<FailLegs>().legs.size(), 12u);
  EXPECT_TRUE(record::serves_alone(store.record(), node_a));
}

TEST_F(Rule3, nothing_is_shrunk_if_some_mirror_would_have_no_leg_that_the_owner_reaches) {
  Record record = make_record(3);
  take_off(record, leg_id(2, node_a), Txg{9});  // mirror 2 hangs on b
  owner.silent.insert(leg_id(2, node_a));
  owner.serve(record);
  silence(node_b, 3);
  owner.pass_ms(1500);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  EXPECT_TRUE(owner.state.holding);
  EXPECT_NE(why(owner.state).find("mirror-2 has no in-sync leg that answers"), std::string::npos) << why(owner.state);
  EXPECT_GE(owner.count<AskPartner>(), 1u);
  EXPECT_NE(owner.state.phase, Phase::exited) << "nobody said that the partner can serve";
  owner.silent.clear();
  owner.silent.insert(leg_id(2, node_a));
  owner.pass_ms(100);
  EXPECT_FALSE(owner.state.holding) << "it resumes when a leg answers";
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule3, an_erring_leg_waits_while_its_mirrors_other_leg_does_not_answer) {
  owner.serve(make_record(2));
  silence(node_b, 2);
  owner.pass_ms(400);  // silent, but within the window
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_a), LegFault::drive_gone, "ENODEV"});
  EXPECT_EQ(owner.count<SwapRecord>(), 0u) << "b1 is not reached: not even a1 may be shrunk";
  owner.silent.clear();
  owner.tick();
  EXPECT_EQ(owner.count<SwapRecord>(), 1u);
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_a)));
}

TEST_F(Rule3, a_holding_owner_gives_up_only_when_the_partner_can_serve_every_mirror) {
  owner.serve(make_record(2));
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_a), LegFault::drive_gone, "ENODEV"});
  silence(node_b, 2);
  owner.pass_ms(800);
  ASSERT_TRUE(owner.state.holding);
  owner.feed(PartnerAnswered{owner.now_ns, false, Epoch{5}});
  EXPECT_NE(owner.state.phase, Phase::exited);
  owner.feed(PartnerAnswered{owner.now_ns, true, Epoch{5}});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::gave_up);
}

TEST_F(Rule3, a_holding_owner_exits_when_the_partner_has_swapped) {
  owner.serve(make_record(2));
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_a), LegFault::drive_gone, "ENODEV"});
  silence(node_b, 2);
  Record taken = store.record();
  taken.epoch = Epoch{6};
  taken.rev = taken.rev.next();
  taken.owner = node_b;
  owner.hold<ReadRecord>();
  owner.pass_ms(800);
  ASSERT_TRUE(owner.state.holding);
  store.put(taken);
  owner.feed(RecordRead{owner.now_ns, store.stored});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::fenced);
}

TEST_F(Rule3, the_last_leg_that_lost_unflushed_writes_ends_the_process) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  owner.silent.insert(leg_id(0, node_b));
  owner.serve(record);
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_a), LegFault::verifier_changed, "drive reset"});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::lost_writes);
}

TEST_F(Rule3, an_error_of_the_last_leg_is_held_until_it_is_mended) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  owner.silent.insert(leg_id(0, node_b));
  owner.serve(record);
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_a), LegFault::io_error, "EIO"});
  EXPECT_TRUE(owner.state.holding);
  owner.feed(LegMended{owner.now_ns, leg_id(0, node_a)});
  EXPECT_FALSE(owner.state.holding);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
}

// ---------------------------------------------------------------- rules 5 and 7

using Rule5 = Owner;

TEST_F(Rule5, no_import_before_every_named_leg_has_confirmed_its_fence) {
  owner.hold<FenceLeg>();
  owner.start(make_record(2));
  EXPECT_EQ(owner.count<FenceLeg>(), 4u);
  for (LegId leg : {leg_id(0, node_a), leg_id(1, node_a), leg_id(0, node_b)}) owner.feed(LegFenced{owner.now_ns, leg});
  owner.pass_ms(500);
  EXPECT_EQ(owner.count<ImportPool>(), 0u);
  owner.feed(LegFenced{owner.now_ns, leg_id(1, node_b)});
  EXPECT_EQ(owner.last<ImportPool>().legs.size(), 4u);
}

TEST_F(Rule5, a_leg_that_does_not_confirm_in_time_is_taken_off_before_the_import) {
  owner.hold<FenceLeg>();
  owner.start(make_record(2));
  for (LegId leg : {leg_id(0, node_a), leg_id(1, node_a), leg_id(0, node_b)}) owner.feed(LegFenced{owner.now_ns, leg});
  owner.silent.insert(leg_id(1, node_b));
  owner.pass_ms(700);
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_b)));
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<ImportPool>());
  EXPECT_EQ(owner.last<ImportPool>().legs, (std::vector{leg_id(0, node_a), leg_id(0, node_b), leg_id(1, node_a)}))
      << "rule 7: exactly the named";
}

TEST_F(Rule5, the_import_waits_when_a_mirror_would_be_left_without_a_leg) {
  owner.hold<FenceLeg>();
  Record record = make_record(1);
  take_off(record, leg_id(0, node_a), Txg{3});
  owner.silent.insert(leg_id(0, node_a));
  owner.start(record);
  owner.pass_ms(5000);
  EXPECT_EQ(owner.count<ImportPool>(), 0u);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  EXPECT_TRUE(owner.state.holding);
  owner.feed(LegFenced{owner.now_ns, leg_id(0, node_b)});
  EXPECT_EQ(owner.count<ImportPool>(), 1u);
}

TEST_F(Rule5, a_leg_that_cannot_be_handed_over_is_not_waited_for) {
  owner.hold<FenceLeg>();
  owner.start(make_record(1));
  owner.feed(LegFenced{owner.now_ns, leg_id(0, node_a)});
  owner.feed(LegCannotFence{owner.now_ns, leg_id(0, node_b), "drive gone"});
  EXPECT_EQ(owner.count<ImportPool>(), 1u);
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(Rule5, a_failed_fence_is_tried_again) {
  owner.hold<FenceLeg>();
  owner.start(make_record(1));
  owner.feed(LegFenceFailed{owner.now_ns, leg_id(0, node_b), "closed"});
  EXPECT_EQ(owner.count<FenceLeg>(), 2u);
  owner.pass_ms(100);
  EXPECT_EQ(owner.count<FenceLeg>(), 3u);
}

TEST_F(Rule5, fenced_by_a_higher_epoch_means_exit_and_nothing_after) {
  owner.serve(make_record(1));
  owner.feed(FencedOut{owner.now_ns, leg_id(0, node_b), Epoch{5}});
  EXPECT_EQ(owner.count<ExitProcess>(), 0u) << "our own epoch";
  owner.feed(FencedOut{owner.now_ns, leg_id(0, node_b), Epoch{6}});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::fenced);
  owner.clear();
  owner.pass_ms(1000);
  EXPECT_TRUE(owner.orders.empty());
  EXPECT_FALSE(may_answer_reads(owner.state, owner.now_ns));
  EXPECT_FALSE(may_acknowledge(owner.state));
}

TEST_F(Rule5, a_failed_import_ends_the_process_and_says_why) {
  owner.hold<ImportPool>();
  owner.start(make_record(1));
  owner.feed(ImportFailed{owner.now_ns, "newest txg 30 is below the floor 41"});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::import_failed);
}

// ---------------------------------------------------------------- rule 6

using Rule6Owner = Owner;

TEST_F(Rule6Owner, nothing_is_acknowledged_before_the_nodes_own_promise_has_run_out) {
  owner.start(make_record(1), node_a, 800 * ns_per_ms);
  owner.pass_ms(750);
  EXPECT_EQ(owner.count<Serve>(), 0u);
  EXPECT_FALSE(may_acknowledge(owner.state));
  owner.pass_ms(50);
  EXPECT_EQ(owner.count<Serve>(), 1u);
}

TEST_F(Rule6Owner, the_wait_ends_early_when_the_process_that_had_the_promise_is_known_dead) {
  owner.start(make_record(1), node_a, 800 * ns_per_ms);
  owner.feed(PromiseReleased{owner.now_ns});
  EXPECT_EQ(owner.count<Serve>(), 1u);
}

TEST_F(Rule6Owner, a_promise_counts_from_before_the_request_and_99_percent) {
  owner.promises = false;
  owner.serve(make_record(1));
  owner.pass_ms(100);
  const AskPromise ask = owner.last<AskPromise>();
  const Nanoseconds asked_at_ns = owner.state.promise_asked_at_ns.at(ask.nonce);
  owner.feed(PromiseGranted{asked_at_ns + 300 * ns_per_ms, ask.nonce});
  EXPECT_TRUE(may_answer_reads(owner.state, asked_at_ns + 989 * ns_per_ms));
  EXPECT_FALSE(may_answer_reads(owner.state, asked_at_ns + 990 * ns_per_ms));
}

TEST_F(Rule6Owner, it_is_asked_every_100_ms_on_each_path) {
  owner.serve(make_record(1));
  owner.pass_ms(1000);
  int on_path[2] = {0, 0};
  for (const AskPromise& ask : owner.all<AskPromise>()) ++on_path[ask.path];
  EXPECT_EQ(on_path[0], 10);
  EXPECT_EQ(on_path[1], 10);
}

TEST_F(Rule6Owner, an_answer_to_an_unknown_or_former_request_is_worth_nothing) {
  owner.promises = false;
  owner.serve(make_record(1));
  owner.feed(PromiseGranted{owner.now_ns, 424242});
  EXPECT_FALSE(may_answer_reads(owner.state, owner.now_ns));
}

TEST_F(Rule6Owner, without_a_promise_reads_need_a_mirror_that_is_in_sync_here_only) {
  owner.promises = false;
  Record record = make_record(2);
  owner.serve(record);
  EXPECT_FALSE(may_answer_reads(owner.state, owner.now_ns));
  silence(node_b, 1);  // one mirror is enough: nobody else can serve the pool
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  EXPECT_TRUE(may_answer_reads(owner.state, owner.now_ns));
}

TEST_F(Rule6Owner, an_open_shrink_does_not_count_yet_and_an_open_grow_counts_already) {
  owner.promises = false;
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  EXPECT_FALSE(may_answer_reads(owner.state, owner.now_ns)) << "the shrink may not have been applied";

  FakeStore other_store;
  OwnerBench lone{other_store};
  lone.promises = false;
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  lone.silent.insert(leg_id(0, node_b));
  lone.serve(record);
  EXPECT_TRUE(may_answer_reads(lone.state, lone.now_ns));
  lone.hold<SwapRecord>();
  lone.silent.clear();
  lone.pass_ms(500);
  ASSERT_EQ(lone.count<SwapRecord>(), 1u);  // marks `resyncing`
  other_store.swap(lone.last<SwapRecord>());
  lone.feed(SwapApplied{lone.now_ns, lone.last<SwapRecord>().record.op, *other_store.stored});
  ASSERT_EQ(lone.count<SwapRecord>(), 2u);  // the grow
  ASSERT_TRUE(in_sync(lone.last<SwapRecord>().record, leg_id(0, node_b)));
  EXPECT_FALSE(may_answer_reads(lone.state, lone.now_ns)) << "b may be in sync, and take over";
}

TEST_F(Rule6Owner, a_refusal_that_knows_a_higher_epoch_ends_the_process) {
  owner.promises = false;
  owner.serve(make_record(1));
  owner.feed(PromiseRefused{owner.now_ns, 1, Epoch{5}});
  EXPECT_EQ(owner.count<ExitProcess>(), 0u);
  owner.feed(PromiseRefused{owner.now_ns, 1, Epoch{6}});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::fenced);
}

// ---------------------------------------------------------------- rule 9

using Rule9Owner = Owner;

TEST_F(Rule9Owner, one_swap_at_a_time) {
  owner.serve(make_record(2));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  owner.feed(LegErred{owner.now_ns, leg_id(1, node_b), LegFault::io_error, "EIO"});
  EXPECT_EQ(owner.count<SwapRecord>(), 1u);
  const SwapRecord first = owner.last<SwapRecord>();
  store.swap(first);
  owner.feed(SwapApplied{owner.now_ns, first.record.op, *store.stored});
  EXPECT_EQ(owner.count<SwapRecord>(), 2u);
  EXPECT_EQ(owner.last<SwapRecord>().expected_mod_revision, store.stored->mod_revision);
  EXPECT_NE(owner.last<SwapRecord>().record.op, first.record.op);
  EXPECT_EQ(owner.last<SwapRecord>().record.rev, first.record.rev.next());
}

TEST_F(Rule9Owner, unknown_and_not_applied_the_same_swap_is_sent_again) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  const SwapRecord swap = owner.last<SwapRecord>();
  owner.feed(SwapUnknown{owner.now_ns, swap.record.op});  // the read finds the old revision
  EXPECT_EQ(owner.count<ReadRecord>(), 1u);
  EXPECT_EQ(owner.count<SwapRecord>(), 2u);
  EXPECT_EQ(owner.last<SwapRecord>(), swap);
  EXPECT_EQ(owner.count<FailLegs>(), 0u);
}

// The store resolves an unknown swap by writing the record again as it was: a newer revision, and nobody else's.
TEST_F(Rule9Owner, the_record_written_again_as_it_was_is_still_ours) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  const SwapRecord swap = owner.last<SwapRecord>();
  store.stored->mod_revision += 5;
  owner.feed(SwapUnknown{owner.now_ns, swap.record.op});  // the read finds it
  EXPECT_EQ(owner.count<ExitProcess>(), 0u);
  ASSERT_EQ(owner.count<SwapRecord>(), 2u);
  EXPECT_EQ(owner.last<SwapRecord>().record, swap.record);
  EXPECT_EQ(owner.last<SwapRecord>().expected_mod_revision, store.stored->mod_revision);
  store.stored->mod_revision += 2;
  owner.feed(SwapOther{owner.now_ns, swap.record.op, store.stored});  // or the swap itself does
  EXPECT_EQ(owner.count<ExitProcess>(), 0u);
  const SwapRecord again = owner.last<SwapRecord>();
  EXPECT_EQ(again.expected_mod_revision, store.stored->mod_revision);
  store.swap(again);
  owner.feed(SwapApplied{owner.now_ns, again.record.op, *store.stored});
  EXPECT_EQ(owner.last<FailLegs>().legs, std::vector{leg_id(0, node_b)});
}

TEST_F(Rule9Owner, unknown_and_applied_is_found_by_its_operation_id) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  const SwapRecord swap = owner.last<SwapRecord>();
  store.swap(swap);
  owner.feed(SwapUnknown{owner.now_ns, swap.record.op});
  EXPECT_EQ(owner.count<SwapRecord>(), 1u);
  EXPECT_EQ(owner.last<FailLegs>().legs, std::vector{leg_id(0, node_b)});
}

TEST_F(Rule9Owner, the_second_copy_of_an_applied_swap_shows_its_own_operation_id) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  const SwapRecord swap = owner.last<SwapRecord>();
  store.swap(swap);
  owner.feed(SwapOther{owner.now_ns, swap.record.op, store.stored});
  EXPECT_EQ(owner.count<FailLegs>(), 1u);
  EXPECT_EQ(owner.count<ExitProcess>(), 0u);
}

TEST_F(Rule9Owner, the_store_down_holds_everything_and_goes_on_when_it_is_back) {
  owner.serve(make_record(1));
  store.up = false;
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  owner.pass_ms(3000);
  EXPECT_EQ(owner.count<FailLegs>(), 0u);
  EXPECT_NE(why(owner.state).find("waits for the store"), std::string::npos);
  store.up = true;
  owner.pass_ms(200);
  EXPECT_EQ(owner.count<FailLegs>(), 1u);
}

TEST_F(Rule9Owner, a_record_of_a_higher_epoch_ends_the_process) {
  owner.serve(make_record(1));
  Record taken = store.record();
  taken.epoch = Epoch{6};
  taken.owner = node_b;
  owner.feed(RecordSeen{owner.now_ns, Stored{taken, 99}});
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::fenced);
}

TEST_F(Rule9Owner, a_store_that_went_back_is_not_believed) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  Stored old = *store.stored;
  old.mod_revision -= 10;
  old.record.rev = Revision{3};
  owner.feed(SwapOther{owner.now_ns, owner.last<SwapRecord>().record.op, old});
  EXPECT_EQ(owner.count<FailLegs>(), 0u);
  EXPECT_EQ(ack_set(owner.state).size(), 2u);
}

// ---------------------------------------------------------------- windows

using Windows = Owner;

TEST_F(Windows, a_timer_that_fires_late_starts_the_windows_anew) {
  owner.serve(make_record(1));
  silence(node_b, 1);
  owner.pass_ms(400);
  owner.now_ns += 500 * ns_per_ms;  // the process itself was paused
  owner.late_tick();
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  owner.pass_ms(550);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  owner.pass_ms(50);
  EXPECT_EQ(owner.count<SwapRecord>(), 1u);
}

TEST_F(Windows, slow_bounds_for_writes_and_trims) {
  owner.serve(make_record(2));
  owner.oldest_trim_ns[leg_id(1, node_b)] = owner.now_ns;
  owner.oldest_write_ns[leg_id(0, node_b)] = owner.now_ns;
  owner.pass_ms(950);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  owner.pass_ms(50);
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_b)));
  EXPECT_TRUE(in_sync(store.record(), leg_id(1, node_b)));
  owner.oldest_write_ns.clear();
  owner.silent.insert(leg_id(0, node_b));
  owner.pass_ms(28'950);
  EXPECT_TRUE(in_sync(store.record(), leg_id(1, node_b)));
  owner.pass_ms(50);
  EXPECT_FALSE(in_sync(store.record(), leg_id(1, node_b)));
}

#ifdef ZPAIR_MUTATIONS
TEST_F(Rule3, the_switch_ack_before_shrink_is_seen) {
  owner.serve(make_record(1));
  owner.hold<SwapRecord>();
  Broken broken(Mutation::ack_before_shrink);
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  EXPECT_EQ(owner.count<FailLegs>(), 1u);
  EXPECT_EQ(owner.state.ack_set.size(), 1u);
}
#endif

}  // namespace
}  // namespace zpair::brain::test
