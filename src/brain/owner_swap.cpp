// Rule 9: the owner's compare-and-swap. One at a time; it carries an operation id; while its outcome is unknown both
// outcomes count; only a linearizable read resolves it. The same swap (same operation id, same revision) is sent again
// until it is resolved: two copies of it cannot both apply, and the second one's `other` shows our own operation id.
// What an applied swap means is done only after the copy is durable (KeepCopy, RecordKept).
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

void name_legs(const record::Record& record, std::vector<LegId>& into) {
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.in_sync && !contains(into, leg.guid)) into.push_back(leg.guid);
    }
  }
}

void send(Turn& turn) {
  OpenSwap& open = *turn.state.open_swap;
  open.phase = OpenSwap::Phase::sent;
  if (open.remove)
    turn.order(RemoveRecord{open.expected_mod_revision, open.op});
  else
    turn.order(SwapRecord{open.expected_mod_revision, open.wanted});
}

// The floor that goes into the record: the txg before the newest that every remaining leg has flushed. (The uberblock of
// the newest itself may not be durable yet.)
Txg floor_of(const State& state, const record::Record& record) {
  Txg lowest{UINT64_MAX};
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      auto found = state.legs.find(leg.guid);
      if (leg.in_sync && found != state.legs.end()) lowest = std::min(lowest, found->second.pulse.flushed_txg);
    }
  }
  if (lowest.value == UINT64_MAX || lowest.value < 2) return record.floor_txg;
  return std::max(record.floor_txg, Txg{lowest.value - 1});
}

void take_effect(Turn& turn) {
  State& state = turn.state;
  OpenSwap open = std::move(*state.open_swap);
  state.open_swap.reset();
  const record::Record before = state.stored.record;
  if (!open.remove) {
    state.stored = record::Stored{open.wanted, open.applied_mod_revision};
    sync_views(state, turn.now_ns);
  }
  switch (state.purpose) {
    case Purpose::shrink: return shrunk(turn, before);
    case Purpose::mark: return marked(turn);
    case Purpose::grow: return grown(turn);
    case Purpose::change: return change_recorded(turn);
    case Purpose::end: return end_recorded(turn);
    case Purpose::forget_mirrors: return mirrors_forgotten(turn);
    case Purpose::destroy: return exit_process(turn, ExitReason::destroyed, "destroyed");
  }
}

void applied(Turn& turn, std::uint64_t mod_revision) {
  OpenSwap& open = *turn.state.open_swap;
  if (open.phase == OpenSwap::Phase::keeping) return;
  open.applied_mod_revision = mod_revision;
  open.phase = OpenSwap::Phase::keeping;
  if (open.remove) return take_effect(turn);
  turn.order(KeepCopy{record::Stored{open.wanted, mod_revision}});
  if (mutated(Mutation::record_not_kept_first)) take_effect(turn);
}

// The key holds something that this process did not write: another import came first, or the pool is gone. At our own
// epoch nobody else may write (rule 4), so even that means: this process is not what the record speaks of.
void somebody_elses(Turn& turn, const std::optional<record::Stored>& stored) {
  State& state = turn.state;
  OpenSwap& open = *state.open_swap;
  if (!stored) return exit_process(turn, ExitReason::fenced, "the record of the pool is gone");
  if (stored->mod_revision < open.expected_mod_revision ||
      stored->record.epoch < state.epoch) {  // the store went back: never believed
    open.phase = OpenSwap::Phase::unresolved;
    open.retry_at_ns = turn.now_ns + state.limits.look_again_ns;
    return;
  }
  // The very record that this process holds, at a newer revision: whoever resolved an unknown swap wrote it again as it was,
  // so that no held copy of that swap can land any more (EtcdStore::read). Nobody changed it: ours goes on from there.
  if (!stored->record.op.empty() && stored->record.op == state.stored.record.op &&
      stored->record.rev == state.stored.record.rev) {
    state.stored.mod_revision = stored->mod_revision;
    open.expected_mod_revision = stored->mod_revision;
    return send(turn);
  }
  if (mutated(Mutation::swap_at_stale_revision)) {
    open.expected_mod_revision = stored->mod_revision;
    open.wanted.rev = stored->record.rev.next();
    return send(turn);
  }
  exit_process(
      turn, ExitReason::fenced,
      fmt::format("the record is at epoch {} of node {}", stored->record.epoch.value, name_of(stored->record.owner)));
}

// A record that was written, from whatever source.
void noticed(Turn& turn, const record::Stored& stored) {
  State& state = turn.state;
  if (stored.record.epoch > state.epoch) {
    return exit_process(
        turn, ExitReason::fenced,
        fmt::format("the record is at epoch {} of node {}", stored.record.epoch.value, name_of(stored.record.owner)));
  }
  if (state.open_swap && !state.open_swap->remove && stored.record.op == state.open_swap->op)
    applied(turn, stored.mod_revision);
}

bool is_open(const State& state, const std::string& op) { return state.open_swap && state.open_swap->op == op; }

}  // namespace

std::vector<LegId> ack_set(const State& state) {
  std::vector<LegId> legs;
  name_legs(state.stored.record, legs);
  if (mutated(Mutation::leg_error_passed) || mutated(Mutation::ack_before_shrink)) {
    std::erase_if(
        legs, [&](LegId leg) { return state.legs.contains(leg) && view_of(state, leg).standing != Standing::named; });
  }
  if (!mutated(Mutation::ack_set_after_swap)) {
    if (state.open_swap) name_legs(state.open_swap->wanted, legs);
    for (LegId leg : legs_with(state, Standing::joining)) {
      if (!contains(legs, leg)) legs.push_back(leg);
    }
  }
  std::sort(legs.begin(), legs.end());
  return legs;
}

