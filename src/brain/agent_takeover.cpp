// One import from the decision to the pool process (rule 4): reading, surveying, swapping, keeping, closing, starting. See
// agent.h for the phases. Until the swap is sent it can be dropped at any time; from then on it can only be resolved (rule 9),
// and the node promises nothing (rule 6). A newer revision in the store: read again, decide again.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

bool may_still_drop(const Takeover& takeover) {
  return takeover.phase == Takeover::Phase::reading || takeover.phase == Takeover::Phase::surveying;
}

void answer(Turn& turn, bool done, const std::string& text) {
  Takeover& takeover = *turn.state.takeover;
  if (takeover.command) turn.order(AnswerCommand{*std::exchange(takeover.command, std::nullopt), done, text});
}

void refuse(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (state.refused != why) turn.report(fmt::format("cannot import {}: {}", state.pool, why));
  state.refused = why;
  state.look_again_ns = turn.now_ns + state.limits.look_again_ns;
  answer(turn, false, why);
  state.takeover.reset();
}

void start_over(Turn& turn) {
  Takeover& takeover = *turn.state.takeover;
  Takeover fresh;
  fresh.kind = takeover.kind;
  fresh.command = takeover.command;
  fresh.accept_data_loss = takeover.accept_data_loss;
  fresh.accept_corruption = takeover.accept_corruption;
  fresh.exported_before = takeover.exported_before;
  takeover = std::move(fresh);
}

// ---- surveying

Nanoseconds survey_bound_ns(const State& state) {
  const bool urgent = state.takeover->kind == Kind::takeover;  // the partner is probably dead
  return urgent ? state.limits.survey_ns : state.limits.look_again_ns;
}

void survey(Turn& turn) {
  State& state = turn.state;
  Takeover& takeover = *state.takeover;
  if (!takeover.local_surveyed && !takeover.local_asked && state.drives_open && !state.local_survey_open) {
    takeover.local_asked = true;
    state.local_survey_open = true;
    turn.order(SurveyLocal{});
  }
  if (takeover.survey_id == 0) {
    takeover.survey_id = state.nonce + ++state.counter;
    takeover.asked_at_ns = turn.now_ns;
  }
  if (!partner_present(state) || takeover.partner_answered || turn.now_ns < takeover.ask_again_ns) return;
  takeover.partner_asked = true;
  takeover.ask_again_ns = turn.now_ns + state.limits.retry_ns;
  turn.order(SendSurvey{takeover.survey_id, takeover.base.record.epoch.next()});
}

bool surveyed(const State& state) {
  const Takeover& takeover = *state.takeover;
  if (!takeover.local_surveyed) return false;
  if (takeover.partner_answered || !partner_present(state)) return true;
  return state.last_tick_ns - takeover.asked_at_ns >= survey_bound_ns(state);
}

// ---- swapping

void send_swap(Turn& turn) {
  OpenSwap& open = *turn.state.takeover->open_swap;
  open.phase = OpenSwap::Phase::sent;
  turn.order(SwapRecord{open.expected_mod_revision, open.wanted});
}

void open_swap(Turn& turn, Naming naming) {
  State& state = turn.state;
  Takeover& takeover = *state.takeover;
  takeover.skip_floor = naming.skip_floor;
  OpenSwap open;
  open.op = naming.wanted.op;
  open.expected_mod_revision = takeover.base.mod_revision;
  open.wanted = std::move(naming.wanted);
  takeover.open_swap = std::move(open);
  takeover.phase = Takeover::Phase::swapping;
  state.refused.clear();
  state.promise_released = takeover.exported_before;
  send_swap(turn);
}

void close_and_hand_over(Turn& turn) {
  State& state = turn.state;
  Takeover& takeover = *state.takeover;
  takeover.phase = Takeover::Phase::closing;
  state.handover_open = true;
  state.handover_retry_ns = turn.now_ns;
  state.drives_order_open = true;
  turn.order(CloseLocalDrives{takeover.won.record.epoch});
}

void won(Turn& turn, const record::Stored& stored) {
  Takeover& takeover = *turn.state.takeover;
  takeover.won = record::Stored{takeover.open_swap->wanted, stored.mod_revision};
  takeover.open_swap.reset();
  takeover.phase = Takeover::Phase::keeping;
  turn.report(fmt::format("{}: epoch {} is this node's", name_of(takeover.kind), takeover.won.record.epoch.value));
  learn(turn, takeover.won);
  const bool kept_already =
      turn.state.stored &&
      turn.state.stored->record == takeover.won.record;  // a read showed it before the store's answer came
  if (kept_already) close_and_hand_over(turn);
}

