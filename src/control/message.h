#pragma once
// The messages between zpaird and a pool process of its node, as plain values and their JSON. One datagram each
// (SOCK_SEQPACKET), at most one descriptor with it. Order is kept; nothing is answered unless it says so.
// A message of an unknown kind is ignored, so that one side may be newer.
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "control/start_document.h"
#include "record/record.h"

namespace zpair::control {

// --- zpaird to the pool process ---

struct Start {  // the first message to a new process; never to one found again
  StartDocument document;
};
struct VolumeSocket {      // with a descriptor: the listening Unix socket of a volume, any time after `Start`;
  std::string volume;      // the process keeps it and listens once the volume serves
  std::uint64_t guid = 0;  // which volume: a later one of the same name gets a socket of its own
};
struct VolumeClient {  // with a descriptor: a client of `volume` that the relay accepted and never linked (no
  std::string volume;  // byte passed): it is served as if it had just come to the volume's socket
  std::uint64_t guid = 0;
};
struct RelayLink {                // with a descriptor: a connection that the partner's relay opened for one client
  std::string volume;             // session of `volume` (agent::RelayHello, read). The pool process says
  std::string session;            // agent::relay_accepted_bytes() on it first; then the bytes are NBD
  std::uint64_t link_number = 0;  // rule 10: ends a former link of the same session with a lower number
};
struct Export {  // planned: answer clients no more, drain, export, say `Exiting{exported}`, exit.
  record::Wanted wanted = record::Wanted::serving;  // what the record shall say: serving (switchover) or exported
};
struct ReleasePromise {};  // rule 6: the former process is known dead or has exported
struct RecordHint {        // the store has this now; the process reads it itself before it believes it
  record::Stored stored;
};
struct PartnerHint {  // what the partner's agent said last
  bool alive = false;
  bool can_serve_all = false;  // it could serve every mirror (rule 3: the owner may give up)
};
struct CannotFence {  // the handover's answer: these legs of the partner cannot be fenced now
  std::vector<LegId> legs;
};
struct MemoryShare {  // what this process may use from now on; the node's pools that run share its memory
  std::uint64_t arc_bytes = 0, dirty_bytes = 0, log_bytes = 0;
  bool operator==(const MemoryShare&) const = default;
};
struct DrivePlaces {  // drives that were registered or moved since the start
  std::vector<DrivePlace> drives;
};

// --- the pool process to zpaird ---

struct Heartbeat {  // every 100 ms, from the reactor; the watchdog counts
  std::uint64_t engine_moves =
      0;  // goes up while the engine syncs txgs and takes work, or waits for a leg, or holds, or is
          // not serving yet or any more; 0 before import
};
struct State {  // at every change, at least once a second, and first thing on a new connection
  std::string pool;
  std::string phase;            // brain::owner::name_of(Phase): starting, fencing, importing, ..., exited
  std::string holding_because;  // one line; empty: does not hold
  record::Stored stored;        // the newest record that it knows to be in the store
  bool serving = false;         // clients are answered
  struct Volume {
    std::string name;
    std::uint64_t size_bytes = 0;
    std::uint64_t guid = 0;
  };
  std::vector<Volume> volumes;  // each wants a listening socket (VolumeSocket)
  std::int64_t pid = 0;
};
struct KeepRecord {  // copy this to the node's state file, fsync, and answer with RecordKept
  record::Record record;
};
struct Exiting {       // the last message; the exit code says the same
  std::string reason;  // exported, destroyed, fenced, lost, failed
  std::string detail;
};

// zpaird's answer to KeepRecord: it is durable.
struct RecordKept {
  Epoch epoch;
  Revision rev;
};

using Message =
    std::variant<Start, VolumeSocket, VolumeClient, RelayLink, Export, ReleasePromise, RecordHint, PartnerHint,
                 CannotFence, MemoryShare, DrivePlaces, RecordKept, Heartbeat, State, KeepRecord, Exiting>;

std::string to_json(const Message& message);
Result<Message> parse_message(std::string_view json);  // not_found: a kind that this program does not know

// Exit codes of zpair-pool. Anything else, or a signal, is a crash: restart in place at a new epoch.
inline constexpr int exit_exported = 0;  // or destroyed
inline constexpr int exit_failed = 1;    // could not start: `Exiting::detail` says why
inline constexpr int exit_usage = 2;
inline constexpr int exit_fenced = 10;  // a newer epoch holds the legs, or the record names another owner
inline constexpr int exit_lost = 11;    // gave the pool up: the partner can serve, this node cannot

}  // namespace zpair::control
