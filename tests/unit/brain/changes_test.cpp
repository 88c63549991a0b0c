// Rule 1: how mirrors and legs enter and leave; and the ends of an import: switchover, export, destroy.
#include "bench.h"

namespace zpair::brain::test {
namespace {

using namespace owner;

struct Rule1 : testing::Test {
  FakeStore store;
  OwnerBench owner{store};
  record::Mirror new_mirror() {
    record::Mirror mirror = make_record(4).mirrors[3];
    mirror.guid = MirrorId{77};
    return mirror;
  }
  record::Leg new_leg() {
    record::Leg leg;
    leg.guid = LegId{500};
    leg.node = node_b;
    leg.drive = "fresh";
    return leg;
  }
};

TEST_F(Rule1, a_new_mirror_is_recorded_before_it_is_added) {
  owner.serve(make_record(1));
  owner.feed(MirrorOffered{owner.now_ns, 1, new_mirror()});
  EXPECT_LT(owner.place<SetAckSet>(), owner.place<SwapRecord>());
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<KeepCopy>());
  EXPECT_LT(owner.place<KeepCopy>(), owner.place<AddMirror>());
  EXPECT_EQ(store.record().mirrors.size(), 2u);
  EXPECT_EQ(owner.last<AnswerCommand>(), (AnswerCommand{1, true, "the mirror is added"}));
  EXPECT_EQ(ack_set(owner.state).size(), 4u);
}

TEST_F(Rule1, guids_as_built_are_recorded) {
  owner.serve(make_record(1));
  owner.hold<AddMirror>();
  owner.feed(MirrorOffered{owner.now_ns, 1, new_mirror()});
  record::Mirror built = new_mirror();
  built.guid = MirrorId{78};
  built.legs[0].guid = LegId{900};
  owner.feed(MirrorAdded{owner.now_ns, MirrorId{77}, built});
  EXPECT_EQ(store.record().mirrors[1].guid, MirrorId{78});
  EXPECT_TRUE(in_sync(store.record(), LegId{900}));
  EXPECT_EQ(owner.count<AnswerCommand>(), 1u);
}

TEST_F(Rule1, a_leg_taken_off_while_its_mirror_is_built_stays_off_since_the_same_revision) {
  owner.serve(make_record(1));
  owner.hold<AddMirror>();
  owner.feed(MirrorOffered{owner.now_ns, 1, new_mirror()});
  owner.tick();
  owner.feed(LegErred{owner.now_ns, leg_id(3, node_b), LegFault::io_error, "EIO"});
  ASSERT_FALSE(in_sync(store.record(), leg_id(3, node_b)));
  const Revision off_rev = store.record().rev;
  record::Mirror built = new_mirror();
  built.guid = MirrorId{78};
  built.legs[1].guid = LegId{900};
  owner.feed(MirrorAdded{owner.now_ns, MirrorId{77}, built});
  ASSERT_GT(store.record().rev, off_rev) << "the guids as built";
  ASSERT_NE(record::find_leg(store.record(), LegId{900}), nullptr);
  EXPECT_FALSE(in_sync(store.record(), LegId{900}));
  EXPECT_EQ(record::find_leg(store.record(), LegId{900})->off_rev, off_rev);
}

TEST_F(Rule1, an_add_that_fails_is_undone_in_the_record) {
  owner.serve(make_record(1));
  owner.hold<AddMirror>();
  owner.feed(MirrorOffered{owner.now_ns, 1, new_mirror()});
  owner.feed(MirrorAddFailed{owner.now_ns, MirrorId{77}, "too small"});
  EXPECT_EQ(store.record().mirrors.size(), 1u);
  EXPECT_EQ(owner.last<AnswerCommand>(), (AnswerCommand{1, false, "too small"}));
}

TEST_F(Rule1, a_mirror_that_was_recorded_but_never_added_is_forgotten) {
  owner.hold<ImportPool>();
  owner.start(make_record(2));
  owner.feed(Imported{owner.now_ns, Txg{41}, {MirrorId{2}}});
  EXPECT_EQ(owner.state.phase, Phase::serving);
  EXPECT_EQ(store.record().mirrors.size(), 1u);
}

TEST_F(Rule1, a_new_leg_enters_as_not_in_sync_and_is_named_after_its_resync) {
  owner.serve(make_record(1));
  owner.hold<AwaitResync>();
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), std::nullopt});
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<AttachLeg>());
  const LegId built{1500};
  ASSERT_NE(record::find_leg(store.record(), built), nullptr);
  EXPECT_FALSE(in_sync(store.record(), built));
  EXPECT_TRUE(record::find_leg(store.record(), built)->resyncing);
  EXPECT_FALSE(has(ack_set(owner.state), built));
  const AwaitResync wait = owner.last<AwaitResync>();
  owner.tick();
  owner.feed(ResyncEnded{owner.now_ns, wait.legs, owner.scan, wait.resync_id});
  EXPECT_TRUE(in_sync(store.record(), built));
  EXPECT_TRUE(has(ack_set(owner.state), built));
}

