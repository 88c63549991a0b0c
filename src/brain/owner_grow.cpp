// Rule 8: grow after resync. The legs that are off come back together, in one step:
//
//   off -> fencing -> quiescing -> ready                   each leg for itself, while its pulse says reachable
//   ready -> [inspecting] diverged?                        yes: recorded as `full`, comes back as a new leg (owner_change.cpp)
//         -> [marking]   the record says `resyncing`       a half-copied leg must never pass for a whole one (rule 11)
//         -> [resyncing] ReturnLegs from the smallest `since`; the scan's own record is checked, not the empty DTL
//         -> [entering]  joins the ack set                 before the swap, so that both outcomes are covered (rule 2)
//         -> [growing]   the record names it               swap, copy kept: named
//
// One return at a time: while one runs no other leg goes online, none is attached. A leg that fails on the way is failed
// at once (the record does not name it, so no swap is needed), unless the grow's swap is open: then it is named first, as
// far as anybody knows, and shrunk after.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

constexpr Txg first_txg{4};  // OpenZFS's TXG_INITIAL: nothing was ever born below it

// ---- each leg for itself

bool may_return(const State& state, LegId leg, const LegView& view, Nanoseconds now_ns) {
  if (state.change && (state.change->replaces == leg || (state.change->leg && state.change->leg->guid == leg)))
    return false;
  return state.phase == Phase::serving && state.replayed && !state.ending && view.standing == Standing::off &&
         !view.fail_ordered && !view.order_open && view.pulse.reachable && now_ns >= view.retry_at_ns &&
         now_ns >= view.not_before_ns;
}

bool on_its_way(const State& state, LegId leg, const LegView& view, Nanoseconds now_ns) {
  return view.standing == Standing::fencing || view.standing == Standing::quiescing ||
         may_return(state, leg, view, now_ns);
}

void prepare_legs(Turn& turn) {
  State& state = turn.state;
  for (auto& [leg, view] : state.legs) {
    if (may_return(state, leg, view, turn.now_ns)) {
      view.standing = Standing::fencing;
      view.fenced = false;
      view.order_open = true;
      turn.order(FenceLeg{leg, view.node, state.epoch, state.stored.record.rev});
    } else if (view.standing == Standing::ready && !view.pulse.reachable &&
               !(state.returning && contains(state.returning->legs, leg))) {
      view.standing = Standing::off;
      view.fenced = false;
    }
  }
}

// ---- together

bool scan_may_begin(const State& state) {
  const bool changing = state.change && state.change->phase != Change::Phase::waiting;
  return state.phase == Phase::serving && !state.ending && !state.returning && !changing && can_swap(state);
}

void begin_return(Turn& turn) {
  State& state = turn.state;
  std::vector<LegId> legs;
  Nanoseconds first_ready_ns = turn.now_ns;
  bool more_to_come = false;
  for (auto& [leg, view] : state.legs) {
    const bool full = record::find_leg(state.stored.record, leg)->full;
    if (view.standing == Standing::ready && !full) {
      legs.push_back(leg);
      first_ready_ns = std::min(first_ready_ns, view.ready_since_ns);
    }
    if (on_its_way(state, leg, view, turn.now_ns)) more_to_come = true;
  }
  if (more_to_come && turn.now_ns - first_ready_ns < state.limits.gather_ns) return;
  if (legs.empty()) {
    const std::vector<LegId> diverged = legs_with(state, Standing::ready);
    if (!diverged.empty()) remake_diverged(turn, diverged.front());
    return;
  }
  state.returning = Return{};
  state.returning->legs = legs;
  state.returning->id = next_number(state);
  turn.order(InspectLegs{std::move(legs), state.returning->id});
}

Txg common_since(const State& state, const std::vector<LegId>& legs) {
  Txg smallest{UINT64_MAX}, largest{0};
  for (LegId leg : legs) {
    const Txg since = record::find_leg(state.stored.record, leg)->since;
    smallest = std::min(smallest, since);
    largest = std::max(largest, since);
  }
  return mutated(Mutation::seed_from_newest_since) ? largest : smallest;
}

void begin_resync(Turn& turn) {
  State& state = turn.state;
  Return& returning = *state.returning;
  returning.phase = Return::Phase::resyncing;
  returning.since = common_since(state, returning.legs);
  for (LegId leg : returning.legs) view_of(state, leg).standing = Standing::resyncing;
  turn.report(fmt::format("{} legs return: resync from txg {}", returning.legs.size(), returning.since.value));
  turn.order(ReturnLegs{returning.legs, returning.since, returning.id});
}

