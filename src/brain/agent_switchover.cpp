// Planned change of owner: this node asks the partner's agent to yield; its process drains and exports; then this node
// imports, as always. The other end: our process drains for the partner; after that we leave the pool alone for a while.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

// Every mirror has an in-sync leg on a drive of this node that zpaird holds.
std::string not_ready(const State& state) {
  std::vector<LegId> here;
  for (const record::Mirror& mirror : state.stored->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      const bool failed =
          std::find(state.drives_failed.begin(), state.drives_failed.end(), leg.guid) != state.drives_failed.end();
      if (leg.node == state.node && !failed) here.push_back(leg.guid);
    }
  }
  return lacking(state.stored->record, here);
}

bool partner_serves(const State& state) {
  return partner_present(state) && state.partner && state.partner->vouch == Vouch::serving;
}

void give_up(Turn& turn, const std::string& why) {
  State& state = turn.state;
  turn.order(AnswerCommand{state.switchover->command, false, why});
  state.switchover.reset();
}

}  // namespace

void on(Turn& turn, const SwitchoverOrdered& event) {
  State& state = turn.state;
  auto answer = [&](bool done, std::string text) { turn.order(AnswerCommand{event.command, done, std::move(text)}); };
  if (state.process == Process::running || state.process == Process::starting)
    return answer(true, "this node owns it already");
  if (!state.stored) return answer(false, "this node knows no such pool yet");
  if (state.switchover || state.takeover) return answer(false, "an import is on its way already");
  if (!partner_serves(state))
    return answer(false, fmt::format("node {} does not serve it", name_of(partner_of(state.node))));
  if (std::string why = not_ready(state); !why.empty()) return answer(false, why);
  state.switchover = State::Switchover{event.command, state.partner->process_epoch,
                                       event.now_ns + state.limits.yield_ns, event.now_ns};
}

void pursue_switchover(Turn& turn) {
  State& state = turn.state;
  if (!state.switchover) return;
  if (turn.now_ns >= state.switchover->until_ns) return give_up(turn, "the owner did not export in time");
  if (state.seen_epoch > state.switchover->epoch) return give_up(turn, "another import came first");
  if (turn.now_ns < state.switchover->ask_again_ns) return;
  state.switchover->ask_again_ns = turn.now_ns + state.limits.retry_ns;
  turn.order(SendYield{state.switchover->epoch});
}

void on(Turn& turn, const YieldAnswered& event) {
  State& state = turn.state;
  if (!state.switchover || state.switchover->epoch != event.epoch) return;
  if (!event.done) return give_up(turn, event.why);
  const std::uint64_t command = state.switchover->command;
  state.switchover.reset();
  if (state.takeover || process_lives(state))
    return turn.order(AnswerCommand{command, false, "another import came first"});
  begin_takeover(turn, Kind::switchover, command);
  state.takeover->exported_before = true;  // rule 6: the process that had our promise has exported
}

void on(Turn& turn, const YieldAsked& event) {
  State& state = turn.state;
  if (state.yielding == event.epoch) return;  // it drains already
  const bool yielded = !process_lives(state) && state.process_epoch == event.epoch &&
                       event.now_ns < state.yielded_until_ns && !state.gave_up;
  if (yielded && !state.takeover) return turn.order(AnswerYield{event.epoch, true, ""});  // the answer was lost
  const bool lives =
      (state.process == Process::running || state.process == Process::starting) && state.process_epoch == event.epoch;
  if (lives && state.process_phase < owner::Phase::serving)
    return;  // soon: it is asked again, for as long as the partner cares
  if (!lives || state.process_phase != owner::Phase::serving) {
    return turn.order(AnswerYield{event.epoch, false, "the pool does not serve here"});
  }
  state.yielding = event.epoch;
  turn.order(DrainPool{event.epoch});
}

void answer_yield(Turn& turn, bool done, const std::string& why) {
  State& state = turn.state;
  turn.order(AnswerYield{*std::exchange(state.yielding, std::nullopt), done, why});
}

}  // namespace zpair::brain::agent