TEST_F(Rule1, replace_the_old_leg_leaves_only_when_the_new_one_is_in_sync) {
  owner.serve(make_record(1));
  owner.hold<AwaitResync>();
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), leg_id(0, node_b)});
  owner.pass_ms(2000);
  EXPECT_EQ(owner.count<DetachLeg>(), 0u);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
  const AwaitResync wait = owner.last<AwaitResync>();
  owner.feed(ResyncEnded{owner.now_ns, wait.legs, owner.scan, wait.resync_id});
  owner.pass_ms(500);
  EXPECT_EQ(owner.last<DetachLeg>().leg, leg_id(0, node_b));
  EXPECT_LT(owner.place<FailLegs>(), owner.place<DetachLeg>());
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b)), nullptr);
  EXPECT_TRUE(in_sync(store.record(), LegId{1500}));
  EXPECT_FALSE(owner.state.change.has_value());
}

TEST_F(Rule1, a_leg_that_the_engine_does_not_detach_stays_in_the_record_and_the_replacement_can_be_repeated) {
  const LegId old = leg_id(0, node_b);
  owner.serve(make_record(1));
  owner.detaches = false;
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), old});
  owner.pass_ms(500);
  EXPECT_EQ(owner.count<DetachLeg>(), 1u) << "not again by itself";
  ASSERT_NE(record::find_leg(store.record(), old), nullptr) << "the pool has it still";
  EXPECT_TRUE(in_sync(store.record(), LegId{1500}));
  EXPECT_FALSE(owner.state.change.has_value());
  EXPECT_NE(owner.last<Report>().text.find("stays in the pool: it holds the last good copy"), std::string::npos)
      << owner.last<Report>().text;
  owner.pass_ms(15'000);
  EXPECT_TRUE(in_sync(store.record(), old)) << "a leg like any other";

  owner.detaches = true;
  owner.feed(LegOffered{owner.now_ns, 2, MirrorId{1}, new_leg(), old});
  owner.pass_ms(500);
  EXPECT_EQ(record::find_leg(store.record(), old), nullptr);
  EXPECT_TRUE(in_sync(store.record(), LegId{1500}));
}

TEST_F(Rule1, a_dead_drive_is_replaced_too) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  owner.silent.insert(leg_id(0, node_b));
  owner.serve(record);
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), leg_id(0, node_b)});
  owner.pass_ms(500);
  EXPECT_TRUE(in_sync(store.record(), LegId{1500}));
  EXPECT_EQ(record::find_leg(store.record(), leg_id(0, node_b)), nullptr);
}

// Its node was built anew around it, or put back to an earlier day: what the drive misses nobody knows.
TEST_F(Rule1, a_leg_that_is_replaced_by_its_own_drive_comes_back_as_a_new_one) {
  const LegId old = leg_id(0, node_b);
  Record record = make_record(1);
  take_off(record, old, Txg{9});
  owner.silent.insert(old);
  owner.serve(record);
  record::Leg same;
  same.node = node_b;
  same.drive = record::find_leg(record, old)->drive;
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, same, old});
  EXPECT_TRUE(owner.last<AnswerCommand>().done) << owner.last<AnswerCommand>().text;
  EXPECT_TRUE(record::find_leg(store.record(), old)->full);
  EXPECT_FALSE(owner.state.change.has_value());
  owner.silent.clear();
  owner.pass_ms(2000);
  EXPECT_EQ(owner.count<ReturnLegs>(), 0u) << "never from its `since`";
  EXPECT_EQ(owner.last<AttachLeg>().discard, old);
  EXPECT_EQ(record::find_leg(store.record(), old), nullptr);
  ASSERT_EQ(store.record().mirrors[0].legs.size(), 2u);
  EXPECT_EQ(store.record().mirrors[0].legs[1].drive, same.drive);
  EXPECT_TRUE(store.record().mirrors[0].legs[1].in_sync);
}

