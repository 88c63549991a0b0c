// What to tell the partner's agent, and one line for people.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

PartnerReport report(const State& state) {
  PartnerReport report;
  report.known_epoch = state.seen_epoch;
  report.process_epoch = process_lives(state) ? state.process_epoch : Epoch{};
  if (state.process == Process::running)
    report.vouch = Vouch::serving;
  else if (process_lives(state))
    report.vouch = Vouch::importing;
  else if (state.gave_up)
    report.vouch = Vouch::gave_up;
  else if (owned_here(state) && !state.cold && (!state.refused.empty() || !state.went_back.empty()))
    report.vouch = Vouch::cannot;
  else if (state.takeover)
    report.vouch = Vouch::importing;
  else if (owned_here(state) && !state.cold && state.stored->record.wanted == record::Wanted::serving && !state.gone &&
           state.last_tick_ns >= state.yielded_until_ns)
    report.vouch = Vouch::importing;  // restarts in a moment
  return report;
}

namespace {

std::string why_takeover(const State& state) {
  const Takeover& takeover = *state.takeover;
  const std::string kind(name_of(takeover.kind));
  if (!state.store_answers) return kind + ": waits for the store";
  switch (takeover.phase) {
    case Takeover::Phase::reading: return kind + ": reads the record";
    case Takeover::Phase::surveying: return kind + ": looks which legs are in reach";
    case Takeover::Phase::swapping: return kind + ": swaps the record";
    case Takeover::Phase::keeping: return kind + ": keeps the record";
    case Takeover::Phase::closing: return kind + ": drains the node's drives";
    case Takeover::Phase::starting: return kind + ": starts the pool process";
  }
  return kind;
}

}  // namespace

std::string why(const State& state) {
  if (state.gone)
    return "the store has no record of it: it was destroyed, or the store is a new one (zpair store rebuild)";
  if (state.process == Process::running)
    return fmt::format("owner at epoch {}, {}", state.process_epoch.value, owner::name_of(state.process_phase));
  if (state.process == Process::dying) return "waits until its killed pool process is gone";
  if (state.takeover) return why_takeover(state);
  if (process_lives(state)) return "starts the pool process";
  if (state.handover) return "hands the node's drives over";
  if (state.switchover) return "waits until the owner has exported";
  if (!state.went_back.empty()) return "down: " + state.went_back;
  if (!state.refused.empty()) return "down: " + state.refused;
  if (!state.stored) return state.store_answers ? "knows no record yet" : "waits for the store";
  if (state.stored->record.wanted == record::Wanted::exported) return "exported";
  if (state.cold) return fmt::format("waits for node {} (cold start)", name_of(partner_of(state.node)));
  if (!owned_here(state))
    return owner_lives(state) ? fmt::format("node {} owns it", name_of(state.stored->record.owner))
                              : "the owner is silent";
  return "restarts in a moment";
}

}  // namespace zpair::brain::agent
