// How an import ends in good order: switchover (yield), export, destroy. Export and destroy swap `exported` first, so that
// no agent imports the pool again; then what was accepted is finished, then the pool is exported (or destroyed), and only
// then does the process say so: the partner takes that as "known to have exported" (rule 6).
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

void refuse_change(Turn& turn) {
  State& state = turn.state;
  if (!state.change || state.change->phase != Change::Phase::waiting) return;
  if (state.change->command != 0) turn.order(AnswerCommand{state.change->command, false, "the pool is being exported"});
  state.change.reset();
}

void begin_drain(Turn& turn) {
  turn.state.phase = Phase::draining;
  turn.report("draining");
  turn.order(StopAccepting{});
}

}  // namespace

void pursue_end(Turn& turn) {
  State& state = turn.state;
  if (!state.ending) return;
  const bool record_first = state.ending->end != End::yield;
  switch (state.phase) {
    case Phase::serving:
      refuse_change(turn);
      if (!can_swap(state) || state.order_open) return;
      drop_return(turn, "the pool is being exported");
      if (state.change) return;
      if (record_first && !state.end_recorded) {
        record::Record wanted = next_record(state, state.ending->end == End::destroy ? "destroy" : "export");
        wanted.wanted = record::Wanted::exported;
        return open_swap(turn, Purpose::end, std::move(wanted));
      }
      return begin_drain(turn);
    case Phase::draining:
      if (!state.drained || !can_swap(state) || state.holding) return;
      state.phase = Phase::exporting;
      return turn.order(ExportPool{state.ending->end});
    case Phase::exporting:
      if (state.exported && state.ending->end == End::destroy && can_swap(state)) open_removal(turn);
      return;
    default: return;  // earlier: it serves first
  }
}

void end_recorded(Turn& turn) { turn.state.end_recorded = true; }

void on(Turn& turn, const EndOrdered& event) {
  State& state = turn.state;
  if (state.ending) return turn.order(AnswerCommand{event.command, false, "the pool is being exported already"});
  state.ending = event;
}

void on(Turn& turn, const Drained&) { turn.state.drained = true; }

void on(Turn& turn, const Exported&) {
  State& state = turn.state;
  if (state.phase != Phase::exporting) return;
  state.exported = true;
  if (state.ending->end == End::destroy) return;  // the record goes too, see pursue_end()
  exit_process(turn, ExitReason::exported, "exported");
}

void on(Turn& turn, const ExportFailed& event) {
  exit_process(turn, ExitReason::export_failed, "the export failed: " + event.why);
}

}  // namespace zpair::brain::owner
