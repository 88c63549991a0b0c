#include "node/uberblock.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace zpair::node {

namespace {
constexpr std::uint64_t label_bytes = 256 * 1024;
constexpr std::uint64_t ring_bytes = 128 * 1024;
constexpr std::uint64_t ring_offset_bytes = 128 * 1024;
constexpr std::size_t smallest_slot_bytes = 1024;
constexpr std::uint64_t magic = 0x00bab10c;

std::uint64_t word_at(std::span<const std::byte> bytes, std::size_t offset_bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + offset_bytes, sizeof value);
  return value;
}
}  // namespace

Txg newest_txg_in(std::span<const std::byte> ring) {
  std::uint64_t newest = 0;
  for (std::size_t at = 0; at + smallest_slot_bytes <= ring.size(); at += smallest_slot_bytes) {
    if (word_at(ring, at) == magic) newest = std::max(newest, word_at(ring, at + 16));
  }
  return Txg{newest};
}

block::Task<Txg> newest_uberblock_txg(block::BlockDevice& device) {
  std::uint64_t size_bytes = device.geometry().size_bytes / label_bytes * label_bytes;
  if (size_bytes < 4 * label_bytes) co_return Txg{};
  std::array<std::uint64_t, 4> labels{0, label_bytes, size_bytes - 2 * label_bytes, size_bytes - label_bytes};
  std::vector<std::byte> ring(ring_bytes);
  Txg newest;
  for (std::uint64_t label : labels) {
    auto outcome = co_await block::read(device, label + ring_offset_bytes, ring);
    if (outcome.ok()) newest = std::max(newest, newest_txg_in(ring));
  }
  // Checksums are not looked at, so the newest slot may be torn: the one before it is certain.
  co_return newest.value > 0 ? Txg{newest.value - 1} : newest;
}

}  // namespace zpair::node
