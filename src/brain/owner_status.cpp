// One line each for people: what the process does or waits for, how a leg does.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

std::string waits_for_store(const State& state) {
  if (!state.open_swap) return "";
  const bool unresolved =
      state.open_swap->phase == OpenSwap::Phase::unresolved || state.open_swap->phase == OpenSwap::Phase::reading;
  return unresolved ? fmt::format("waits for the store: {}", state.open_swap->wanted.why) : "";
}

}  // namespace

std::string why(const State& state) {
  if (state.phase == Phase::exited) return state.exit_text;
  if (state.holding) return "holding all writes: " + state.holding_why;
  if (std::string store = waits_for_store(state); !store.empty()) return store;
  switch (state.phase) {
    case Phase::fencing: {
      std::string legs;
      for (LegId leg : legs_with(state, Standing::named)) {
        if (!view_of(state, leg).fenced) legs += (legs.empty() ? "" : ", ") + label_of(state, leg);
      }
      return "fencing, waits for " + (legs.empty() ? "the ack set" : legs);
    }
    case Phase::waiting_for_promise: return "replayed, waits until this node's promise has run out";
    case Phase::serving:
      if (state.both_slow) return "serving; " + state.both_slow_why;
      return "serving";
    default: return std::string(name_of(state.phase));
  }
}

std::string why(const State& state, LegId leg) {
  const record::Leg* recorded = record::find_leg(state.stored.record, leg);
  if (recorded == nullptr) return "not in the record";
  const LegView& view = view_of(state, leg);
  const std::string off = fmt::format("missing since txg {}{}", recorded->since.value,
                                      view.off_why.empty() ? "" : " (" + view.off_why + ")");
  switch (view.standing) {
    case Standing::named:
      if (view.fault) return "in sync, held: " + view.fault_text;
      return "in sync";
    case Standing::off:
      if (state.last_tick_ns < view.not_before_ns) {
        return fmt::format("{}, backing off for {} s", off, (view.not_before_ns - state.last_tick_ns) / ns_per_s);
      }
      return off;
    case Standing::fencing:
    case Standing::quiescing: return off + ", returning";
    case Standing::ready: return off + ", waits to be resynced";
    case Standing::resyncing: {
      if (!state.returning) return "resyncing";
      if (state.returning->seconds_left < 0) return fmt::format("resyncing {} %", state.returning->percent);
      return fmt::format("resyncing {} %, {} s left", state.returning->percent, state.returning->seconds_left);
    }
    case Standing::joining: return "resynced, joining";
  }
  return "?";
}

}  // namespace zpair::brain::owner
