#pragma once
// The drives behind the legs of the pool: local ones with their lock and fence file, the partner's over NVMe/TCP on every
// path. Opens, fences, keeps copies of the record, fails and rejoins them; knows nothing of OpenZFS but guids.
//
// A leg has two guids while it is new: the record's (chosen before the engine made the leg) and the engine's. They are
// equal for every other leg. Callers name legs by the record's.
// Ownership: the devices live here, until close(). The engine must have let a device go before that (leg failed, pool
//            exported).
// Threading: reactor thread.
// Errors:    as named; nothing here decides about a leg, the brain does.
// Source:    rules 2, 5, 8, 9; design, section 4 (one opener).
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/ids.h"
#include "block/block_device.h"
#include "block/fault_device.h"
#include "block/task.h"
#include "control/start_document.h"
#include "fence/fence_file.h"
#include "nvme/remote_drive.h"
#include "nvme/remote_node.h"
#include "record/record.h"
#include "zfs/leg.h"

namespace zpair::pool {

struct FenceOutcome {
  enum class Kind : std::uint8_t {
    done,         // fenced at our epoch, drained, stored
    failed,       // closed, a conflict with a lower key, or no answer: `why`
    rolled_back,  // its node forgot what it had confirmed to this process: `why`; the leg may not come back by `since`
    fenced_out,   // a higher epoch, `by`, holds the leg
  } kind = Kind::failed;
  std::string why;
  Epoch by;
};

// Where a leg stands as a device.
struct LegLink {
  bool open = false;
  bool reachable = false;            // open, and for a remote one: some path is up
  Nanoseconds last_progress_ns = 0;  // last answer of any kind, keep-alives included; local: now
};

class Legs {
 public:
  struct Options {
    NodeConfig config;
    Uuid host_id;  // of this import: host_id_of(pool, node, epoch)
    std::function<void(const nvme::PathEvent&)> on_path;
  };
  explicit Legs(Options options);
  ~Legs();
  Legs(const Legs&) = delete;
  Legs& operator=(const Legs&) = delete;

  // The legs of a record, and where their drives are. Again when either changes; drives are kept until close().
  void know(const record::Record& record, std::span<const control::DrivePlace> places);
  void start();  // begins to connect to the partner, and to open what is closed
  block::Task<void> close();

  // A drive that the record does not know yet, under a provisional guid.
  LegId add_new(const control::DrivePlace& place);
  // The record says that it will be copied as a whole: what its node has forgotten does not matter any more.
  void expect_nothing_of(LegId leg);
  void forget(LegId leg);  // the seat only: another leg lies on the same drive
  // After a command that did not come about, or a detach; never a leg of the record. A drive that no other leg lies on is
  // closed, so that others may have it.
  block::Task<void> release(LegId leg);
  void set_engine_guid(LegId leg, LegId engine_guid);
  // The engine made the leg under this guid, and the record will name it so; the provisional guid still finds it.
  void rename(LegId leg, LegId built);

  LegLink link(LegId leg) const;
  block::BlockDevice* device(LegId leg) const;        // nullptr while it is not open
  block::FaultDevice* fault_device(LegId leg) const;  // only in a sandbox, only of local legs
  zfs::LegSpec spec(LegId leg) const;                 // the leg must be open
  zfs::LegSpec spec_of_new(LegId leg) const;          // the engine shall choose its guid
  LegId engine_guid(LegId leg) const;
  LegId leg_of_engine(LegId engine_guid) const;  // 0: none
  const control::DrivePlace* place(LegId leg) const;
  std::optional<LegId> find_drive(NodeId node,
                                  std::string_view drive) const;  // durable id, path, or the path's last part
  std::vector<LegId> all() const;
  std::string name(LegId leg) const;             // for people: m00@a
  std::string readable(std::string text) const;  // with short names in the place of durable ids

  // Opens the drive if need be. Not an error of the leg: it may come later.
  block::Task<Result<void>> open(LegId leg, Deadline deadline);
  block::Task<Result<Epoch>> stored_epoch(LegId leg, Deadline deadline);  // the highest that the open leg was told
  block::Task<FenceOutcome> fence(LegId leg, Epoch epoch, Revision rev, std::uint64_t digest, Deadline deadline);
  // Rule 9: (epoch, revision, digest) into the fence file of every leg of it that is reached and fenced by us. An error of a
  // local leg's file is returned; a leg of the partner that does not answer in time is skipped.
  block::Task<Result<void>> keep(record::Record record, Deadline deadline);
  void fail(LegId leg);  // after the engine failed it: what the device still has completes soon
  // Rule 8: nothing of former connections is in flight at the drive any more; it serves again.
  block::Task<Result<void>> quiesce(LegId leg, Deadline deadline);
  Epoch fenced_by(LegId leg) const;  // what a leg's last conflict named; 0: none

  std::vector<nvme::PathStatus> paths() const;
  bool partner_reachable() const;

 private:
  // A leg that comes back as a new one lies on the same drive: two seats, one drive.
  struct Drive {
    control::DrivePlace place;
    std::unique_ptr<block::BlockDevice> local;
    block::FaultDevice* fault = nullptr;  // == local, in a sandbox
    std::unique_ptr<fence::FenceFile> fence_file;
    std::unique_ptr<nvme::RemoteDrive> remote;
    bool opening = false;
    unsigned keeping_count = 0;  // keep_remote() that are under way
    bool fenced = false;
    fence::StoredRecord told;  // the newest that the drive's node confirmed to have stored
    bool failed = false;       // fail(): the remote drive wants a rejoin
    Epoch fenced_by;
    block::BlockDevice* device() const { return local ? local.get() : static_cast<block::BlockDevice*>(remote.get()); }
    std::string name() const;
  };
  struct Seat {
    LegId guid;
    LegId engine_guid;
    Drive* drive = nullptr;
  };

  const Seat* find(LegId leg) const;
  Drive* drive_of(LegId leg) const;
  static std::optional<FenceOutcome> rolled_back(const Drive& drive, Epoch epoch, Revision rev);
  bool is_used(const Drive& drive) const;  // some leg lies on it
  std::string engine_name(const Drive& drive) const;
  Drive& drive_at(const control::DrivePlace& place);
  block::Task<Result<void>> open(Drive& drive, Deadline deadline);
  block::Task<Result<void>> open_local(Drive& drive, Deadline deadline);
  block::Task<Result<void>> open_remote(Drive& drive, Deadline deadline);
  FenceOutcome fence_local(Drive& drive, Epoch epoch, const fence::StoredRecord& stored);
  block::Task<FenceOutcome> fence_remote(Drive& drive, Epoch epoch, fence::StoredRecord stored, Deadline deadline);
  block::Task<void> keep_remote(Drive& drive, fence::StoredRecord stored, Deadline deadline);
  block::Task<void> keep_opening();

  Options options_;
  nvme::RemoteNode partner_;
  std::vector<std::unique_ptr<Drive>> drives_;  // never fewer: a task may wait in one
  std::map<LegId, Seat> seats_;
  std::map<LegId, LegId> renamed_;  // provisional guid -> built
  bool started_ = false;
  bool closing_ = false;
  block::Signal closed_;
  block::TaskGroup tasks_;
};

// What a new mirror is called in the record until the engine has given its guid: told from its first leg, so that an import
// knows such a mirror by looking at it.
constexpr MirrorId provisional_mirror_guid(LegId first_leg) {
  return MirrorId{first_leg.value ^ 0x5a5a'5a5a'5a5a'5a5a};
}

std::string node_nqn(NodeId node);  // nqn.2026-01.io.zpair:node-a

}  // namespace zpair::pool
