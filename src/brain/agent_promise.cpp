// Rule 6 at the partner: a promise is this node's word not to acknowledge anything for the pool itself for D (counted x
// 1.01 here). Given only to the highest epoch that the node knows, never while an import of its own is open, never while a
// newer process of its own lives. In memory only: a start counts as a promise.
#include "brain/agent_internal.h"

namespace zpair::brain::agent {

bool may_promise(const State& state, Epoch epoch) {
  if (mutated(Mutation::promise_during_own_takeover) && swap_is_open(state)) return true;
  if (epoch < state.seen_epoch && !mutated(Mutation::promise_to_lower_epoch)) return false;
  if (swap_is_open(state)) return false;
  const bool own_newer_process = process_lives(state) && state.process_epoch >= epoch;
  return !own_newer_process;
}

void on(Turn& turn, const PromiseAsked& event) {
  State& state = turn.state;
  if (event.epoch > state.seen_epoch) {  // an import that this node has not read of yet
    state.seen_epoch = event.epoch;
    ask_record(turn);
  }
  const bool granted = may_promise(state, event.epoch);
  if (granted)
    state.promise_end_ns = std::max(state.promise_end_ns, event.now_ns + state.limits.promise_ns / 100 * 101);
  if (event.epoch >= state.seen_epoch) {
    owner_heard(state, event.now_ns);
    state.floor = event.floor;
  }
  turn.order(AnswerPromise{event.path, event.nonce, granted, state.seen_epoch});
}

}  // namespace zpair::brain::agent
