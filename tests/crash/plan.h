#pragma once
// What a seed means: the pool, the load on it, and the trouble that meets one side of it.
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "drive.h"

namespace zpair::crash {

enum class Trouble : std::uint8_t {
  none,
  power,         // all drives of a side lose power: nothing is answered any more
  write_errors,  // one drive fails writes
  flush_errors,  // one drive fails flushes
  lost_cache,    // one drive loses what it had not flushed, and goes on
  count,
};
std::string_view name_of(Trouble trouble);

struct Plan {
  struct Volume {
    std::uint64_t size_bytes;
    std::uint32_t block_size_bytes;
  };
  std::uint64_t seed = 0;
  unsigned mirrors = 2;
  std::uint64_t leg_bytes = 128ULL << 20;
  std::vector<Volume> volumes;
  unsigned writers = 4;
  unsigned operations = 300;
  unsigned large_percent = 60;  // of the writes: whole blocks up to 128 KiB; the others are as small as a sector
  unsigned zeroes_percent = 6;  // of the operations
  unsigned quiet_one_in = 1;    // the last volume gets one write of so many: its log's next block is older than `since`
  unsigned pause_ms_most = 2;   // a writer's, now and then
  unsigned sync_ms = 60;        // about so often a snapshot or a resize makes a txg sync
  DriveManners manners;
  Trouble trouble = Trouble::none;
  unsigned trouble_side = 0;
  bool stays_away = false;  // the side does not come back in this life

  unsigned legs() const { return mirrors * 2; }  // leg 2m is mirror m's on node a, 2m + 1 the one on node b
  std::uint8_t side_mask(unsigned side) const;
  std::uint8_t all_mask() const { return static_cast<std::uint8_t>(side_mask(0) | side_mask(1)); }
};

// What a mutation needs to show, where chance alone seldom brings it.
struct Aim {
  Trouble trouble = Trouble::none;
  bool old_log_blocks = false;  // the side stays away, and a volume that was quiet before is written meanwhile
  bool frees = false;           // many, of blocks that are written again before the free has synced
};
Plan plan_of(std::uint64_t seed, const std::optional<Aim>& aim = std::nullopt);

}  // namespace zpair::crash
