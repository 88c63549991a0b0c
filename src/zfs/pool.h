#pragma once
// One OpenZFS pool, embedded: create, import, legs, resync, volumes. The owner (src/pool) decides; this carries out, and
// never acknowledges a write that is short of the ack set: the gate aborts the process instead (rule 2).
// Ownership: make it, then create_pool() or import_pool(); before it ends, export_pool(), destroy_pool(), or end the process.
//            Volumes are closed first.
// Threading: the reactor. Tasks suspend while engine threads wait; while one waits the owner may call anything marked (any
//            time), which is how an import or a resync gets past a leg that does not answer.
// Errors:    as named; a suspended pool, a short write, a failed assertion inside OpenZFS abort the process.
// Source:    rules 2, 3, 7, 8; design, section 7.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/ids.h"
#include "block/task.h"
#include "zfs/engine.h"
#include "zfs/leg.h"
#include "zfs/volume.h"

struct zp_volume;  // of the C side

namespace zpair::zfs {

struct CreateSpec {
  std::vector<MirrorSpec> mirrors;
  std::string compression = "lz4";
};

// What an import must find (rule 7).
struct ImportSpec {
  PoolGuid guid;
  std::vector<LegSpec> legs;  // exactly the legs that the record names and the node reaches
  Txg floor_txg;
  std::vector<std::uint32_t> zfs_host_ids;  // allowed writers of the newest uberblock
  std::vector<VolumeLog> floor_logs;        // per volume: what the partner knows to be committed
  enum class Floor : std::uint8_t {
    enforce,
    skip_and_say_so
  } floor = Floor::enforce;  // skip: an operator's override only
};

struct ImportedVolume {
  std::string name;        // without the pool's
  std::uint64_t guid = 0;  // 0: it cannot be read
  bool has_log = false;
};

struct ImportReport {
  Txg uberblock_txg;  // the one that was imported
  std::vector<ImportedVolume> volumes;
  unsigned replayed_volume_count = 0;
  std::uint64_t replayed_record_count = 0;
  std::vector<LegId> absent_legs;  // in the pool's tree, not named: now persistently offline
  double label_seconds = 0, import_seconds = 0, replay_seconds = 0, offline_seconds = 0;
};

enum class LegState : std::uint8_t { healthy, degraded, offline, removed, faulted, cannot_open, closed, unknown };
std::string_view name_of(LegState state);

struct ScanStatus {
  enum class Kind : std::uint8_t { none, resilver, scrub } kind = Kind::none;
  enum class State : std::uint8_t { none, running, finished, cancelled } state = State::none;
  std::uint64_t done_bytes = 0, total_bytes = 0, repaired_bytes = 0, error_count = 0;
  double percent = 0;
};

struct PoolStatus {
  bool suspended = false;  // cannot be seen alive: OpenZFS aborts instead
  std::uint64_t size_bytes = 0, allocated_bytes = 0, free_bytes = 0;
  Txg last_synced_txg;
  struct Leg {
    LegId guid;
    MirrorId mirror;
    std::string name;
    LegState state = LegState::unknown;
    std::uint64_t read_error_count = 0, write_error_count = 0, checksum_error_count = 0;
    std::uint64_t repaired_bytes = 0;  // by scrub or resync
    bool missing_txgs = false;         // its missing-txg list (DTL) is not empty
  };
  std::vector<Leg> legs;
  ScanStatus scan;
  std::uint64_t data_error_count = 0;  // blocks that no leg could serve
};

class LegDriver;

class Pool {
 public:
  struct Options {
    std::string name;
    std::function<void(const LegEvent&)> on_leg_event;  // reactor; must not destroy the Pool
  };
  Pool(Engine& engine, Options options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // ---- a pool's life
  // Multihost on, cachefile none, ashift 12, sync=always, features of OpenZFS 2.1 (older kernels import it too). All its
  // legs are in the ack set from the start. invalid: legs that do not fit; exists: a leg carries a pool (survey first).
  block::Task<Result<PoolLayout>> create_pool(CreateSpec spec);
  // The legs named are the ack set from the start. Reads its config from their labels, skips the multihost check (the
  // fence has proven more), never rewinds, replays every log, then takes absent legs persistently offline in one step.
  // refused: below the floor, foreign host id, a missing mirror, a leg whose label says something else, a volume that cannot
  // be read and has, or may have, a log.
  block::Task<Result<ImportReport>> import_pool(ImportSpec spec);
  enum class ExportTo : std::uint8_t { anybody, partner };
  // Volumes closed; clean: no log is left. To the partner: as clean, but in the labels it stays active, which is faster.
  block::Task<Result<void>> export_pool(ExportTo to = ExportTo::anybody);
  block::Task<Result<void>> destroy_pool();
  bool is_open() const;
  const PoolLayout& layout() const { return layout_; }

  // ---- the ack set, and legs that do not answer (any time)
  // Legs that must hold every write before it is acknowledged: what the record names, is being asked to name, or may name.
  void set_ack_set(std::span<const LegId> legs);
  // After the record dropped them (asserted: not in the ack set). Fails held commands first, so that ZFS goes on, then
  // takes all of them persistently offline in one step. Idempotent. refused: ZFS holds the last good copy there.
  block::Task<Result<void>> fail_legs(std::vector<LegId> legs);
  // The device may answer again: hands the held commands to it once more. Without effect on a stuck leg.
  void retry_held(LegId leg);
  LegHealth leg_health(LegId leg) const;
  // Commands of this leg that its device still has (a shrunk leg's included): 0 before it may return (rule 8).
  unsigned in_flight_count(LegId leg) const;
  // In-ack-set legs that ZFS itself has given up (the gate would abort at the next write).
  block::Task<Result<std::vector<LegId>>> legs_that_zfs_dropped();

  // ---- growing back (rule 8). One resync or scrub at a time; a running scrub is cancelled first.
  // Brings shrunk legs back, all of them from the one smallest `since`: seeds each one's missing-txg list, synced, and puts it
  // online; syncs; resyncs all of them; verifies the scan's own record. Ends when accepted, or says why not.
  block::Task<Result<ResyncOutcome>> bring_back(std::vector<LegSpec> legs, Txg since);
  // A new leg beside the others of a mirror, or in the place of one (which leaves the pool when the resync is accepted).
  block::Task<Result<LegId>> attach_leg(MirrorId mirror, LegSpec leg);
  block::Task<Result<LegId>> replace_leg(LegId old_leg, LegSpec leg);
  // Waits for the resync that an attach or replace began, and verifies it.
  block::Task<Result<ResyncOutcome>> finish_attach(LegId leg);
  block::Task<Result<void>> detach_leg(LegId leg);
  // New mirrors, their legs in the ack set from the start (the owner records them before any write can reach them: hold
  // clients meanwhile). Returns their layout.
  block::Task<Result<std::vector<MirrorLayout>>> add_mirrors(std::vector<MirrorSpec> mirrors);
  ScanStatus resync_progress() const;       // (any time) as last seen by the task that waits for it
  block::Task<Result<void>> start_scrub();  // refused while a resync runs
  block::Task<Result<void>> cancel_scrub();
  block::Task<Result<PoolStatus>> status();

  // ---- floor
  Txg last_synced_txg() const;                 // (any time) cheap
  std::vector<VolumeLog> volume_logs() const;  // (any time) of open volumes

  // ---- volumes; names are without the pool's
  block::Task<Result<VolumeInfo>> create_volume(VolumeSpec spec);
  block::Task<Result<void>> destroy_volume(std::string name);  // closed, and without snapshots; else refused
  block::Task<Result<VolumeInfo>> resize_volume(std::string name,
                                                std::uint64_t size_bytes);  // only larger; whole blocks
  block::Task<Result<void>> snapshot_volume(std::string name, std::string snapshot);
  // A new volume that begins as the snapshot is: thick (its own reservation) or thin. It keeps the snapshot from being destroyed.
  block::Task<Result<VolumeInfo>> clone_volume(std::string name, std::string snapshot, std::string clone,
                                               VolumeSpec::Space space);
  // Closed volumes only, to the newest snapshot only; else refused. What was written since is gone, log and all.
  block::Task<Result<VolumeInfo>> roll_back_volume(std::string name, std::string snapshot);
  block::Task<Result<void>> destroy_snapshot(std::string name, std::string snapshot);
  block::Task<Result<std::vector<VolumeInfo>>> list_volumes();  // those that cannot be read too
  // Replays its log when import_pool did not, refuses anything but sync=always.
  block::Task<Result<std::unique_ptr<Volume>>> open_volume(std::string name);
  // close() is the volume's own.

  // Properties of the pool's root or of a volume: compression, logbias... sync is refused (rule 2: always).
  block::Task<Result<void>> set_property(std::string volume, std::string property, std::string value);
  // What is kept in the pool itself under a name of ours (with a colon): at most 8191 bytes, durable when it returns, and there
  // wherever the pool is imported. Never set: the empty text.
  block::Task<Result<void>> set_note(std::string note, std::string value);
  block::Task<Result<std::string>> note(std::string note);

  Engine& engine() { return engine_; }

 private:
  friend class Volume;
  struct Handle;
  enum class End : std::uint8_t { exported, handed_over, destroyed };
  block::Task<Result<void>> end(End how);
  block::Task<void> close_replayed();
  block::Task<Result<void>> learn_layout();
  block::Task<Result<void>> replay_logs(ImportReport& report, const std::vector<VolumeLog>& floor_logs, bool enforce);
  block::Task<void> take_absent_legs_offline(ImportReport& report);
  block::Task<Result<void>> take_offline(const std::vector<LegId>& legs);
  block::Task<Result<ResyncOutcome>> resync(std::vector<LegId> legs, Txg since, bool seed);
  enum class Attach : std::uint8_t { beside, in_place_of };
  block::Task<Result<LegId>> attach(LegId old_leg, LegSpec leg, Attach how);
  std::string full_name(const std::string& volume) const;  // empty: the pool's
  block::Task<Result<VolumeInfo>> look_at(std::string volume);
  zp_volume* take_replayed(const std::string& name);

  Engine& engine_;
  Options options_;
  std::unique_ptr<LegDriver> driver_;
  std::unique_ptr<Handle> handle_;
  PoolLayout layout_;
  bool resyncing_ = false;
};

}  // namespace zpair::zfs
