#pragma once
// What the files of the agent's brain share. One Turn is one call of step(): a fact, then everything that can be done now.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "brain/agent.h"
#include "brain/mutation.h"

namespace zpair::brain::agent {

struct Turn {
  State& state;
  Nanoseconds now_ns;
  Actions actions;

  template <class A>
  void order(A action) {
    actions.emplace_back(std::move(action));
  }
  void report(std::string text) { order(Report{std::move(text)}); }
};

// agent_record.cpp: what is known of the record (rule 9).
bool went_back(const State& state, const record::Record& record);
void learn(Turn& turn, const record::Stored& stored);  // keeps a newer one; it counts from RecordKept on
void ask_record(Turn& turn);
bool owned_here(const State& state);  // by the newest kept record
std::string next_op(State& state);

// agent_partner.cpp: windows are judged against the last tick (design, section 3).
bool partner_present(const State& state);
bool owner_lives(const State& state);  // heard, or vouched for by its agent
bool partner_owns(const State& state, const record::Record& record);
void owner_heard(State& state, Nanoseconds now_ns);
void pursue_survey_asked(Turn& turn);

// agent_naming.cpp: rules 4 and 11.
std::vector<LegId> legs_here(const record::Record& record, const std::vector<LocalLeg>& local, NodeId node);
struct Naming {
  record::Record wanted;  // epoch + 1, this owner, the in-sync legs
  std::string refused;    // rule 11: one line; empty: `wanted` is good
  bool skip_floor = false;
};
Naming name_legs(State& state, const Takeover& takeover);

// agent_takeover.cpp
void begin_takeover(Turn& turn, Kind kind, std::optional<std::uint64_t> command);
void drop_takeover(Turn& turn, const std::string& why);
void takeover_done(Turn& turn);
bool swap_is_open(const State& state);  // rule 6: promises nothing
void pursue_takeover(Turn& turn);
void takeover_seen(Turn& turn, const record::Stored& stored);
void takeover_read(Turn& turn, const RecordRead& event);
void takeover_surveyed(Turn& turn, const LocalSurveyed& event);
void takeover_kept(Turn& turn, const RecordKept& event);

// agent_start.cpp: when an import is called for.
void pursue_start(Turn& turn);

// agent_handover.cpp
void pursue_handover(Turn& turn);  // ours to answer, and theirs to answer

// agent_process.cpp
bool process_lives(const State& state);
void kill_process(Turn& turn, const std::string& why);
void pursue_process(Turn& turn);
void pursue_drives(Turn& turn);

// agent_switchover.cpp
void pursue_switchover(Turn& turn);
void answer_yield(Turn& turn, bool done, const std::string& why);

void on(Turn&, const Started&);
void on(Turn&, const Ticked&);
void on(Turn&, const PoolHeartbeat&);
void on(Turn&, const PoolExited&);
void on(Turn&, const LocalSurveyed&);
void on(Turn&, const LocalDrivesClosed&);
void on(Turn&, const LocalDrivesOpened&);
void on(Turn&, const PartnerHeard&);
void on(Turn&, const PromiseAsked&);
void on(Turn&, const CanServeAsked&);
void on(Turn&, const SurveyAsked&);
void on(Turn&, const SurveyAnswered&);
void on(Turn&, const HandoverAsked&);
void on(Turn&, const HandoverAnswered&);
void on(Turn&, const YieldAsked&);
void on(Turn&, const YieldAnswered&);
void on(Turn&, const SwitchoverOrdered&);
void on(Turn&, const TakeoverOrdered&);
void on(Turn&, const ImportOrdered&);
void on(Turn&, const SwapApplied&);
void on(Turn&, const SwapOther&);
void on(Turn&, const SwapUnknown&);
void on(Turn&, const RecordRead&);
void on(Turn&, const RecordReadFailed&);
void on(Turn&, const RecordSeen&);
void on(Turn&, const RecordKept&);

}  // namespace zpair::brain::agent
