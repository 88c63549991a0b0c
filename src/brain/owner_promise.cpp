// Rule 6: reads. The partner's promise is asked for every 100 ms on each path, and counts D x 0.99 from before the request
// was sent; or the record leaves some mirror with in-sync legs on this node only, in every outcome of an open swap: then
// nobody else can have taken over. Writes need no promise: the fence guards them.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

bool nobody_else_can_serve(const State& state) {
  if (mutated(Mutation::only_on_by_reach)) {
    return std::none_of(state.legs.begin(), state.legs.end(), [&](const auto& entry) {
      return entry.second.node != state.node && entry.second.pulse.reachable;
    });
  }
  if (!record::only_on(state.stored.record, state.node)) return false;
  if (!state.open_swap || mutated(Mutation::open_swap_ignored_for_reads)) return true;
  return record::only_on(state.open_swap->wanted, state.node);
}

}  // namespace

bool may_acknowledge(const State& state) { return state.phase == Phase::serving || state.phase == Phase::draining; }

bool may_answer_reads(const State& state, Nanoseconds now_ns) {
  if (!may_acknowledge(state)) return false;
  if (mutated(Mutation::no_read_check)) return true;
  return now_ns < state.promise_end_ns || nobody_else_can_serve(state);
}

void pursue_promise(Turn& turn) {
  State& state = turn.state;
  if (turn.now_ns < state.promise_next_ns) return;
  state.promise_next_ns += state.limits.promise_every_ns;  // not from now: a late tick must not stretch the rhythm
  if (state.promise_next_ns <= turn.now_ns) state.promise_next_ns = turn.now_ns + state.limits.promise_every_ns;
  std::erase_if(state.promise_asked_at_ns,
                [&](const auto& asked) { return turn.now_ns - asked.second > state.limits.promise_ns; });
  for (PathIndex path = 0; path < state.path_count; ++path) {
    const std::uint64_t nonce = state.nonce + next_number(state);
    state.promise_asked_at_ns[nonce] = turn.now_ns;  // before the request is sent
    turn.order(AskPromise{path, nonce, state.epoch});
  }
}

void on(Turn& turn, const PromiseGranted& event) {
  State& state = turn.state;
  auto asked = state.promise_asked_at_ns.find(event.nonce);
  if (asked == state.promise_asked_at_ns.end()) return;  // too late to be of use, or not ours
  Nanoseconds end_ns = asked->second + state.limits.promise_ns / 100 * 99;
  if (mutated(Mutation::promise_counted_from_answer)) end_ns = event.now_ns + state.limits.promise_ns;
  state.promise_end_ns = std::max(state.promise_end_ns, end_ns);
  state.promise_asked_at_ns.erase(asked);
}

void on(Turn& turn, const PromiseRefused& event) {
  if (event.known <= turn.state.epoch) return;  // its own import is open: the record will tell
  exit_process(turn, ExitReason::fenced, fmt::format("the partner's agent knows epoch {}", event.known.value));
}

}  // namespace zpair::brain::owner
