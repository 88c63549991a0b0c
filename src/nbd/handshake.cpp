#include "nbd/handshake.h"

#include <algorithm>
#include <charconv>

#include "nbd/wire.h"

namespace zpair::nbd {

namespace {

using wire::Reader;
using wire::Writer;
using Next = HandshakeStep::Next;

constexpr std::uint32_t greatest_option_count = 256;  // a client that only ever asks is ended

void add_reply(Writer& out, std::uint32_t option, std::uint32_t type, std::span<const std::byte> data = {}) {
  out.put(wire::option_reply_magic).put(option).put(type).put(static_cast<std::uint32_t>(data.size())).put(data);
}

HandshakeStep refuse(std::uint32_t option, std::uint32_t type, std::string_view message) {
  Writer out;
  add_reply(out, option, type, std::as_bytes(std::span(message)));
  return {Next::option, out.take()};
}

HandshakeStep acknowledge(std::uint32_t option, Next next) {
  Writer out;
  add_reply(out, option, wire::rep_ack);
  return {next, out.take()};
}

struct Found {
  ExportFacts facts;
  std::string client;
};

// invalid: no name at all; refused: a client name is missing; not_found.
Result<Found> find(const Directory& directory, std::string_view text) {
  ZP_TRY(name, parse_export_name(text));
  std::string volume = name.volume.empty() ? directory.default_name : name.volume;
  if (directory.client_name == Directory::ClientName::required && name.client.empty()) {
    return fail(ErrorCode::refused, "over TCP a client name is required: ask for {}@CLIENT",
                volume.empty() ? "POOL/VOLUME" : volume);
  }
  auto facts = directory.find(volume);
  if (!facts) return fail(ErrorCode::not_found, "no volume '{}' is served here", volume);
  if (!name.means(*facts)) {
    return fail(ErrorCode::not_found,
                "volume '{}' with id {} is no more: what has its name now is another volume, with id {}", volume,
                name.identity, facts->identity);
  }
  return Found{std::move(*facts), name.client};
}

std::uint32_t reply_type_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::not_found: return wire::rep_err_unknown;
    case ErrorCode::refused: return wire::rep_err_policy;
    default: return wire::rep_err_invalid;
  }
}

HandshakeStep on_export_name(Handshake& handshake, const Directory& directory, std::span<const std::byte> data) {
  std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  auto found = find(directory, text);
  if (!found) return {Next::end, {}};  // this option has no error reply
  handshake.chosen = found->facts;
  handshake.client = found->client;
  Writer out;
  out.put(handshake.chosen.size_bytes).put(transmission_flags(handshake.chosen, handshake));
  if (!handshake.no_zeroes) out.zeroes(124);
  return {Next::transmit, out.take()};
}

HandshakeStep on_list(const Directory& directory, std::span<const std::byte> data) {
  if (!data.empty()) return refuse(wire::opt_list, wire::rep_err_invalid, "a list request carries no data");
  Writer out;
  for (const std::string& name : directory.list()) {
    Writer entry;
    entry.put(static_cast<std::uint32_t>(name.size())).put(name);
    add_reply(out, wire::opt_list, wire::rep_server, entry.take());
  }
  add_reply(out, wire::opt_list, wire::rep_ack);
  return {Next::option, out.take()};
}

HandshakeStep on_info_or_go(Handshake& handshake, const Directory& directory, std::uint32_t option,
                            std::span<const std::byte> data) {
  Reader in(data);
  auto name_bytes = in.get<std::uint32_t>();
  std::string_view text = in.text(name_bytes);
  auto request_count = in.get<std::uint16_t>();
  if (!in.ok() || in.left() != request_count * sizeof(std::uint16_t)) {
    return refuse(option, wire::rep_err_invalid, "the request's lengths do not add up");
  }
  bool name_wanted = false;
  for (std::uint16_t i = 0; i < request_count; ++i) name_wanted |= in.get<std::uint16_t>() == wire::info_name;

  auto found = find(directory, text);
  if (!found) return refuse(option, reply_type_of(found.error().code), found.error().message);
  const ExportFacts& facts = found->facts;
  Handshake outcome = handshake;
  outcome.client = found->client;

  Writer out;
  Writer sizes;
  sizes.put(std::uint16_t{wire::info_export}).put(facts.size_bytes).put(transmission_flags(facts, outcome));
  add_reply(out, option, wire::rep_info, sizes.take());
  Writer blocks;
  blocks.put(std::uint16_t{wire::info_block_size}).put(facts.block_size_bytes);
  blocks.put(std::max<std::uint32_t>(facts.block_size_bytes, 4096)).put(wire::greatest_payload_bytes);
  add_reply(out, option, wire::rep_info, blocks.take());
  if (name_wanted) {
    Writer name;
    name.put(std::uint16_t{wire::info_name}).put(facts.name);
    add_reply(out, option, wire::rep_info, name.take());
  }
  add_reply(out, option, wire::rep_ack);
  if (option == wire::opt_info) return {Next::option, out.take()};
  handshake.client = found->client;
  handshake.chosen = facts;
  return {Next::transmit, out.take()};
}

HandshakeStep on_structured_reply(Handshake& handshake, std::span<const std::byte> data) {
  if (!data.empty()) {
    return refuse(wire::opt_structured_reply, wire::rep_err_invalid,
                  "a request for structured replies carries no data");
  }
  handshake.structured_replies = true;
  return acknowledge(wire::opt_structured_reply, Next::option);
}

