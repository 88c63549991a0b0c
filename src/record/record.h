#pragma once
// The record of a pool, as a plain value, and its JSON. The record names, for each mirror, the legs in sync; what it does
// not name is not in sync (rule 1). One etcd key a pool holds it; its mod_revision guards the compare-and-swap (rule 9).
// Source: design, section 2 ("Record").
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace zpair::record {

// The record format that this program writes. A program acts only on records whose version is at most this.
inline constexpr int format_version = 1;

enum class Wanted : std::uint8_t { serving, exported };

struct Leg {
  LegId guid;
  NodeId node = NodeId::a;
  std::string drive;  // durable id of the drive (BlockDevice::durable_id)
  bool in_sync = false;
  bool resyncing = false;
  Txg since;          // not in sync: the txg from which it may lack writes
  bool full = false;  // not in sync and diverged: comes back only as a new leg, by full resync
  std::string
      replaces;  // the drive of its node and mirror whose place it is to take, until that one has left; else empty
  Revision
      off_rev;  // not in sync: the revision that took it off. Legs that went together hold the same (rule 11). 0: not known
  bool operator==(const Leg&) const = default;
};

struct Mirror {
  MirrorId guid;
  std::string vdev_class = "normal";  // normal, log, special, dedup
  std::vector<Leg> legs;
  bool operator==(const Mirror&) const = default;
};

struct Record {
  int version = format_version;
  std::string name;
  PoolGuid pool_guid;
  NodeId home = NodeId::a;
  Wanted wanted = Wanted::serving;
  std::vector<std::uint32_t> zfs_host_ids;  // all ever used: an uberblock of any other host is foreign use
  Epoch epoch;
  Revision rev;    // +1 at every swap
  std::string op;  // operation id of the swap that wrote it (a UUID): tells own from other
  NodeId owner = NodeId::a;
  Txg floor_txg;    // an import must reach at least this
  std::string why;  // one line for people: what the last swap was for
  std::vector<Mirror> mirrors;
  bool operator==(const Record&) const = default;
};

// A record as the store holds it.
struct Stored {
  Record record;
  std::uint64_t mod_revision = 0;  // etcd's; compared by the next swap. 0: the key does not exist
  bool operator==(const Stored&) const = default;
};

// What the partner keeps for an owner, in memory only: a lower bound for an import (rule 7).
struct Floor {
  Txg txg;
  struct Log {
    std::uint64_t volume_guid;
    std::uint64_t sequence;  // of the newest committed intent-log record
    bool operator==(const Log&) const = default;
  };
  std::vector<Log> logs;
  bool operator==(const Floor&) const = default;
};

const Leg* find_leg(const Record& record, LegId leg);
Leg* find_leg(Record& record, LegId leg);
const Mirror* mirror_of(const Record& record, LegId leg);
const Leg* find_drive(const Record& record, std::string_view drive);  // the leg that is this drive, on either node
// One of the two came to take the other's place, and that replacement has not ended.
bool replacement_begun(const Leg& one, const Leg& other);
// In-sync legs of a mirror that live on `node`.
int in_sync_count(const Mirror& mirror, NodeId node);
// Rule 6: some mirror has in-sync legs on `node` only, so nobody else can take over.
bool only_on(const Record& record, NodeId node);
// Every mirror has at least one in-sync leg on `node`.
bool serves_alone(const Record& record, NodeId node);

std::string to_json(const Record& record);           // one line
Result<Record> parse_record(std::string_view json);  // invalid: names the key; unsupported: a newer version
std::uint64_t digest_of(const Record& record);       // of its JSON; stored in each leg's fence file
std::string to_json(const Floor& floor);
Result<Floor> parse_floor(std::string_view json);

}  // namespace zpair::record
