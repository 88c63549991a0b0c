// Rules 5 and 7: every named leg confirms its fence before the import, or is taken off the record first (owner_shrink.cpp
// judges it by the fence window), or the import waits. Exactly the named legs are imported. Then the logs are replayed,
// then the promise runs out, then the pool serves.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

void fence(Turn& turn, LegId leg) {
  State& state = turn.state;
  LegView& view = view_of(state, leg);
  view.order_open = true;
  turn.order(FenceLeg{leg, view.node, state.epoch, state.stored.record.rev});
}

bool all_named_fenced(const State& state) {
  for (LegId leg : legs_with(state, Standing::named)) {
    if (!view_of(state, leg).fenced) return false;
  }
  return true;
}

void begin_import(Turn& turn) {
  State& state = turn.state;
  std::vector<LegId> legs = legs_with(state, Standing::named);
  if (mutated(Mutation::import_missing_leg)) {
    for (const auto& [leg, view] : state.legs) {
      if (!contains(legs, leg)) legs.push_back(leg);
    }
  }
  state.phase = Phase::importing;
  for (auto& [leg, view] : state.legs) view.window_start_ns = turn.now_ns;  // from here on pulses are judged
  turn.report(
      fmt::format("epoch {}: importing {} legs, floor txg {}", state.epoch.value, legs.size(), state.floor.txg.value));
  turn.order(ImportPool{std::move(legs), state.floor});
}

void begin_serving(Turn& turn) {
  State& state = turn.state;
  state.phase = Phase::serving;
  turn.order(Serve{});
  turn.report(fmt::format("epoch {}: serving", state.epoch.value));
}

}  // namespace

void pursue_import(Turn& turn) {
  State& state = turn.state;
  if (state.phase == Phase::fencing) {
    for (LegId leg : legs_with(state, Standing::named)) {
      const LegView& view = view_of(state, leg);
      if (!view.fenced && !view.order_open && turn.now_ns >= view.retry_at_ns) fence(turn, leg);
    }
    const bool window_over = state.last_tick_ns - state.fencing_since_ns >= state.limits.fence_window_ns;
    const bool fenced = all_named_fenced(state) || (mutated(Mutation::import_before_all_fenced) && window_over);
    if (fenced && !state.open_swap && state.ack_set_standing == state.ack_set_generation) begin_import(turn);
  }
  if (state.phase == Phase::waiting_for_promise && (state.promise_released || turn.now_ns >= state.first_ack_at_ns))
    begin_serving(turn);
}

void on(Turn& turn, const LegFenced& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end()) return;
  LegView& view = found->second;
  view.order_open = false;
  if (view.standing != Standing::named && view.standing != Standing::fencing) return;
  view.fenced = true;
  view.cannot_fence = false;
  if (view.standing != Standing::fencing) return;
  if (mutated(Mutation::grow_without_quiesce)) {
    view.standing = Standing::ready;
    view.ready_since_ns = event.now_ns;
    return;
  }
  view.standing = Standing::quiescing;  // rule 8: the fence does not stop older connections of this very epoch
  view.order_open = true;
  turn.order(QuiesceLeg{event.leg});
}

void on(Turn& turn, const LegFenceFailed& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end()) return;
  LegView& view = found->second;
  view.order_open = false;
  view.retry_at_ns = event.now_ns + turn.state.limits.retry_ns;
  if (view.standing == Standing::fencing) {
    view.standing = Standing::off;
    view.retry_at_ns = event.now_ns + turn.state.limits.look_again_ns;
  }
  if (view.standing == Standing::named) view.fault_text = event.why;
}

void on(Turn& turn, const LegCannotFence& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end() || found->second.fenced) return;
  found->second.cannot_fence = true;
  found->second.fault_text = event.why;
}

void on(Turn& turn, const Imported& event) {
  State& state = turn.state;
  if (state.phase != Phase::importing) return;
  ZP_ASSERT(event.txg >= state.floor.txg, "rule 7: the newest uberblock is at or above the floor");
  state.forget_mirrors = event.absent_mirrors;
  state.phase = Phase::replaying;
  turn.order(ReplayLogs{});
}

void on(Turn& turn, const ImportFailed& event) { exit_process(turn, ExitReason::import_failed, event.why); }

void on(Turn& turn, const Replayed& event) {
  State& state = turn.state;
  if (state.phase != Phase::replaying) return;
  state.replayed = true;
  state.phase = Phase::waiting_for_promise;
  if (!state.promise_released && event.now_ns < state.first_ack_at_ns)
    turn.report("replayed; waiting for the promise of this node to run out");
  std::vector<LegId> missing;
  for (LegId leg : legs_with(state, Standing::off)) {
    if (!view_of(state, leg).fail_ordered) missing.push_back(leg);
  }
  fail_legs(turn, missing, "not in sync at the import");  // persistently offline: ZFS spares them, a stock import too
}

void on(Turn& turn, const PromiseReleased&) { turn.state.promise_released = true; }

}  // namespace zpair::brain::owner
