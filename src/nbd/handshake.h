#pragma once
// The server's half of the fixed newstyle handshake as a pure function: what the client sent in, what to answer out.
// Threading: none. Errors: bad bytes from the client end the session or become an option's error reply.
// Source:    NBD protocol, doc/proto.md, "Fixed newstyle negotiation"; rule 10 for the names.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace zpair::nbd {

struct ExportFacts {
  std::string name;
  std::uint64_t size_bytes = 0;
  std::uint32_t block_size_bytes = 4096;
  bool read_only = false;
  std::uint64_t identity = 0;  // the volume's guid; another one of the same name has another
};

// What this client may see.
struct Directory {
  std::function<std::optional<ExportFacts>(const std::string& name)> find;
  std::function<std::vector<std::string>()> list;
  std::string default_name;  // what the empty name means; empty: nothing
  enum class ClientName : std::uint8_t { optional, required } client_name = ClientName::optional;
};

// POOL/VOLUME~IDENTITY@CLIENT or POOL/VOLUME@CLIENT~IDENTITY; identity and client may be missing. NBD knows no identity of a device: a client that
// names it is never served another volume that has the name by now (re-created, perhaps with its pool). ZFS allows no '~'.
struct ExportName {
  std::string volume;          // POOL/VOLUME, or empty
  std::uint64_t identity = 0;  // 0: whichever has the name
  std::string client;          // after the last '@', or empty
  bool means(const ExportFacts& facts) const { return identity == 0 || identity == facts.identity; }
};
Result<ExportName> parse_export_name(std::string_view text);

struct Handshake {
  bool no_zeroes = false;
  bool structured_replies = false;
  std::string allocation_of;  // the export whose base:allocation was asked for; empty: none
  std::uint32_t option_count = 0;
  ExportFacts chosen;  // once a step says `transmit`
  std::string client;
};

struct HandshakeStep {
  enum class Next : std::uint8_t { option, transmit, end } next = Next::option;
  std::vector<std::byte> answer;  // to send first
};

// The client may ask which parts of its export are holes.
inline bool tells_allocation(const Handshake& handshake) {
  return handshake.structured_replies && handshake.allocation_of == handshake.chosen.name &&
         !handshake.chosen.name.empty();
}

std::vector<std::byte> greeting();
HandshakeStep on_client_flags(Handshake& handshake, std::uint32_t flags);
HandshakeStep on_option(Handshake& handshake, const Directory& directory, std::uint32_t option,
                        std::span<const std::byte> data);
std::uint16_t transmission_flags(const ExportFacts& facts, const Handshake& handshake);

}  // namespace zpair::nbd
