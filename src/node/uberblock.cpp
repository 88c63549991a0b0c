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

Uberblock newest_in(std::span<const std::byte> ring) {
  Uberblock newest;
  for (std::size_t at = 0; at + smallest_slot_bytes <= ring.size(); at += smallest_slot_bytes) {
    if (word_at(ring, at) != magic || word_at(ring, at + 16) <= newest.txg.value) continue;
    newest = {Txg{word_at(ring, at + 16)}, word_at(ring, at + 32)};
  }
  return newest;
}

block::Task<Uberblock> newest_uberblock(block::BlockDevice& device) {
  std::uint64_t size_bytes = device.geometry().size_bytes / label_bytes * label_bytes;
  if (size_bytes < 4 * label_bytes) co_return Uberblock{};
  std::array<std::uint64_t, 4> labels{0, label_bytes, size_bytes - 2 * label_bytes, size_bytes - label_bytes};
  std::vector<std::byte> ring(ring_bytes);
  Uberblock newest;
  for (std::uint64_t label : labels) {
    auto outcome = co_await block::read(device, label + ring_offset_bytes, ring);
    if (!outcome.ok()) continue;
    const Uberblock here = newest_in(ring);
    if (here.txg > newest.txg) newest = here;
  }
  // Checksums are not looked at, so the newest slot may be torn: the one before it is certain.
  if (newest.txg.value > 0) newest.txg = Txg{newest.txg.value - 1};
  co_return newest;
}

}  // namespace zpair::node
