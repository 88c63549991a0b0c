#pragma once
// The history checker: knows what every block of a volume may hold, and says when it holds something else.
//
// Each 4 KiB block carries a stamp: magic, volume id, block number, sequence, a checksum over all of it, and a random
// payload that follows from them. Sequences count up for each block. After any faults a block must hold the last acknowledged write or a later one
// that was issued; a read during the run must not go back: it returns at least what was acknowledged, and at least what
// an earlier read returned, before it was invoked.
//   lost      a block holds an older write than it must (or none)
//   corrupt   a block holds bytes that no write of ours put there
//   went_back a read during the run returned less than an earlier read or acknowledgement
//   unborn    a block holds a sequence that was never issued (bytes of another run: a wrong state file, or corruption)
// Ownership: plain values. Threading: none. At most one write of a block is under way at a time (claim/release).
// Errors:    of save and load: io, invalid.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/ids.h"

namespace zpair::drill {

inline constexpr std::uint32_t stamped_block_bytes = 4096;

// Fills one block of 4096 bytes. The payload is a function of the arguments.
void stamp_block(std::span<std::byte> block, const Uuid& volume, std::uint64_t block_number, std::uint64_t sequence);

struct StampSeen {
  enum class Kind : std::uint8_t { zeroes, good, bad } kind = Kind::bad;
  std::uint64_t sequence = 0;  // of a good one
  std::string why;             // of a bad one
};
StampSeen read_stamp(std::span<const std::byte> block, const Uuid& volume, std::uint64_t block_number);

struct Finding {
  enum class Kind : std::uint8_t { lost, corrupt, went_back, unborn } kind;
  std::uint64_t block_number;
  std::uint64_t found_sequence;  // 0: zeroes
  std::uint64_t least_sequence;  // what it had to hold at least
  std::uint64_t issued_sequence;
  std::string detail;
  std::string to_string() const;
};
std::string_view name_of(Finding::Kind kind);

class History {
 public:
  // What blocks hold that were never written by us: zeroes (anything else is corrupt), or unknown bytes of others.
  enum class Before : std::uint8_t { zeroes, unknown };
  History(Uuid volume, std::uint64_t block_count, Before before);

  const Uuid& volume() const { return volume_; }
  std::uint64_t block_count() const { return blocks_.size(); }

  // Takes the blocks for one write; false (and nothing taken) when one of them has a write under way.
  bool claim(std::uint64_t first_block, std::uint64_t count);
  // A new sequence for each claimed block, stamped into `bytes` (count × 4096).
  void issue_write(std::uint64_t first_block, std::span<std::byte> bytes);
  void acknowledged(std::uint64_t first_block, std::uint64_t count);     // of the claimed write; releases
  void outcome_unknown(std::uint64_t first_block, std::uint64_t count);  // it failed: may or may not be there; releases

  // What a read that starts now must return at least, block by block.
  std::vector<std::uint64_t> read_floor(std::uint64_t first_block, std::uint64_t count) const;
  // Checks what a read returned, remembers it as seen.
  void check_read(std::uint64_t first_block, std::span<const std::byte> bytes, std::span<const std::uint64_t> floor);
  // Checks after the faults, with no write under way.
  void check_final(std::uint64_t first_block, std::span<const std::byte> bytes);

  struct Counts {
    std::uint64_t issued_blocks = 0, acknowledged_blocks = 0;
    std::uint64_t reads_checked_blocks = 0, verified_blocks = 0;
    std::uint64_t lost = 0, corrupt = 0, went_back = 0, unborn = 0;
    std::uint64_t bad() const { return lost + corrupt + went_back + unborn; }
  };
  const Counts& counts() const { return counts_; }
  const std::vector<Finding>& findings() const { return findings_; }  // the first 100

  // So that a later process can verify (or go on). A write that was under way when saved counts as of unknown outcome.
  Result<void> save(const std::string& path) const;  // replaces the file atomically, fsynced
  static Result<History> load(const std::string& path);

 private:
  struct Block {
    std::uint64_t acknowledged = 0;
    std::uint64_t issued = 0;
    std::uint64_t seen = 0;  // the highest that a read returned
    bool claimed = false;
  };
  void check(std::uint64_t block_number, std::span<const std::byte> bytes, std::uint64_t floor,
             Finding::Kind when_less);
  void report(Finding finding);

  Uuid volume_;
  Before before_;
  std::vector<Block> blocks_;
  Counts counts_;
  std::vector<Finding> findings_;
};

}  // namespace zpair::drill
