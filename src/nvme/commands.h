#pragma once
// NVMe's commands, statuses and data structures, as far as zpair speaks them; what is ours is marked so (docs/wire.md).
// Source: NVMe Base 2.0 (2.3 for Cross-Controller Reset, TP8028), NVM Command Set 1.0, Fabrics in Base section 6.
#include <cstddef>
#include <cstdint>

namespace zpair::nvme {

namespace admin_opcode {
inline constexpr std::uint8_t get_log_page = 0x02;
inline constexpr std::uint8_t identify = 0x06;
inline constexpr std::uint8_t set_features = 0x09;
inline constexpr std::uint8_t get_features = 0x0a;
inline constexpr std::uint8_t async_event_request = 0x0c;
inline constexpr std::uint8_t keep_alive = 0x18;
inline constexpr std::uint8_t cross_controller_reset = 0x38;
inline constexpr std::uint8_t fabrics = 0x7f;
inline constexpr std::uint8_t reset_progress =
    0xc2;  // ours: CDW10-13 as of a Cross-Controller Reset; answers with data
}  // namespace admin_opcode

inline constexpr std::size_t reset_progress_bytes = 4096;

namespace io_opcode {
inline constexpr std::uint8_t flush = 0x00;
inline constexpr std::uint8_t write = 0x01;
inline constexpr std::uint8_t read = 0x02;
inline constexpr std::uint8_t write_zeroes = 0x08;
inline constexpr std::uint8_t dataset_management = 0x09;
inline constexpr std::uint8_t reservation_register = 0x0d;
inline constexpr std::uint8_t reservation_report = 0x0e;
inline constexpr std::uint8_t reservation_acquire = 0x11;
inline constexpr std::uint8_t reservation_release = 0x15;
inline constexpr std::uint8_t store_record = 0xc0;  // ours: CDW10-15 are epoch, revision, digest
inline constexpr std::uint8_t ping = 0xc4;          // ours: answers at once, for progress on an I/O queue
}  // namespace io_opcode

namespace fabrics_type {
inline constexpr std::uint8_t property_set = 0x00;
inline constexpr std::uint8_t connect = 0x01;
inline constexpr std::uint8_t property_get = 0x04;
}  // namespace fabrics_type

// SCT << 8 | SC.
enum class Status : std::uint16_t {
  success = 0x000,
  invalid_opcode = 0x001,
  invalid_field = 0x002,
  data_transfer_error = 0x004,
  internal_error = 0x006,
  aborted_by_request = 0x007,
  aborted_queue_deleted = 0x008,
  invalid_namespace = 0x00b,
  command_sequence_error = 0x00c,
  invalid_sgl = 0x00d,
  data_sgl_length_invalid = 0x00f,
  transient_transport_error = 0x022,
  host_id_inconsistent = 0x024,
  lba_out_of_range = 0x080,
  capacity_exceeded = 0x081,
  namespace_not_ready = 0x082,
  reservation_conflict = 0x083,  // result: the current epoch (ours)
  invalid_log_page = 0x109,
  connect_incompatible_format = 0x180,
  connect_controller_busy = 0x181,
  connect_invalid_parameters = 0x182,
  connect_invalid_host = 0x184,
  write_fault = 0x280,
  unrecovered_read_error = 0x281,
  closed = 0x7c0,  // ours: the namespace waits for its holder's fence after a boot
};
inline constexpr std::uint16_t status_do_not_retry = 0x8000;

constexpr std::uint16_t status_field_of(Status status) {
  auto field = static_cast<std::uint16_t>(static_cast<std::uint16_t>(status) << 1);
  bool again_is_useless = status == Status::reservation_conflict || status == Status::invalid_opcode ||
                          status == Status::invalid_field || status == Status::lba_out_of_range;
  return again_is_useless ? field | status_do_not_retry : field;
}
constexpr Status status_of_field(std::uint16_t field) { return static_cast<Status>((field >> 1) & 0x7ff); }

namespace property {
inline constexpr std::uint32_t capabilities = 0x00;   // CAP, 8 bytes
inline constexpr std::uint32_t version = 0x08;        // VS
inline constexpr std::uint32_t configuration = 0x14;  // CC
inline constexpr std::uint32_t status = 0x1c;         // CSTS
}  // namespace property

namespace feature {
inline constexpr std::uint8_t number_of_queues = 0x07;
inline constexpr std::uint8_t async_event_configuration = 0x0b;
inline constexpr std::uint8_t keep_alive_timer = 0x0f;
}  // namespace feature

namespace identify_cns {
inline constexpr std::uint8_t name_space = 0x00;
inline constexpr std::uint8_t controller = 0x01;
inline constexpr std::uint8_t active_namespaces = 0x02;
inline constexpr std::uint8_t descriptors = 0x03;
}  // namespace identify_cns

inline constexpr std::uint32_t version_2_0 = 0x00020000;
inline constexpr std::size_t identify_bytes = 4096;
inline constexpr std::uint32_t fua = 1u << 30;                   // CDW12
inline constexpr std::uint32_t deallocate = 1u << 25;            // CDW12 of Write Zeroes
inline constexpr std::uint32_t dsm_deallocate = 1u << 2;         // CDW11 of Dataset Management
inline constexpr std::uint64_t max_blocks_a_command = 65536;     // NLB is 16 bits, 0's based
inline constexpr std::uint16_t any_controller = 0xffff;          // CNTLID of an admin queue's Connect
inline constexpr std::uint8_t connect_no_flow_control = 1 << 2;  // CATTR

// Fabrics Connect, laid over a Command's bytes 40 and on.
struct ConnectParameters {
  std::uint16_t record_format;
  std::uint16_t qid;
  std::uint16_t sq_size;  // 0's based
  std::uint8_t attributes;
  std::uint8_t reserved;
  std::uint32_t keep_alive_ms;
  std::uint8_t reserved_2[12];
};
static_assert(sizeof(ConnectParameters) == 24);

struct ConnectData {
  std::uint8_t host_id[16];
  std::uint16_t cntlid;
  std::uint8_t reserved[238];
  char subsystem_nqn[256];
  char host_nqn[256];
  std::uint8_t reserved_2[256];
};
static_assert(sizeof(ConnectData) == 1024);

struct DsmRange {
  std::uint32_t attributes;
  std::uint32_t block_count;
  std::uint64_t first_block;
};
static_assert(sizeof(DsmRange) == 16);

struct RegisterData {
  std::uint64_t current_key;
  std::uint64_t new_key;
};
struct AcquireData {
  std::uint64_t current_key;
  std::uint64_t preempted_key;  // ours: always compared with the key in the fence file
};
static_assert(sizeof(RegisterData) == 16 && sizeof(AcquireData) == 16);

// Reservation Report with extended data (128-bit Host IDs).
struct ReservationStatus {
  std::uint32_t generation;
  std::uint8_t type;
  std::uint8_t registrant_count[2];
  std::uint8_t reserved[2];
  std::uint8_t persists;  // PTPLS
  std::uint8_t reserved_2[54];
};
static_assert(sizeof(ReservationStatus) == 64);
struct Registrant {
  std::uint16_t cntlid;
  std::uint8_t status;  // bit 0: holds the reservation
  std::uint8_t reserved[5];
  std::uint64_t key;
  std::uint8_t host_id[16];
  std::uint8_t reserved_2[32];
};
static_assert(sizeof(Registrant) == 64);

// Log page C0h of a namespace: ours.
inline constexpr std::uint8_t zpair_log_page = 0xc0;
inline constexpr std::uint32_t zpair_log_version = 1;
namespace zpair_log_flag {
inline constexpr std::uint32_t closed = 1 << 0;
inline constexpr std::uint32_t fenced_elsewhere = 1 << 1;
inline constexpr std::uint32_t unreadable = 1 << 2;
}  // namespace zpair_log_flag
struct ZpairLog {
  char magic[4];  // "ZPLG"
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t reserved;
  std::uint64_t verifier;
  std::uint64_t fence_epoch;
  std::uint8_t fence_host[16];
  std::uint64_t stored_epoch;
  std::uint64_t stored_rev;
  std::uint64_t stored_digest;
  std::uint8_t uuid[16];
  std::uint8_t reserved_2[40];
  char drive[384];  // durable id, ends with a zero byte
};
static_assert(sizeof(ZpairLog) == 512);

namespace reservation {
inline constexpr std::uint32_t register_key = 0;  // RREGA, CDW10 bits 2:0
inline constexpr std::uint32_t unregister_key = 1;
inline constexpr std::uint32_t replace_key = 2;
inline constexpr std::uint32_t ignore_existing_key = 1 << 3;  // IEKEY
inline constexpr std::uint32_t persist = 3u << 30;            // CPTPL
inline constexpr std::uint32_t acquire = 0;                   // RACQA
inline constexpr std::uint32_t preempt = 1;
inline constexpr std::uint32_t preempt_and_abort = 2;
inline constexpr std::uint32_t type_shift = 8;  // RTYPE
inline constexpr std::uint32_t write_exclusive = 1;
inline constexpr std::uint32_t release = 0;  // RRELA
inline constexpr std::uint32_t clear = 1;
}  // namespace reservation

// Byte offsets in the Identify Controller data structure.
namespace identify_controller {
inline constexpr std::size_t serial = 4;      // 20
inline constexpr std::size_t model = 24;      // 40
inline constexpr std::size_t firmware = 64;   // 8
inline constexpr std::size_t multipath = 76;  // CMIC
inline constexpr std::size_t mdts = 77;
inline constexpr std::size_t cntlid = 78;
inline constexpr std::size_t version = 80;
inline constexpr std::size_t attributes = 96;      // CTRATT
inline constexpr std::size_t type = 111;           // CNTRLTYPE
inline constexpr std::size_t uniquifier = 135;     // CIU
inline constexpr std::size_t random_number = 136;  // CIRN
inline constexpr std::size_t aerl = 259;
inline constexpr std::size_t lpa = 261;
inline constexpr std::size_t keep_alive_support = 320;  // KAS
inline constexpr std::size_t sqes = 512;
inline constexpr std::size_t cqes = 513;
inline constexpr std::size_t max_commands = 514;
inline constexpr std::size_t namespace_count = 516;
inline constexpr std::size_t oncs = 520;
inline constexpr std::size_t volatile_cache = 525;
inline constexpr std::size_t sgls = 536;
inline constexpr std::size_t subsystem_nqn = 768;
inline constexpr std::size_t ioccsz = 1792;
inline constexpr std::size_t iorcsz = 1796;
inline constexpr std::size_t msdbd = 1803;
inline constexpr std::size_t ccr_limit = 1807;  // CCRL
}  // namespace identify_controller

namespace identify_namespace {
inline constexpr std::size_t size = 0;
inline constexpr std::size_t capacity = 8;
inline constexpr std::size_t use = 16;
inline constexpr std::size_t multipath = 30;                 // NMIC
inline constexpr std::size_t reservation_capabilities = 31;  // RESCAP
inline constexpr std::size_t nguid = 104;
inline constexpr std::size_t lba_format = 128;
}  // namespace identify_namespace

inline constexpr const char* zpair_model = "zpair";

}  // namespace zpair::nvme
