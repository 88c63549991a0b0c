#include "drill/history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/unique_fd.h"

namespace zpair::drill {

namespace {

constexpr std::uint64_t stamp_magic = 0x7a70616972626c6b;
constexpr std::uint64_t state_magic = 0x7a70616972737431;
constexpr std::size_t most_findings = 100;

struct Stamp {  // at the start of the block, in the machine's byte order; the payload fills the rest
  std::uint64_t magic;
  std::uint8_t volume[16];
  std::uint64_t block_number;
  std::uint64_t sequence;
  std::uint64_t checksum;  // of the whole block with this field zero
};
constexpr std::size_t words_per_block = stamped_block_bytes / sizeof(std::uint64_t);

std::uint64_t next_random(std::uint64_t& state) {  // splitmix64
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::uint64_t checksum_of(std::span<const std::byte> block) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  for (std::size_t i = 0; i < words_per_block; ++i) {
    std::uint64_t word = 0;
    if (i != offsetof(Stamp, checksum) / sizeof word) std::memcpy(&word, block.data() + i * sizeof word, sizeof word);
    std::uint64_t& lane = lanes[i % 4];
    auto wide = static_cast<unsigned __int128>(lane ^ word) * 0x9fb21c651e98df25;
    lane = (static_cast<std::uint64_t>(wide) ^ static_cast<std::uint64_t>(wide >> 64)) + 0x9e3779b97f4a7c15 * (i + 1);
  }
  std::uint64_t sum = 0;
  for (std::uint64_t lane : lanes) {
    std::uint64_t state = sum ^ lane;
    sum = next_random(state);
  }
  return sum;
}

bool all_zero(std::span<const std::byte> block) {
  return block[0] == std::byte{0} && std::memcmp(block.data(), block.data() + 1, block.size() - 1) == 0;
}

}  // namespace

void stamp_block(std::span<std::byte> block, const Uuid& volume, std::uint64_t block_number, std::uint64_t sequence) {
  ZP_ASSERT(block.size() == stamped_block_bytes, "a stamp fills one block");
  Stamp stamp{stamp_magic, {}, block_number, sequence, 0};
  std::memcpy(stamp.volume, volume.bytes.data(), sizeof stamp.volume);
  std::memcpy(block.data(), &stamp, sizeof stamp);
  std::uint64_t state = block_number * 0x9e3779b97f4a7c15 ^ sequence;
  for (std::size_t at = sizeof stamp; at < block.size(); at += sizeof state) {
    std::uint64_t word = next_random(state);
    std::memcpy(block.data() + at, &word, sizeof word);
  }
  stamp.checksum = checksum_of(block);
  std::memcpy(block.data() + offsetof(Stamp, checksum), &stamp.checksum, sizeof stamp.checksum);
}

StampSeen read_stamp(std::span<const std::byte> block, const Uuid& volume, std::uint64_t block_number) {
  ZP_ASSERT(block.size() == stamped_block_bytes, "a stamp fills one block");
  Stamp stamp;
  std::memcpy(&stamp, block.data(), sizeof stamp);
  if (stamp.magic != stamp_magic) {
    if (all_zero(block)) return {StampSeen::Kind::zeroes, 0, ""};
    return {StampSeen::Kind::bad, 0, "bytes without a stamp"};
  }
  if (stamp.checksum != checksum_of(block)) {
    return {StampSeen::Kind::bad, 0,
            fmt::format("wrong checksum (its stamp says block {}, write {})", stamp.block_number, stamp.sequence)};
  }
  if (std::memcmp(stamp.volume, volume.bytes.data(), sizeof stamp.volume) != 0) {
    return {StampSeen::Kind::bad, 0, "a block of another volume or run"};
  }
  if (stamp.block_number != block_number) {
    return {StampSeen::Kind::bad, 0, fmt::format("the content of block {}", stamp.block_number)};
  }
  return {StampSeen::Kind::good, stamp.sequence, ""};
}

std::string_view name_of(Finding::Kind kind) {
  switch (kind) {
    case Finding::Kind::lost: return "lost";
    case Finding::Kind::corrupt: return "corrupt";
    case Finding::Kind::went_back: return "went back";
    case Finding::Kind::unborn: return "unborn";
  }
  return "?";
}

std::string Finding::to_string() const {
  std::string text = fmt::format("block {}: {}: holds write {}, must hold {} to {}", block_number, name_of(kind),
                                 found_sequence, least_sequence, issued_sequence);
  if (!detail.empty()) text += fmt::format(" ({})", detail);
  return text;
}

History::History(Uuid volume, std::uint64_t block_count, Before before)
    : volume_(volume), before_(before), blocks_(block_count) {}

bool History::claim(std::uint64_t first_block, std::uint64_t count) {
  ZP_ASSERT(first_block + count <= blocks_.size(), "a write lies inside the working set");
  auto blocks = std::span(blocks_).subspan(first_block, count);
  if (std::ranges::any_of(blocks, &Block::claimed)) return false;
  for (Block& block : blocks) block.claimed = true;
  return true;
}

void History::issue_write(std::uint64_t first_block, std::span<std::byte> bytes) {
  std::uint64_t count = bytes.size() / stamped_block_bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    Block& block = blocks_[first_block + i];
    ZP_ASSERT(block.claimed, "a write is claimed before it is issued");
    ++block.issued;
    stamp_block(bytes.subspan(i * stamped_block_bytes, stamped_block_bytes), volume_, first_block + i, block.issued);
  }
  counts_.issued_blocks += count;
}