TEST_F(Rule1, a_leg_in_sync_is_not_replaced_by_its_own_drive) {
  owner.serve(make_record(1));
  const Record before = store.record();
  record::Leg same;
  same.node = node_b;
  same.drive = record::find_leg(before, leg_id(0, node_b))->drive;
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, same, leg_id(0, node_b)});
  EXPECT_FALSE(owner.last<AnswerCommand>().done);
  EXPECT_EQ(store.record(), before);
}

TEST_F(Rule1, a_drive_that_is_in_the_pool_already_is_refused) {
  owner.serve(make_record(1));
  record::Leg leg = new_leg();
  leg.drive = "drive0";
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, leg, std::nullopt});
  EXPECT_FALSE(owner.last<AnswerCommand>().done);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
}

TEST_F(Rule1, a_replacement_whose_resync_failed_is_done_again_by_the_same_command) {
  const LegId old = leg_id(0, node_b);
  owner.serve(make_record(1));
  owner.hold<AwaitResync>();
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), old});
  AwaitResync wait = owner.last<AwaitResync>();
  owner.feed(ResyncFailed{owner.now_ns, wait.legs, "its node died", wait.resync_id});
  EXPECT_FALSE(owner.state.change && owner.state.change->replaces);
  EXPECT_TRUE(in_sync(store.record(), old));
  owner.feed(LegOffered{owner.now_ns, 2, MirrorId{1}, new_leg(), old});
  EXPECT_FALSE(owner.last<AnswerCommand>().done) << "not in sync: the old leg stays";
  owner.pass_ms(15'000);
  wait = owner.last<AwaitResync>();
  owner.feed(ResyncEnded{owner.now_ns, wait.legs, owner.scan, wait.resync_id});
  owner.pass_ms(500);
  EXPECT_EQ(store.record().mirrors[0].legs.size(), 3u);
  EXPECT_EQ(owner.count<DetachLeg>(), 0u);

  owner.feed(LegOffered{owner.now_ns, 3, MirrorId{1}, new_leg(), old});
  owner.pass_ms(500);
  EXPECT_EQ(owner.last<DetachLeg>().leg, old);
  EXPECT_LT(owner.place<FailLegs>(), owner.place<DetachLeg>());
  EXPECT_EQ(record::find_leg(store.record(), old), nullptr);
  ASSERT_EQ(store.record().mirrors[0].legs.size(), 2u);
  EXPECT_EQ(store.record().mirrors[0].legs[1].replaces, "") << "it has ended";
  EXPECT_FALSE(owner.state.change.has_value());
}

TEST_F(Rule1, the_legs_of_a_nested_mirror_do_not_replace_each_other) {
  Record record = make_record(1);
  record::Leg sibling = new_leg();
  sibling.in_sync = true;
  record.mirrors[0].legs.push_back(sibling);
  const record::Leg first = *record::find_leg(record, leg_id(0, node_b));
  owner.serve(record);
  const Record before = store.record();
  struct Row {
    const char* name;
    record::Leg offered;
    LegId replaced;
  };
  for (const Row& row : {Row{"by the sibling", sibling, first.guid}, Row{"the other way round", first, sibling.guid}}) {
    SCOPED_TRACE(row.name);
    owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, row.offered, row.replaced});
    owner.pass_ms(500);
    EXPECT_FALSE(owner.last<AnswerCommand>().done);
    EXPECT_NE(owner.last<AnswerCommand>().text.find("did not come to replace"), std::string::npos)
        << owner.last<AnswerCommand>().text;
    EXPECT_EQ(owner.count<DetachLeg>(), 0u);
    EXPECT_EQ(store.record(), before);
  }
}

