#pragma once
// What a relay and the owner's server say to each other before the first NBD byte of a relayed client.
//
// The relay connects over a path and sends a LinkHeader; the server ends every link that it names (and waits until their
// requests have finished), then answers with a LinkAnswer. The relay forwards no byte of the client before that answer
// says `admitted`. Therefore bytes of a former link that come late, out of a path that was dead, are never processed
// after the new link was admitted: their link has ended, and a header that itself comes late has no bytes behind it.
//
// A probe is a link without a client: the server echoes what comes, so that the relay notices a path that swallows
// bytes while its TCP connection looks alive.
// Errors: invalid (bytes that are no header).
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/ids.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::nbd {

enum class LinkKind : std::uint8_t { client = 1, probe = 2 };
enum class LinkAnswer : std::uint8_t { admitted = 1, unknown_volume = 2 };

struct LinkHeader {
  LinkKind kind = LinkKind::client;
  NodeId node = NodeId::a;          // the relay's
  Uuid relay;                       // random at each start of a relay: links of the node's former relays end
  std::uint64_t session = 0;        // one for each client connection at the relay
  std::string volume;               // POOL/VOLUME~IDENTITY; empty for a probe
  std::vector<std::uint64_t> ends;  // sessions of this relay that are over
  bool operator==(const LinkHeader&) const = default;
};

std::vector<std::byte> encode(const LinkHeader& header);
Result<LinkHeader> decode_link_header(std::span<const std::byte> bytes);  // what encode() made, whole

block::Task<Result<LinkHeader>> read_link_header(block::Stream& stream);
block::Task<Result<void>> write_link_answer(block::Stream& stream, LinkAnswer answer);
block::Task<Result<LinkAnswer>> read_link_answer(block::Stream& stream);

}  // namespace zpair::nbd