void open_mark(Turn& turn) {
  State& state = turn.state;
  Return& returning = *state.returning;
  record::Record wanted = next_record(state, returning.full ? "diverged: comes back by full resync" : "resync");
  bool changed = false;
  for (LegId guid : returning.legs) {
    record::Leg& leg = *record::find_leg(wanted, guid);
    bool& mark = returning.full ? leg.full : leg.resyncing;
    changed = changed || !mark;
    mark = true;
  }
  if (!changed) return marked(turn);  // from an earlier try
  open_swap(turn, Purpose::mark, std::move(wanted));
}

void open_grow(Turn& turn) {
  State& state = turn.state;
  Return& returning = *state.returning;
  record::Record wanted = next_record(state, fmt::format("{} legs in sync", returning.legs.size()));
  for (LegId guid : returning.legs) {
    record::Leg& leg = *record::find_leg(wanted, guid);
    leg.in_sync = true;
    leg.resyncing = false;
    leg.full = false;
    leg.since = Txg{};
    leg.off_rev = Revision{};
  }
  if (!mutated(Mutation::ack_set_after_swap)) {
    for (LegId leg : returning.legs)
      ZP_ASSERT(contains(state.ack_set, leg), "rule 8: it joins the ack set, and after that the record");
  }
  open_swap(turn, Purpose::grow, std::move(wanted));
}

void enter_ack_set(Turn& turn) {
  State& state = turn.state;
  Return& returning = *state.returning;
  for (LegId leg : returning.legs) view_of(state, leg).standing = Standing::joining;
  update_ack_set(turn);
  returning.ack_set_generation = state.ack_set_generation;
  returning.phase = mutated(Mutation::ack_set_after_swap) ? Return::Phase::growing : Return::Phase::entering;
}

// ---- failures on the way

bool fails(const State& state, LegId leg) {
  const LegView& view = view_of(state, leg);
  return view.fault.has_value() || silent_too_long(state, leg) || too_slow(state, leg, 1);
}

bool online(const LegView& view) { return view.standing == Standing::resyncing || view.standing == Standing::joining; }

void forget_if_empty(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (!state.returning || !state.returning->legs.empty()) return;
  const bool attach = state.returning->attach;
  state.returning.reset();
  if (attach) change_failed(turn, why);
}

void drop_failing_legs(Turn& turn) {
  State& state = turn.state;
  if (!state.returning) return;
  const bool swapping = state.open_swap && (state.purpose == Purpose::grow || state.purpose == Purpose::mark);
  if (swapping) return;  // rule 9: first its outcome
  std::vector<LegId> failed;
  std::string why;
  for (LegId leg : std::vector<LegId>(state.returning->legs)) {
    LegView& view = view_of(state, leg);
    if (!fails(state, leg)) continue;
    why = view.fault ? view.fault_text : "it does not answer";
    remove(state.returning->legs, leg);
    view.retry_at_ns = turn.now_ns + state.limits.look_again_ns;
    if (online(view))
      failed.push_back(leg);
    else {
      view.standing = Standing::off;
      view.fenced = false;
      view.fault.reset();
    }
  }
  if (!failed.empty()) {
    turn.report(fmt::format("{} legs are off again in mid-resync: {}", failed.size(), why));
    fail_legs(turn, failed, why);
    update_ack_set(turn);
  }
  forget_if_empty(turn, why);
}

// Rule 8, the judgement: the scan's own record, not the empty DTL. `since` of a new leg: everything.
std::string not_resynced(const Return& returning, const ScanReport& report) {
  if (mutated(Mutation::grow_before_resync)) return "";
  if (!report.finished) return "the resilver did not finish";
  if (report.error_count > 0) return fmt::format("the resilver ended with {} errors", report.error_count);
  if (report.scan_min_txg >= std::max(returning.since, first_txg)) {
    return fmt::format("the resilver began at txg {}, the legs miss writes since {}", report.scan_min_txg.value,
                       returning.since.value);
  }
  if (!report.dtl_empty) return "some txg is still missing";
  if (!report.synced_after_online) return "no txg has synced since they came online";
  if (!report.logs_replayed) return "some log is not replayed";
  return "";
}

bool same_return(const State& state, std::uint64_t id, Return::Phase phase) {
  return state.returning && state.returning->id == id && state.returning->phase == phase;
}

}  // namespace

