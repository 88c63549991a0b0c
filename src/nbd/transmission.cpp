#include "nbd/transmission.h"

namespace zpair::nbd {

namespace {

std::uint16_t known_flags(std::uint16_t command, bool structured_replies) {
  switch (command) {
    case wire::cmd_read: return structured_replies ? wire::cmd_flag_df | wire::cmd_flag_fua : wire::cmd_flag_fua;
    case wire::cmd_write_zeroes: return wire::cmd_flag_fua | wire::cmd_flag_no_hole | wire::cmd_flag_fast_zero;
    default: return wire::cmd_flag_fua;  // allowed, and without meaning, where nothing is written
  }
}

bool changes_data(std::uint16_t command) {
  return command == wire::cmd_write || command == wire::cmd_trim || command == wire::cmd_write_zeroes;
}

}  // namespace

Result<WireRequest> parse_request(std::span<const std::byte, wire::request_bytes> bytes) {
  wire::Reader in(bytes);
  auto magic = in.get<std::uint32_t>();
  if (magic != wire::request_magic)
    return fail(ErrorCode::invalid, "a request starts with {:#x} instead of its magic", magic);
  WireRequest request;
  request.flags = in.get<std::uint16_t>();
  request.command = in.get<std::uint16_t>();
  request.cookie = in.get<std::uint64_t>();
  request.offset_bytes = in.get<std::uint64_t>();
  request.length_bytes = in.get<std::uint32_t>();
  if (carries_payload(request) && request.length_bytes > wire::greatest_payload_bytes) {
    return fail(ErrorCode::invalid, "a write of {} bytes is above the limit of {}", request.length_bytes,
                wire::greatest_payload_bytes);
  }
  return request;
}

wire::Errno check_request(const WireRequest& request, const ExportFacts& facts, bool structured_replies) {
  if ((request.flags & ~known_flags(request.command, structured_replies)) != 0) return wire::err_inval;
  if (changes_data(request.command) && facts.read_only) return wire::err_perm;
  switch (request.command) {
    case wire::cmd_flush:
      return request.offset_bytes == 0 && request.length_bytes == 0 ? wire::err_none : wire::err_inval;
    case wire::cmd_read:
    case wire::cmd_write:
    case wire::cmd_trim:
    case wire::cmd_write_zeroes: break;
    default: return wire::err_inval;
  }
  if (request.length_bytes == 0) return wire::err_inval;
  bool inside =
      request.offset_bytes <= facts.size_bytes && request.length_bytes <= facts.size_bytes - request.offset_bytes;
  if (!inside) {
    bool writes = request.command == wire::cmd_write || request.command == wire::cmd_write_zeroes;
    return writes ? wire::err_nospc : wire::err_inval;
  }
  if (request.command == wire::cmd_read) {
    return request.length_bytes <= wire::greatest_payload_bytes ? wire::err_none : wire::err_inval;
  }
  bool whole_blocks =
      request.offset_bytes % facts.block_size_bytes == 0 && request.length_bytes % facts.block_size_bytes == 0;
  return whole_blocks ? wire::err_none : wire::err_inval;
}

block::Operation operation_of(const WireRequest& request) {
  switch (request.command) {
    case wire::cmd_read: return block::Operation::read;
    case wire::cmd_write: return block::Operation::write;
    case wire::cmd_trim: return block::Operation::trim;
    case wire::cmd_write_zeroes: return block::Operation::write_zeroes;
    default: return block::Operation::flush;
  }
}

wire::Errno errno_of(block::IoStatus status) {
  switch (status) {
    case block::IoStatus::ok: return wire::err_none;
    case block::IoStatus::no_space: return wire::err_nospc;
    case block::IoStatus::invalid: return wire::err_inval;
    default: return wire::err_io;
  }
}

std::size_t encode_reply(std::span<std::byte, greatest_reply_header_bytes> into, const WireRequest& request,
                         wire::Errno error, bool structured_replies) {
  std::byte* at = into.data();
  if (request.command != wire::cmd_read || !structured_replies) {
    wire::store(at, wire::simple_reply_magic);
    wire::store(at + 4, static_cast<std::uint32_t>(error));
    wire::store(at + 8, request.cookie);
    return wire::simple_reply_bytes;
  }
  bool good = error == wire::err_none;
  std::uint16_t type = good ? wire::chunk_offset_data : wire::chunk_error;
  wire::store(at, wire::structured_reply_magic);
  wire::store(at + 4, wire::chunk_flag_done);
  wire::store(at + 6, type);
  wire::store(at + 8, request.cookie);
  wire::store(at + 16, std::uint32_t{good ? 8 + request.length_bytes : 6});
  if (good) {
    wire::store(at + 20, request.offset_bytes);
    return wire::chunk_header_bytes + 8;
  }
  wire::store(at + 20, static_cast<std::uint32_t>(error));
  wire::store(at + 24, std::uint16_t{0});  // no message
  return wire::chunk_header_bytes + 6;
}

}  // namespace zpair::nbd
