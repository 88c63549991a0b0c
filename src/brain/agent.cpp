#include "brain/agent.h"

#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

Actions step(State& state, const Event& event) {
  ZP_ASSERT(state.pool.empty() == std::holds_alternative<Started>(event), "Started comes first, and once");
  Turn turn{state, std::visit([](const auto& fact) { return fact.now_ns; }, event), {}};
  std::visit([&turn](const auto& fact) { on(turn, fact); }, event);
  for (auto part : {pursue_process, pursue_handover, pursue_switchover, pursue_start, pursue_drives,
                    pursue_survey_asked, pursue_takeover}) {
    part(turn);
  }
  return std::move(turn.actions);
}

void on(Turn& turn, const Started& event) {
  State& state = turn.state;
  state.node = event.node;
  state.pool = event.pool;
  state.nonce = event.nonce;
  state.started_at_ns = event.now_ns;
  state.last_tick_ns = event.now_ns;
  state.window_start_ns = event.now_ns;
  // Rule 6: what this node promised before it (or its agent) stopped is forgotten, so the start itself counts as a promise.
  if (!mutated(Mutation::start_forgets_promise))
    state.promise_end_ns = event.now_ns + state.limits.promise_ns / 100 * 101;
  if (event.kept) {
    state.stored = event.kept;
    state.seen_epoch = event.kept->record.epoch;
    state.seen_rev = event.kept->record.rev;
  }
  if (event.running) {  // it serves on: an agent's restart touches nothing
    state.process = Process::running;
    state.process_epoch = *event.running;
    state.process_started_ns = event.now_ns;
    state.heartbeat_ns = event.now_ns;
    state.seen_epoch = std::max(state.seen_epoch, *event.running);
    state.cold = false;
  }
  ask_record(turn);
}

void on(Turn& turn, const Ticked& event) {
  State& state = turn.state;
  const bool paused = event.now_ns - state.last_tick_ns > state.limits.tick_ns + state.limits.late_ns;
  if (paused && !mutated(Mutation::late_timer_trusted))
    state.window_start_ns = event.now_ns;  // we did not run: whoever seems silent may have spoken
  state.last_tick_ns = event.now_ns;
}

}  // namespace zpair::brain::agent