TEST_F(Rule1, a_replacement_is_taken_back_by_replacing_the_other_way_round) {
  const LegId old = leg_id(0, node_b);
  owner.serve(make_record(1));
  owner.hold<AwaitResync>();
  owner.feed(LegOffered{owner.now_ns, 1, MirrorId{1}, new_leg(), old});
  const AwaitResync wait = owner.last<AwaitResync>();
  owner.silent.insert(wait.legs[0]);
  owner.feed(ResyncFailed{owner.now_ns, wait.legs, "the new drive died", wait.resync_id});
  const LegId dead = wait.legs[0];
  record::Leg stays;
  stays.node = node_b;
  stays.drive = record::find_leg(store.record(), old)->drive;
  owner.feed(LegOffered{owner.now_ns, 2, MirrorId{1}, stays, dead});
  owner.pass_ms(500);
  EXPECT_EQ(owner.last<DetachLeg>().leg, dead);
  EXPECT_EQ(record::find_leg(store.record(), dead), nullptr);
  EXPECT_TRUE(in_sync(store.record(), old));
  EXPECT_FALSE(owner.state.change.has_value());
}

using Ends = Rule1;

TEST_F(Ends, switchover_drains_exports_and_leaves_the_record_alone) {
  owner.serve(make_record(1));
  owner.feed(EndOrdered{owner.now_ns, 3, End::yield});
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  EXPECT_LT(owner.place<StopAccepting>(), owner.place<ExportPool>());
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::exported);
  EXPECT_TRUE(owner.last<AnswerCommand>().done);
}

TEST_F(Ends, export_swaps_exported_first) {
  owner.serve(make_record(1));
  owner.feed(EndOrdered{owner.now_ns, 3, End::export_pool});
  EXPECT_EQ(store.record().wanted, record::Wanted::exported);
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<StopAccepting>());
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::exported);
}

TEST_F(Ends, destroy_swaps_exported_first_and_removes_the_record_last) {
  owner.serve(make_record(1));
  owner.feed(EndOrdered{owner.now_ns, 3, End::destroy});
  EXPECT_LT(owner.place<SwapRecord>(), owner.place<ExportPool>());
  EXPECT_LT(owner.place<ExportPool>(), owner.place<RemoveRecord>());
  EXPECT_FALSE(store.stored.has_value());
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::destroyed);
  EXPECT_TRUE(owner.last<AnswerCommand>().done);
}

TEST_F(Ends, a_leg_lost_while_draining_is_shrunk_before_the_export) {
  owner.serve(make_record(1));
  owner.hold<StopAccepting>();
  owner.hold<SwapRecord>();
  owner.feed(EndOrdered{owner.now_ns, 3, End::yield});
  owner.feed(LegErred{owner.now_ns, leg_id(0, node_b), LegFault::io_error, "EIO"});
  owner.feed(Drained{owner.now_ns});
  EXPECT_EQ(owner.count<ExportPool>(), 0u);
  const SwapRecord swap = owner.last<SwapRecord>();
  store.swap(swap);
  owner.feed(SwapApplied{owner.now_ns, swap.record.op, *store.stored});
  EXPECT_LT(owner.place<FailLegs>(), owner.place<ExportPool>());
}

TEST_F(Ends, a_resync_is_given_up_for_an_export) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  owner.silent.insert(leg_id(0, node_b));
  owner.serve(record);
  owner.hold<ReturnLegs>();
  owner.silent.clear();
  owner.pass_ms(500);
  ASSERT_EQ(owner.count<ReturnLegs>(), 1u);
  owner.feed(EndOrdered{owner.now_ns, 3, End::yield});
  EXPECT_LT(owner.place<FailLegs>(), owner.place<StopAccepting>());
  EXPECT_EQ(owner.last<ExitProcess>().reason, ExitReason::exported);
  EXPECT_TRUE(store.record().mirrors[0].legs[1].resyncing) << "it is half copied";
}

}  // namespace
}  // namespace zpair::brain::test