void lost(Turn& turn, const std::optional<record::Stored>& stored) {
  State& state = turn.state;
  Takeover& takeover = *state.takeover;
  if (!stored) {
    state.gone = state.stored.has_value();
    answer(turn, false, "the pool is gone");
    state.takeover.reset();
    return;
  }
  const bool another_import = stored->record.epoch > takeover.base.record.epoch;
  learn(turn, *stored);
  if (mutated(Mutation::swap_at_stale_revision)) {
    takeover.open_swap->expected_mod_revision = stored->mod_revision;
    takeover.open_swap->wanted.rev = stored->record.rev.next();
    return send_swap(turn);
  }
  if (another_import) {
    answer(turn, false,
           fmt::format("node {} imported it at epoch {}", name_of(stored->record.owner), stored->record.epoch.value));
    state.takeover.reset();
    return;
  }
  start_over(turn);  // a newer revision of the same epoch: read again, decide again
}

void resolve(Turn& turn) {
  State& state = turn.state;
  OpenSwap& open = *state.takeover->open_swap;
  if (open.phase != OpenSwap::Phase::unresolved || turn.now_ns < open.retry_at_ns || state.read_open) return;
  open.phase = OpenSwap::Phase::reading;
  ask_record(turn);
}

// ---- starting

void start_pool(Turn& turn) {
  State& state = turn.state;
  Takeover& takeover = *state.takeover;
  ZP_ASSERT(state.process == Process::none, "rule 5: the node's own older process is dead");
  ZP_ASSERT(state.stored && state.stored->record == takeover.won.record,
            "rule 9: the copy is durable before the import");
  takeover.phase = Takeover::Phase::starting;
  state.process = Process::starting;
  state.process_epoch = takeover.won.record.epoch;
  state.process_phase = owner::Phase::starting;
  state.process_started_ns = turn.now_ns;
  state.heartbeat_ns = 0;
  StartPool start;
  start.stored = takeover.won;
  start.first_ack_at_ns = state.promise_end_ns;
  start.promise_released = state.promise_released || mutated(Mutation::promise_released_without_handover);
  start.newest_txg = takeover.newest_txg;
  start.skip_floor = takeover.skip_floor;
  if (takeover.skip_floor) state.floor = {};  // what the lost owner told is given up for good
  start.floor = state.floor;
  turn.order(std::move(start));
}

void decide(Turn& turn) {
  State& state = turn.state;
  Naming naming = name_legs(state, *state.takeover);
  if (!naming.refused.empty()) return refuse(turn, naming.refused);
  open_swap(turn, std::move(naming));
}

// Nothing automatic takes a pool from an owner that lives. (While cold, nobody was heard: then only a vouch counts.)
bool owner_is_back(const State& state) {
  const Takeover& takeover = *state.takeover;
  const bool automatic =
      takeover.kind == Kind::takeover || takeover.kind == Kind::cold_start || takeover.kind == Kind::restart;
  if (!automatic || !state.stored) return false;
  const bool read = takeover.phase == Takeover::Phase::surveying;
  const NodeId owner = read ? takeover.base.record.owner : state.stored->record.owner;
  return owner != state.node && owner_lives(state) && (!state.cold || state.vouched_ns > 0);
}

}  // namespace

bool swap_is_open(const State& state) { return state.takeover && !may_still_drop(*state.takeover); }

void begin_takeover(Turn& turn, Kind kind, std::optional<std::uint64_t> command) {
  State& state = turn.state;
  ZP_ASSERT(!state.takeover && state.process == Process::none, "one import at a time");
  state.takeover = Takeover{};
  state.takeover->kind = kind;
  state.takeover->command = command;
  state.gave_up = false;
}

void drop_takeover(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (!state.takeover) return;
  answer(turn, false, why);
  turn.report(fmt::format("{} dropped: {}", name_of(state.takeover->kind), why));
  state.takeover.reset();
}

void takeover_done(Turn& turn) {
  answer(turn, true,
         fmt::format("node {} imports it at epoch {}", name_of(turn.state.node), turn.state.process_epoch.value));
  turn.state.takeover.reset();
}

void pursue_takeover(Turn& turn) {
  State& state = turn.state;
  if (!state.takeover) return;
  if (may_still_drop(*state.takeover) && owner_is_back(state)) return drop_takeover(turn, "the owner is heard");
  Takeover& takeover = *state.takeover;
  switch (takeover.phase) {
    case Takeover::Phase::reading:
      if (turn.now_ns >= takeover.retry_at_ns) ask_record(turn);
      return;
    case Takeover::Phase::surveying:
      survey(turn);
      if (surveyed(state)) decide(turn);
      return;
    case Takeover::Phase::swapping: return resolve(turn);
    case Takeover::Phase::keeping:
    case Takeover::Phase::closing:  // RecordKept, then LocalDrivesClosed go on, unless a newer import overtook ours
      if (state.seen_epoch > takeover.won.record.epoch)
        drop_takeover(turn, fmt::format("epoch {} came after", state.seen_epoch.value));
      return;
    case Takeover::Phase::starting: return;  // PoolHeartbeat or PoolExited end it
  }
}

