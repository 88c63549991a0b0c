#pragma once
// The agent's brain: one pool as one node (its zpaird) sees it. It gives promises to the partner's owner, answers handovers,
// watches its own pool process, and decides about imports: takeover, restart in place, cold start, switchover. Pure, like
// the owner's brain (owner.h): facts in, orders out, nothing counts as done until its fact comes. Rules 4, 5, 6, 9, 11.
//
// An import, whatever its kind (struct Takeover), always goes the same way:
//   reading      a linearizable read of the record
//   surveying    which in-sync legs are in reach: the node's own, and those to which the partner's agent agrees (rule 4)
//   swapping     epoch + 1, owner, in-sync legs := those in reach. From here on the node promises nothing (rule 6)
//   keeping      the copy becomes durable (rule 9)
//   closing      zpaird drains and closes the node's own drives; the handover is on its way to the partner's agent (rule 5)
//   starting     the pool process is started; it fences, imports, waits for the promise, serves
// It ends when the pool process lives (Process::running), or is refused (rule 11), or somebody else's swap came first.
//
// What the node's own pool process does:
//   none -> starting -> running -> dying -> none       (dying: KillPool ordered; none again only with PoolExited)
//
// Threading: one thread. Determinism: the same events give the same actions.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "brain/limits.h"
#include "brain/owner.h"
#include "brain/store_events.h"

