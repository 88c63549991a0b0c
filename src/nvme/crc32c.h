#pragma once
// CRC32C (Castagnoli), NVMe/TCP's digest: by the processor's instruction, three streams at a time; by table elsewhere.
// Source: RFC 3720, appendix B.4; TCP Transport 1.0, section 3.3.1.
#include <cstddef>
#include <cstdint>
#include <span>

namespace zpair::nvme {

// Continues from `crc`, the value of what came before (0 at the start): crc32c(crc32c(0, a), b) is that of a and b in a row.
std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> bytes);

// The table's way, whatever the processor: what the fast one is tested against.
std::uint32_t crc32c_by_table(std::uint32_t crc, std::span<const std::byte> bytes);

}  // namespace zpair::nvme