// Either option: which of the contexts that the client names are there. Only the latter chooses; without a name it chooses none.
HandshakeStep on_meta_context(Handshake& handshake, const Directory& directory, std::uint32_t option,
                              std::span<const std::byte> data) {
  const bool sets = option == wire::opt_set_meta_context;
  if (sets) handshake.allocation_of.clear();
  if (!handshake.structured_replies)
    return refuse(option, wire::rep_err_invalid, "metadata contexts need structured replies: ask for these first");
  Reader in(data);
  auto name_bytes = in.get<std::uint32_t>();
  std::string_view text = in.text(name_bytes);
  auto query_count = in.get<std::uint32_t>();
  bool wanted = !sets && query_count == 0;
  for (std::uint32_t i = 0; i < query_count && in.ok(); ++i) {
    auto query_bytes = in.get<std::uint32_t>();
    std::string_view query = in.text(query_bytes);
    wanted |= query == wire::allocation_context || (!sets && query == wire::allocation_namespace);
  }
  if (!in.ok() || in.left() != 0) return refuse(option, wire::rep_err_invalid, "the request's lengths do not add up");
  auto found = find(directory, text);
  if (!found) return refuse(option, reply_type_of(found.error().code), found.error().message);
  Writer out;
  if (wanted) {
    Writer context;
    context.put(sets ? wire::allocation_context_id : std::uint32_t{0}).put(wire::allocation_context);
    add_reply(out, option, wire::rep_meta_context, context.take());
    if (sets) handshake.allocation_of = found->facts.name;
  }
  add_reply(out, option, wire::rep_ack);
  return {Next::option, out.take()};
}

bool is_client_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
         c == '.' || c == ':';
}

}  // namespace

Result<ExportName> parse_export_name(std::string_view text) {
  if (text.size() > wire::greatest_name_bytes) return fail(ErrorCode::invalid, "the export name is too long");
  while (text.starts_with('/')) text.remove_prefix(1);  // nbd://HOST/NAME and nbd://HOST//NAME both occur
  ExportName name;
  std::string without_id(text);
  if (std::size_t tilde = text.rfind('~'); tilde != std::string_view::npos) {
    const std::string_view digits = text.substr(tilde + 1, std::min(text.find('@', tilde), text.size()) - tilde - 1);
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), name.identity);
    if (error != std::errc{} || end != digits.data() + digits.size() || name.identity == 0) {
      return fail(ErrorCode::invalid, "'{}' is no volume's id: see the addresses in zpair volume list", digits);
    }
    without_id.erase(tilde, digits.size() + 1);
    text = without_id;
  }
  if (std::size_t at = text.rfind('@'); at != std::string_view::npos) {
    name.client = text.substr(at + 1);
    if (name.client.empty() || name.client.size() > 128 ||
        !std::ranges::all_of(name.client, is_client_name_character)) {
      return fail(ErrorCode::invalid, "'{}' is no client name: use 1 to 128 letters, digits, '-', '_', '.' or ':'",
                  name.client);
    }
    text = text.substr(0, at);
  }
  name.volume = text;
  return name;
}

std::vector<std::byte> greeting() {
  Writer out;
  out.put(wire::greeting_magic).put(wire::option_magic);
  out.put(static_cast<std::uint16_t>(wire::server_flag_fixed_newstyle | wire::server_flag_no_zeroes));
  return out.take();
}

HandshakeStep on_client_flags(Handshake& handshake, std::uint32_t flags) {
  std::uint32_t known = wire::client_flag_fixed_newstyle | wire::client_flag_no_zeroes;
  if ((flags & ~known) != 0 || (flags & wire::client_flag_fixed_newstyle) == 0) return {Next::end, {}};
  handshake.no_zeroes = (flags & wire::client_flag_no_zeroes) != 0;
  return {Next::option, {}};
}

HandshakeStep on_option(Handshake& handshake, const Directory& directory, std::uint32_t option,
                        std::span<const std::byte> data) {
  if (++handshake.option_count > greatest_option_count) return {Next::end, {}};
  switch (option) {
    case wire::opt_export_name: return on_export_name(handshake, directory, data);
    case wire::opt_abort: return acknowledge(option, Next::end);
    case wire::opt_list: return on_list(directory, data);
    case wire::opt_info:
    case wire::opt_go: return on_info_or_go(handshake, directory, option, data);
    case wire::opt_structured_reply: return on_structured_reply(handshake, data);
    case wire::opt_list_meta_context:
    case wire::opt_set_meta_context: return on_meta_context(handshake, directory, option, data);
    default: return refuse(option, wire::rep_err_unsup, "this option is not supported");
  }
}

std::uint16_t transmission_flags(const ExportFacts& facts, const Handshake& handshake) {
  std::uint16_t flags = wire::flag_has_flags | wire::flag_send_flush | wire::flag_send_fua;
  if (facts.read_only) {
    flags |= wire::flag_read_only;
  } else {
    flags |= wire::flag_send_trim | wire::flag_send_write_zeroes | wire::flag_send_fast_zero;
  }
  if (handshake.structured_replies) flags |= wire::flag_send_df;
  if (handshake.client.empty()) flags |= wire::flag_can_multi_conn;  // a named client has one connection at a time
  return flags;
}

}  // namespace zpair::nbd
