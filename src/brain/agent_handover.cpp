// Rule 5 between the agents. Asked: the own older process is killed, its drives are drained (zpaird gets their locks), and
// only then is it done: the new owner takes that as "known dead", which ends the wait for the promise (rule 6).
// Asking: again and again while the partner is present, until it answers.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

void answer_handover(Turn& turn) {
  State& state = turn.state;
  std::vector<LegId> cannot;
  for (LegId leg : state.drives_failed) {
    const record::Leg* recorded = record::find_leg(state.handover->record, leg);
    if (recorded != nullptr && recorded->in_sync) cannot.push_back(leg);
  }
  turn.order(AnswerHandover{state.handover->record.epoch, cannot.empty(), cannot});
  state.handover.reset();
}

void ask_handover(Turn& turn) {
  State& state = turn.state;
  const bool ours = state.stored && owned_here(state) && (state.takeover || process_lives(state));
  if (!ours) state.handover_open = false;
  if (!state.handover_open || !partner_present(state) || turn.now_ns < state.handover_retry_ns) return;
  state.handover_retry_ns = turn.now_ns + state.limits.retry_ns;
  turn.order(SendHandover{*state.stored});
}

// An own import that is open: the swap that the handover speaks of came first, so ours cannot apply any more.
bool ours_came_first(const State& state, const record::Stored& stored) {
  if (!swap_is_open(state)) return false;
  if (!state.takeover->open_swap) return state.takeover->won.record.epoch >= stored.record.epoch;
  return stored.mod_revision <= state.takeover->open_swap->expected_mod_revision;
}

}  // namespace

void pursue_handover(Turn& turn) {
  State& state = turn.state;
  ask_handover(turn);
  if (!state.handover) return;
  const Epoch asked = state.handover->record.epoch;
  if (asked < state.seen_epoch) {  // overtaken by a newer import
    state.handover.reset();
    return;
  }
  if (mutated(Mutation::handover_before_kill)) return answer_handover(turn);
  if (process_lives(state)) {
    if (state.process != Process::dying)
      kill_process(turn, fmt::format("epoch {} of the partner takes over", asked.value));
    return;
  }
  const bool kept = state.stored && state.stored->record.epoch >= asked;
  if (kept && state.drives_open && !state.drives_order_open) answer_handover(turn);
}

void on(Turn& turn, const HandoverAsked& event) {
  State& state = turn.state;
  const record::Record& record = event.stored.record;
  if (record.epoch < state.seen_epoch || record.owner == state.node || ours_came_first(state, event.stored))
    return;  // stale: no answer
  if (state.takeover) drop_takeover(turn, fmt::format("the partner imported it at epoch {}", record.epoch.value));
  learn(turn, event.stored);
  owner_heard(state, event.now_ns);
  state.handover = event.stored;
}

void on(Turn& turn, const HandoverAnswered& event) {
  State& state = turn.state;
  const bool ours =
      state.handover_open && state.stored && owned_here(state) && state.stored->record.epoch == event.epoch;
  if (!ours) return;
  state.handover_open = false;
  // `cannot` means that drives are not drained or not there; the process is dead all the same, but only `done` counts.
  if (!event.done) {
    if (process_lives(state)) turn.order(TellCannotFence{event.epoch, event.cannot});
    return;
  }
  state.promise_released = true;
  if (process_lives(state) && state.process_epoch == event.epoch) turn.order(ReleasePromise{event.epoch});
}

}  // namespace zpair::brain::agent
