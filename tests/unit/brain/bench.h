#pragma once
// Benches for the two machines: a fake store, and for each machine a driver that carries out its orders at once, except for
// the kinds that a test holds back. Time moves only in ticks. A test reads as: given a bench, when facts, then orders.
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "brain/agent.h"
#include "brain/mutation.h"
#include "brain/owner.h"

namespace zpair::brain::test {

using record::Record;
using record::Stored;

inline constexpr NodeId node_a = NodeId::a;
inline constexpr NodeId node_b = NodeId::b;

inline LegId leg_id(int mirror, NodeId node) {
  return LegId{100 + 10 * static_cast<std::uint64_t>(mirror) + (node == NodeId::a ? 0u : 1u)};
}

// Mirrors 0..count-1, one leg on each node, all in sync, epoch 5, owner a, home a.
inline Record make_record(int mirror_count) {
  Record record;
  record.name = "tank-a";
  record.pool_guid = PoolGuid{7};
  record.zfs_host_ids = {0x5a7a0001, 0x5a7a0002};
  record.epoch = Epoch{5};
  record.rev = Revision{20};
  record.op = "made-by-test";
  for (int index = 0; index < mirror_count; ++index) {
    record::Mirror mirror;
    mirror.guid = MirrorId{static_cast<std::uint64_t>(index) + 1};
    for (NodeId node : {node_a, node_b}) {
      record::Leg leg;
      leg.guid = leg_id(index, node);
      leg.node = node;
      leg.drive = fmt::format("drive{}", index);
      if (node == node_b) leg.drive += "x";
      leg.in_sync = true;
      mirror.legs.push_back(leg);
    }
    record.mirrors.push_back(mirror);
  }
  return record;
}

inline bool in_sync(const Record& record, LegId leg) {
  const record::Leg* found = record::find_leg(record, leg);
  return found != nullptr && found->in_sync;
}

inline bool has(const std::vector<LegId>& legs, LegId leg) {
  return std::find(legs.begin(), legs.end(), leg) != legs.end();
}

inline void take_off(Record& record, LegId leg, Txg since) {
  record::Leg& found = *record::find_leg(record, leg);
  found.in_sync = false;
  found.since = since;
  found.off_rev = record.rev;
}

struct FakeStore {
  std::optional<Stored> stored;
  bool up = true;
  std::uint64_t next_mod_revision = 50;

  void put(Record record) { stored = Stored{std::move(record), next_mod_revision++}; }
  const Record& record() const { return stored->record; }
  bool swap(const SwapRecord& swap) {
    if ((stored ? stored->mod_revision : 0) != swap.expected_mod_revision) return false;
    put(swap.record);
    return true;
  }
};

// What every bench does: keeps time, collects orders, answers them unless held back.
template <class Machine, class Event, class Action>
class Bench {
 public:
  explicit Bench(FakeStore& the_store) : store(the_store) {}
  virtual ~Bench() = default;

  FakeStore& store;
  typename Machine::State state;
  Nanoseconds now_ns = 100 * ns_per_s;
  std::vector<Action> orders;  // all since the last clear()

  template <class A>
  void hold() {
    held_.insert(index_of<A>());
  }
  template <class A>
  void release() {
    held_.erase(index_of<A>());
  }

  void feed(Event event) {
    waiting_.push_back(std::move(event));
    if (feeding_) return;
    feeding_ = true;
    while (!waiting_.empty()) {
      Event next = std::move(waiting_.front());
      waiting_.pop_front();
      for (Action& action : Machine::step(state, next)) {
        orders.push_back(action);
        if (!held_.contains(action.index())) answer(action);
      }
    }
    feeding_ = false;
  }

  template <class A>
  std::vector<A> all() const {
    std::vector<A> found;
    for (const Action& action : orders) {
      if (auto* one = std::get_if<A>(&action)) found.push_back(*one);
    }
    return found;
  }
  template <class A>
  std::size_t count() const {
    return all<A>().size();
  }
  template <class A>
  A last() const {
    auto found = all<A>();
    EXPECT_FALSE(found.empty()) << "no such order";
    return found.empty() ? A{} : found.back();
  }
  // Where the first order of a kind stands: for "this before that".
  template <class A>
  std::size_t place() const {
    for (std::size_t at = 0; at < orders.size(); ++at) {
      if (std::holds_alternative<A>(orders[at])) return at;
    }
    ADD_FAILURE() << "no such order";
    return orders.size();
  }
  void clear() { orders.clear(); }

 protected:
  virtual void answer(const Action& action) = 0;

  void answer_swap(const SwapRecord& swap) {
    if (!store.up) return feed(SwapUnknown{now_ns, swap.record.op});
    if (store.swap(swap)) return feed(SwapApplied{now_ns, swap.record.op, *store.stored});
    feed(SwapOther{now_ns, swap.record.op, store.stored});
  }
  void answer_read() {
    if (!store.up) return feed(RecordReadFailed{now_ns});
    feed(RecordRead{now_ns, store.stored});
  }

