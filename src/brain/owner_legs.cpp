// What the owner knows of each leg: standing, pulse, windows. Windows are judged against the last tick, never against
// another event's time: only ticks tell whether this process itself ran (design, section 3).
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

void sync_views(State& state, Nanoseconds now_ns) {
  const record::Record& record = state.stored.record;
  std::erase_if(state.legs, [&](const auto& entry) { return record::find_leg(record, entry.first) == nullptr; });
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (state.legs.contains(leg.guid)) continue;
      LegView view;
      view.node = leg.node;
      view.mirror = mirror.guid;
      view.standing = leg.in_sync ? Standing::named : Standing::off;
      view.window_start_ns = now_ns;
      view.pulse.leg = leg.guid;
      state.legs.emplace(leg.guid, std::move(view));
    }
  }
}

LegView& view_of(State& state, LegId leg) {
  auto found = state.legs.find(leg);
  ZP_ASSERT(found != state.legs.end(), "a leg of the record has a view");
  return found->second;
}

const LegView& view_of(const State& state, LegId leg) { return view_of(const_cast<State&>(state), leg); }

std::vector<LegId> legs_with(const State& state, Standing standing) {
  std::vector<LegId> legs;
  for (const auto& [leg, view] : state.legs) {
    if (view.standing == standing) legs.push_back(leg);
  }
  return legs;
}

bool in_sync(const State& state, LegId leg) {
  const record::Leg* found = record::find_leg(state.stored.record, leg);
  return found != nullptr && found->in_sync;
}

namespace {

Nanoseconds silent_for(const State& state, const LegView& view) {
  return state.last_tick_ns - std::max(view.pulse.last_progress_ns, view.window_start_ns);
}

}  // namespace

bool answers(const State& state, LegId leg) {
  const LegView& view = view_of(state, leg);
  if (view.fault) return false;
  if (state.phase == Phase::fencing) return view.fenced;
  return view.pulse.reachable && silent_for(state, view) < state.limits.suspect_ns;
}

bool silent_too_long(const State& state, LegId leg) {
  return silent_for(state, view_of(state, leg)) >= state.limits.hold_window_ns;
}

bool too_slow(const State& state, LegId leg, int divisor) {
  const LegView& view = view_of(state, leg);
  if (!view.pulse.reachable) return false;  // silence has its own bound
  auto older = [&](const std::optional<Nanoseconds>& since_ns, Nanoseconds bound_ns) {
    return since_ns && state.last_tick_ns - std::max(*since_ns, view.window_start_ns) >= bound_ns / divisor;
  };
  return older(view.pulse.oldest_write_ns, state.limits.slow_write_ns) ||
         older(view.pulse.oldest_trim_ns, state.limits.slow_trim_ns);
}

std::string label_of(const State& state, LegId leg) {
  const record::Leg* found = record::find_leg(state.stored.record, leg);
  return found != nullptr ? fmt::format("{}@{}", found->drive, name_of(found->node)) : fmt::format("leg {}", leg.value);
}

std::string label_of(const State& state, MirrorId mirror) {
  const auto& mirrors = state.stored.record.mirrors;
  for (std::size_t index = 0; index < mirrors.size(); ++index) {
    if (mirrors[index].guid == mirror) return fmt::format("mirror-{}", index);
  }
  return fmt::format("mirror {}", mirror.value);
}

bool contains(const std::vector<LegId>& legs, LegId leg) {
  return std::find(legs.begin(), legs.end(), leg) != legs.end();
}

void remove(std::vector<LegId>& legs, LegId leg) { std::erase(legs, leg); }

void fail_legs(Turn& turn, const std::vector<LegId>& legs, const std::string& why) {
  if (legs.empty()) return;
  for (LegId leg : legs) {
    LegView& view = view_of(turn.state, leg);
    view.standing = Standing::off;
    view.fenced = false;
    view.cannot_fence = false;
    view.fail_ordered = true;
    if (!why.empty()) view.off_why = why;
  }
  turn.order(FailLegs{legs});
}

void on(Turn& turn, const LegErred& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end()) return;
  LegView& view = found->second;
  if (view.fail_ordered) return;  // of the I/O that we failed ourselves
  switch (view.standing) {
    case Standing::off: return;
    case Standing::fencing:
    case Standing::quiescing:
    case Standing::ready:  // not written to yet: it starts over
      if (!view.order_open) view.standing = Standing::off;
      view.retry_at_ns = event.now_ns + turn.state.limits.look_again_ns;
      return;
    case Standing::named:
    case Standing::resyncing:
    case Standing::joining: break;
  }
  if (view.fault == LegFault::verifier_changed) return;  // the worst: never replaced by a lesser one
  view.fault = event.fault;
  view.fault_text = event.what;
  if (mutated(Mutation::leg_error_passed) && view.standing == Standing::named) fail_legs(turn, {event.leg}, event.what);
}

void on(Turn& turn, const LegMended& event) {
  auto found = turn.state.legs.find(event.leg);
  if (found == turn.state.legs.end() || found->second.fault == LegFault::verifier_changed) return;
  found->second.fault.reset();
}

void on(Turn& turn, const LegsFailed& event) {
  for (LegId leg : event.legs) {
    auto found = turn.state.legs.find(leg);
    if (found == turn.state.legs.end()) continue;
    found->second.fail_ordered = false;
    found->second.fault.reset();
  }
}

}  // namespace zpair::brain::owner