void takeover_read(Turn& turn, const RecordRead& event) {
  State& state = turn.state;
  if (!state.takeover) return;
  Takeover& takeover = *state.takeover;
  if (takeover.phase == Takeover::Phase::swapping) {
    if (event.stored && event.stored->record.op == takeover.open_swap->op) return won(turn, *event.stored);
    if (takeover.open_swap->phase != OpenSwap::Phase::reading) return;
    // The store went back, perhaps to the very revision that the swap compares: it is never sent again there (rule 9).
    if (event.stored && (event.stored->mod_revision < takeover.open_swap->expected_mod_revision ||
                         went_back(state, event.stored->record))) {
      takeover.open_swap->phase = OpenSwap::Phase::unresolved;
      takeover.open_swap->retry_at_ns = turn.now_ns + state.limits.look_again_ns;
      return;
    }
    if (event.stored && event.stored->mod_revision == takeover.open_swap->expected_mod_revision) {
      if (mutated(Mutation::unknown_taken_as_failed)) return drop_takeover(turn, "the swap is taken as failed");
      return send_swap(turn);
    }
    return lost(turn, event.stored);
  }
  if (takeover.phase != Takeover::Phase::reading) return;
  if (!event.stored) return drop_takeover(turn, "there is no such pool in the store");
  if (!state.went_back.empty()) return refuse(turn, state.went_back);
  const record::Record& record = event.stored->record;
  if (record.version > record::format_version)
    return refuse(
        turn, fmt::format("the record has version {}, this program knows {}", record.version, record::format_version));
  if (record.wanted == record::Wanted::exported && takeover.kind != Kind::import)
    return drop_takeover(turn, "the pool is exported");
  if (takeover.kind == Kind::import && partner_owns(state, record))
    return drop_takeover(turn, "the partner has it imported");  // the kept copy was older
  takeover.base = *event.stored;
  takeover.phase = Takeover::Phase::surveying;
}

void takeover_seen(Turn& turn, const record::Stored& stored) {
  State& state = turn.state;
  if (!state.takeover || !state.takeover->open_swap) return;
  if (stored.record.op == state.takeover->open_swap->op) won(turn, stored);
}

void takeover_surveyed(Turn& turn, const LocalSurveyed& event) {
  State& state = turn.state;
  if (!state.takeover || state.takeover->phase != Takeover::Phase::surveying || !state.takeover->local_asked) return;
  state.takeover->local_legs = event.legs;
  state.takeover->newest_txg = Txg{};
  for (const LocalLeg& leg : event.legs) {  // a leg that is not named may hold newer txgs of a history that is gone
    const record::Leg* recorded = record::find_leg(state.takeover->base.record, leg.leg);
    if (recorded != nullptr && recorded->in_sync)
      state.takeover->newest_txg = std::max(state.takeover->newest_txg, leg.newest_txg);
  }
  state.takeover->local_surveyed = true;
}

void takeover_kept(Turn& turn, const RecordKept& event) {
  State& state = turn.state;
  if (!state.takeover || state.takeover->phase != Takeover::Phase::keeping) return;
  const record::Record& record = state.takeover->won.record;
  if (event.epoch != record.epoch || event.rev != record.rev) return;
  close_and_hand_over(turn);
  if (mutated(Mutation::no_local_drain)) {
    state.drives_open = false;
    start_pool(turn);
  }
}

void on(Turn& turn, const LocalDrivesClosed& event) {
  State& state = turn.state;
  state.drives_order_open = false;
  state.drives_open = false;
  if (!state.takeover || state.takeover->phase != Takeover::Phase::closing ||
      event.epoch != state.takeover->won.record.epoch)
    return;
  if (state.seen_epoch > event.epoch) return;  // overtaken
  start_pool(turn);
}

void on(Turn& turn, const SurveyAnswered& event) {
  State& state = turn.state;
  if (!state.takeover || state.takeover->phase != Takeover::Phase::surveying || state.takeover->survey_id != event.id)
    return;
  if (!event.agreed) {
    state.look_again_ns = turn.now_ns + state.limits.look_again_ns;
    return drop_takeover(turn, "the partner's agent does not agree: " + event.why);
  }
  state.takeover->partner_answered = true;
  state.takeover->partner_legs = event.legs;
}

void on(Turn& turn, const SwapApplied& event) {
  State& state = turn.state;
  if (!state.takeover || !state.takeover->open_swap || state.takeover->open_swap->op != event.op) return;
  won(turn, event.stored);
}

void on(Turn& turn, const SwapOther& event) {
  State& state = turn.state;
  if (!state.takeover || !state.takeover->open_swap || state.takeover->open_swap->op != event.op) return;
  if (event.stored && event.stored->record.op == event.op) return won(turn, *event.stored);
  lost(turn, event.stored);
}

void on(Turn& turn, const SwapUnknown& event) {
  State& state = turn.state;
  if (!state.takeover || !state.takeover->open_swap || state.takeover->open_swap->op != event.op) return;
  if (state.takeover->open_swap->phase != OpenSwap::Phase::sent) return;
  state.takeover->open_swap->phase = OpenSwap::Phase::unresolved;
  state.takeover->open_swap->retry_at_ns = turn.now_ns;
}

}  // namespace zpair::brain::agent