 private:
  template <class A>
  static std::size_t index_of() {
    return Action{A{}}.index();
  }

  std::set<std::size_t> held_;
  std::deque<Event> waiting_;
  bool feeding_ = false;
};

struct OwnerMachine {
  using State = owner::State;
  static owner::Actions step(State& state, const owner::Event& event) { return owner::step(state, event); }
};

class OwnerBench : public Bench<OwnerMachine, owner::Event, owner::Action> {
 public:
  using Bench::Bench;

  std::set<LegId> silent;  // neither reachable nor making progress
  std::map<LegId, Nanoseconds> oldest_write_ns;
  std::map<LegId, Nanoseconds> oldest_trim_ns;
  std::map<LegId, Txg> flushed;
  owner::ScanReport scan{true, 0, Txg{0}, true, true, true};
  std::uint32_t foreign_txg_count = 0;
  bool promises = true;
  bool detaches = true;  // false: the engine refuses

  // Up to serving, with the promise already released.
  void serve(Record record, NodeId node = node_a) {
    start(std::move(record), node);
    tick(1);
    EXPECT_EQ(state.phase, owner::Phase::serving) << owner::why(state);
    clear();
  }
  void start(Record record, NodeId node = node_a, Nanoseconds first_ack_in_ns = 0) {
    record.owner = node;
    store.put(record);
    owner::Started started{};
    started.now_ns = now_ns;
    started.node = node;
    started.stored = *store.stored;
    started.first_ack_at_ns = now_ns + first_ack_in_ns;
    started.newest_txg = Txg{40};
    started.nonce = 0x1000;
    feed(started);
  }
  void tick(int count = 1) {
    for (int i = 0; i < count; ++i) {
      now_ns += state.limits.tick_ns;
      late_tick();
    }
  }
  void late_tick() {  // without moving the time
    owner::Ticked ticked{now_ns, {}};
    for (const auto& [leg, view] : state.legs) ticked.pulses.push_back(pulse(leg));
    feed(ticked);
  }
  void pass_ms(int ms) { tick(ms / 50); }

 protected:
  owner::LegPulse pulse(LegId leg) {
    owner::LegPulse pulse;
    pulse.leg = leg;
    if (!silent.contains(leg)) progress_[leg] = now_ns;
    pulse.reachable = !silent.contains(leg);
    pulse.last_progress_ns = progress_[leg];
    if (oldest_write_ns.contains(leg)) pulse.oldest_write_ns = oldest_write_ns[leg];
    if (oldest_trim_ns.contains(leg)) pulse.oldest_trim_ns = oldest_trim_ns[leg];
    if (flushed.contains(leg)) pulse.flushed_txg = flushed[leg];
    return pulse;
  }

  void answer(const owner::Action& action) override {
    using namespace owner;
    if (auto* order = std::get_if<FenceLeg>(&action)) feed(LegFenced{now_ns, order->leg});
    if (std::get_if<ImportPool>(&action)) feed(Imported{now_ns, Txg{41}, {}});
    if (std::get_if<ReplayLogs>(&action)) feed(Replayed{now_ns});
    if (auto* order = std::get_if<SetAckSet>(&action)) feed(AckSetStands{now_ns, order->generation});
    if (auto* order = std::get_if<FailLegs>(&action)) feed(LegsFailed{now_ns, order->legs});
    if (auto* order = std::get_if<QuiesceLeg>(&action)) feed(LegQuiesced{now_ns, order->leg});
    if (auto* order = std::get_if<InspectLegs>(&action))
      feed(LegsInspected{now_ns, order->legs, foreign_txg_count, false, order->resync_id});
    if (auto* order = std::get_if<ReturnLegs>(&action)) feed(ResyncEnded{now_ns, order->legs, scan, order->resync_id});
    if (auto* order = std::get_if<AwaitResync>(&action)) feed(ResyncEnded{now_ns, order->legs, scan, order->resync_id});
    if (auto* order = std::get_if<AskPromise>(&action); order && promises) feed(PromiseGranted{now_ns, order->nonce});
    if (auto* order = std::get_if<AddMirror>(&action)) feed(MirrorAdded{now_ns, order->mirror.guid, order->mirror});
    if (auto* order = std::get_if<AttachLeg>(&action))
      feed(LegAttached{now_ns, order->leg.guid, LegId{order->leg.guid.value + 1000}});
    if (auto* order = std::get_if<DetachLeg>(&action); order && detaches) feed(LegDetached{now_ns, order->leg});
    if (auto* order = std::get_if<DetachLeg>(&action); order && !detaches)
      feed(LegDetachFailed{now_ns, order->leg, "it holds the last good copy of something"});
    if (std::get_if<StopAccepting>(&action)) feed(Drained{now_ns});
    if (std::get_if<ExportPool>(&action)) feed(Exported{now_ns});
    if (auto* order = std::get_if<SwapRecord>(&action)) answer_swap(*order);
    if (auto* order = std::get_if<RemoveRecord>(&action)) {
      store.stored.reset();
      feed(SwapApplied{now_ns, order->op, {}});
    }
    if (std::get_if<ReadRecord>(&action)) answer_read();
    if (auto* order = std::get_if<KeepCopy>(&action))
      feed(RecordKept{now_ns, order->stored.record.epoch, order->stored.record.rev});
  }

