// The partner: is its agent there, does its owner live, which of our legs may it name (rule 4).
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

Nanoseconds age(const State& state, Nanoseconds at_ns) {
  return state.last_tick_ns - std::max(at_ns, state.window_start_ns);
}

bool vouched(const State& state) {
  if (state.vouched_ns == 0 || age(state, state.vouched_ns) >= state.limits.silence_ns) return false;
  return state.last_tick_ns - state.vouched_since_ns < state.limits.home_grace_ns;  // its agent had its time
}

}  // namespace

bool partner_present(const State& state) {
  return state.partner_heard_ns > 0 && state.last_tick_ns - state.partner_heard_ns < state.limits.silence_ns;
}

bool owner_lives(const State& state) {
  const bool told = partner_present(state) && state.partner &&
                    (state.partner->vouch == Vouch::gave_up || state.partner->vouch == Vouch::cannot);
  if (told) return false;  // its own agent says so: no need to wait for silence
  return age(state, state.owner_heard_ns) < state.limits.silence_ns || vouched(state);
}

// By that record, and as far as it has been heard. (An owner whose silence is not certain yet is asked by the survey.)
bool partner_owns(const State& state, const record::Record& record) {
  return record.wanted == record::Wanted::serving && record.owner != state.node && !state.cold && owner_lives(state);
}

void owner_heard(State& state, Nanoseconds now_ns) {
  state.owner_heard_ns = std::max(state.owner_heard_ns, now_ns);
  state.cold = false;
  state.gave_up = false;
  state.refused.clear();
}

void on(Turn& turn, const PartnerHeard& event) {
  State& state = turn.state;
  const bool was_away = state.partner_heard_ns == 0 || event.now_ns - state.partner_heard_ns >= state.limits.silence_ns;
  if (was_away) state.partner_since_ns = event.now_ns;
  if (was_away && !state.refused.empty()) state.look_again_ns = event.now_ns;  // its legs may be in reach now
  state.partner_heard_ns = event.now_ns;
  if (event.report.known_epoch > state.seen_epoch) ask_record(turn);
  switch (event.report.vouch) {
    case Vouch::serving:
      if (event.report.process_epoch >= state.seen_epoch) owner_heard(state, event.now_ns);
      break;
    case Vouch::importing:
      if (!state.partner || state.partner->vouch != Vouch::importing || was_away) state.vouched_since_ns = event.now_ns;
      state.vouched_ns = event.now_ns;
      break;
    case Vouch::none:
    case Vouch::cannot:
    case Vouch::gave_up: state.vouched_ns = 0; break;
  }
  state.partner = event.report;
}

void on(Turn& turn, const CanServeAsked& event) {
  State& state = turn.state;
  bool can = state.stored && event.epoch == state.seen_epoch && state.stored->record.epoch == event.epoch &&
             state.drives_open && state.store_answers && state.went_back.empty();
  if (can) {
    std::vector<LegId> here;
    for (const record::Mirror& mirror : state.stored->record.mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        const bool failed =
            std::find(state.drives_failed.begin(), state.drives_failed.end(), leg.guid) != state.drives_failed.end();
        if (leg.node == state.node && !failed) here.push_back(leg.guid);
      }
    }
    can = lacking(state.stored->record, here).empty();
  }
  turn.order(AnswerCanServe{can, state.seen_epoch});
}

// Rule 4: reaching a leg of this node means that this agent agrees. It does not while its own process serves, or while its
// own import is open. Two imports that meet before either has swapped: the home node goes first.
void on(Turn& turn, const SurveyAsked& event) {
  State& state = turn.state;
  auto refuse = [&](std::string why) { turn.order(AnswerSurvey{event.id, false, {}, std::move(why)}); };
  if (event.epoch <= state.seen_epoch) return refuse(fmt::format("this node knows epoch {}", state.seen_epoch.value));
  if (process_lives(state) && state.process != Process::dying) return refuse("its pool process lives");
  if (swap_is_open(state)) return refuse("its own import is open");
  if (state.takeover) {
    if (state.stored && state.stored->record.home == state.node)
      return refuse("its own import goes first, it is the home node");
    drop_takeover(turn, "the partner imports");
  }
  if (state.vouched_ns == 0) state.vouched_since_ns = event.now_ns;
  state.vouched_ns = event.now_ns;
  state.survey_asked = event;
}

void pursue_survey_asked(Turn& turn) {
  State& state = turn.state;
  if (!state.survey_asked || !state.drives_open || state.local_survey_open) return;
  state.local_survey_open = true;
  turn.order(SurveyLocal{});
}

void on(Turn& turn, const LocalSurveyed& event) {
  State& state = turn.state;
  state.local_survey_open = false;
  state.local_legs = event.legs;
  if (state.survey_asked) {
    const SurveyAsked asked = *std::exchange(state.survey_asked, std::nullopt);
    std::vector<LegId> legs;
    for (const LocalLeg& leg : event.legs) {
      if (leg.fence_epoch < asked.epoch) legs.push_back(leg.leg);
    }
    const bool still = asked.epoch > state.seen_epoch && !swap_is_open(state) && !process_lives(state);
    turn.order(
        AnswerSurvey{asked.id, still, still ? legs : std::vector<LegId>{}, still ? "" : "its own import came first"});
  }
  takeover_surveyed(turn, event);
}

}  // namespace zpair::brain::agent