void History::acknowledged(std::uint64_t first_block, std::uint64_t count) {
  for (Block& block : std::span(blocks_).subspan(first_block, count)) {
    block.acknowledged = block.issued;
    block.claimed = false;
  }
  counts_.acknowledged_blocks += count;
}

void History::outcome_unknown(std::uint64_t first_block, std::uint64_t count) {
  for (Block& block : std::span(blocks_).subspan(first_block, count)) block.claimed = false;
}

std::vector<std::uint64_t> History::read_floor(std::uint64_t first_block, std::uint64_t count) const {
  std::vector<std::uint64_t> floor;
  floor.reserve(count);
  for (const Block& block : std::span(blocks_).subspan(first_block, count)) {
    floor.push_back(std::max(block.acknowledged, block.seen));
  }
  return floor;
}

void History::check_read(std::uint64_t first_block, std::span<const std::byte> bytes,
                         std::span<const std::uint64_t> floor) {
  ZP_ASSERT(bytes.size() == floor.size() * stamped_block_bytes, "a read has a floor for each block");
  for (std::size_t i = 0; i < floor.size(); ++i) {
    check(first_block + i, bytes.subspan(i * stamped_block_bytes, stamped_block_bytes), floor[i],
          Finding::Kind::went_back);
  }
  counts_.reads_checked_blocks += floor.size();
}

void History::check_final(std::uint64_t first_block, std::span<const std::byte> bytes) {
  std::uint64_t count = bytes.size() / stamped_block_bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    const Block& block = blocks_[first_block + i];
    ZP_ASSERT(!block.claimed, "no write is under way at the final check");
    check(first_block + i, bytes.subspan(i * stamped_block_bytes, stamped_block_bytes),
          std::max(block.acknowledged, block.seen), Finding::Kind::lost);
  }
  counts_.verified_blocks += count;
}

void History::check(std::uint64_t block_number, std::span<const std::byte> bytes, std::uint64_t floor,
                    Finding::Kind when_less) {
  Block& block = blocks_[block_number];
  StampSeen stamp = read_stamp(bytes, volume_, block_number);
  if (stamp.kind == StampSeen::Kind::bad) {
    if (floor == 0 && before_ == Before::unknown) return;  // nothing of ours need be there
    report({Finding::Kind::corrupt, block_number, 0, floor, block.issued, stamp.why});
    return;
  }
  if (stamp.sequence > block.issued) {
    report({Finding::Kind::unborn, block_number, stamp.sequence, floor, block.issued, ""});
    return;
  }
  if (stamp.sequence < floor) {
    report({when_less, block_number, stamp.sequence, floor, block.issued, ""});
    return;
  }
  block.seen = std::max(block.seen, stamp.sequence);
}

