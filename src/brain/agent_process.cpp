// The node's own pool process: its heartbeat, its end, and the node's drives, which have one opener at a time (rule 5):
// the pool process while it lives, else zpaird.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

bool hangs(const State& state) {
  if (state.process == Process::running) {
    return state.last_tick_ns - std::max(state.heartbeat_ns, state.window_start_ns) >= state.limits.heartbeat_ns;
  }
  if (state.process != Process::starting) return false;
  return state.last_tick_ns - std::max(state.process_started_ns, state.window_start_ns) >= state.limits.start_bound_ns;
}

void back_off(State& state, Nanoseconds now_ns) {
  const Limits& limits = state.limits;
  state.restart_at_ns = now_ns + state.restart_back_off_ns;
  state.restart_back_off_ns = state.restart_back_off_ns == 0
                                  ? limits.restart_back_off_ns
                                  : std::min(2 * state.restart_back_off_ns, limits.restart_back_off_most_ns);
}

}  // namespace

bool process_lives(const State& state) { return state.process != Process::none; }

void kill_process(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (state.process == Process::none || state.process == Process::dying) return;
  state.process = Process::dying;
  turn.report(fmt::format("pool process of epoch {} is killed: {}", state.process_epoch.value, why));
  turn.order(KillPool{state.process_epoch});
}

void pursue_process(Turn& turn) {
  State& state = turn.state;
  if (!process_lives(state) || state.process == Process::dying) return;
  if (state.stored && state.stored->record.epoch > state.process_epoch) {
    return kill_process(turn, fmt::format("the record is at epoch {} of node {}", state.stored->record.epoch.value,
                                          name_of(state.stored->record.owner)));
  }
  if (hangs(state)) kill_process(turn, "no heartbeat");
}

void pursue_drives(Turn& turn) {
  State& state = turn.state;
  if (state.drives_order_open || process_lives(state)) return;
  const bool closing = state.takeover && (state.takeover->phase == Takeover::Phase::keeping ||
                                          state.takeover->phase == Takeover::Phase::closing ||
                                          state.takeover->phase == Takeover::Phase::starting);
  if (closing) return;
  const bool try_again = !state.drives_failed.empty() && turn.now_ns >= state.drives_retry_ns;
  if (state.drives_open && !try_again) return;
  state.drives_order_open = true;
  state.drives_open = false;
  turn.order(OpenLocalDrives{});
}

void on(Turn& turn, const LocalDrivesOpened& event) {
  State& state = turn.state;
  state.drives_order_open = false;
  state.drives_open = true;
  state.drives_failed = event.failed;
  state.drives_retry_ns = event.now_ns + state.limits.look_again_ns;
}

void on(Turn& turn, const PoolHeartbeat& event) {
  State& state = turn.state;
  if (!process_lives(state) || event.epoch != state.process_epoch || state.process == Process::dying) return;
  state.heartbeat_ns = event.now_ns;
  state.process_phase = event.phase;
  state.cold = false;
  if (event.phase == owner::Phase::serving) state.restart_back_off_ns = 0;
  // Said again while it matters: the first word may have come before the process listened.
  const bool waits = state.process == Process::starting || event.phase == owner::Phase::waiting_for_promise;
  if (state.promise_released && waits) turn.order(ReleasePromise{event.epoch});
  if (state.process != Process::starting) return;
  state.process = Process::running;
  if (state.takeover) takeover_done(turn);
}

void on(Turn& turn, const PoolExited& event) {
  State& state = turn.state;
  if (!process_lives(state) || event.epoch != state.process_epoch) return;
  state.process = Process::none;
  state.drives_open = false;
  state.cold = false;
  turn.report(fmt::format("pool process of epoch {} is gone: {}", event.epoch.value, event.text));
  if (state.takeover && state.takeover->phase == Takeover::Phase::starting)
    drop_takeover(turn, "its pool process ended: " + event.text);
  const bool exported = event.reason == owner::ExitReason::exported;
  if (state.yielding)
    answer_yield(turn, exported, exported ? "" : "its pool process ended before it had exported: " + event.text);
  if (!event.reason) return back_off(state, event.now_ns);
  switch (*event.reason) {
    case owner::ExitReason::exported: state.yielded_until_ns = event.now_ns + state.limits.home_grace_ns; break;
    case owner::ExitReason::gave_up:
      state.gave_up = true;
      state.yielded_until_ns = event.now_ns + state.limits.home_grace_ns;
      break;
    case owner::ExitReason::destroyed: state.gone = true; break;
    case owner::ExitReason::fenced:
      state.restart_at_ns = event.now_ns + state.limits.look_again_ns;  // first the newer record
      break;
    case owner::ExitReason::import_failed:
    case owner::ExitReason::export_failed:
    case owner::ExitReason::lost_writes: back_off(state, event.now_ns); break;
  }
  ask_record(turn);
}

}  // namespace zpair::brain::agent
