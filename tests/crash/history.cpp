#include "history.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "sim/random.h"

namespace zpair::crash {

namespace {

constexpr std::size_t words = sector_bytes / 8;
using Words = std::array<std::uint64_t, words>;

// The first word says what the others follow from: volume, sector and sequence.
constexpr std::uint64_t stamp_of(unsigned volume, std::uint64_t number, std::uint32_t sequence) {
  return std::uint64_t{0x5a} << 56 | std::uint64_t{volume} << 52 | number << 32 | sequence;
}

Words words_of(unsigned volume, std::uint64_t number, std::uint32_t sequence) {
  Words all{};
  sim::Random random(stamp_of(volume, number, sequence));
  for (std::uint64_t& word : all) word = random.next();
  all[0] = stamp_of(volume, number, sequence);
  return all;
}

Words words_in(std::span<const std::byte> sector) {
  Words all;
  std::memcpy(all.data(), sector.data(), sector_bytes);
  return all;
}

}  // namespace

void fill_sector(std::span<std::byte> sector, unsigned volume, std::uint64_t number, std::uint32_t sequence) {
  Words all = words_of(volume, number, sequence);
  std::memcpy(sector.data(), all.data(), sector_bytes);
}

std::string to_string(const Finding& finding) {
  std::string holds = finding.unknown_bytes ? "bytes that no write put there"
                      : finding.found == 0  ? std::string("zeroes")
                                            : fmt::format("write {}", finding.found);
  return fmt::format("volume v{}, sector {}: holds {}, its client was told of write {}, the newest issued is {}",
                     finding.volume, finding.sector, holds, finding.answered, finding.issued);
}

void History::add_volume(std::uint64_t size_bytes) {
  volumes_.push_back({std::vector<Sector>(size_bytes / sector_bytes), size_bytes, 0});
}

void History::note(const Event& event) {
  using Kind = Event::Kind;
  if (event.kind == Kind::grew) volumes_[event.leg].least_bytes = event.size;
  if (event.kind != Kind::issued && event.kind != Kind::answered && event.kind != Kind::found) return;
  Volume& volume = volumes_[event.leg];
  volume.last_sequence = std::max(volume.last_sequence, event.io);
  for (Sector& sector : std::span(volume.sectors).subspan(event.offset, event.size)) {
    if (event.kind == Kind::issued) {
      sector.unsure = sector.issued != sector.answered;
      sector.issued = event.io;
      sector.issued_zeroes = event.flag;
    } else if (event.kind == Kind::found || event.io >= sector.answered) {
      sector.answered = event.io;
      sector.answered_zeroes = event.flag;
      if (event.kind == Kind::answered && event.io != sector.issued) continue;
      sector.issued = event.io;
      sector.issued_zeroes = event.flag;
      sector.unsure = false;
    }
  }
}

History::Seen History::look(unsigned volume, std::uint64_t number, std::span<const std::byte> bytes) const {
  const Sector& sector = volumes_[volume].sectors[number];
  const Words seen = words_in(bytes);
  const Words zeroes{};
  if (seen == zeroes) {
    if (sector.answered_zeroes) return {.allowed = true, .zeroes = true, .sequence = sector.answered};
    if (sector.issued_zeroes) return {.allowed = true, .zeroes = true, .sequence = sector.issued};
    if (sector.unsure) return {.allowed = true, .in_part = true};
    return {};
  }
  const auto sequence = static_cast<std::uint32_t>(seen[0]);
  const bool whole = seen == words_of(volume, number, sequence);
  if (whole && ((sequence == sector.answered && !sector.answered_zeroes) ||
                (sequence == sector.issued && !sector.issued_zeroes))) {
    return {.allowed = true, .sequence = sequence};
  }
  if (sector.unsure && (!whole || (sequence > sector.answered && sequence <= sector.issued)))
    return {.allowed = true, .in_part = true};
  if (sector.issued != sector.answered) {  // nobody was told of it: some of it may be there
    const Words before = sector.answered_zeroes ? zeroes : words_of(volume, number, sector.answered);
    const Words after = sector.issued_zeroes ? zeroes : words_of(volume, number, sector.issued);
    bool mixed = true;
    for (std::size_t i = 0; i < words; ++i) mixed = mixed && (seen[i] == before[i] || seen[i] == after[i]);
    if (mixed) return {.allowed = true, .in_part = true};
  }
  return {.unknown = !whole, .sequence = whole ? sequence : 0};
}

}  // namespace zpair::crash
