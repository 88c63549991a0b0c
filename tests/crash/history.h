#pragma once
// What each sector of a volume may hold at a cut: the write that its client was last told of, or one issued later. The drill's
// checker knows blocks of 4 KiB and one moment, the end; here writes are as small as a sector, zeroes are writes too, and the
// moment is any cut.
// A sector's bytes follow from volume, sector and the write's sequence. A write that nobody was told of may be there in part.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tape.h"

namespace zpair::crash {

inline constexpr std::uint64_t sector_bytes = 512;

void fill_sector(std::span<std::byte> sector, unsigned volume, std::uint64_t number, std::uint32_t sequence);

// Something that a sector must not hold. Plain, since it travels through shared memory.
struct Finding {
  std::uint32_t volume;
  std::uint64_t sector;
  std::uint32_t answered, issued;  // it had to hold one of these; 0: never written
  std::uint32_t found;             // 0: zeroes
  bool unknown_bytes;              // what no write put there
};
std::string to_string(const Finding& finding);

class History {
 public:
  struct Sector {
    std::uint32_t answered = 0, issued = 0;
    bool answered_zeroes = true, issued_zeroes = true;
    bool unsure = false;  // several since `answered` may be there: any of them will do
    bool operator==(const Sector&) const = default;
  };
  struct Volume {
    std::vector<Sector> sectors;
    std::uint64_t least_bytes = 0;  // it was told to have grown to this
    std::uint32_t last_sequence = 0;
  };

  void add_volume(std::uint64_t size_bytes);
  const std::vector<Volume>& volumes() const { return volumes_; }
  void note(const Event& event);  // of the tape; those that are no client's are skipped

  // The sectors that bytes read after a recovery show wrong; and calls settled(first, count, sequence, zeroes) for those that
  // might have held either of two, and now hold this for good.
  template <class Settled>
  std::vector<Finding> check(unsigned volume, std::uint64_t first_sector, std::span<const std::byte> bytes,
                             Settled settled) const {
    std::vector<Finding> findings;
    for (std::uint64_t i = 0; i * sector_bytes < bytes.size(); ++i) {
      const Sector& sector = volumes_[volume].sectors[first_sector + i];
      Seen seen = look(volume, first_sector + i, bytes.subspan(i * sector_bytes, sector_bytes));
      if (!seen.allowed)
        findings.push_back({volume, first_sector + i, sector.answered, sector.issued, seen.sequence, seen.unknown});
      if (seen.allowed && !seen.in_part && sector.issued != sector.answered)
        settled(first_sector + i, seen.sequence, seen.zeroes);
    }
    return findings;
  }

 private:
  struct Seen {
    bool allowed = false, unknown = false, in_part = false, zeroes = false;
    std::uint32_t sequence = 0;
  };
  Seen look(unsigned volume, std::uint64_t number, std::span<const std::byte> bytes) const;
  std::vector<Volume> volumes_;
};

}  // namespace zpair::crash
