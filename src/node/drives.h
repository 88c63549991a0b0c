#pragma once
// The node's registered drives and their target. A drive has one opener at a time: the pool process while this node owns
// the pool, else this target (rule 5). Each drive is told where it shall be, and a task of its own brings it there and
// keeps trying: a drive that is missing, or whose former process still drains, comes when it can.
//
//   absent --open, lock, fence file--> exported --drain, close--> elsewhere(epoch) --open, lock--> exported
//
// Exported namespaces start closed: the owner fences them first. Elsewhere: every host is answered `fenced` at the epoch.
// Ownership: devices and fence files lie here. close() before the end.
// Threading: reactor thread only.
// Errors:    register: not_found, invalid, exists (a leg of another pool), refused (locked by somebody), unsupported.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "block/block_device.h"
#include "block/task.h"
#include "control/start_document.h"
#include "fence/fence_file.h"
#include "node/state_folder.h"
#include "node/uberblock.h"
#include "nvme/target.h"

namespace zpair::node {

enum class DriveState : std::uint8_t { absent, exported, elsewhere };
std::string_view name_of(DriveState state);

struct DriveStatus {
  RegisteredDrive drive;
  DriveState state = DriveState::absent;
  std::string why;    // absent: what keeps it
  Epoch fence_epoch;  // of its fence file; 0: never fenced, or not readable
  std::string cache;  // how it keeps what it completed
};

class Drives {
 public:
  // Opens one drive for the target: a FileDevice, in a sandbox with a fault device around it.
  using Open = std::function<block::Task<Result<std::unique_ptr<block::BlockDevice>>>(RegisteredDrive drive,
                                                                                      Deadline wait_for_lock)>;
  struct Options {
    NodeId node;
    std::vector<block::Endpoint> listen;     // NVMe/TCP, one a path
    std::vector<std::string> allowed_peers;  // the partner's addresses
    Open open;
    std::function<void(std::string)> on_change;  // one line: a drive came, went
  };
  Drives(Options options, StateFolder& folder);
  ~Drives();

  // Loads the list and listens. The drives of pools in `elsewhere` (a process of theirs lives) stay closed here.
  Result<void> start(const std::map<std::string, Epoch>& elsewhere);
  block::Task<void> close();

  // Registers the drive at `path` for `pool`; again for the same pool is fine. On return it is exported.
  block::Task<Result<RegisteredDrive>> add(std::string pool, std::string path);
  // For good, with its fence file. The pool must not use it any more.
  block::Task<Result<void>> remove(std::string durable_id);
  block::Task<void> remove_pool(std::string pool);

  // Before the pool's process starts here: returns when nothing is in flight and every lock is free.
  block::Task<void> give_to_process(std::string pool, Epoch epoch);
  // Nobody holds the lock of any drive of the pool: a dead process's last I/O has ended. The target must not have them.
  block::Task<void> wait_unlocked(std::string pool);
  // The process is dead: the target takes the drives as soon as their locks are free.
  void take_back(const std::string& pool);
  // Waits until all drives of the pool are exported; returns those that are not at the deadline.
  block::Task<std::vector<std::string>> wait_exported(std::string pool, Deadline deadline);

  bool exported(const std::string& durable_id) const;
  bool present(const std::string& durable_id) const;  // exported, or with the pool process
  // The newest uberblock on it, or one before; none unless the target has the drive.
  block::Task<Uberblock> newest_uberblock(std::string durable_id);
  std::optional<RegisteredDrive> find(const std::string& durable_id) const;
  std::optional<RegisteredDrive> find_path(const std::string& path) const;
  std::vector<control::DrivePlace> places(const std::string& pool) const;
  std::vector<DriveStatus> status() const;
  nvme::TargetCounts target_counts() const { return target_.counts(); }
  std::vector<block::Endpoint> endpoints() const { return endpoints_; }

 private:
  struct Entry {
    RegisteredDrive drive;
    DriveState state = DriveState::absent;
    std::optional<Epoch> wanted_elsewhere;  // nullopt: the target shall have it
    Epoch elsewhere;
    bool told_elsewhere = false;
    bool removing = false;
    bool settling = false;
    int users = 0;  // reads of ours under way on `device`
    std::string why;
    ErrorCode why_code = ErrorCode::io;  // of `why`
    std::unique_ptr<block::BlockDevice> device;
    std::unique_ptr<fence::FenceFile> fence_file;
  };

  Entry& insert(RegisteredDrive drive);
  void settle(Entry& entry);
  block::Task<void> run_settle(Entry& entry);
  block::Task<Result<void>> open_here(Entry& entry);
  block::Task<void> close_here(Entry& entry);
  block::Task<Result<void>> store();
  void changed(std::string line);

  Options options_;
  StateFolder& folder_;
  nvme::Target target_;
  std::vector<block::Endpoint> endpoints_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;  // by durable id
  std::uint32_t last_nsid_ = 0;
  bool closed_ = false;
  block::Signal changed_;
  block::Signal closing_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