void pursue_returns(Turn& turn) {
  State& state = turn.state;
  if (state.phase != Phase::serving && !state.returning) return;
  prepare_legs(turn);
  drop_failing_legs(turn);
  if (scan_may_begin(state)) begin_return(turn);
  if (!state.returning || !can_swap(state) || state.ending) return;
  if (state.returning->phase == Return::Phase::marking)
    open_mark(turn);
  else if (state.returning->phase == Return::Phase::growing)
    open_grow(turn);
}

void drop_return(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (!state.returning) return;
  std::vector<LegId> failed;
  for (LegId leg : state.returning->legs) {
    LegView& view = view_of(state, leg);
    view.retry_at_ns = turn.now_ns + state.limits.look_again_ns;
    if (online(view))
      failed.push_back(leg);
    else if (view.standing != Standing::named)
      view.standing = Standing::off;
  }
  state.returning->legs.clear();
  turn.report("the resync begins again later: " + why);
  fail_legs(turn, failed, why);
  update_ack_set(turn);
  forget_if_empty(turn, why);
}

void begin_attach(Turn& turn, LegId leg) {
  State& state = turn.state;
  ZP_ASSERT(!state.returning, "rule 8: never attach while a scan runs");
  state.returning = Return{};
  state.returning->phase = Return::Phase::resyncing;
  state.returning->legs = {leg};
  state.returning->id = next_number(state);
  state.returning->attach = true;
  view_of(state, leg).standing = Standing::resyncing;
  view_of(state, leg).window_start_ns = turn.now_ns;
  turn.order(AwaitResync{{leg}, state.returning->id});
}

void marked(Turn& turn) {
  State& state = turn.state;
  if (!state.returning) return;
  if (!state.returning->full) return begin_resync(turn);
  turn.report(fmt::format("{} legs have diverged: they come back by full resync", state.returning->legs.size()));
  state.returning.reset();  // still ready; remake_diverged() takes them one by one
}

void grown(Turn& turn) {
  State& state = turn.state;
  if (!state.returning) return;
  Return returning = std::move(*state.returning);
  state.returning.reset();
  for (LegId leg : returning.legs) {
    LegView& view = view_of(state, leg);
    view.standing = Standing::named;
    view.off_why.clear();
    view.own_fault = false;
    turn.report(fmt::format("{} is in sync", label_of(state, leg)));
  }
  if (returning.attach) change_resynced(turn);
}

void on(Turn& turn, const LegQuiesced& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end()) return;
  found->second.order_open = false;
  if (found->second.standing != Standing::quiescing) return;
  found->second.standing = Standing::ready;
  found->second.ready_since_ns = event.now_ns;
  found->second.window_start_ns = event.now_ns;
}

void on(Turn& turn, const LegQuiesceFailed& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end()) return;
  LegView& view = found->second;
  view.order_open = false;
  view.retry_at_ns = event.now_ns + turn.state.limits.look_again_ns;
  if (view.standing == Standing::quiescing) view.standing = Standing::off;
}

void on(Turn& turn, const LegsInspected& event) {
  State& state = turn.state;
  if (!same_return(state, event.resync_id, Return::Phase::inspecting)) return;
  state.returning->full = event.foreign_use || event.foreign_txg_count > 1;
  state.returning->phase = Return::Phase::marking;
}

void on(Turn& turn, const LegsInspectFailed& event) {
  if (same_return(turn.state, event.resync_id, Return::Phase::inspecting)) drop_return(turn, event.why);
}

void on(Turn& turn, const ResyncProgressed& event) {
  if (!turn.state.returning) return;
  turn.state.returning->percent = event.percent;
  turn.state.returning->seconds_left = event.seconds_left;
}

void on(Turn& turn, const ResyncEnded& event) {
  State& state = turn.state;
  if (!same_return(state, event.resync_id, Return::Phase::resyncing)) return;
  const std::string why = not_resynced(*state.returning, event.report);
  if (why.empty()) return enter_ack_set(turn);
  drop_return(turn, why);
}

void on(Turn& turn, const ResyncFailed& event) {
  if (same_return(turn.state, event.resync_id, Return::Phase::resyncing)) drop_return(turn, event.why);
}

void on(Turn& turn, const AckSetStands& event) {
  State& state = turn.state;
  state.ack_set_standing = std::max(state.ack_set_standing, event.generation);
  if (!state.returning || state.returning->phase != Return::Phase::entering) return;
  if (state.ack_set_standing >= state.returning->ack_set_generation) state.returning->phase = Return::Phase::growing;
}

}  // namespace zpair::brain::owner
