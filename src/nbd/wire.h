#pragma once
// The numbers of the NBD protocol, and big-endian integers in byte strings.
// Source: NBD protocol, doc/proto.md (newstyle negotiation, option types, reply types, transmission).
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace zpair::nbd::wire {

inline constexpr std::uint64_t greeting_magic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr std::uint64_t option_magic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr std::uint32_t request_magic = 0x25609513;
inline constexpr std::uint32_t simple_reply_magic = 0x67446698;
inline constexpr std::uint32_t structured_reply_magic = 0x668e33ef;

inline constexpr std::uint16_t server_flag_fixed_newstyle = 1;
inline constexpr std::uint16_t server_flag_no_zeroes = 2;
inline constexpr std::uint32_t client_flag_fixed_newstyle = 1;
inline constexpr std::uint32_t client_flag_no_zeroes = 2;

enum Option : std::uint32_t {
  opt_export_name = 1,
  opt_abort = 2,
  opt_list = 3,
  opt_starttls = 5,
  opt_info = 6,
  opt_go = 7,
  opt_structured_reply = 8,
  opt_list_meta_context = 9,
  opt_set_meta_context = 10,
};

enum OptionReply : std::uint32_t {
  rep_ack = 1,
  rep_server = 2,
  rep_info = 3,
  rep_meta_context = 4,
  rep_err_unsup = 0x80000001,
  rep_err_policy = 0x80000002,
  rep_err_invalid = 0x80000003,
  rep_err_unknown = 0x80000006,
};

enum Info : std::uint16_t { info_export = 0, info_name = 1, info_description = 2, info_block_size = 3 };

enum TransmissionFlag : std::uint16_t {
  flag_has_flags = 1 << 0,
  flag_read_only = 1 << 1,
  flag_send_flush = 1 << 2,
  flag_send_fua = 1 << 3,
  flag_send_trim = 1 << 5,
  flag_send_write_zeroes = 1 << 6,
  flag_send_df = 1 << 7,
  flag_can_multi_conn = 1 << 8,
  flag_send_fast_zero = 1 << 11,
};

enum Command : std::uint16_t {
  cmd_read = 0,
  cmd_write = 1,
  cmd_disc = 2,
  cmd_flush = 3,
  cmd_trim = 4,
  cmd_write_zeroes = 6,
  cmd_block_status = 7
};

enum CommandFlag : std::uint16_t {
  cmd_flag_fua = 1 << 0,
  cmd_flag_no_hole = 1 << 1,
  cmd_flag_df = 1 << 2,
  cmd_flag_req_one = 1 << 3,
  cmd_flag_fast_zero = 1 << 4,
};

enum Chunk : std::uint16_t {
  chunk_none = 0,
  chunk_offset_data = 1,
  chunk_offset_hole = 2,
  chunk_block_status = 5,
  chunk_error = 32769,
  chunk_error_offset = 32770
};
inline constexpr std::uint16_t chunk_flag_done = 1;

// The one metadata context that is served, and the flags of its extents.
inline constexpr std::string_view allocation_namespace = "base:";
inline constexpr std::string_view allocation_context = "base:allocation";
inline constexpr std::uint32_t allocation_context_id = 1;
inline constexpr std::uint32_t state_hole = 1 << 0;
inline constexpr std::uint32_t state_zero = 1 << 1;

enum Errno : std::uint32_t {
  err_none = 0,
  err_perm = 1,
  err_io = 5,
  err_inval = 22,
  err_nospc = 28,
  err_overflow = 75,
  err_notsup = 95
};

inline constexpr std::size_t request_bytes = 28;
inline constexpr std::size_t simple_reply_bytes = 16;
inline constexpr std::size_t chunk_header_bytes = 20;
inline constexpr std::size_t extent_bytes = 8;
inline constexpr std::uint32_t greatest_payload_bytes = 32u << 20;
inline constexpr std::uint32_t greatest_option_bytes = 64u << 10;
inline constexpr std::size_t greatest_name_bytes = 4096;

template <std::unsigned_integral Number>
void store(std::byte* at, Number number) {
  for (std::size_t i = 0; i < sizeof(Number); ++i)
    at[i] = static_cast<std::byte>(number >> (8 * (sizeof(Number) - 1 - i)));
}

template <std::unsigned_integral Number>
Number load(const std::byte* at) {
  Number number = 0;
  for (std::size_t i = 0; i < sizeof(Number); ++i)
    number = static_cast<Number>(number << 8) | static_cast<Number>(at[i]);
  return number;
}

// Builds a message.
class Writer {
 public:
  template <std::unsigned_integral Number>
  Writer& put(Number number) {
    bytes_.resize(bytes_.size() + sizeof(Number));
    store(bytes_.data() + bytes_.size() - sizeof(Number), number);
    return *this;
  }
  Writer& put(std::string_view text) { return put(std::as_bytes(std::span(text))); }
  Writer& put(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Writer& zeroes(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Takes a message apart; after a field that was not there, ok() is false and every further field is 0 or empty.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <std::unsigned_integral Number>
  Number get() {
    auto field = take(sizeof(Number));
    return field.empty() ? Number{0} : load<Number>(field.data());
  }
  std::span<const std::byte> take(std::size_t count) {
    if (bytes_.size() < count) {
      ok_ = false;
      bytes_ = {};
      return {};
    }
    auto field = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return field;
  }
  std::string_view text(std::size_t count) {
    auto field = take(count);
    return {reinterpret_cast<const char*>(field.data()), field.size()};
  }
  std::size_t left() const { return bytes_.size(); }
  bool ok() const { return ok_; }

 private:
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace zpair::nbd::wire
