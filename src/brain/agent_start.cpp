// When an import is called for: takeover (the owner is silent), restart in place (our process died), cold start (nobody has
// been heard since this agent started). And the operator's commands.
//
// Cold start: with the partner's agent present the home node imports, with both sides in sync; alone, after partner_wait,
// any node imports with its own legs. The other node steps in when the home node does not act within home_grace.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

bool cold_start_is_called_for(const State& state) {
  const Nanoseconds now_ns = state.last_tick_ns;
  if (owner_lives(state) && state.vouched_ns > 0) return false;  // the partner is at it
  if (!partner_present(state)) return now_ns - state.started_at_ns >= state.limits.partner_wait_ns;
  if (state.stored->record.home == state.node) return true;
  return now_ns - std::max(state.partner_since_ns, state.started_at_ns) >= state.limits.home_grace_ns;
}

std::optional<Kind> called_for(const State& state, Nanoseconds now_ns) {
  if (state.stored->record.wanted == record::Wanted::exported || state.gone) return std::nullopt;
  if (now_ns < state.look_again_ns) return std::nullopt;  // refused, or not agreed to: judged again later
  if (state.cold) return cold_start_is_called_for(state) ? std::optional(Kind::cold_start) : std::nullopt;
  if (!owned_here(state)) return owner_lives(state) ? std::nullopt : std::optional(Kind::takeover);
  if (now_ns < state.restart_at_ns || now_ns < state.yielded_until_ns) return std::nullopt;
  return Kind::restart;
}

bool busy(const State& state) {
  return state.takeover || state.switchover || state.handover || state.survey_asked || state.process != Process::none ||
         state.keeping;
}

}  // namespace

void pursue_start(Turn& turn) {
  State& state = turn.state;
  if (busy(state)) return;
  if (!state.stored) {  // a pool that this node has not kept: it reads of it first
    if (turn.now_ns - state.read_at_ns >= state.limits.look_again_ns) ask_record(turn);
    return;
  }
  // A late swap of an agent that has restarted since may have imported it, and nobody would be told.
  const bool at_rest = state.stored->record.wanted == record::Wanted::exported || state.gone;
  if (at_rest && turn.now_ns - state.read_at_ns >= state.limits.read_again_ns) ask_record(turn);
  if (auto kind = called_for(state, turn.now_ns)) begin_takeover(turn, *kind, std::nullopt);
}

void on(Turn& turn, const TakeoverOrdered& event) {
  State& state = turn.state;
  auto answer = [&](bool done, std::string text) { turn.order(AnswerCommand{event.command, done, std::move(text)}); };
  if (state.process != Process::none) return answer(true, "this node owns it already");
  if (!state.stored) return answer(false, "this node knows no such pool yet");
  if (owner_lives(state))
    return answer(false, fmt::format("the owner on node {} is healthy: use zpair switchover",
                                     name_of(state.stored->record.owner)));
  if (state.takeover && state.takeover->command) return answer(false, "an import is on its way already");
  if (!state.takeover) return begin_takeover(turn, Kind::command, event.command);
  state.takeover->command = event.command;
}

void on(Turn& turn, const ImportOrdered& event) {
  State& state = turn.state;
  auto answer = [&](bool done, std::string text) { turn.order(AnswerCommand{event.command, done, std::move(text)}); };
  if (state.process != Process::none) return answer(false, "this node has it imported already");
  if (state.stored && partner_owns(state, state.stored->record)) return answer(false, "the partner has it imported");
  if (swap_is_open(state)) return answer(false, "an import is on its way already");
  drop_takeover(turn, "an import by command comes first");
  begin_takeover(turn, Kind::import, event.command);
  state.takeover->accept_data_loss = event.accept_data_loss;
  state.takeover->accept_corruption = event.accept_corruption;
}

}  // namespace zpair::brain::agent
