// Rule 3: shrink before ack. Which named legs do not answer, whether the pool can go on without them, and the swap that
// takes them off the record. Decided over the whole pool: if some mirror would be left without an in-sync leg that the
// owner reaches, nothing is shrunk, because the partner may still be able to serve every mirror (protocol-review, H32).
//
// While it holds, nothing is acknowledged (the gate), and the owner exits only when the partner's agent says that it can
// serve every mirror, or when the record shows that it has swapped.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

enum class Cause : std::uint8_t { erred, silent, slow, unfenced, replaced };

struct Verdict {
  LegId leg;
  Cause cause;
  std::string why;
};

struct Decision {
  std::vector<Verdict> off;
  std::string hold_why;       // some mirror would have no leg left: shrink nothing
  bool wait = false;          // what would be left does not answer just now: judge again at the next tick
  bool lost_writes = false;   // holding is of no use: the last leg lost unflushed writes
  std::string both_slow_why;  // all legs of some mirror are too slow: they are not shrunk
};

bool has(const std::vector<Verdict>& verdicts, LegId leg) {
  return std::any_of(verdicts.begin(), verdicts.end(), [&](const Verdict& verdict) { return verdict.leg == leg; });
}

std::string text_of(LegFault fault, const std::string& what) {
  switch (fault) {
    case LegFault::io_error: return "error: " + what;
    case LegFault::verifier_changed: return "it lost unflushed writes (" + what + ")";
    case LegFault::read_errors: return "too many read errors: " + what;
    case LegFault::drive_gone: return "the drive is gone: " + what;
  }
  return what;
}

std::optional<Verdict> judge(const State& state, LegId leg) {
  const LegView& view = view_of(state, leg);
  if (state.phase == Phase::fencing) {
    if (view.fenced) return std::nullopt;
    const bool window_over = state.last_tick_ns - state.fencing_since_ns >= state.limits.fence_window_ns;
    if (!window_over && !view.cannot_fence) return std::nullopt;
    return Verdict{leg, Cause::unfenced,
                   "did not confirm the fence" + (view.fault_text.empty() ? "" : ": " + view.fault_text)};
  }
  if (view.fault) return Verdict{leg, Cause::erred, text_of(*view.fault, view.fault_text)};
  if (silent_too_long(state, leg)) {
    const Nanoseconds since_ns = std::max(view.pulse.last_progress_ns, view.window_start_ns);
    return Verdict{leg, Cause::silent, fmt::format("silent for {} ms", (state.last_tick_ns - since_ns) / ns_per_ms)};
  }
  if (too_slow(state, leg, 1)) return Verdict{leg, Cause::slow, "slower than its bound"};
  const bool replaced =
      state.change && state.change->phase == Change::Phase::detaching && state.change->replaces == leg;
  if (replaced) return Verdict{leg, Cause::replaced, "replaced"};
  return std::nullopt;
}

// A side falls silent as one: whoever is about to, goes with it, in the same swap and the same decision.
void take_the_side_along(const State& state, std::vector<Verdict>& off) {
  for (NodeId node : {NodeId::a, NodeId::b}) {
    auto silent = std::find_if(off.begin(), off.end(), [&](const Verdict& verdict) {
      return verdict.cause == Cause::silent && view_of(state, verdict.leg).node == node;
    });
    if (silent == off.end()) continue;
    const std::string why = silent->why;
    for (LegId leg : legs_with(state, Standing::named)) {
      if (view_of(state, leg).node == node && !has(off, leg) && !answers(state, leg))
        off.push_back({leg, Cause::silent, why});
    }
  }
}

std::vector<LegId> named_legs(const State& state, const record::Mirror& mirror) {
  std::vector<LegId> legs;
  for (const record::Leg& leg : mirror.legs) {
    if (leg.in_sync && view_of(state, leg.guid).standing == Standing::named) legs.push_back(leg.guid);
  }
  return legs;
}

