#pragma once
// The owner's brain: one pool, imported by one process (zpair-pool) at one epoch. Pure: facts in, orders out; time is a
// field of every fact. The driver in pool/ carries the orders out in their order and reports each outcome; nothing counts
// as done until its fact comes. Rules 1-9 of zero RPO (docs/zero-rpo.md); each function names the rule it keeps.
//
//   starting -> fencing -> importing -> replaying -> waiting_for_promise -> serving -> draining -> exporting -> exited
//
// From any phase to exited: fenced out, a record of a higher epoch, a failed import, the pool given up to the partner.
// "Holding" is no phase: it says that some mirror has no leg that answers and that nothing may be shrunk (rule 3).
//
// A leg's standing (who writes to it, who waits for it):
//   named      the record names it: written to, in the ack set
//   off        not named, failed in the engine: not written to
//   fencing    off; reachable again, its fence at our epoch is being confirmed
//   quiescing  off; the commands of its older connections are being confirmed quiesced (rule 8)
//   ready      off; waits for the others of its side, for replay, for its back-off, for a free swap
//   resyncing  online, being resynced: written to, not in the ack set
//   joining    resynced: in the ack set, the grow's swap is to come or open
//
// Use: State state{.limits = ...}; Actions todo = step(state, Event{Started{...}}); Ticked every limits.tick_ns.
// Threading: one thread. Determinism: the same events give the same actions.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "brain/limits.h"
#include "brain/store_events.h"

