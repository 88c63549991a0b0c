// Rule 9 at the node: the newest record that it has seen, durably; nothing lower is believed. A record counts from
// RecordKept on, but a higher epoch refuses promises to lower ones at once (that is only more careful).
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

bool newer(const record::Record& left, const record::Record& right) {
  if (mutated(Mutation::lower_record_accepted)) return left.op != right.op;
  return left.epoch > right.epoch || (left.epoch == right.epoch && left.rev > right.rev);
}

void keep(Turn& turn, const record::Stored& stored) {
  State& state = turn.state;
  if (state.keeping) {  // one copy at a time; the newest next
    if (newer(stored.record, state.keeping->record) &&
        (!state.keep_next || newer(stored.record, state.keep_next->record)))
      state.keep_next = stored;
    return;
  }
  state.keeping = stored;
  turn.order(KeepCopy{stored});
}

// The partner's import came first, or its owner lives and swapped: its windows start anew.
void notice_owner(State& state, const record::Record& record, Nanoseconds now_ns) {
  const bool other_import = !state.stored || record.epoch > state.stored->record.epoch;
  if (other_import && record.owner != state.node) state.owner_heard_ns = std::max(state.owner_heard_ns, now_ns);
  if (other_import) state.gave_up = false;
}

}  // namespace

bool went_back(const State& state, const record::Record& record) {
  if (mutated(Mutation::lower_record_accepted)) return false;
  return record.epoch < state.seen_epoch || record.rev < state.seen_rev;
}

void learn(Turn& turn, const record::Stored& stored) {
  State& state = turn.state;
  if (went_back(state, stored.record)) return;
  if (state.stored && !newer(stored.record, state.stored->record) && !mutated(Mutation::lower_record_accepted)) return;
  notice_owner(state, stored.record, turn.now_ns);
  state.gone = false;
  state.seen_epoch = std::max(state.seen_epoch, stored.record.epoch);
  keep(turn, stored);
}

void ask_record(Turn& turn) {
  if (turn.state.read_open) return;
  turn.state.read_open = true;
  turn.state.read_at_ns = turn.now_ns;
  turn.order(ReadRecord{});
}

bool owned_here(const State& state) { return state.stored && state.stored->record.owner == state.node; }

std::string next_op(State& state) {
  return fmt::format("{}-agent-{:x}-{}", name_of(state.node), state.nonce, ++state.counter);
}

void on(Turn& turn, const RecordSeen& event) {
  learn(turn, event.stored);
  takeover_seen(turn, event.stored);
}

void on(Turn& turn, const RecordRead& event) {
  State& state = turn.state;
  state.read_open = false;
  state.store_answers = true;
  state.gone = !event.stored && state.stored.has_value();
  if (event.stored) {
    const bool back = went_back(state, event.stored->record);
    const std::string text =
        !back
            ? ""
            : fmt::format("the store went back: it shows epoch {} revision {}, this node has seen epoch {} revision {}",
                          event.stored->record.epoch.value, event.stored->record.rev.value, state.seen_epoch.value,
                          state.seen_rev.value);
    if (text != state.went_back)
      turn.report(back ? text + "; nothing is imported" : "the store shows what was seen before");
    state.went_back = text;
    learn(turn, *event.stored);
  }
  takeover_read(turn, event);
}

void on(Turn& turn, const RecordReadFailed& event) {
  State& state = turn.state;
  state.read_open = false;
  if (state.store_answers) turn.report("waits for the store");
  state.store_answers = false;
  if (!state.takeover) return;
  state.takeover->retry_at_ns = event.now_ns + state.limits.retry_ns;
  if (state.takeover->open_swap && state.takeover->open_swap->phase == OpenSwap::Phase::reading) {
    state.takeover->open_swap->phase = OpenSwap::Phase::unresolved;
    state.takeover->open_swap->retry_at_ns = event.now_ns + state.limits.retry_ns;
  }
}

void on(Turn& turn, const RecordKept& event) {
  State& state = turn.state;
  if (!state.keeping || state.keeping->record.epoch != event.epoch || state.keeping->record.rev != event.rev) return;
  state.stored = std::move(state.keeping);
  state.keeping.reset();
  state.seen_epoch = std::max(state.seen_epoch, event.epoch);
  state.seen_rev = std::max(state.seen_rev, event.rev);
  if (state.keep_next) {
    const record::Stored next = *std::exchange(state.keep_next, std::nullopt);
    keep(turn, next);
  }
  takeover_kept(turn, event);
}

}  // namespace zpair::brain::agent
