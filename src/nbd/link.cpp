#include "nbd/link.h"

#include <algorithm>
#include <cstring>

#include "nbd/wire.h"

namespace zpair::nbd {

namespace {

// On the wire, big endian: magic u64, length u32 of what follows, kind u8, node u8, relay 16 bytes, session u64,
// volume length u16, volume, count u32, ended sessions u64 each. The answer: magic u64, answer u8.
constexpr std::uint64_t header_magic = 0x5a504c494e4b3031;  // "ZPLINK01"
constexpr std::uint64_t answer_magic = 0x5a504c414e533031;  // "ZPLANS01"
constexpr std::size_t prefix_bytes = 12;
constexpr std::size_t greatest_header_bytes = 1u << 20;

}  // namespace

std::vector<std::byte> encode(const LinkHeader& header) {
  wire::Writer body;
  body.put(static_cast<std::uint8_t>(header.kind)).put(static_cast<std::uint8_t>(header.node));
  body.put(std::as_bytes(std::span(header.relay.bytes))).put(header.session);
  body.put(static_cast<std::uint16_t>(header.volume.size())).put(header.volume);
  body.put(static_cast<std::uint32_t>(header.ends.size()));
  for (std::uint64_t session : header.ends) body.put(session);
  std::vector<std::byte> bytes = body.take();
  wire::Writer whole;
  whole.put(header_magic).put(static_cast<std::uint32_t>(bytes.size())).put(std::span<const std::byte>(bytes));
  return whole.take();
}

Result<LinkHeader> decode_link_header(std::span<const std::byte> bytes) {
  wire::Reader in(bytes);
  auto magic = in.get<std::uint64_t>();
  auto length = in.get<std::uint32_t>();
  if (!in.ok() || magic != header_magic || length != in.left()) {
    return fail(ErrorCode::invalid, "these bytes are no header of a relay's link");
  }
  LinkHeader header;
  auto kind = in.get<std::uint8_t>();
  auto node = in.get<std::uint8_t>();
  auto relay = in.take(header.relay.bytes.size());
  header.session = in.get<std::uint64_t>();
  header.volume = in.text(in.get<std::uint16_t>());
  auto end_count = in.get<std::uint32_t>();
  bool kind_known =
      kind == static_cast<std::uint8_t>(LinkKind::client) || kind == static_cast<std::uint8_t>(LinkKind::probe);
  if (!in.ok() || !kind_known || node > 1 || in.left() != std::size_t{end_count} * sizeof(std::uint64_t)) {
    return fail(ErrorCode::invalid, "a relay's link header has fields that do not add up");
  }
  header.kind = static_cast<LinkKind>(kind);
  header.node = static_cast<NodeId>(node);
  std::memcpy(header.relay.bytes.data(), relay.data(), relay.size());
  for (std::uint32_t i = 0; i < end_count; ++i) header.ends.push_back(in.get<std::uint64_t>());
  return header;
}

block::Task<Result<LinkHeader>> read_link_header(block::Stream& stream) {
  std::vector<std::byte> bytes(prefix_bytes);
  auto prefix = co_await stream.read_exactly(bytes);
  if (!prefix) co_return std::unexpected(prefix.error());
  auto length = wire::load<std::uint32_t>(bytes.data() + 8);
  if (wire::load<std::uint64_t>(bytes.data()) != header_magic || length > greatest_header_bytes) {
    co_return fail(ErrorCode::invalid, "these bytes are no header of a relay's link");
  }
  bytes.resize(prefix_bytes + length);
  auto rest = co_await stream.read_exactly(std::span(bytes).subspan(prefix_bytes));
  if (!rest) co_return std::unexpected(rest.error());
  co_return decode_link_header(bytes);
}

block::Task<Result<void>> write_link_answer(block::Stream& stream, LinkAnswer answer) {
  wire::Writer out;
  out.put(answer_magic).put(static_cast<std::uint8_t>(answer));
  std::vector<std::byte> bytes = out.take();
  co_return co_await stream.write_all(std::span<const std::byte>(bytes));
}

block::Task<Result<LinkAnswer>> read_link_answer(block::Stream& stream) {
  std::byte bytes[9];
  auto got = co_await stream.read_exactly(bytes);
  if (!got) co_return std::unexpected(got.error());
  auto answer = static_cast<LinkAnswer>(bytes[8]);
  bool known = answer == LinkAnswer::admitted || answer == LinkAnswer::unknown_volume;
  if (wire::load<std::uint64_t>(bytes) != answer_magic || !known) {
    co_return fail(ErrorCode::invalid, "the owner's answer to a relay's link is none");
  }
  co_return answer;
}

}  // namespace zpair::nbd