// Slow legs, and one that is to be replaced, are spared when no other leg of their mirror does better.
void spare_the_slow(const State& state, const record::Mirror& mirror, Decision& decision) {
  const std::vector<LegId> named = named_legs(state, mirror);
  const bool another = std::any_of(named.begin(), named.end(), [&](LegId leg) {
    return !has(decision.off, leg) && answers(state, leg) && !too_slow(state, leg, 2);
  });
  if (another) return;
  for (LegId leg : named) {
    auto verdict =
        std::find_if(decision.off.begin(), decision.off.end(), [&](const Verdict& one) { return one.leg == leg; });
    if (verdict == decision.off.end() || (verdict->cause != Cause::slow && verdict->cause != Cause::replaced)) continue;
    if (verdict->cause == Cause::slow) {
      decision.both_slow_why =
          fmt::format("{}: no leg answers within its bound; nothing is shrunk", label_of(state, mirror.guid));
    }
    decision.off.erase(verdict);
  }
}

void check_what_is_left(const State& state, const record::Mirror& mirror, Decision& decision) {
  const std::vector<LegId> named = named_legs(state, mirror);
  std::vector<LegId> left;
  for (LegId leg : named) {
    if (!has(decision.off, leg)) left.push_back(leg);
  }
  if (left.size() == named.size()) return;
  if (left.empty()) {
    std::string legs;
    for (const Verdict& verdict : decision.off) {
      if (view_of(state, verdict.leg).mirror != mirror.guid) continue;
      legs += fmt::format("{}{} ({})", legs.empty() ? "" : ", ", label_of(state, verdict.leg), verdict.why);
      if (view_of(state, verdict.leg).fault == LegFault::verifier_changed) decision.lost_writes = true;
    }
    if (decision.hold_why.empty())
      decision.hold_why = fmt::format("{} has no in-sync leg that answers: {}", label_of(state, mirror.guid), legs);
    return;
  }
  const bool reached = std::any_of(left.begin(), left.end(), [&](LegId leg) { return answers(state, leg); });
  if (!reached) decision.wait = true;
}

Decision decide(const State& state) {
  Decision decision;
  for (LegId leg : legs_with(state, Standing::named)) {
    if (auto verdict = judge(state, leg)) decision.off.push_back(*verdict);
  }
  take_the_side_along(state, decision.off);
  for (const record::Mirror& mirror : state.stored.record.mirrors) spare_the_slow(state, mirror, decision);
  for (const record::Mirror& mirror : state.stored.record.mirrors) check_what_is_left(state, mirror, decision);
  return decision;
}

// H32, as a mutation: shrink what can be shrunk, mirror by mirror.
void shrink_mirror_by_mirror(const State& state, Decision& decision) {
  for (const record::Mirror& mirror : state.stored.record.mirrors) {
    const std::vector<LegId> named = named_legs(state, mirror);
    const bool all_off = std::all_of(named.begin(), named.end(), [&](LegId leg) { return has(decision.off, leg); });
    if (all_off) std::erase_if(decision.off, [&](const Verdict& verdict) { return contains(named, verdict.leg); });
  }
  decision.wait = false;
  decision.hold_why.clear();
  decision.lost_writes = false;
}

// Rule 3: 1 + the newest txg that this process saw flushed on the leg under an unchanged verifier; else, 1 + the newest
// uberblock found before the import. A lower value is always safe.
Txg since_of(const State& state, LegId leg) {
  const Txg flushed = view_of(state, leg).pulse.flushed_txg;
  if (mutated(Mutation::shrink_since_too_high)) return Txg{std::max(flushed, state.newest_txg).value + 4};
  return flushed.value > 0 ? flushed.next() : state.newest_txg.next();
}

void hold(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (!state.holding) {
    turn.report("holding: " + why);
    state.ask_partner_at_ns = turn.now_ns;
  }
  state.holding = true;
  state.holding_why = why;
  if (turn.now_ns < state.ask_partner_at_ns) return;
  state.ask_partner_at_ns = turn.now_ns + state.limits.ask_partner_ns;
  turn.order(AskPartner{});
  ask_record(turn);
}

// Another verifier, or no drive at all, is what a restart or a plug looks like.
bool is_own_fault(const LegView& view, Cause cause) {
  const bool errs = view.fault == LegFault::io_error || view.fault == LegFault::read_errors;
  return cause == Cause::slow || (cause == Cause::erred && errs);
}