namespace zpair::brain::agent {

// ---------------------------------------------------------------- facts

// A leg whose drive (by durable id, on this node) is here and answers.
struct LocalLeg {
  LegId leg;
  Epoch kept_epoch;  // of the leg's fence file: the newest record that it was told
  Revision kept_rev;
  Epoch fence_epoch;  // the highest epoch that it was fenced at
  Txg newest_txg{};   // of its newest uberblock; 0: unknown
  bool operator==(const LocalLeg&) const = default;
};

enum class Process : std::uint8_t { none, starting, running, dying };

// What an agent says of its own pool process, in every message to the partner's agent (at least each 100 ms on each path).
enum class Vouch : std::uint8_t {
  none,       // no process here, and no intention to import
  importing,  // no process yet, or a starting one: an import of mine is open (restart in place, cold start, takeover)
  serving,    // my process lives and its heartbeat passes
  cannot,     // the record names me as owner, but some mirror has no in-sync leg in my reach
  gave_up,    // my process gave the pool up to you
};
struct PartnerReport {
  Vouch vouch = Vouch::none;
  Epoch process_epoch;  // of the process, 0: none
  Epoch known_epoch;    // highest epoch known
  bool operator==(const PartnerReport&) const = default;
};

struct Started {
  Nanoseconds now_ns;
  NodeId node;
  std::string pool;
  std::optional<record::Stored> kept;  // the durable copy; nullopt: this node has never heard of the pool
  std::optional<Epoch> running;        // a pool process found by its lock; it is not touched
  std::uint64_t nonce = 0;             // random: operation ids derive from it
};
struct Ticked {
  Nanoseconds now_ns;
};

struct PoolHeartbeat {
  Nanoseconds now_ns;
  Epoch epoch;
  owner::Phase phase = owner::Phase::starting;
};
struct PoolExited {  // its pidfd said so; sent also when StartPool failed
  Nanoseconds now_ns;
  Epoch epoch;
  std::optional<owner::ExitReason> reason;  // nullopt: died
  std::string text;
};
struct LocalSurveyed {
  Nanoseconds now_ns;
  std::vector<LocalLeg> legs;
};  // answer to SurveyLocal
struct LocalDrivesClosed {
  Nanoseconds now_ns;
  Epoch epoch;
};  // nothing of zpaird's, or of a dead process, is in flight on the node's drives of this pool
struct LocalDrivesOpened {
  Nanoseconds now_ns;
  std::vector<LegId> failed;
};  // zpaird holds them (lock got = drained), but for `failed`

struct PartnerHeard {
  Nanoseconds now_ns;
  PartnerReport report;
};
struct PromiseAsked {
  Nanoseconds now_ns;
  PathIndex path;
  Epoch epoch;
  std::uint64_t nonce;
  record::Floor floor;
};
struct CanServeAsked {
  Nanoseconds now_ns;
  Epoch epoch;
};  // the owner holds and asks
struct SurveyAsked {
  Nanoseconds now_ns;
  std::uint64_t id;
  Epoch epoch;
};  // the partner's agent wants to import at `epoch`
struct SurveyAnswered {
  Nanoseconds now_ns;
  std::uint64_t id;
  bool agreed = false;
  std::vector<LegId> legs;
  std::string why;
};
struct HandoverAsked {
  Nanoseconds now_ns;
  record::Stored stored;
};
struct HandoverAnswered {
  Nanoseconds now_ns;
  Epoch epoch;
  bool done = false;
  std::vector<LegId> cannot;
};
struct YieldAsked {
  Nanoseconds now_ns;
  Epoch epoch;
};  // planned switchover: the partner wants the pool
struct YieldAnswered {
  Nanoseconds now_ns;
  Epoch epoch;
  bool done = false;
  std::string why;
};

struct SwitchoverOrdered {
  Nanoseconds now_ns;
  std::uint64_t command;
};  // to this node (failback: to the home node)
struct TakeoverOrdered {
  Nanoseconds now_ns;
  std::uint64_t command;
};  // to this node
struct ImportOrdered {
  Nanoseconds now_ns;
  std::uint64_t command;
  bool accept_data_loss = false;
  bool accept_corruption = false;
};

using Event =
    std::variant<Started, Ticked, PoolHeartbeat, PoolExited, LocalSurveyed, LocalDrivesClosed, LocalDrivesOpened,
                 PartnerHeard, PromiseAsked, CanServeAsked, SurveyAsked, SurveyAnswered, HandoverAsked,
                 HandoverAnswered, YieldAsked, YieldAnswered, SwitchoverOrdered, TakeoverOrdered, ImportOrdered,
                 SwapApplied, SwapOther, SwapUnknown, RecordRead, RecordReadFailed, RecordSeen, RecordKept>;

// ---------------------------------------------------------------- orders

struct SurveyLocal {
  bool operator==(const SurveyLocal&) const = default;
};  // LocalSurveyed
struct CloseLocalDrives {
  Epoch epoch;
  bool operator==(const CloseLocalDrives&) const = default;
};  // drain, close, answer every host fenced(epoch). LocalDrivesClosed
struct OpenLocalDrives {
  bool operator==(const OpenLocalDrives&) const = default;
};  // LocalDrivesOpened
struct StartPool {  // PoolHeartbeat, PoolExited
  record::Stored stored;
  Nanoseconds first_ack_at_ns = 0;
  bool promise_released = false;
  Txg newest_txg;
  record::Floor floor;
  bool skip_floor = false;  // an operator's override (rule 11)
  bool operator==(const StartPool&) const = default;
};
struct KillPool {
  Epoch epoch;
  bool operator==(const KillPool&) const = default;
};  // kill -9. PoolExited
struct ReleasePromise {
  Epoch epoch;
  bool operator==(const ReleasePromise&) const = default;
};  // to the pool process: owner::PromiseReleased
struct TellCannotFence {
  Epoch epoch;
  std::vector<LegId> legs;
  bool operator==(const TellCannotFence&) const = default;
};  // owner::LegCannotFence
struct DrainPool {
  Epoch epoch;
  bool operator==(const DrainPool&) const = default;
};  // owner::EndOrdered{yield}. PoolExited

struct AnswerPromise {
  PathIndex path;
  std::uint64_t nonce;
  bool granted;
  Epoch known;
  bool operator==(const AnswerPromise&) const = default;
};
struct AnswerCanServe {
  bool can_serve;
  Epoch known;
  bool operator==(const AnswerCanServe&) const = default;
};
struct SendSurvey {
  std::uint64_t id;
  Epoch epoch;
  bool operator==(const SendSurvey&) const = default;
};  // SurveyAnswered, or nothing
struct AnswerSurvey {
  std::uint64_t id;
  bool agreed;
  std::vector<LegId> legs;
  std::string why;
  bool operator==(const AnswerSurvey&) const = default;
};
struct SendHandover {
  record::Stored stored;
  bool operator==(const SendHandover&) const = default;
};  // HandoverAnswered, or nothing
struct AnswerHandover {
  Epoch epoch;
  bool done;
  std::vector<LegId> cannot;
  bool operator==(const AnswerHandover&) const = default;
};
struct SendYield {
  Epoch epoch;
  bool operator==(const SendYield&) const = default;
};  // YieldAnswered, or nothing
struct AnswerYield {
  Epoch epoch;
  bool done;
  std::string why;
  bool operator==(const AnswerYield&) const = default;
};
using owner::AnswerCommand;
using owner::Report;

using Action =
    std::variant<SurveyLocal, CloseLocalDrives, OpenLocalDrives, StartPool, KillPool, ReleasePromise, TellCannotFence,
                 DrainPool, AnswerPromise, AnswerCanServe, SendSurvey, AnswerSurvey, SendHandover, AnswerHandover,
                 SendYield, AnswerYield, AnswerCommand, Report, SwapRecord, ReadRecord, KeepCopy>;
using Actions = std::vector<Action>;

// ---------------------------------------------------------------- state

enum class Kind : std::uint8_t { takeover, restart, cold_start, switchover, command, import };

// The import that this node is about to make.
struct Takeover {
  enum class Phase : std::uint8_t { reading, surveying, swapping, keeping, closing, starting } phase = Phase::reading;
  Kind kind = Kind::takeover;
  std::optional<std::uint64_t> command;  // who wants an answer
  bool accept_data_loss = false, accept_corruption = false;
  record::Stored base;  // as read
  std::vector<LocalLeg> local_legs;
  bool local_asked = false, local_surveyed = false;
  Txg newest_txg;  // of the own legs that the record names: at most what the import will find
  std::uint64_t survey_id = 0;
  bool partner_asked = false, partner_answered = false;
  std::vector<LegId> partner_legs;  // to which its agent agreed
  Nanoseconds asked_at_ns = 0, ask_again_ns = 0;
  std::optional<OpenSwap> open_swap;
  record::Stored won;  // after the swap
  bool skip_floor = false;
  bool exported_before = false;  // the partner's process is known to have exported (its `yield` was done)
  Nanoseconds retry_at_ns = 0;
};

struct State {
  Limits limits;
  NodeId node = NodeId::a;
  std::string pool;
  Nanoseconds started_at_ns = 0;
  Nanoseconds last_tick_ns = 0;
  std::uint64_t nonce = 0, counter = 0;

