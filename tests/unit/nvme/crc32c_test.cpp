#include "nvme/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace zpair::nvme {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Crc32c, known_values) {
  std::vector<std::byte> zeroes(32);
  std::vector<std::byte> ones(32, std::byte{0xff});
  EXPECT_EQ(crc32c(0, bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c(0, zeroes), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(0, ones), 0x62a8ab43u);
  EXPECT_EQ(crc32c(0, {}), 0u);
}

TEST(Crc32c, the_fast_way_equals_the_table_for_all_lengths_and_alignments) {
  std::mt19937 random(7);
  std::vector<std::byte> bytes(20000);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (int i = 0; i < 2000; ++i) {
    std::size_t begin = random() % 100;
    std::size_t size = i < 200 ? static_cast<std::size_t>(i) : random() % (bytes.size() - begin);
    std::span<const std::byte> part = std::span(bytes).subspan(begin, size);
    ASSERT_EQ(crc32c(0, part), crc32c_by_table(0, part)) << begin << " " << size;
  }
}

TEST(Crc32c, goes_on_from_a_former_part) {
  std::vector<std::byte> bytes(9000, std::byte{0x5a});
  bytes[4321] = std::byte{1};
  std::uint32_t whole = crc32c(0, bytes);
  for (std::size_t cut : {0u, 1u, 7u, 1536u, 4096u, 9000u}) {
    std::uint32_t first = crc32c(0, std::span(bytes).first(cut));
    EXPECT_EQ(crc32c(first, std::span(bytes).subspan(cut)), whole) << cut;
  }
}

}  // namespace
}  // namespace zpair::nvme