void open_shrink(Turn& turn, const std::vector<Verdict>& off) {
  State& state = turn.state;
  std::string why;
  for (const Verdict& verdict : off) {
    if (why.empty()) why = fmt::format("{} off: {}", label_of(state, verdict.leg), verdict.why);
  }
  if (off.size() > 1) why += fmt::format(" (and {} more legs)", off.size() - 1);
  record::Record wanted = next_record(state, why);
  for (const Verdict& verdict : off) {
    record::Leg& leg = *record::find_leg(wanted, verdict.leg);
    leg.in_sync = false;
    leg.resyncing = false;
    leg.since = since_of(state, verdict.leg);
    leg.off_rev = wanted.rev;
    LegView& view = view_of(state, verdict.leg);
    view.off_why = verdict.why;
    view.own_fault = is_own_fault(view, verdict.cause);
  }
  open_swap(turn, Purpose::shrink, std::move(wanted));
}

// A drive that errs again and again returns ever later. Where a node or its paths came and went, its drives are not to blame.
void remember_shrink(State& state, LegView& view, Nanoseconds now_ns) {
  view.retry_at_ns = now_ns + state.limits.look_again_ns;
  if (!view.own_fault) return;
  std::erase_if(view.shrunk_at_ns, [&](Nanoseconds at_ns) { return now_ns - at_ns > state.limits.back_off_memory_ns; });
  view.shrunk_at_ns.push_back(now_ns);
  if (view.shrunk_at_ns.size() < 2) {
    view.back_off_ns = 0;
    return;
  }
  view.back_off_ns =
      view.back_off_ns == 0 ? state.limits.back_off_ns : std::min(view.back_off_ns * 2, state.limits.back_off_most_ns);
  view.not_before_ns = now_ns + view.back_off_ns;
}

}  // namespace

void pursue_shrink(Turn& turn) {
  State& state = turn.state;
  if (state.phase == Phase::starting || state.phase == Phase::exited) return;
  Decision decision = decide(state);
  if (decision.both_slow_why != state.both_slow_why) {
    state.both_slow_why = decision.both_slow_why;
    state.both_slow = !decision.both_slow_why.empty();
    turn.report(state.both_slow ? state.both_slow_why : "all legs answer within their bounds again");
  }
  if (mutated(Mutation::suicidal_shrink)) shrink_mirror_by_mirror(state, decision);
  if (decision.lost_writes && !state.open_swap) return exit_process(turn, ExitReason::lost_writes, decision.hold_why);
  if (!decision.hold_why.empty()) return hold(turn, decision.hold_why);
  if (state.holding) turn.report("holding no more");
  state.holding = false;
  state.holding_why.clear();
  if (decision.off.empty() || decision.wait || !can_swap(state)) return;
  if (mutated(Mutation::ack_before_shrink)) {
    std::vector<LegId> legs;
    for (const Verdict& verdict : decision.off) legs.push_back(verdict.leg);
    fail_legs(turn, legs, "failed before the swap");
    update_ack_set(turn);
  }
  open_shrink(turn, decision.off);
}

void shrunk(Turn& turn, const record::Record& before) {
  State& state = turn.state;
  std::vector<LegId> off;
  for (const record::Mirror& mirror : before.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync || in_sync(state, leg.guid)) continue;
      off.push_back(leg.guid);
      remember_shrink(state, view_of(state, leg.guid), turn.now_ns);
    }
  }
  update_ack_set(turn);  // the gate first, then the leg fails: its held I/O must not find itself still waited for
  for (LegId leg : off)
    turn.report(fmt::format("{} is off the record: {}", label_of(state, leg), view_of(state, leg).off_why));
  std::erase_if(off,
                [&](LegId leg) { return view_of(state, leg).fail_ordered; });  // (only a mutation has failed it before)
  fail_legs(turn, off, "");  // one step for all of them: one by one takes forty times as long
}

void on(Turn& turn, const PartnerAnswered& event) {
  State& state = turn.state;
  if (event.known > state.epoch) {
    return exit_process(turn, ExitReason::fenced, fmt::format("the partner's agent knows epoch {}", event.known.value));
  }
  if (!state.holding || !event.can_serve || state.open_swap) return;
  exit_process(turn, ExitReason::gave_up,
               "given up to the partner, which can serve every mirror: " + state.holding_why);
}

}  // namespace zpair::brain::owner