namespace zpair::brain::owner {

// ---------------------------------------------------------------- facts

// How a leg does, as the driver sees it; one for every leg of the record that has a device, with each tick.
struct LegPulse {
  LegId leg;
  bool reachable = false;  // remote: some path's connection is up and its keep-alive passes; local: the drive is open
  Nanoseconds last_progress_ns =
      0;  // last answer of any kind (I/O or keep-alive). A local leg whose drive is there: now
  std::optional<Nanoseconds> oldest_write_ns;  // when the oldest unanswered write, write-zeroes or flush was first sent
  std::optional<Nanoseconds> oldest_trim_ns;
  Txg flushed_txg;  // newest txg seen flushed here under an unchanged verifier; 0: none yet in this process
};

enum class LegFault : std::uint8_t {
  io_error,          // a write-class command was answered with an error
  verifier_changed,  // completed but unflushed writes may be lost
  read_errors,       // over the bound
  drive_gone,        // removed, or another drive answers there
};

// The scan's own record after a resync, as the engine read it (rule 8).
struct ScanReport {
  bool finished = false;  // func RESILVER, state FINISHED, begun after the legs came online
  std::uint64_t error_count = 0;
  Txg scan_min_txg;                  // of the scan's own record
  bool dtl_empty = false;            // of every returning leg
  bool synced_after_online = false;  // a txg opened after the legs came online has synced
  bool logs_replayed = false;        // every claimed log has been replayed
};

struct Started {
  Nanoseconds now_ns;
  NodeId node;
  record::Stored stored;          // at this process's epoch, owner = node; already kept by the agent
  Nanoseconds first_ack_at_ns;    // rule 6: end of the node's last promise (D x 1.01)
  bool promise_released = false;  // the process that had it is known dead, or has exported
  Txg newest_txg;                 // newest uberblock txg on the node's own legs before the agent's swap; 0: unknown
  record::Floor floor;            // newest floor that the node's agent heard
  std::uint64_t nonce = 0;        // random; operation ids and promise nonces derive from it
  std::uint8_t path_count = 2;
};
struct Ticked {
  Nanoseconds now_ns;
  std::vector<LegPulse> pulses;
};

struct LegFenced {
  Nanoseconds now_ns;
  LegId leg;
};  // confirmed at our epoch, drained, stored (rule 5)
struct LegFenceFailed {
  Nanoseconds now_ns;
  LegId leg;
  std::string why;
};  // closed, conflict with a lower key, or no answer
struct LegCannotFence {
  Nanoseconds now_ns;
  LegId leg;
  std::string why;
};  // the other agent's handover said `cannot`: do not wait for it
struct FencedOut {
  Nanoseconds now_ns;
  LegId leg;
  Epoch by;
};  // a leg answered: a higher epoch holds me

struct Imported {
  Nanoseconds now_ns;
  Txg txg;
  std::vector<MirrorId> absent_mirrors;
};  // absent: recorded, never added (a crash in `add`)
struct ImportFailed {
  Nanoseconds now_ns;
  std::string why;
};  // below the floor, foreign host id, unreadable ...
struct Replayed {
  Nanoseconds now_ns;
};  // all claimed logs that can be opened are replayed, synced
struct PromiseReleased {
  Nanoseconds now_ns;
};  // from the agent: handover `done` came

struct LegErred {
  Nanoseconds now_ns;
  LegId leg;
  LegFault fault;
  std::string what;
};
struct LegMended {
  Nanoseconds now_ns;
  LegId leg;
};  // what erred was sent again and answered well (not verifier_changed)
struct LegsFailed {
  Nanoseconds now_ns;
  std::vector<LegId> legs;
};  // held I/O failed, leaf offline (persistently)
struct LegQuiesced {
  Nanoseconds now_ns;
  LegId leg;
};
struct LegQuiesceFailed {
  Nanoseconds now_ns;
  LegId leg;
  std::string why;
};
struct LegsInspected {  // answer to InspectLegs
  Nanoseconds now_ns;
  std::vector<LegId> legs;
  std::uint32_t foreign_txg_count = 0;  // distinct uberblock txgs over all these legs that are not in our history
  bool foreign_use = false;             // an uberblock of a ZFS host id that is not in the record
  std::uint64_t resync_id = 0;          // of the order that this answers: a late answer must not pass for a newer one's
};
struct LegsInspectFailed {
  Nanoseconds now_ns;
  std::vector<LegId> legs;
  std::string why;
  std::uint64_t resync_id = 0;
};
struct ResyncProgressed {
  Nanoseconds now_ns;
  int percent = 0;
  std::int64_t seconds_left = -1;
};
struct ResyncEnded {
  Nanoseconds now_ns;
  std::vector<LegId> legs;
  ScanReport report;
  std::uint64_t resync_id = 0;
};  // answer to ReturnLegs, AwaitResync
struct ResyncFailed {
  Nanoseconds now_ns;
  std::vector<LegId> legs;
  std::string why;
  std::uint64_t resync_id = 0;
};  // the engine could not begin or go on
struct AckSetStands {
  Nanoseconds now_ns;
  std::uint64_t generation;
};  // the gate checks against it from now on

struct PromiseGranted {
  Nanoseconds now_ns;
  std::uint64_t nonce;
};
struct PromiseRefused {
  Nanoseconds now_ns;
  std::uint64_t nonce;
  Epoch known;
};  // the highest epoch that the partner's agent knows
struct PartnerAnswered {
  Nanoseconds now_ns;
  bool can_serve = false;
  Epoch known;
};  // answer to AskPartner: it could serve every mirror

struct MirrorOffered {
  Nanoseconds now_ns;
  std::uint64_t command;
  record::Mirror mirror;
};  // pool add: its legs are connected and fenced at our epoch
struct MirrorAdded {
  Nanoseconds now_ns;
  MirrorId mirror;
  record::Mirror built;
};  // built: with the guids that the engine gave
struct MirrorAddFailed {
  Nanoseconds now_ns;
  MirrorId mirror;
  std::string why;
};
struct LegOffered {
  Nanoseconds now_ns;
  std::uint64_t command;
  MirrorId mirror;
  record::Leg leg;
  std::optional<LegId> replaces;
};  // fenced at our epoch
struct LegAttached {
  Nanoseconds now_ns;
  LegId leg;
  LegId built;
};  // its resync runs; the brain orders AwaitResync next
struct LegAttachFailed {
  Nanoseconds now_ns;
  LegId leg;
  std::string why;
};
struct LegDetached {
  Nanoseconds now_ns;
  LegId leg;
};
struct LegDetachFailed {
  Nanoseconds now_ns;
  LegId leg;
  std::string why;
};  // it is in the pool still

enum class End : std::uint8_t {
  yield,
  export_pool,
  destroy
};  // yield: planned switchover, the record is left as it is
struct EndOrdered {
  Nanoseconds now_ns;
  std::uint64_t command;
  End end;
};
struct Drained {
  Nanoseconds now_ns;
};  // nothing accepted any more, all requests finished
struct Exported {
  Nanoseconds now_ns;
};  // (or destroyed)
struct ExportFailed {
  Nanoseconds now_ns;
  std::string why;
};

using Event = std::variant<Started, Ticked, LegFenced, LegFenceFailed, LegCannotFence, FencedOut, Imported,
                           ImportFailed, Replayed, PromiseReleased, LegErred, LegMended, LegsFailed, LegQuiesced,
                           LegQuiesceFailed, LegsInspected, LegsInspectFailed, ResyncProgressed, ResyncEnded,
                           ResyncFailed, AckSetStands, PromiseGranted, PromiseRefused, PartnerAnswered, MirrorOffered,
                           MirrorAdded, MirrorAddFailed, LegOffered, LegAttached, LegAttachFailed, LegDetached,
                           LegDetachFailed, EndOrdered, Drained, Exported, ExportFailed, SwapApplied, SwapOther,
                           SwapUnknown, RecordRead, RecordReadFailed, RecordSeen, RecordKept>;

// ---------------------------------------------------------------- orders
// Each order is answered exactly once by the facts named beside it, unless the process exits first.

struct FenceLeg {
  LegId leg;
  NodeId node;
  Epoch epoch;
  Revision rev;
  bool operator==(const FenceLeg&) const = default;
};  // LegFenced, LegFenceFailed, FencedOut
struct ImportPool {
  std::vector<LegId> legs;
  record::Floor floor;
  bool operator==(const ImportPool&) const = default;
};  // exactly these. Imported, ImportFailed
struct ReplayLogs {
  bool operator==(const ReplayLogs&) const = default;
};  // Replayed
struct Serve {
  bool operator==(const Serve&) const = default;
};  // acknowledgements may begin (no answer)
struct SetAckSet {  // the gate's and the leg drivers' measure. AckSetStands
  std::uint64_t generation;
  std::vector<LegId> legs;
  bool operator==(const SetAckSet&) const = default;
};
struct FailLegs {
  std::vector<LegId> legs;
  bool operator==(const FailLegs&) const = default;
};  // first the held I/O, then the leaves, in one step. LegsFailed
struct QuiesceLeg {
  LegId leg;
  bool operator==(const QuiesceLeg&) const = default;
};  // LegQuiesced, LegQuiesceFailed
struct InspectLegs {
  std::vector<LegId> legs;
  std::uint64_t resync_id = 0;
  bool operator==(const InspectLegs&) const = default;
};  // read-only. LegsInspected, LegsInspectFailed
struct ReturnLegs {  // seed from `since`, online in one step, one txg, resilver
  std::vector<LegId> legs;
  Txg since;
  std::uint64_t resync_id = 0;
  bool operator==(const ReturnLegs&) const = default;  // ResyncEnded, ResyncFailed
};
struct AwaitResync {
  std::vector<LegId> legs;
  std::uint64_t resync_id = 0;
  bool operator==(const AwaitResync&) const = default;
};  // of a new leg, after LegAttached. ResyncEnded, ResyncFailed
struct AskPromise {
  PathIndex path;
  std::uint64_t nonce;
  Epoch epoch;
  bool operator==(const AskPromise&) const = default;
};  // PromiseGranted, PromiseRefused, or nothing
struct AskPartner {
  bool operator==(const AskPartner&) const = default;
};  // "can you serve every mirror?" PartnerAnswered, or nothing
struct AddMirror {
  record::Mirror mirror;
  bool operator==(const AddMirror&) const = default;
};  // MirrorAdded, MirrorAddFailed
// `discard`: first detach this leaf, a diverged leg on the very same drive, which comes back as a new one (rule 8).
struct AttachLeg {
  MirrorId mirror;
  record::Leg leg;
  std::optional<LegId> discard;
  bool operator==(const AttachLeg&) const = default;
};  // LegAttached, LegAttachFailed
struct DetachLeg {
  LegId leg;
  bool operator==(const DetachLeg&) const = default;
};  // LegDetached, LegDetachFailed
struct StopAccepting {
  bool operator==(const StopAccepting&) const = default;
};  // finish what was accepted. Drained
struct ExportPool {
  End end;
  bool operator==(const ExportPool&) const = default;
};  // destroy: destroys it. Exported, ExportFailed
struct AnswerCommand {
  std::uint64_t command;
  bool done;
  std::string text;
  bool operator==(const AnswerCommand&) const = default;
};
struct Report {
  std::string text;
  bool operator==(const Report&) const = default;
};  // a change of state, for log and events
enum class ExitReason : std::uint8_t {
  fenced,   // a higher epoch exists
  gave_up,  // the partner can serve every mirror, this node cannot (rule 3)
  exported,
  destroyed,
  import_failed,
  export_failed,
  lost_writes,  // the last leg of a mirror lost unflushed writes: only a new import knows what it holds
};
struct ExitProcess {
  ExitReason reason;
  std::string text;
  bool operator==(const ExitProcess&) const = default;
};  // acknowledge and answer nothing more

using Action =
    std::variant<FenceLeg, ImportPool, ReplayLogs, Serve, SetAckSet, FailLegs, QuiesceLeg, InspectLegs, ReturnLegs,
                 AwaitResync, AskPromise, AskPartner, AddMirror, AttachLeg, DetachLeg, StopAccepting, ExportPool,
                 AnswerCommand, Report, ExitProcess, SwapRecord, RemoveRecord, ReadRecord, KeepCopy>;
using Actions = std::vector<Action>;

// ---------------------------------------------------------------- state

enum class Phase : std::uint8_t {
  starting,
  fencing,
  importing,
  replaying,
  waiting_for_promise,
  serving,
  draining,
  exporting,
  exited
};
enum class Standing : std::uint8_t { named, off, fencing, quiescing, ready, resyncing, joining };

struct LegView {
  NodeId node = NodeId::a;
  MirrorId mirror;
  Standing standing = Standing::off;
  bool fenced = false;        // at our epoch, since it last went off
  bool cannot_fence = false;  // do not wait for it
  LegPulse pulse;
  Nanoseconds window_start_ns = 0;  // windows count from here at the earliest: the last start, or late tick
  std::optional<LegFault> fault;    // it erred: no window, taken off as soon as rule 3 allows
  std::string fault_text;
  std::string off_why;        // why it was taken off, for status
  bool fail_ordered = false;  // FailLegs is on its way: nothing else for this leg until LegsFailed
  bool order_open = false;    // FenceLeg or QuiesceLeg is on its way
  Nanoseconds retry_at_ns = 0;
  Nanoseconds ready_since_ns = 0;
  bool own_fault = false;  // it was taken off for errors or slowness of its own, not for its node's or paths' silence
  std::vector<Nanoseconds> shrunk_at_ns;  // ... within limits.back_off_memory_ns
  Nanoseconds back_off_ns = 0;
  Nanoseconds not_before_ns = 0;  // end of the back-off
};

// The legs that return together, in one step (rule 8).
struct Return {
  enum class Phase : std::uint8_t {
    inspecting,  // their labels are read: diverged?
    marking,     // the swap that records `resyncing` (or `full`) is to come or open
    resyncing,   // ReturnLegs is on its way
    entering,    // in the ack set soon: SetAckSet is on its way
    growing,     // the grow's swap is to come or open
  } phase = Phase::inspecting;
  std::vector<LegId> legs;
  std::uint64_t id = 0;  // resync_id of its orders
  Txg since;
  bool full = false;    // diverged: the swap says so, and they come back one by one as new legs
  bool attach = false;  // new legs: the engine attaches instead of ReturnLegs
  std::uint64_t ack_set_generation = 0;
  int percent = 0;
  std::int64_t seconds_left = -1;
};

// pool add, drive attach and replace, one at a time.
struct Change {
  enum class Phase : std::uint8_t {
    waiting,     // for a free swap, for the end of a resync
    recording,   // record first (rule 1): the swap is to come or open
    building,    // AddMirror or AttachLeg is on its way
    renaming,    // the engine gave other guids: the swap that records them
    resyncing,   // a new leg: State::returning does it
    detaching,   // the replaced leg is taken off the record, failed, detached
    forgetting,  // ... and removed from the record
    undoing,     // building failed: removed from the record
  } phase = Phase::waiting;
  std::uint64_t command = 0;
  std::optional<record::Mirror> mirror;  // add
  std::optional<record::Leg> leg;        // attach, replace
  MirrorId into;
  std::optional<LegId> replaces;
  std::optional<LegId> discard;  // a diverged leg that comes back as a new one
  bool resumed = false;          // `leg` is attached and in sync: only `replaces` has to leave
  bool same_drive = false;       // `leg` was offered in its own place: from now on the record calls it diverged
  std::string why_failed;
};

// What an open swap is for.
enum class Purpose : std::uint8_t { shrink, mark, grow, change, end, destroy, forget_mirrors };

struct State {
  Limits limits;
  Phase phase = Phase::starting;
  NodeId node = NodeId::a;
  Epoch epoch;
  record::Stored stored;  // the newest record known to be applied and kept
  std::map<LegId, LegView> legs;
  std::optional<OpenSwap> open_swap;
  Purpose purpose = Purpose::shrink;  // of the open swap
  std::optional<Return> returning;
  std::optional<Change> change;
  std::vector<MirrorId> forget_mirrors;  // recorded, but the pool has never had them
  bool order_open = false;               // AddMirror, AttachLeg or DetachLeg is on its way
  std::vector<LegId> ack_set;            // as last ordered
  std::uint64_t ack_set_generation = 0;
  std::uint64_t ack_set_standing = 0;  // confirmed by AckSetStands
  Nanoseconds first_ack_at_ns = 0;
  bool promise_released = false;
  Txg newest_txg;
  record::Floor floor;
  std::uint64_t nonce = 0, counter = 0;
  std::uint8_t path_count = 2;
  std::map<std::uint64_t, Nanoseconds> promise_asked_at_ns;  // nonce -> before the request was sent
  Nanoseconds promise_end_ns = 0;
  Nanoseconds promise_next_ns = 0;
  Nanoseconds last_tick_ns = 0;
  Nanoseconds fencing_since_ns = 0;
  bool replayed = false;
  bool read_open = false;  // a ReadRecord of ours is on its way
  Nanoseconds ask_partner_at_ns = 0;
  bool holding = false;  // rule 3: nothing may be shrunk, and some mirror does not answer
  std::string holding_why;
  bool both_slow = false;  // all legs of some mirror are too slow: nothing is shrunk
  std::string both_slow_why;
  std::optional<EndOrdered> ending;
  bool drained = false;
  bool exported = false;
  bool end_recorded = false;  // `exported` is in the record (rule 1 of the end: swap first)
  std::string exit_text;
};

// ---------------------------------------------------------------- functions

Actions step(State& state, const Event& event);

// Rule 6. Ask after the read's data was taken, with a fresh time; false: hold the read and ask again (or end with the process).
bool may_answer_reads(const State& state, Nanoseconds now_ns);
// Rule 6: from here on acknowledgements may leave (the gate stands besides).
bool may_acknowledge(const State& state);

// Rule 2: every leg that the record names, is being asked to name, or may name in an outcome of an open swap.
std::vector<LegId> ack_set(const State& state);

std::string_view name_of(Phase phase);
std::string_view name_of(Standing standing);
// One line for status: what the process does or waits for.
std::string why(const State& state);
// One line for a leg: "in sync", "missing since txg 7 (silent for 0.6 s)", "resyncing 40 %, 12 s left", ...
std::string why(const State& state, LegId leg);

}  // namespace zpair::brain::owner
