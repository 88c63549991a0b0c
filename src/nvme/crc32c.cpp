#include "nvme/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

// The instruction takes one word a cycle but answers after three, so three streams run side by side. Their parts are put
// together by "shifting" a CRC over the length of what follows it, which is linear: four table lookups a shift.

namespace zpair::nvme {

namespace {

constexpr std::uint32_t polynomial = 0x82f63b78u;  // reflected

constexpr std::array<std::uint32_t, 256> make_byte_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? polynomial : 0);
    table[i] = value;
  }
  return table;
}
constexpr auto byte_table = make_byte_table();

#if defined(__x86_64__)

constexpr std::size_t lane_bytes = 512;

// What one CRC becomes after lane_bytes zero bytes, by each of its four bytes.
using ShiftTable = std::array<std::array<std::uint32_t, 256>, 4>;

ShiftTable make_shift_table() {
  std::array<std::uint32_t, 32> of_bit{};
  for (int bit = 0; bit < 32; ++bit) {
    std::uint32_t value = 1u << bit;
    for (std::size_t i = 0; i < lane_bytes; ++i) value = (value >> 8) ^ byte_table[value & 0xff];
    of_bit[bit] = value;
  }
  ShiftTable table{};
  for (int byte = 0; byte < 4; ++byte) {
    for (std::uint32_t i = 0; i < 256; ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        if (i & (1u << bit)) table[byte][i] ^= of_bit[byte * 8 + bit];
      }
    }
  }
  return table;
}

const ShiftTable& shift_table() {
  static const ShiftTable table = make_shift_table();
  return table;
}

std::uint32_t shifted(const ShiftTable& table, std::uint32_t crc) {
  return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff] ^ table[3][crc >> 24];
}

std::uint64_t word_at(const std::byte* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_by_instruction(std::uint32_t crc,
                                                                      std::span<const std::byte> bytes) {
  const ShiftTable& table = shift_table();
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t first = ~crc;
  while (left >= 3 * lane_bytes) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t i = 0; i < lane_bytes; i += 8) {
      first = _mm_crc32_u64(first, word_at(at + i));
      second = _mm_crc32_u64(second, word_at(at + lane_bytes + i));
      third = _mm_crc32_u64(third, word_at(at + 2 * lane_bytes + i));
    }
    std::uint32_t both = shifted(table, static_cast<std::uint32_t>(first)) ^ static_cast<std::uint32_t>(second);
    first = shifted(table, both) ^ static_cast<std::uint32_t>(third);
    at += 3 * lane_bytes;
    left -= 3 * lane_bytes;
  }
  for (; left >= 8; at += 8, left -= 8) first = _mm_crc32_u64(first, word_at(at));
  auto narrow = static_cast<std::uint32_t>(first);
  for (; left > 0; ++at, --left) narrow = _mm_crc32_u8(narrow, static_cast<std::uint8_t>(*at));
  return ~narrow;
}

#endif

}  // namespace

std::uint32_t crc32c_by_table(std::uint32_t crc, std::span<const std::byte> bytes) {
  crc = ~crc;
  for (std::byte byte : bytes) crc = (crc >> 8) ^ byte_table[(crc ^ static_cast<std::uint32_t>(byte)) & 0xff];
  return ~crc;
}

std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> bytes) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return crc32c_by_instruction(crc, bytes);
#endif
  return crc32c_by_table(crc, bytes);
}

}  // namespace zpair::nvme
