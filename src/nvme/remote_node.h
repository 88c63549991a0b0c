#pragma once
// The initiator: the partner's drives over NVMe/TCP, as one host, over several paths.
//
// A RemoteNode keeps one controller a path (an admin queue and I/O queues) connected for ever. A path that makes no
// progress is dead within 200 ms; its commands are quiesced at the target by Cross-Controller Reset, through another path
// or through the same path's next connection, and only then sent again: a command that lingers in a dead switch can never
// land after its successor. Commands are held, without a time limit, while no path is up. Nothing here fails an I/O by
// itself: `fenced` and media or device errors are the target's own words.
//
// Ownership: RemoteDrives belong to the caller and must be closed before the RemoteNode is.
// Threading: one reactor; events are called on it, never inside a call into this object.
// Errors:    hello, fence, open_drive: unreachable or timed_out (at the deadline), not_found, fenced, stale_epoch, refused.
// Source:    NVMe Base 2.0 and 2.3 (Cross-Controller Reset, TP8028), TCP Transport 1.0; rules 2, 5, 8; docs/wire.md.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/ids.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::nvme {

class RemoteDrive;

struct PathAddress {
  std::string name;    // path1
  block::Endpoint to;  // tcp:ADDRESS:PORT of the partner's target
  std::string from;    // local address, which chooses the network; empty: the system's choice
};

enum class PathChange : std::uint8_t { up, down };
struct PathEvent {
  std::size_t path;  // index into the options' paths
  PathChange change;
  Nanoseconds at_ns;
  std::string why;  // one line, for people
};

// Test only (ZPAIR_MUTATIONS): breaks a rule, so that a test can see the loss.
struct InitiatorMutations {
  bool resend_without_quiesce = false;
};

struct RemoteNodeOptions {
  std::string subsystem_nqn;  // the partner's: nqn.2026-01.io.zpair:node-b
  Uuid host_id;               // host_id_of(pool, node, epoch): one import, one host
  std::vector<PathAddress> paths;
  std::uint16_t io_queues = 1;  // a path
  std::uint16_t queue_entries = 128;
  bool header_digest = true;
  bool data_digest = true;
  std::int64_t ping_ms = 40;         // a keep-alive this often, on I/O queues with commands too
  std::int64_t dead_after_ms = 120;  // nothing heard for so long while one is open: the path is dead
  std::int64_t connect_timeout_ms = 500;
  std::int64_t reconnect_ms = 50;                 // between attempts, doubling up to 4 times this
  std::function<void(const PathEvent&)> on_path;  // may be empty
  InitiatorMutations mutations;
};

struct PathStatus {
  std::string name;
  bool up = false;
  Nanoseconds last_progress_ns = 0;  // the last bytes heard from the target there; 0: never
  Nanoseconds changed_ns = 0;        // since when up or down
  std::uint64_t connect_count = 0;
  std::uint64_t outstanding_count = 0;  // commands
};

// What a target says of one namespace (the vendor log page).
struct Hello {
  std::uint32_t nsid = 0;
  std::uint32_t version = 0;  // of the log page
  std::string drive;          // durable id
  Uuid uuid;
  Verifier verifier;
  Epoch fence_epoch;  // the reservation key: expected_former of the next fence
  Uuid fence_host;
  Epoch stored_epoch;  // of the newest record stored for this leg
  Revision stored_rev;
  std::uint64_t stored_digest = 0;
  bool closed = false;            // lets no writer in until it is fenced (after its boot)
  bool fenced_elsewhere = false;  // the pool process of that node has the drive, at fence_epoch
  bool unreadable = false;        // its fence file is missing or damaged: stays closed
};

class RemoteNode {
 public:
  explicit RemoteNode(RemoteNodeOptions options);
  ~RemoteNode();  // asserts that close() ran, if it was started
  RemoteNode(const RemoteNode&) = delete;
  RemoteNode& operator=(const RemoteNode&) = delete;

  void start();  // begins to connect every path
  // Every RemoteDrive must be closed. Ends the connections in order (the target then ends the controllers).
  block::Task<void> close();

  block::Task<bool> wait_up(Deadline deadline);  // true: at least one path is up
  // The namespaces that the target exports now.
  block::Task<Result<std::vector<Hello>>> list(Deadline deadline);
  block::Task<Result<Hello>> hello(std::uint32_t nsid, Deadline deadline);
  // By nsid, or by durable id (one list() more).
  block::Task<Result<std::unique_ptr<RemoteDrive>>> open_drive(std::uint32_t nsid, Deadline deadline);
  block::Task<Result<std::unique_ptr<RemoteDrive>>> open_drive(std::string durable_id, Deadline deadline);

  std::vector<PathStatus> paths() const;
  std::size_t up_count() const;
  Nanoseconds all_down_since_ns() const;  // 0: some path is up
  Nanoseconds last_progress_ns() const;   // of all paths, the newest

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace zpair::nvme
