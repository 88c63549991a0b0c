#pragma once
// What the engine and the owner of a pool tell each other about legs: plain values.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "block/block_device.h"

namespace zpair::zfs {

// A drive that is, or is to become, a leg. The device outlives the Pool, or the leg's failure (Pool::fail_legs).
struct LegSpec {
  LegId guid;  // 0: a new leg, ZFS chooses
  NodeId node = NodeId::a;
  block::BlockDevice* device = nullptr;
  std::string name;  // of the drive, for people; unique among the pool's legs of its node
  enum class Place : std::uint8_t { local, remote } place = Place::local;  // reads go to a local leg while it keeps up
};

struct MirrorSpec {
  std::vector<LegSpec> legs;
  std::string vdev_class = "normal";  // normal, log, special, dedup
};

// The guids of a pool's tree, in the order of the tree (at create and add: the order of the specs).
struct LegLayout {
  LegId guid;
  std::string name;
};
struct MirrorLayout {
  MirrorId guid;
  std::vector<LegLayout> legs;
};
struct PoolLayout {
  PoolGuid guid;
  std::vector<MirrorLayout> mirrors;
};

// A leg did not do what it was told: from now on the command is held (no answer) until the owner fails the leg, lets the
// held commands be tried again, or exits. A read's media error that ZFS can serve from another leg is told, not held. One over
// the labels is an `error` and held while another leg serves: this one must be shrunk, or ZFS would close it by itself.
struct LegEvent {
  enum class Kind : std::uint8_t {
    error,             // the device refused a command
    media_error,       // a read met a bad place
    fenced,            // a newer epoch holds the leg: the owner exits
    verifier_changed,  // completed but unflushed writes may be lost: the leg must be shrunk, retrying cannot help
  };
  LegId leg;
  Kind kind = Kind::error;
  block::Operation operation = block::Operation::read;
  bool held = false;
  std::string text;
};

// Times are boot_time_ns(); 0: none. "Outstanding" counts what the device has and what is held.
struct LegHealth {
  bool in_ack_set = false;
  bool failed = false;  // fail_legs: every command is refused without asking the device
  bool stuck = false;   // fenced or verifier_changed: nothing completes any more
  unsigned in_flight_count = 0;
  unsigned held_count = 0;
  // When the oldest outstanding write or flush was handed over. Of a leg outside the ack set (one that returns) reads count
  // too: OpenZFS probes it by reading first, and stands still until it answers or is failed.
  Nanoseconds oldest_write_ns = 0;
  Nanoseconds oldest_trim_ns = 0;
  Nanoseconds oldest_read_ns = 0;
  Nanoseconds last_progress_ns = 0;  // the newest completion
  std::uint64_t read_count = 0, read_bytes = 0, read_error_count = 0;
  std::uint64_t write_count = 0, write_bytes = 0, write_error_count = 0;
  std::uint64_t durable_write_count = 0;  // of the writes: durable by themselves (FUA), log blocks all
  std::uint64_t flush_count = 0;
  // Every write of this and older txgs is flushed on the leg under an unchanged verifier. `since` = 1 + this (rule 3).
  Txg newest_flushed_txg;
};

// How a resync ended (rule 8). Accepted: every block from `since` on is on the legs; they may join the ack set, then the
// record. Not accepted: take the legs off (fail_legs) or call again; the seed is still known.
struct ResyncOutcome {
  bool accepted = false;
  std::string why_not;             // for people, empty when accepted
  Txg scan_min_txg, scan_max_txg;  // the scan's own record
  std::uint64_t error_count = 0;
  std::uint64_t repaired_bytes = 0;
};

// What four labels of a drive say, checksums verified. Nothing here is trusted further than that.
struct LabelSurvey {
  std::string pool_name;
  PoolGuid pool_guid;
  LegId leg_guid;
  MirrorId mirror_guid;           // the top-level vdev
  Txg label_txg;                  // of the newest label; 0: a label that was never completed
  std::uint64_t pool_state = 0;   // OpenZFS's: 0 active, 1 exported, 2 destroyed
  std::uint32_t zfs_host_id = 0;  // who wrote the label
  Txg best_uberblock_txg;
  std::vector<Txg> uberblock_txgs;  // all that are readable, ascending, each once
};

// Reads the labels. nullopt: no label of a pool. Errors: io.
block::Task<Result<std::optional<LabelSurvey>>> survey_labels(block::BlockDevice& device);

}  // namespace zpair::zfs
