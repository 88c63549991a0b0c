#pragma once
// What the files of the owner's brain share. One Turn is one call of step(): a fact, then everything that can be done now.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "brain/mutation.h"
#include "brain/owner.h"

namespace zpair::brain::owner {

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

// owner.cpp
void exit_process(Turn& turn, ExitReason reason, std::string text);
std::uint64_t next_number(State& state);

// owner_legs.cpp: what is known of the legs.
void sync_views(State& state, Nanoseconds now_ns);  // one view for each leg of the record
LegView& view_of(State& state, LegId leg);
const LegView& view_of(const State& state, LegId leg);
std::vector<LegId> legs_with(const State& state, Standing standing);
bool in_sync(const State& state, LegId leg);                // by the newest record known to be applied
bool answers(const State& state, LegId leg);                // the owner reaches it now (rule 3)
bool silent_too_long(const State& state, LegId leg);        // the hold window is over
bool too_slow(const State& state, LegId leg, int divisor);  // divisor 2: half of the bound
std::string label_of(const State& state, LegId leg);        // "DRIVE@a"
std::string label_of(const State& state, MirrorId mirror);  // "mirror-3"
bool contains(const std::vector<LegId>& legs, LegId leg);
void remove(std::vector<LegId>& legs, LegId leg);
// To standing off, with FailLegs; an empty `why` keeps what is known.
void fail_legs(Turn& turn, const std::vector<LegId>& legs, const std::string& why);

// owner_swap.cpp: rule 9.
void update_ack_set(Turn& turn);
bool can_swap(const State& state);
record::Record next_record(State& state, std::string why);  // the record with rev + 1, a fresh operation id, the floor
void open_swap(Turn& turn, Purpose purpose, record::Record wanted);
void open_removal(Turn& turn);
void pursue_swap(Turn& turn);
void ask_record(Turn& turn);

// Each noun's part of "everything that can be done now", in the order of step().
void pursue_shrink(Turn& turn);   // owner_shrink.cpp
void pursue_import(Turn& turn);   // owner_fencing.cpp
void pursue_returns(Turn& turn);  // owner_grow.cpp
void pursue_change(Turn& turn);   // owner_change.cpp
void pursue_end(Turn& turn);      // owner_end.cpp
void pursue_promise(Turn& turn);  // owner_promise.cpp

// What an applied and kept swap means for each purpose. `before` is the record that it replaced.
void shrunk(Turn& turn, const record::Record& before);
void marked(Turn& turn);
void grown(Turn& turn);
void change_recorded(Turn& turn);
void end_recorded(Turn& turn);
void mirrors_forgotten(Turn& turn);

// owner_grow.cpp
void drop_return(Turn& turn, const std::string& why);  // all returning legs off again
void begin_attach(Turn& turn, LegId leg);              // a new leg's resync runs: it returns like the others

// owner_change.cpp
void change_resynced(Turn& turn);  // the new leg is in sync
void change_failed(Turn& turn, const std::string& why);
void remake_diverged(Turn& turn, LegId leg);

// Overloads, one for each fact.
void on(Turn&, const Started&);
void on(Turn&, const Ticked&);
void on(Turn&, const LegFenced&);
void on(Turn&, const LegFenceFailed&);
void on(Turn&, const LegCannotFence&);
void on(Turn&, const FencedOut&);
void on(Turn&, const Imported&);
void on(Turn&, const ImportFailed&);
void on(Turn&, const Replayed&);
void on(Turn&, const PromiseReleased&);
void on(Turn&, const LegErred&);
void on(Turn&, const LegMended&);
void on(Turn&, const LegsFailed&);
void on(Turn&, const LegQuiesced&);
void on(Turn&, const LegQuiesceFailed&);
void on(Turn&, const LegsInspected&);
void on(Turn&, const LegsInspectFailed&);
void on(Turn&, const ResyncProgressed&);
void on(Turn&, const ResyncEnded&);
void on(Turn&, const ResyncFailed&);
void on(Turn&, const AckSetStands&);
void on(Turn&, const PromiseGranted&);
void on(Turn&, const PromiseRefused&);
void on(Turn&, const PartnerAnswered&);
void on(Turn&, const MirrorOffered&);
void on(Turn&, const MirrorAdded&);
void on(Turn&, const MirrorAddFailed&);
void on(Turn&, const LegOffered&);
void on(Turn&, const LegAttached&);
void on(Turn&, const LegAttachFailed&);
void on(Turn&, const LegDetached&);
void on(Turn&, const LegDetachFailed&);
void on(Turn&, const EndOrdered&);
void on(Turn&, const Drained&);
void on(Turn&, const Exported&);
void on(Turn&, const ExportFailed&);
void on(Turn&, const SwapApplied&);
void on(Turn&, const SwapOther&);
void on(Turn&, const SwapUnknown&);
void on(Turn&, const RecordRead&);
void on(Turn&, const RecordReadFailed&);
void on(Turn&, const RecordSeen&);
void on(Turn&, const RecordKept&);

}  // namespace zpair::brain::owner
