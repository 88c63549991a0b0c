#include "brain/owner.h"

#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

// Everything that can be done now. Shrink comes before all other swaps: clients wait for it.
void pursue(Turn& turn) {
  for (auto part :
       {pursue_swap, pursue_shrink, pursue_import, pursue_returns, pursue_change, pursue_end, pursue_promise}) {
    if (turn.state.phase == Phase::exited) return;
    part(turn);
  }
}

bool paused_before(const State& state, Nanoseconds now_ns) {
  if (mutated(Mutation::late_timer_trusted)) return false;
  return now_ns - state.last_tick_ns > state.limits.tick_ns + state.limits.late_ns;
}

}  // namespace

Actions step(State& state, const Event& event) {
  if (state.phase == Phase::exited) return {};  // acknowledges and answers nothing more, whatever comes
  ZP_ASSERT((state.phase == Phase::starting) == std::holds_alternative<Started>(event),
            "Started comes first, and once");
  Turn turn{state, std::visit([](const auto& fact) { return fact.now_ns; }, event), {}};
  std::visit([&turn](const auto& fact) { on(turn, fact); }, event);
  pursue(turn);
  if (state.phase != Phase::exited) update_ack_set(turn);
  return std::move(turn.actions);
}

void exit_process(Turn& turn, ExitReason reason, std::string text) {
  State& state = turn.state;
  if (state.phase == Phase::exited) return;
  state.phase = Phase::exited;
  state.exit_text = text;
  const bool in_good_order = reason == ExitReason::exported || reason == ExitReason::destroyed;
  if (state.ending) turn.order(AnswerCommand{state.ending->command, in_good_order, text});
  turn.order(ExitProcess{reason, std::move(text)});
}

std::uint64_t next_number(State& state) { return ++state.counter; }

void on(Turn& turn, const Started& event) {
  State& state = turn.state;
  const record::Record& record = event.stored.record;
  ZP_ASSERT(record.owner == event.node, "rule 4: the record names this node as owner before its process starts");
  state.node = event.node;
  state.epoch = record.epoch;
  state.stored = event.stored;
  state.first_ack_at_ns = event.first_ack_at_ns;
  state.promise_released = event.promise_released;
  state.newest_txg = event.newest_txg;
  state.floor = event.floor;
  state.floor.txg = std::max(state.floor.txg, record.floor_txg);
  state.nonce = event.nonce;
  state.path_count = event.path_count;
  state.last_tick_ns = event.now_ns;
  state.fencing_since_ns = event.now_ns;
  state.promise_next_ns = event.now_ns;
  state.phase = Phase::fencing;
  sync_views(state, event.now_ns);
  update_ack_set(turn);
  turn.report(fmt::format("epoch {}: fencing {} legs", state.epoch.value, state.ack_set.size()));
}

void on(Turn& turn, const Ticked& event) {
  State& state = turn.state;
  if (paused_before(state, event.now_ns)) {  // we did not run: what seems silent may have spoken (design, section 3)
    for (auto& [leg, view] : state.legs) view.window_start_ns = event.now_ns;
    state.fencing_since_ns = event.now_ns;
  }
  state.last_tick_ns = event.now_ns;
  for (auto& [leg, view] : state.legs) view.pulse.reachable = false;
  for (const LegPulse& pulse : event.pulses) {
    auto found = state.legs.find(pulse.leg);
    if (found == state.legs.end()) continue;
    const Txg flushed = std::max(found->second.pulse.flushed_txg, pulse.flushed_txg);
    found->second.pulse = pulse;
    found->second.pulse.flushed_txg = flushed;
  }
}

void on(Turn& turn, const FencedOut& event) {
  if (event.by <= turn.state.epoch) return;  // an answer to somebody older
  exit_process(turn, ExitReason::fenced,
               fmt::format("fenced out by epoch {} on {}", event.by.value, label_of(turn.state, event.leg)));
}

}  // namespace zpair::brain::owner
