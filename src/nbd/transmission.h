#pragma once
// Requests of the transmission phase: taken from the wire and checked, as pure functions.
// Source: NBD protocol, doc/proto.md, "Transmission" and "Values".
#include <cstdint>
#include <span>

#include "block/block_device.h"
#include "nbd/handshake.h"
#include "nbd/wire.h"

namespace zpair::nbd {

struct WireRequest {
  std::uint16_t flags = 0;
  std::uint16_t command = 0;
  std::uint64_t cookie = 0;
  std::uint64_t offset_bytes = 0;
  std::uint32_t length_bytes = 0;
};

// invalid: the magic is wrong, or a write carries more than the greatest payload: the stream cannot be followed any more.
Result<WireRequest> parse_request(std::span<const std::byte, wire::request_bytes> bytes);

inline bool carries_payload(const WireRequest& request) { return request.command == wire::cmd_write; }

// err_none, or what the client gets as the answer. A read may start and end anywhere, all else at whole blocks.
wire::Errno check_request(const WireRequest& request, const ExportFacts& facts, const Handshake& handshake);

// For a request that check_request() accepted.
block::Operation operation_of(const WireRequest& request);

// ok gives err_none. `fenced` and `cancelled` have no answer: ends_client() is true for them.
wire::Errno errno_of(block::IoStatus status);
inline bool ends_client(block::IoStatus status) {
  return status == block::IoStatus::fenced || status == block::IoStatus::cancelled;
}

inline bool tells_content(const WireRequest& request) {
  return request.command == wire::cmd_read || request.command == wire::cmd_block_status;
}

// The header of an answer; returns its length. `data_bytes` follow: of a read, or of encode_extents().
inline constexpr std::size_t greatest_reply_header_bytes = wire::chunk_header_bytes + 8;
std::size_t encode_reply(std::span<std::byte, greatest_reply_header_bytes> into, const WireRequest& request,
                         wire::Errno error, std::size_t data_bytes, bool structured_replies);
std::vector<std::byte> encode_extents(std::span<const block::Extent> extents);

}  // namespace zpair::nbd