void update_ack_set(Turn& turn) {
  State& state = turn.state;
  std::vector<LegId> legs = ack_set(state);
  if (legs == state.ack_set && state.ack_set_generation > 0) return;
  state.ack_set = legs;
  turn.order(SetAckSet{++state.ack_set_generation, std::move(legs)});
}

bool can_swap(const State& state) { return !state.open_swap && state.phase != Phase::exited; }

record::Record next_record(State& state, std::string why) {
  record::Record record = state.stored.record;
  record.rev = record.rev.next();
  record.op = fmt::format("{}-{}-{:x}-{}", name_of(state.node), state.epoch.value, state.nonce, next_number(state));
  record.floor_txg = floor_of(state, record);
  record.why = std::move(why);
  return record;
}

void open_swap(Turn& turn, Purpose purpose, record::Record wanted) {
  State& state = turn.state;
  ZP_ASSERT(!state.open_swap, "rule 9: one compare-and-swap at a time");
  ZP_ASSERT(wanted.epoch == state.epoch, "rule 9: an owner swaps only at its own epoch");
  for (const record::Mirror& mirror : wanted.mirrors) {
    ZP_ASSERT(record::in_sync_count(mirror, NodeId::a) + record::in_sync_count(mirror, NodeId::b) > 0,
              "rule 3: a mirror keeps an in-sync leg");
  }
  OpenSwap open;
  open.op = wanted.op;
  open.expected_mod_revision = state.stored.mod_revision;
  open.wanted = std::move(wanted);
  state.open_swap = std::move(open);
  state.purpose = purpose;
  update_ack_set(turn);  // rule 2: what is being asked to be named waits already
  send(turn);
}

void open_removal(Turn& turn) {
  State& state = turn.state;
  OpenSwap open;
  open.wanted = next_record(state, "destroyed");
  open.op = open.wanted.op;
  open.expected_mod_revision = state.stored.mod_revision;
  open.remove = true;
  state.open_swap = std::move(open);
  state.purpose = Purpose::destroy;
  send(turn);
}

void ask_record(Turn& turn) {
  if (turn.state.read_open) return;
  turn.state.read_open = true;
  turn.order(ReadRecord{});
}

void pursue_swap(Turn& turn) {
  State& state = turn.state;
  if (!state.open_swap) return;
  OpenSwap& open = *state.open_swap;
  if (open.phase != OpenSwap::Phase::unresolved || turn.now_ns < open.retry_at_ns || state.read_open) return;
  open.phase = OpenSwap::Phase::reading;
  ask_record(turn);
}

void on(Turn& turn, const SwapApplied& event) {
  if (is_open(turn.state, event.op)) applied(turn, event.stored.mod_revision);
}

void on(Turn& turn, const SwapOther& event) {
  if (!is_open(turn.state, event.op) || turn.state.open_swap->phase == OpenSwap::Phase::keeping) return;
  OpenSwap& open = *turn.state.open_swap;
  if (event.stored && !open.remove && event.stored->record.op == open.op)
    return applied(turn, event.stored->mod_revision);
  if (!event.stored && open.remove) return applied(turn, 0);  // an earlier copy of the removal
  somebody_elses(turn, event.stored);
}

void on(Turn& turn, const SwapUnknown& event) {
  State& state = turn.state;
  if (!is_open(state, event.op) || state.open_swap->phase != OpenSwap::Phase::sent) return;
  if (mutated(Mutation::unknown_taken_as_failed)) {
    state.open_swap.reset();
    if (state.returning) drop_return(turn, "the swap is taken as failed");
    return;
  }
  state.open_swap->phase = OpenSwap::Phase::unresolved;
  state.open_swap->retry_at_ns = turn.now_ns;
}

void on(Turn& turn, const RecordRead& event) {
  State& state = turn.state;
  state.read_open = false;
  if (!state.open_swap || state.open_swap->phase != OpenSwap::Phase::reading) {
    if (event.stored) noticed(turn, *event.stored);
    return;
  }
  OpenSwap& open = *state.open_swap;
  if (!event.stored && open.remove) return applied(turn, 0);
  if (event.stored && !open.remove && event.stored->record.op == open.op)
    return applied(turn, event.stored->mod_revision);
  if (event.stored && event.stored->mod_revision == open.expected_mod_revision)
    return send(turn);  // not yet: the same one again
  somebody_elses(turn, event.stored);
}

void on(Turn& turn, const RecordReadFailed& event) {
  State& state = turn.state;
  state.read_open = false;
  if (!state.open_swap || state.open_swap->phase != OpenSwap::Phase::reading) return;
  state.open_swap->phase = OpenSwap::Phase::unresolved;
  state.open_swap->retry_at_ns = event.now_ns + state.limits.retry_ns;
}

void on(Turn& turn, const RecordSeen& event) { noticed(turn, event.stored); }

void on(Turn& turn, const RecordKept& event) {
  State& state = turn.state;
  if (!state.open_swap || state.open_swap->phase != OpenSwap::Phase::keeping) return;
  if (event.rev != state.open_swap->wanted.rev || event.epoch != state.epoch) return;
  take_effect(turn);
}

}  // namespace zpair::brain::owner