  // What is known of the record. `seen` is durable before it counts; nothing below it is believed (rule 9).
  std::optional<record::Stored> stored;  // newest kept
  Epoch seen_epoch;
  Revision seen_rev;
  std::optional<record::Stored> keeping;  // KeepCopy on its way (one at a time)
  std::optional<record::Stored> keep_next;
  bool read_open = false;
  Nanoseconds read_at_ns = 0;
  bool store_answers = true;
  bool gone = false;      // the store has no record: the pool is destroyed, or the store is a new one
  std::string went_back;  // the store showed a lower epoch or revision: nothing is imported

  // The promise that this node gave (rule 6), in memory only; a start counts as one.
  Nanoseconds promise_end_ns = 0;
  record::Floor floor;

  // The partner.
  Nanoseconds window_start_ns = 0;   // windows count from here at the earliest
  Nanoseconds owner_heard_ns = 0;    // its process itself (PromiseAsked), or its agent vouching `serving`
  Nanoseconds vouched_ns = 0;        // its agent said `importing`
  Nanoseconds vouched_since_ns = 0;  // ... since
  Nanoseconds partner_heard_ns = 0;  // its agent, anything
  Nanoseconds partner_since_ns = 0;  // present without a gap since
  std::optional<PartnerReport> partner;

  // The node's own process.
  Process process = Process::none;
  Epoch process_epoch;
  owner::Phase process_phase = owner::Phase::starting;
  Nanoseconds process_started_ns = 0;
  Nanoseconds heartbeat_ns = 0;   // 0: none yet
  bool promise_released = false;  // handover `done` at the newest epoch, or the partner yielded
  bool handover_open = false;     // SendHandover wants an answer
  Nanoseconds handover_retry_ns = 0;
  bool drives_open = false;  // zpaird holds the node's drives of this pool
  std::vector<LegId> drives_failed;
  bool drives_order_open = false;
  std::vector<LocalLeg> local_legs;  // of the last survey
  bool local_survey_open = false;
  std::optional<SurveyAsked> survey_asked;  // to be answered after a local survey
  Nanoseconds drives_retry_ns = 0;

  bool cold = true;  // since the start no owner was heard and none lived here
  std::optional<Takeover> takeover;
  std::optional<record::Stored> handover;  // to be answered: kill, drain, then done
  std::optional<Epoch> yielding;           // our process drains for the partner; answer when it exited
  Nanoseconds yielded_until_ns = 0;        // after a yield or a gift: let the partner import until then
  struct Switchover {
    std::uint64_t command;
    Epoch epoch;
    Nanoseconds until_ns;
    Nanoseconds ask_again_ns;
  };
  std::optional<Switchover> switchover;  // we asked the partner to yield
  Nanoseconds restart_at_ns = 0;         // back-off of a process that dies again and again
  Nanoseconds restart_back_off_ns = 0;
  bool gave_up = false;
  Nanoseconds look_again_ns = 0;
  std::string refused;  // rule 11: which mirrors lack which leg, since when; empty: not refused
};

// ---------------------------------------------------------------- functions

Actions step(State& state, const Event& event);

// What to tell the partner's agent now.
PartnerReport report(const State& state);

// Rule 6: whether a promise to `epoch` would be given.
bool may_promise(const State& state, Epoch epoch);

// Rules 4 and 11: which mirrors have no in-sync leg among `reached` (the first three of them); empty: none lacks one.
// "mirror 3 has no in-sync leg in reach: in sync is nvme3@a (not reachable), nvme3@b is missing since txg 812"
std::string lacking(const record::Record& record, const std::vector<LegId>& reached);

// Rule 11: why these legs do not make up one complete copy of the pool; empty: they do. A leg in mid-resync has the newest
// uberblock and a broken tree, and so have legs together of which one went off before the others.
std::string incomplete(const record::Record& record, const std::vector<LegId>& legs);

std::string_view name_of(Kind kind);
std::string_view name_of(Process process);
std::string_view name_of(Vouch vouch);
// One line for status: what this node does for the pool, or what it waits for.
std::string why(const State& state);

}  // namespace zpair::brain::agent
