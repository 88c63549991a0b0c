#pragma once
// The initiator's parts: the node, its paths, the drives' requests. See remote_node.h for what they promise.
//
// Where a command can be, and who moves it:
//   waiting      in NodeState::waiting: no queue has room, or no path is up          -> in flight   (pump)
//   in flight    on an InitiatorQueue                                               -> done        (answered)
//                                                                                   -> quarantine  (its path died)
//   quarantine   its former controller may still carry it out                       -> waiting     (quiesced there)
//   held         the target is closed, or has the namespace not (yet)               -> waiting     (the drive has recovered)
// Only from `waiting` is anything sent: a command is never on two controllers that may both still carry it out.
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "block/block_device.h"
#include "nvme/initiator_queue_internal.h"
#include "nvme/remote_drive.h"
#include "nvme/remote_node.h"

namespace zpair::nvme {

class Path;
struct NodeState;
struct DriveState;
struct IoCommand;

// A caller's Request, as one or more commands.
struct RemoteRequest {
  block::Request* request = nullptr;  // null: completed early by fail_all
  DriveState* drive = nullptr;
  unsigned command_count = 0;
  unsigned open_count = 0;  // commands not done
  block::IoStatus status = block::IoStatus::ok;
  Verifier verifier;
  Nanoseconds submitted_ns = 0;
  RemoteRequest* next = nullptr;  // of the drive, oldest first
  RemoteRequest* previous = nullptr;
};

struct IoCommand : QueueCommand {
  NodeState* node = nullptr;
  Path* path = nullptr;  // the last one that it was sent over
  std::uint32_t nsid = 0;
  RemoteRequest* owner = nullptr;
  std::vector<iovec> parts;  // a split request's own
  DsmRange range{};
  iovec range_part{};
};

// A controller whose connections we have ended (or lost), until the target says that nothing of it is in flight. Drives of
// which it says so earlier, because another one hangs, are let go earlier.
struct Quarantine {
  std::uint16_t cntlid = 0;
  std::uint8_t uniquifier = 0;
  std::uint64_t random_number = 0;
  std::string path;
  std::deque<IoCommand*> commands;
  bool asking = false;
  std::optional<std::set<std::uint32_t>> busy;  // namespaces where commands of it still are; not told yet: anywhere
  bool may_reach(std::uint32_t nsid) const { return !busy || busy->contains(nsid); }
};

struct TargetFacts {
  std::uint16_t cntlid = 0;
  std::uint8_t uniquifier = 0;
  std::uint64_t random_number = 0;
  std::size_t max_transfer_bytes = 128 * 1024;
  std::size_t in_capsule_bytes = 0;
  bool is_zpair = false;
};

class Path {
 public:
  Path(NodeState& node, std::size_t index);
  block::Task<void> run();  // connects, watches, tears down, again, until the node closes
  void kill(std::string_view why);
  void lost(IoCommand& command);  // its queue ended without an answer
  template <class Drop>
  void drop_lost(Drop drop) {
    drop(lost_);
  }

  bool up() const { return up_; }
  InitiatorQueue& admin() { return *admin_; }
  std::vector<std::unique_ptr<InitiatorQueue>>& io_queues() { return io_; }
  const TargetFacts& facts() const { return facts_; }
  PathStatus status() const;
  Nanoseconds last_progress_ns() const { return last_progress_ns_; }

 private:
  block::Task<Result<void>> connect();
  block::Task<Result<void>> start_controller(Deadline deadline);
  block::Task<void> watch();
  block::Task<void> tear_down();
  bool silent(InitiatorQueue& queue, Nanoseconds now);
  void note_progress();

