#include "node/uberblock.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace zpair::node {
namespace {

void put(std::vector<std::byte>& ring, std::size_t slot_bytes, std::size_t slot, std::uint64_t txg,
         std::uint64_t magic = 0x00bab10c) {
  std::uint64_t words[5] = {magic, 5000, txg, 0, 1'000'000 + txg};
  std::memcpy(ring.data() + slot * slot_bytes, words, sizeof words);
}

TEST(Uberblock, the_highest_txg_of_the_ring_counts) {
  for (std::size_t slot_bytes : {std::size_t{1024}, std::size_t{4096}, std::size_t{8192}}) {
    std::vector<std::byte> ring(128 * 1024);
    put(ring, slot_bytes, 0, 100);
    put(ring, slot_bytes, 3, 107);
    put(ring, slot_bytes, 4, 93);
    EXPECT_EQ(newest_in(ring).txg, Txg{107}) << slot_bytes;
    EXPECT_EQ(newest_in(ring).written_s, 1'000'107u) << slot_bytes;
  }
}

TEST(Uberblock, an_empty_or_foreign_ring_has_none) {
  std::vector<std::byte> ring(128 * 1024);
  EXPECT_EQ(newest_in(ring).txg, Txg{});
  put(ring, 1024, 2, 55, 0x12345678);
  EXPECT_EQ(newest_in(ring).txg, Txg{});
}

}  // namespace
}  // namespace zpair::node
