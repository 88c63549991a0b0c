#pragma once
// NVMe/TCP's PDUs, byte for byte. All numbers are little endian, as the machine's are.
// Source: NVMe TCP Transport 1.0, section 3.6.
#include <bit>
#include <cstdint>
#include <cstring>

namespace zpair::nvme {

static_assert(std::endian::native == std::endian::little, "the wire structs are read in place");

enum class PduType : std::uint8_t {
  ic_req = 0x00,
  ic_resp = 0x01,
  h2c_term_req = 0x02,
  c2h_term_req = 0x03,
  capsule_cmd = 0x04,
  capsule_resp = 0x05,
  h2c_data = 0x06,
  c2h_data = 0x07,
  r2t = 0x09,
};

namespace pdu_flag {
inline constexpr std::uint8_t header_digest = 1 << 0;
inline constexpr std::uint8_t data_digest = 1 << 1;
inline constexpr std::uint8_t last = 1 << 2;
inline constexpr std::uint8_t success = 1 << 3;  // C2HData: stands for a successful response capsule
}  // namespace pdu_flag

// Laid out so that nothing needs packing: every field is naturally aligned, or is made of bytes.

struct PduHeader {
  PduType type;
  std::uint8_t flags;
  std::uint8_t header_bytes;  // HLEN: without the digest
  std::uint8_t data_offset;   // PDO
  std::uint32_t total_bytes;  // PLEN: header, digests, padding, data
};
static_assert(sizeof(PduHeader) == 8);

struct IcReq {
  PduHeader header;
  std::uint16_t format;         // PFV: 0
  std::uint8_t data_alignment;  // HPDA: 0
  std::uint8_t digests;         // bit 0 header, bit 1 data
  std::uint32_t max_r2t;        // MAXR2T, 0's based
  std::uint8_t reserved[112];
};
static_assert(sizeof(IcReq) == 128);

struct IcResp {
  PduHeader header;
  std::uint16_t format;
  std::uint8_t data_alignment;  // CPDA: 0
  std::uint8_t digests;
  std::uint32_t max_h2c_data;  // MAXH2CDATA
  std::uint8_t reserved[112];
};
static_assert(sizeof(IcResp) == 128);

struct TermReq {
  PduHeader header;
  std::uint16_t fatal_error;    // FES
  std::uint16_t error_info[2];  // FEI, 32 bits at an odd place
  std::uint8_t reserved[10];
};
static_assert(sizeof(TermReq) == 24);

enum class FatalError : std::uint16_t {
  invalid_header = 1,
  sequence = 2,
  header_digest = 3,
  data_out_of_range = 4,
  data_limit_exceeded = 5,
  unsupported_parameter = 6,
};

// H2CData, C2HData and R2T share a shape.
struct DataPdu {
  PduHeader header;
  std::uint16_t cid;           // CCCID
  std::uint16_t transfer_tag;  // TTAG; reserved in C2HData
  std::uint32_t offset_bytes;  // DATAO, R2TO
  std::uint32_t size_bytes;    // DATAL, R2TL
  std::uint32_t reserved;
};
static_assert(sizeof(DataPdu) == 24);

struct SglDescriptor {
  std::uint64_t address;
  std::uint32_t size_bytes;
  std::uint8_t reserved[3];
  std::uint8_t type;
};
static_assert(sizeof(SglDescriptor) == 16);
inline constexpr std::uint8_t sgl_in_capsule = 0x01;  // data block, offset into the capsule
inline constexpr std::uint8_t sgl_transport = 0x5a;   // transport data block: the data travels in PDUs of its own

// A submission queue entry.
struct Command {
  std::uint8_t opcode;
  std::uint8_t flags;  // bits 7:6: PSDT, 01b = SGL
  std::uint16_t cid;
  std::uint32_t nsid;  // fabrics commands: byte 0 is FCTYPE
  std::uint32_t cdw2;
  std::uint32_t cdw3;
  std::uint64_t metadata;
  SglDescriptor data;
  std::uint32_t cdw10;
  std::uint32_t cdw11;
  std::uint32_t cdw12;
  std::uint32_t cdw13;
  std::uint32_t cdw14;
  std::uint32_t cdw15;

  std::uint64_t cdw10_11() const { return cdw10 | static_cast<std::uint64_t>(cdw11) << 32; }
  std::uint64_t cdw12_13() const { return cdw12 | static_cast<std::uint64_t>(cdw13) << 32; }
  std::uint64_t cdw14_15() const { return cdw14 | static_cast<std::uint64_t>(cdw15) << 32; }
  void set_cdw10_11(std::uint64_t value) {
    cdw10 = static_cast<std::uint32_t>(value);
    cdw11 = static_cast<std::uint32_t>(value >> 32);
  }
  void set_cdw12_13(std::uint64_t value) {
    cdw12 = static_cast<std::uint32_t>(value);
    cdw13 = static_cast<std::uint32_t>(value >> 32);
  }
  void set_cdw14_15(std::uint64_t value) {
    cdw14 = static_cast<std::uint32_t>(value);
    cdw15 = static_cast<std::uint32_t>(value >> 32);
  }
};
static_assert(sizeof(Command) == 64);
inline constexpr std::uint8_t command_uses_sgl = 0x40;

// A completion queue entry. Status without the phase bit: (SCT << 8 | SC) << 1, DNR in bit 15.
struct Completion {
  std::uint64_t result;  // Dwords 0 and 1
  std::uint16_t sq_head;
  std::uint16_t sq_id;
  std::uint16_t cid;
  std::uint16_t status_field;
};
static_assert(sizeof(Completion) == 16);

struct CapsuleCmd {
  PduHeader header;
  Command command;
};
static_assert(sizeof(CapsuleCmd) == 72);

struct CapsuleResp {
  PduHeader header;
  Completion completion;
};
static_assert(sizeof(CapsuleResp) == 24);

inline constexpr std::size_t digest_bytes = 4;
inline constexpr std::size_t max_header_bytes = sizeof(IcReq);

// Digests that both sides agreed upon.
struct Digests {
  bool header = false;
  bool data = false;
  std::size_t header_bytes() const { return header ? digest_bytes : 0; }
  std::size_t data_bytes() const { return data ? digest_bytes : 0; }
};

}  // namespace zpair::nvme