 private:
  std::map<LegId, Nanoseconds> progress_;
};

struct AgentMachine {
  using State = agent::State;
  static agent::Actions step(State& state, const agent::Event& event) { return agent::step(state, event); }
};

class AgentBench : public Bench<AgentMachine, agent::Event, agent::Action> {
 public:
  using Bench::Bench;

  std::vector<agent::LocalLeg> local_legs;
  std::vector<LegId> drives_failed;
  Txg newest_txg{60};  // on each of the own legs, but for
  std::map<LegId, Txg> newest_of;
  std::optional<std::vector<LegId>> partner_agrees;  // nullopt: no answer
  std::optional<agent::PartnerReport> partner;       // told with each tick
  bool owner_asks = false;                           // promise requests with each tick, at owner_epoch
  Epoch owner_epoch{5};
  bool pool_beats = true;  // the started pool process sends heartbeats

  // The agent of `node`, its drives here, the record in the store and kept; no process.
  void start(NodeId node, const Record& record, std::optional<Epoch> running = std::nullopt) {
    if (!store.stored) store.put(record);
    for (const record::Mirror& mirror : record.mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.node == node) local_legs.push_back({leg.guid, record.epoch, record.rev, record.epoch});
      }
    }
    feed(agent::Started{now_ns, node, record.name, store.stored, running, 0x2000});
  }
  // A partner that has seen the owner live, its own start long ago.
  void watch_owner(NodeId node, const Record& record) {
    start(node, record);
    owner_asks = true;
    pass_ms(2000);
    clear();
  }
  // The owner's node: its process runs and serves.
  void own(NodeId node, Record record) {
    record.owner = node;
    start(node, record, record.epoch);
    beat(record.epoch);
    pass_ms(2000);
    clear();
  }
  void beat(Epoch epoch) { feed(agent::PoolHeartbeat{now_ns, epoch, owner::Phase::serving}); }
  void tick(int count = 1) {
    for (int i = 0; i < count; ++i) {
      now_ns += state.limits.tick_ns;
      talk();
      feed(agent::Ticked{now_ns});
    }
  }
  void pass_ms(int ms) { tick(ms / 50); }
  void talk() {
    if (partner) feed(agent::PartnerHeard{now_ns, *partner});
    if (owner_asks) feed(agent::PromiseAsked{now_ns, 0, owner_epoch, ++nonce_, {}});
    if (pool_beats && (state.process == agent::Process::running || state.process == agent::Process::starting))
      beat(state.process_epoch);
  }

 protected:
  void answer(const agent::Action& action) override {
    using namespace agent;
    if (std::get_if<SurveyLocal>(&action)) {
      for (LocalLeg& leg : local_legs) {
        if (!newest_of.contains(leg.leg))
          leg.newest_txg = newest_txg;
        else
          leg.newest_txg = newest_of[leg.leg];
      }
      feed(LocalSurveyed{now_ns, local_legs});
    }
    if (auto* order = std::get_if<CloseLocalDrives>(&action)) feed(LocalDrivesClosed{now_ns, order->epoch});
    if (std::get_if<OpenLocalDrives>(&action)) feed(LocalDrivesOpened{now_ns, drives_failed});
    if (auto* order = std::get_if<KillPool>(&action)) feed(PoolExited{now_ns, order->epoch, std::nullopt, "killed"});
    if (auto* order = std::get_if<DrainPool>(&action))
      feed(PoolExited{now_ns, order->epoch, owner::ExitReason::exported, "exported"});
    if (auto* order = std::get_if<SendSurvey>(&action); order && partner_agrees)
      feed(SurveyAnswered{now_ns, order->id, true, *partner_agrees, ""});
    if (auto* order = std::get_if<SwapRecord>(&action)) answer_swap(*order);
    if (std::get_if<ReadRecord>(&action)) answer_read();
    if (auto* order = std::get_if<KeepCopy>(&action))
      feed(RecordKept{now_ns, order->stored.record.epoch, order->stored.record.rev});
  }

 private:
  std::uint64_t nonce_ = 0;
};

#ifdef ZPAIR_MUTATIONS
// Breaks one rule while it lives.
class Broken {
 public:
  explicit Broken(Mutation mutation) { active_mutation = mutation; }
  ~Broken() { active_mutation = Mutation::none; }
};
#endif

}  // namespace zpair::brain::test
