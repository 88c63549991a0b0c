// The design's table "What happens when" (section 3), one test a row that the brain decides. Times are those of the rows'
// windows; the engine's and the network's parts are answered at once.
#include "bench.h"

namespace zpair::brain::test {
namespace {

struct WhatHappens : testing::Test {
  FakeStore store;
  OwnerBench owner{store};
  AgentBench agent{store};
  void silence(NodeId node, int mirror_count) {
    for (int mirror = 0; mirror < mirror_count; ++mirror) owner.silent.insert(leg_id(mirror, node));
  }
  std::vector<LegId> legs_of(NodeId node, int count) {
    std::vector<LegId> legs;
    for (int mirror = 0; mirror < count; ++mirror) legs.push_back(leg_id(mirror, node));
    return legs;
  }
  // Ticks until `done`, in ms; -1: not within `most_ms`.
  template <class Machine, class Done>
  int ms_until(Machine& machine, Done done, int most_ms = 20'000) {
    for (int ms = 0; ms <= most_ms; ms += 50) {
      if (done()) return ms;
      machine.tick();
    }
    return -1;
  }
};

TEST_F(WhatHappens, one_path_fails__the_other_path_carries_the_promise) {
  owner.serve(make_record(2));
  owner.promises = false;
  for (int i = 0; i < 40; ++i) {
    owner.clear();
    owner.tick();
    for (const owner::AskPromise& ask : owner.all<owner::AskPromise>()) {
      if (ask.path == 1) owner.feed(owner::PromiseGranted{owner.now_ns, ask.nonce});
    }
  }
  EXPECT_TRUE(owner::may_answer_reads(owner.state, owner.now_ns));
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
}

TEST_F(WhatHappens, short_drop_of_all_paths__nothing_is_degraded) {
  owner.serve(make_record(2));
  silence(node_b, 2);
  owner.pass_ms(500);
  owner.silent.clear();
  owner.pass_ms(2000);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
}

TEST_F(WhatHappens, partner_dies__shrink_and_go_on_degraded) {
  owner.serve(make_record(12));
  silence(node_b, 12);
  const int ms = ms_until(owner, [&] { return owner.count<owner::FailLegs>() == 1; });
  EXPECT_GE(ms, 600);
  EXPECT_LE(ms, 700);
  EXPECT_TRUE(owner::may_acknowledge(owner.state));
}

TEST_F(WhatHappens, a_leg_errs__that_leg_is_shrunk_at_once) {
  owner.serve(make_record(3));
  owner.feed(owner::LegErred{owner.now_ns, leg_id(1, node_b), owner::LegFault::io_error, "EIO"});
  EXPECT_EQ(owner.last<owner::FailLegs>().legs, std::vector{leg_id(1, node_b)});
}

TEST_F(WhatHappens, a_leg_is_slower_than_its_bound__that_leg_is_shrunk) {
  owner.serve(make_record(3));
  owner.oldest_write_ns[leg_id(2, node_b)] = owner.now_ns;
  const int ms = ms_until(owner, [&] { return owner.count<owner::FailLegs>() == 1; });
  EXPECT_GE(ms, 1000);
  EXPECT_LE(ms, 1100);
  EXPECT_EQ(owner.last<owner::FailLegs>().legs, std::vector{leg_id(2, node_b)});
}

TEST_F(WhatHappens, partner_returns__all_its_legs_back_in_one_step) {
  Record record = make_record(12);
  for (LegId leg : legs_of(node_b, 12)) take_off(record, leg, Txg{9});
  silence(node_b, 12);
  owner.serve(record);
  owner.silent.clear();
  EXPECT_LE(ms_until(owner, [&] { return in_sync(store.record(), leg_id(11, node_b)); }), 1000);
  EXPECT_EQ(owner.count<owner::ReturnLegs>(), 1u);
  EXPECT_FALSE(owner.state.holding);
}

TEST_F(WhatHappens, partner_dies_later_the_witness_too__the_lone_survivor_goes_on) {
  owner.serve(make_record(1));
  owner.promises = false;
  silence(node_b, 1);
  owner.pass_ms(1000);
  store.up = false;
  owner.pass_ms(10'000);
  EXPECT_EQ(owner.state.phase, owner::Phase::serving);
  EXPECT_TRUE(owner::may_answer_reads(owner.state, owner.now_ns)) << "nobody else can have taken over";
}

TEST_F(WhatHappens, partner_and_witness_dead_and_the_pool_process_dies__it_waits_for_the_store_and_says_so) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  agent.own(node_a, record);
  store.up = false;
  agent.feed(agent::PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  agent.pass_ms(30'000);
  EXPECT_EQ(agent.count<agent::StartPool>(), 0u);
  EXPECT_EQ(agent::why(agent.state), "restart: waits for the store");
  store.up = true;
  EXPECT_LE(ms_until(agent, [&] { return agent.count<agent::StartPool>() == 1; }), 200);
}

TEST_F(WhatHappens, witness_dies_or_the_store_is_wholly_down__a_healthy_pair_goes_on) {
  owner.serve(make_record(2));
  store.up = false;
  owner.pass_ms(60'000);
  EXPECT_TRUE(owner::may_answer_reads(owner.state, owner.now_ns));
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
}

TEST_F(WhatHappens, owners_node_dies__the_partner_takes_over) {
  agent.watch_owner(node_b, make_record(2));
  agent.owner_asks = false;
  const int ms = ms_until(agent, [&] { return agent.count<agent::StartPool>() == 1; });
  EXPECT_GE(ms, 900) << "the owner's shrink goes first";
  EXPECT_LE(ms, 1000);
  EXPECT_EQ(store.record().owner, node_b);
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_a)));
  const agent::StartPool start = agent.last<agent::StartPool>();
  EXPECT_LE(start.first_ack_at_ns - agent.now_ns, 200 * ns_per_ms) << "the promise runs out in parallel";
}

TEST_F(WhatHappens, owners_pool_process_dies__restart_in_place_at_a_new_epoch_with_both_sides) {
  agent.own(node_a, make_record(2));
  agent.partner = agent::PartnerReport{agent::Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = legs_of(node_b, 2);
  agent.tick();
  agent.feed(agent::PoolExited{agent.now_ns, Epoch{5}, std::nullopt, "SIGKILL"});
  EXPECT_LE(ms_until(agent, [&] { return agent.count<agent::StartPool>() == 1; }), 100);
  EXPECT_EQ(store.record().epoch, Epoch{6});
  EXPECT_TRUE(in_sync(store.record(), leg_id(1, node_b)));
}

TEST_F(WhatHappens, owners_pool_process_dies__its_agent_vouches_and_the_partner_leaves_it_alone) {
  agent.watch_owner(node_b, make_record(1));
  agent.owner_asks = false;
  agent.partner = agent::PartnerReport{agent::Vouch::importing, {}, Epoch{5}};
  agent.pass_ms(3000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  agent.pass_ms(4000);
  EXPECT_EQ(agent.count<SwapRecord>(), 1u) << "not for ever";
}

TEST_F(WhatHappens, owners_pool_process_hangs__the_watchdog_kills_it_and_restarts_in_place) {
  agent.own(node_a, make_record(1));
  agent.pool_beats = false;
  const int ms = ms_until(agent, [&] { return agent.count<agent::StartPool>() == 1; });
  EXPECT_EQ(agent.count<agent::KillPool>(), 1u);
  EXPECT_GE(ms, 900);
  EXPECT_LE(ms, 1100);
}

TEST_F(WhatHappens, a_whole_node_hangs_and_comes_back__the_former_owner_is_fenced_and_exits) {
  owner.serve(make_record(1));
  agent.watch_owner(node_b, store.record());
  agent.owner_asks = false;
  agent.pass_ms(1500);
  ASSERT_EQ(store.record().epoch, Epoch{6});
  owner.now_ns += 10 * ns_per_s;
  EXPECT_FALSE(owner::may_answer_reads(owner.state, owner.now_ns)) << "the promise ran out while it hung";
  owner.late_tick();
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  owner.feed(owner::FencedOut{owner.now_ns, leg_id(0, node_b), Epoch{6}});
  EXPECT_EQ(owner.last<owner::ExitProcess>().reason, owner::ExitReason::fenced);
}

TEST_F(WhatHappens, a_whole_node_hangs_and_comes_back__its_agent_starts_its_windows_anew) {
  agent.own(node_a, make_record(1));
  agent.pool_beats = false;
  agent.now_ns += 10 * ns_per_s;
  agent.feed(agent::Ticked{agent.now_ns});
  EXPECT_EQ(agent.count<agent::KillPool>(), 0u) << "its process had no chance to be heard";
}

TEST_F(WhatHappens, zpaird_dies__its_pool_process_serves_on_and_is_found_again) {
  Record record = make_record(1);
  agent.own(node_a, record);
  FakeStore& same = store;
  AgentBench next{same};
  next.start(node_a, store.record(), Epoch{5});
  next.pass_ms(3000);
  EXPECT_EQ(next.count<agent::KillPool>(), 0u);
  EXPECT_EQ(next.count<SwapRecord>(), 0u);
  EXPECT_EQ(next.count<agent::OpenLocalDrives>(), 0u) << "its drives have their opener";
  EXPECT_EQ(agent::report(next.state).vouch, agent::Vouch::serving);
}

TEST_F(WhatHappens, planned_switchover__the_partner_yields_and_this_node_imports) {
  agent.watch_owner(node_b, make_record(1));
  agent.partner = agent::PartnerReport{agent::Vouch::serving, Epoch{5}, Epoch{5}};
  agent.partner_agrees = legs_of(node_a, 1);
  agent.tick();
  agent.feed(agent::SwitchoverOrdered{agent.now_ns, 7});
  EXPECT_EQ(agent.last<agent::SendYield>().epoch, Epoch{5});
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  agent.owner_asks = false;
  agent.partner = agent::PartnerReport{agent::Vouch::none, {}, Epoch{5}};
  agent.feed(agent::YieldAnswered{agent.now_ns, Epoch{5}, true, ""});
  agent.tick();
  EXPECT_EQ(store.record().owner, node_b);
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_a))) << "both sides stay in sync";
  EXPECT_TRUE(agent.last<agent::StartPool>().promise_released) << "the process that had our promise has exported";
  EXPECT_EQ(agent.last<agent::AnswerCommand>().command, 7u);
  EXPECT_TRUE(agent.last<agent::AnswerCommand>().done);
}

TEST_F(WhatHappens, planned_switchover__the_owners_agent_drains_and_then_leaves_the_pool_alone) {
  agent.own(node_a, make_record(1));
  agent.feed(agent::YieldAsked{agent.now_ns, Epoch{5}});
  EXPECT_EQ(agent.count<agent::DrainPool>(), 1u);
  EXPECT_EQ(agent.last<agent::AnswerYield>(), (agent::AnswerYield{Epoch{5}, true, ""}));
  agent.pass_ms(3000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  agent.pass_ms(4000);
  EXPECT_EQ(agent.count<SwapRecord>(), 1u) << "the partner never came: it restarts";
}

TEST_F(WhatHappens, planned_switchover__refused_while_a_mirror_has_no_in_sync_leg_there) {
  Record record = make_record(1);
  take_off(record, leg_id(0, node_b), Txg{9});
  agent.watch_owner(node_b, record);
  agent.partner = agent::PartnerReport{agent::Vouch::serving, Epoch{5}, Epoch{5}};
  agent.tick();
  agent.feed(agent::SwitchoverOrdered{agent.now_ns, 7});
  EXPECT_FALSE(agent.last<agent::AnswerCommand>().done);
  EXPECT_NE(agent.last<agent::AnswerCommand>().text.find("mirror-0"), std::string::npos);
  EXPECT_EQ(agent.count<agent::SendYield>(), 0u);
}

TEST_F(WhatHappens, takeover_by_command__refused_while_the_owner_is_healthy) {
  agent.watch_owner(node_b, make_record(1));
  agent.feed(agent::TakeoverOrdered{agent.now_ns, 8});
  EXPECT_FALSE(agent.last<agent::AnswerCommand>().done);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
}

TEST_F(WhatHappens, partition__the_owner_shrinks_and_goes_on_and_the_partner_refuses) {
  owner.serve(make_record(2));
  agent.now_ns = owner.now_ns;
  agent.watch_owner(node_b, store.record());
  agent.owner_asks = false;
  silence(node_b, 2);
  owner.pass_ms(900);
  agent.pass_ms(5000);
  EXPECT_EQ(store.record().epoch, Epoch{5}) << "never two owners";
  EXPECT_EQ(agent.count<agent::StartPool>(), 0u);
  EXPECT_NE(agent.state.refused, "");
  EXPECT_TRUE(owner::may_acknowledge(owner.state));
}

TEST_F(WhatHappens, both_nodes_lose_power__with_both_back_the_home_node_imports_with_both_sides) {
  agent.start(node_a, make_record(2));
  agent.partner_agrees = legs_of(node_b, 2);
  agent.pass_ms(5000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u) << "it waits for the partner";
  agent.partner = agent::PartnerReport{agent::Vouch::none, {}, Epoch{5}};
  agent.pass_ms(200);
  EXPECT_EQ(agent.count<agent::StartPool>(), 1u);
  EXPECT_TRUE(record::find_leg(store.record(), leg_id(0, node_a))->in_sync);
  EXPECT_TRUE(record::find_leg(store.record(), leg_id(1, node_b))->in_sync) << "nothing resyncs";
}

TEST_F(WhatHappens, both_nodes_lose_power__the_other_node_lets_the_home_node_go_first) {
  agent.start(node_b, make_record(1));
  agent.partner = agent::PartnerReport{agent::Vouch::none, {}, Epoch{5}};
  agent.partner_agrees = legs_of(node_a, 1);
  agent.pass_ms(4000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  agent.pass_ms(2000);
  EXPECT_EQ(agent.count<SwapRecord>(), 1u) << "but not for ever";
}

TEST_F(WhatHappens, both_nodes_lose_power__alone_it_imports_with_its_own_legs_after_the_wait) {
  agent.start(node_b, make_record(2));
  agent.pass_ms(9500);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  agent.pass_ms(600);
  EXPECT_EQ(agent.count<agent::StartPool>(), 1u);
  EXPECT_FALSE(in_sync(store.record(), leg_id(0, node_a)));
  EXPECT_TRUE(in_sync(store.record(), leg_id(0, node_b)));
}

TEST_F(WhatHappens, cold_start__no_import_while_the_owner_serves_elsewhere_or_the_pool_is_exported) {
  Record taken = make_record(1);  // while this node was down the partner imported it
  taken.epoch = Epoch{6};
  taken.rev = taken.rev.next();
  taken.owner = node_b;
  agent.hold<ReadRecord>();
  agent.start(node_a, make_record(1));
  store.put(taken);
  agent.feed(RecordReadFailed{agent.now_ns});
  agent.release<ReadRecord>();
  agent.partner = agent::PartnerReport{agent::Vouch::serving, Epoch{6}, Epoch{6}};
  agent.pass_ms(15'000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);

  FakeStore other_store;
  AgentBench other{other_store};
  Record exported = make_record(1);
  exported.wanted = record::Wanted::exported;
  other.start(node_a, exported);
  other.pass_ms(15'000);
  EXPECT_EQ(other.count<SwapRecord>(), 0u);
  EXPECT_EQ(agent::why(other.state), "exported");
  other.feed(agent::ImportOrdered{other.now_ns, 4, false, false});
  other.pass_ms(200);
  EXPECT_EQ(other_store.record().wanted, record::Wanted::serving);
}

// The import's swap was under way when its agent restarted, and no watch told of it (simulator, seed 0xe5d87).
TEST_F(WhatHappens, exported__an_import_that_nobody_was_told_of_is_noticed) {
  Record record = make_record(1);
  record.wanted = record::Wanted::exported;
  agent.start(node_a, record);
  agent.pass_ms(3'000);
  record.epoch = Epoch{6};
  record.rev = record.rev.next();
  record.wanted = record::Wanted::serving;
  store.put(record);
  agent.pass_ms(20'000);
  EXPECT_EQ(agent.count<agent::StartPool>(), 1u);
}

// The node knows the pool for less than the window after which an owner counts as silent.
TEST_F(WhatHappens, import_right_after_export__is_not_refused) {
  agent.start(node_a, make_record(1), Epoch{5});
  agent.beat(Epoch{5});
  Record exported = make_record(1);
  exported.wanted = record::Wanted::exported;
  exported.rev = exported.rev.next();
  store.put(exported);
  agent.feed(RecordSeen{agent.now_ns, *store.stored});
  agent.feed(agent::PoolExited{agent.now_ns, Epoch{5}, owner::ExitReason::exported, "exported"});
  agent.feed(agent::ImportOrdered{agent.now_ns, 4, false, false});
  agent.pass_ms(200);
  EXPECT_TRUE(agent.last<agent::AnswerCommand>().done) << agent.last<agent::AnswerCommand>().text;
  EXPECT_EQ(store.record().wanted, record::Wanted::serving);
}

// Exported, says this node's own copy; and no watch told it that the partner has imported it since.
TEST_F(WhatHappens, import_of_what_the_partner_has_imported_meanwhile__is_refused) {
  Record record = make_record(1);
  agent.watch_owner(node_b, record);
  agent.owner_asks = false;
  record.wanted = record::Wanted::exported;
  record.rev = record.rev.next();
  store.put(record);
  agent.feed(RecordSeen{agent.now_ns, *store.stored});
  record.wanted = record::Wanted::serving;
  record.epoch = Epoch{6};
  record.rev = record.rev.next();
  store.put(record);
  agent.feed(agent::ImportOrdered{agent.now_ns, 4, false, false});
  EXPECT_EQ(agent.last<agent::AnswerCommand>(), (agent::AnswerCommand{4, false, "the partner has it imported"}));
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  EXPECT_EQ(store.record().epoch, Epoch{6});
}

TEST_F(WhatHappens, owners_node_wholly_cut_off__it_answers_nothing_and_exits_when_it_hears) {
  owner.serve(make_record(1));
  owner.promises = false;
  silence(node_b, 1);
  store.up = false;
  owner.pass_ms(10'000);
  EXPECT_EQ(owner.count<owner::FailLegs>(), 0u) << "not shrunk, so the gate lets no acknowledgement out";
  EXPECT_FALSE(owner::may_answer_reads(owner.state, owner.now_ns));
  store.up = true;
  Record taken = store.record();
  taken.epoch = Epoch{6};
  taken.rev = taken.rev.next();
  taken.owner = node_b;
  store.put(taken);
  owner.pass_ms(500);
  EXPECT_EQ(owner.last<owner::ExitProcess>().reason, owner::ExitReason::fenced);
}

TEST_F(WhatHappens, both_legs_of_a_mirror_slow__nothing_is_shrunk_and_status_says_so) {
  owner.serve(make_record(2));
  owner.oldest_write_ns[leg_id(0, node_a)] = owner.now_ns + 100 * ns_per_ms;  // not at the same moment
  owner.oldest_write_ns[leg_id(0, node_b)] = owner.now_ns;
  owner.pass_ms(20'000);
  EXPECT_EQ(owner.count<SwapRecord>(), 0u);
  EXPECT_NE(owner::why(owner.state).find("mirror-0: no leg answers within its bound"), std::string::npos);
  owner.oldest_write_ns.clear();
  owner.tick();
  EXPECT_EQ(owner::why(owner.state), "serving");
}

TEST_F(WhatHappens, a_second_failure_while_degraded__down_and_says_what_must_return) {
  Record record = make_record(2);
  take_off(record, leg_id(1, node_b), Txg{812});
  silence(node_b, 2);
  owner.silent.erase(leg_id(0, node_b));
  owner.serve(record);
  silence(node_a, 2);  // a's drives are gone too: mirror-1 has nobody
  owner.pass_ms(1500);
  EXPECT_TRUE(owner.state.holding);
  EXPECT_NE(owner::why(owner.state).find("mirror-1 has no in-sync leg that answers: drive1@a"), std::string::npos)
      << owner::why(owner.state);
}

TEST_F(WhatHappens, a_drive_fails__its_mirror_goes_on_the_others_are_untouched) {
  owner.serve(make_record(12));
  owner.feed(owner::LegErred{owner.now_ns, leg_id(3, node_a), owner::LegFault::drive_gone, "ENODEV"});
  EXPECT_EQ(owner.last<owner::FailLegs>().legs, std::vector{leg_id(3, node_a)});
  EXPECT_EQ(owner::ack_set(owner.state).size(), 23u);
}

TEST_F(WhatHappens, partner_killed_under_load_then_the_owner__the_partner_refuses_until_the_owner_is_back) {
  owner.serve(make_record(2));
  silence(node_b, 2);
  owner.pass_ms(1000);                  // shrunk; then the owner's node dies
  agent.start(node_b, store.record());  // the partner starts
  agent.pass_ms(30'000);
  EXPECT_EQ(agent.count<SwapRecord>(), 0u);
  EXPECT_EQ(agent.count<agent::StartPool>(), 0u);
  EXPECT_NE(agent::why(agent.state)
                .find("mirror-0 has no in-sync leg in reach (drive0@a is in sync, not in reach, drive0x@b is missing "
                      "since txg 41)"),
            std::string::npos)
      << agent::why(agent.state);
}

TEST_F(WhatHappens, an_owner_that_gave_up__the_partner_takes_over_at_once) {
  agent.watch_owner(node_b, make_record(1));
  agent.owner_asks = false;
  agent.partner = agent::PartnerReport{agent::Vouch::gave_up, {}, Epoch{5}};
  agent.partner_agrees = std::vector<LegId>{};
  EXPECT_LE(ms_until(agent, [&] { return agent.count<agent::StartPool>() == 1; }), 100);
}

}  // namespace
}  // namespace zpair::brain::test