void History::report(Finding finding) {
  switch (finding.kind) {
    case Finding::Kind::lost: ++counts_.lost; break;
    case Finding::Kind::corrupt: ++counts_.corrupt; break;
    case Finding::Kind::went_back: ++counts_.went_back; break;
    case Finding::Kind::unborn: ++counts_.unborn; break;
  }
  if (findings_.size() < most_findings) findings_.push_back(std::move(finding));
}

// ---- the state file: magic, volume, before, block count, then for each block acknowledged, issued, seen; a checksum ------

namespace {

struct StateHeader {
  std::uint64_t magic;
  std::uint8_t volume[16];
  std::uint64_t before;
  std::uint64_t block_count;
  std::uint64_t sum;  // of the numbers that follow
};

std::uint64_t sum_of(const std::vector<std::uint64_t>& numbers) {
  std::uint64_t sum = 0;
  for (std::uint64_t number : numbers) {
    std::uint64_t state = sum ^ number;
    sum = next_random(state);
  }
  return sum;
}

Result<void> write_whole(int fd, const void* bytes, std::size_t size) {
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    ssize_t count = ::write(fd, at, size);
    if (count < 0) return fail_errno(errno, "cannot write");
    at += count;
    size -= static_cast<std::size_t>(count);
  }
  return {};
}

Result<void> read_whole(int fd, void* bytes, std::size_t size) {
  char* at = static_cast<char*>(bytes);
  while (size > 0) {
    ssize_t count = ::read(fd, at, size);
    if (count < 0) return fail_errno(errno, "cannot read");
    if (count == 0) return fail(ErrorCode::invalid, "the file is cut short");
    at += count;
    size -= static_cast<std::size_t>(count);
  }
  return {};
}

}  // namespace

Result<void> History::save(const std::string& path) const {
  std::vector<std::uint64_t> numbers;
  numbers.reserve(blocks_.size() * 3);
  for (const Block& block : blocks_) {
    numbers.push_back(block.acknowledged);
    numbers.push_back(block.issued);
    numbers.push_back(block.seen);
  }
  StateHeader header{state_magic, {}, static_cast<std::uint64_t>(before_), blocks_.size(), sum_of(numbers)};
  std::memcpy(header.volume, volume_.bytes.data(), sizeof header.volume);
  std::string fresh = path + ".new";
  UniqueFd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return fail_errno(errno, "cannot create {}", fresh);
  Result<void> written = write_whole(file.get(), &header, sizeof header);
  if (written) written = write_whole(file.get(), numbers.data(), numbers.size() * sizeof(std::uint64_t));
  if (!written) return fail(written.error(), "cannot save the load's state {}", fresh);
  if (::fsync(file.get()) != 0) return fail_errno(errno, "cannot save the load's state {}", fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail_errno(errno, "cannot replace {}", path);
  return {};
}

Result<History> History::load(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail_errno(errno, "cannot open the load's state {}", path);
  StateHeader header{};
  Result<void> read = read_whole(file.get(), &header, sizeof header);
  if (!read) return fail(read.error(), "{} is no state of a load", path);
  struct stat facts{};
  ::fstat(file.get(), &facts);
  auto payload = static_cast<std::uint64_t>(facts.st_size) - sizeof header;
  if (header.magic != state_magic || header.before > 1 || header.block_count * 3 * sizeof(std::uint64_t) != payload) {
    return fail(ErrorCode::invalid, "{} is no state of a load", path);
  }
  std::vector<std::uint64_t> numbers(header.block_count * 3);
  read = read_whole(file.get(), numbers.data(), payload);
  if (!read) return fail(read.error(), "{} is no state of a load", path);
  if (sum_of(numbers) != header.sum) return fail(ErrorCode::invalid, "{}: wrong checksum", path);
  Uuid volume;
  std::memcpy(volume.bytes.data(), header.volume, sizeof header.volume);
  History history(volume, header.block_count, static_cast<Before>(header.before));
  for (std::size_t i = 0; i < history.blocks_.size(); ++i) {
    history.blocks_[i] = Block{numbers[i * 3], numbers[i * 3 + 1], numbers[i * 3 + 2], false};
  }
  return history;
}

}  // namespace zpair::drill