  NodeState& node_;
  std::size_t index_;
  std::unique_ptr<InitiatorQueue> admin_;
  std::vector<std::unique_ptr<InitiatorQueue>> io_;
  TargetFacts facts_;
  bool known_ = false;  // facts_ are of the present association
  bool up_ = false;
  std::deque<IoCommand*> lost_;
  block::Signal dead_;
  std::string why_;
  std::string last_reported_;
  Nanoseconds last_progress_ns_ = 0;
  Nanoseconds window_start_ns_ = 0;  // silence before this instant does not count
  Nanoseconds changed_ns_ = 0;
  std::uint64_t connect_count_ = 0;
};

struct NodeState {
  RemoteNodeOptions options;
  bool started = false;
  bool closing = false;
  std::vector<std::unique_ptr<Path>> paths;
  block::TaskGroup tasks;
  block::Signal stop;
  block::Signal up;  // set while some path is up
  Nanoseconds all_down_since_ns = 0;
  std::deque<IoCommand*> waiting;
  std::list<std::unique_ptr<Quarantine>> quarantine;
  block::Signal settled;  // set when a quarantine ended or an abandoned command came back
  std::unordered_map<std::uint32_t, std::size_t> abandoned;  // by nsid: commands of failed requests still in flight
  std::vector<DriveState*> drives;
  std::unordered_map<std::string, std::uint32_t> nsid_of;  // durable ids of the last list(); only a hint
  std::size_t turn = 0;                                    // of the paths, for equally busy queues

  std::vector<std::unique_ptr<IoCommand>> all_commands;
  std::vector<IoCommand*> free_commands;
  std::vector<std::unique_ptr<RemoteRequest>> all_requests;
  std::vector<RemoteRequest*> free_requests;
  std::vector<block::Request*> early;  // to complete outside of the caller's call
  bool early_posted = false;

  IoCommand& take_command(DriveState& drive, RemoteRequest& owner);
  void free_command(IoCommand& command);
  RemoteRequest& take_request();
  void complete_later(block::Request& request, block::IoStatus status, Verifier verifier);

  void send(IoCommand& command);  // now or when there is a queue
  void pump();
  struct Place {
    Path* path = nullptr;
    InitiatorQueue* queue = nullptr;
  };
  Place pick_queue();
  Path* pick_path();
  std::size_t max_transfer_bytes() const;

  void on_up(Path& path);
  void on_down(std::size_t index, const std::string& why);
  void report(std::size_t index, PathChange change, std::string why);
  void add_quarantine(std::unique_ptr<Quarantine> former);
  void ask_for_quiesce();
  block::Task<void> quiesce(Quarantine& former, Path& path);
  block::Task<void> follow_quiesce(Quarantine& former, Path& path, block::Signal& over);
  void release_quiet(Quarantine& former);
  bool quiesced(std::uint32_t nsid) const;
  void command_answered(IoCommand& command, const Completion& completion);
  void command_lost(IoCommand& command);
  void abandoned_came_back(IoCommand& command);

  // One admin (nsid in the command) or I/O command that may be repeated without harm, over whichever path is up.
  enum class Kind : std::uint8_t { admin, io };
  block::Task<Result<ExchangeAnswer>> run(Kind kind, ExchangeRequest request, Deadline deadline);
  block::Task<Result<Hello>> hello(std::uint32_t nsid, Deadline deadline);
};

struct RemoteNode::State : NodeState {};

struct DriveState {
  NodeState* node = nullptr;
  std::uint32_t nsid = 0;
  block::Geometry geometry;
  std::string durable_id;
  Verifier verifier;
  Epoch fence_epoch;  // 0: not fenced by us
  Epoch fenced_by;
  enum class Mode : std::uint8_t { serving, failed, closed } mode = Mode::serving;
  RemoteRequest* oldest = nullptr;
  RemoteRequest* newest = nullptr;
  block::Signal changed;  // a request was completed
  std::deque<IoCommand*> held;
  bool recovering = false;
  block::TaskGroup tasks;
  block::Signal stop_recovery;

  void start(block::Request& request);
  void split(RemoteRequest& owner);
  void hold(IoCommand& command);
  // Gives the command back, and the request with its last one.
  void done(IoCommand& command, block::IoStatus status, Verifier seen);
  void finish(RemoteRequest& owner);
  void link(RemoteRequest& owner);
  void unlink(RemoteRequest& owner);
  void let_held_go();
  block::Task<void> recover();
  block::Task<Result<Verifier>> fence(Epoch epoch, Epoch expected_former, Deadline deadline);
  void fail_all();
};

struct RemoteDrive::State : DriveState {};

}  // namespace zpair::nvme
