#include "nbd/transmission.h"

namespace zpair::nbd {

namespace {

std::uint16_t known_flags(std::uint16_t command, bool structured_replies) {
  switch (command) {
    case wire::cmd_read: return structured_replies ? wire::cmd_flag_df | wire::cmd_flag_fua : wire::cmd_flag_fua;
    case wire::cmd_write_zeroes: return wire::cmd_flag_fua | wire::cmd_flag_no_hole | wire::cmd_flag_fast_zero;
    case wire::cmd_block_status: return wire::cmd_flag_fua | wire::cmd_flag_req_one;
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

wire::Errno check_request(const WireRequest& request, const ExportFacts& facts, const Handshake& handshake) {
  if ((request.flags & ~known_flags(request.command, handshake.structured_replies)) != 0) return wire::err_inval;
  if (changes_data(request.command) && facts.read_only) return wire::err_perm;
  switch (request.command) {
    case wire::cmd_flush:
      return request.offset_bytes == 0 && request.length_bytes == 0 ? wire::err_none : wire::err_inval;
    case wire::cmd_read:
    case wire::cmd_write:
    case wire::cmd_trim:
    case wire::cmd_write_zeroes: break;
    case wire::cmd_block_status:
      if (!tells_allocation(handshake)) return wire::err_inval;
      break;
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
    case wire::cmd_block_status: return block::Operation::extents;
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
                         wire::Errno error, std::size_t data_bytes, bool structured_replies) {
  std::byte* at = into.data();
  if (!tells_content(request) || !structured_replies) {
    wire::store(at, wire::simple_reply_magic);
    wire::store(at + 4, static_cast<std::uint32_t>(error));
    wire::store(at + 8, request.cookie);
    return wire::simple_reply_bytes;
  }
  bool good = error == wire::err_none;
  bool is_read = request.command == wire::cmd_read;
  std::uint16_t type = !good ? wire::chunk_error : is_read ? wire::chunk_offset_data : wire::chunk_block_status;
  wire::store(at, wire::structured_reply_magic);
  wire::store(at + 4, wire::chunk_flag_done);
  wire::store(at + 6, type);
  wire::store(at + 8, request.cookie);
  std::size_t more_header_bytes = !good ? 6 : is_read ? 8 : 4;
  wire::store(at + 16, static_cast<std::uint32_t>(more_header_bytes + data_bytes));
  if (good) {
    if (is_read) wire::store(at + 20, request.offset_bytes);
    if (!is_read) wire::store(at + 20, wire::allocation_context_id);
    return wire::chunk_header_bytes + more_header_bytes;
  }
  wire::store(at + 20, static_cast<std::uint32_t>(error));
  wire::store(at + 24, std::uint16_t{0});  // no message
  return wire::chunk_header_bytes + more_header_bytes;
}

std::vector<std::byte> encode_extents(std::span<const block::Extent> extents) {
  wire::Writer out;
  for (const block::Extent& extent : extents) {
    out.put(static_cast<std::uint32_t>(extent.size_bytes));  // within a request, whose length has 32 bits
    out.put(extent.is_hole ? wire::state_hole | wire::state_zero : std::uint32_t{0});
  }
  return out.take();
}

}  // namespace zpair::nbd
