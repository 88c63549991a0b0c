// How a connection becomes one of an export: the link of a relay, the handshake, and rule 10's "the newer ends the older".
#include <algorithm>

#include "base/log.h"
#include "nbd/connection_internal.h"

namespace zpair::nbd {

// Whoever says nothing must not keep a connection for ever: a thousand of them and nobody else gets in. Ends the connection
// unless what its life spans is over in time.
class Connection::TimeBound {
 public:
  TimeBound(Connection& connection, const char* what) : connection_(connection) {
    const std::int64_t limit_ms = connection.server_.options_.handshake_ms;
    connection_.negotiating_ = true;
    timer_ = block::Reactor::current().call_at(boot_time_ns() + limit_ms * ns_per_ms, [&connection, what, limit_ms] {
      log_info("nbd: {} within {} ms: the connection is dropped", what, limit_ms);
      connection.end();
    });
  }
  ~TimeBound() {
    connection_.negotiating_ = false;
    block::Reactor::current().cancel_timer(timer_);
  }
  TimeBound(const TimeBound&) = delete;
  TimeBound& operator=(const TimeBound&) = delete;

 private:
  Connection& connection_;
  block::Reactor::TimerId timer_;
};

// A link of a relay: ends the links that its header names, waits until their requests have finished, then answers.
block::Task<bool> Connection::admit_link() {
  std::optional<TimeBound> bound(std::in_place, *this, "a relay's link was not admitted");
  auto header = co_await read_link_header(*stream_);
  if (!header || ending_) co_return false;
  if (header->kind == LinkKind::probe) {
    auto answered = co_await write_link_answer(*stream_, LinkAnswer::admitted);
    bound.reset();
    if (answered) co_await echo_probes();
    co_return false;
  }
  auto asked = parse_export_name(header->volume);
  if (!asked) co_return false;
  link_ = *header;
  auto is_former = [this](const auto& other) { return is_former_link(*other, *link_); };
  for (const auto& other : server_.connections_) {
    if (is_former(other)) other->end();
  }
  while (!ending_ && std::ranges::any_of(server_.connections_, is_former)) co_await server_.changed_.wait();
  if (ending_) co_return false;

  options_.volume = asked->volume;
  co_await server_.make_ready(asked->volume);
  if (ending_) co_return false;
  const Server::Export* found = server_.find_export(asked->volume);
  bool known = found != nullptr && asked->means(found->facts);
  auto answered = co_await write_link_answer(*stream_, known ? LinkAnswer::admitted : LinkAnswer::unknown_volume);
  co_return answered.has_value() && known;
}

bool Connection::is_former_link(const Connection& other, const LinkHeader& header) const {
  if (other.sequence_ >= sequence_ || !other.link_) return false;  // a later one ends this one, not the reverse
  const LinkHeader& its = *other.link_;
  if (its.node != header.node || its.volume != header.volume) return false;
  if (its.relay != header.relay) return true;
  return its.session == header.session || std::ranges::find(header.ends, its.session) != header.ends.end();
}

block::Task<void> Connection::echo_probes() {
  std::byte bytes[64];
  while (!ending_) {
    const TimeBound bound(*this, "a relay's probe said nothing");
    auto got = co_await stream_->read_some(bytes);
    if (!got || *got == 0) co_return;
    auto sent = co_await stream_->write_all(std::span<const std::byte>(bytes, *got));
    if (!sent) co_return;
  }
}

Directory Connection::directory() const {
  Directory directory;
  const std::string& only = options_.volume;
  directory.default_name = only;
  directory.find = [this, &only](const std::string& name) -> std::optional<ExportFacts> {
    if (!only.empty() && name != only) return std::nullopt;
    Server::Export* found = server_.find_export(name);
    if (found == nullptr) return std::nullopt;
    return found->facts;
  };
  directory.list = [this, &only] {
    std::vector<std::string> names;
    for (const auto& [name, served] : server_.exports_) {
      if (!served->removing && (only.empty() || only == name)) names.push_back(name);
    }
    return names;
  };
  if (options_.transport == Transport::network) directory.client_name = Directory::ClientName::required;
  return directory;
}

// True: the client chose an export and this connection is one of its connections.
block::Task<bool> Connection::negotiate() {
  const TimeBound bound(*this, "a client did not choose an export");
  if (!options_.volume.empty()) co_await server_.make_ready(options_.volume);
  if (ending_) co_return false;
  const Directory offers = directory();
  std::vector<std::byte> hello = greeting();
  auto greeted = co_await stream_->write_all(std::span<const std::byte>(hello));
  if (!greeted) co_return false;
  bool flags_there = co_await fill(4);
  if (!flags_there) co_return false;
  HandshakeStep step = on_client_flags(handshake_, wire::load<std::uint32_t>(received_.data() + taken_));
  taken_ += 4;
  while (step.next == HandshakeStep::Next::option) {
    constexpr std::size_t option_header_bytes = 16;
    bool header_there = co_await fill(option_header_bytes);
    if (!header_there) co_return false;
    const std::byte* at = received_.data() + taken_;
    auto option = wire::load<std::uint32_t>(at + 8);
    auto length = wire::load<std::uint32_t>(at + 12);
    if (wire::load<std::uint64_t>(at) != wire::option_magic ||
        length > wire::greatest_option_bytes - option_header_bytes) {
      log_debug("nbd: a client sent no option: it is dropped");
      co_return false;
    }
    taken_ += option_header_bytes;
    bool data_there = co_await fill(length);
    if (!data_there) co_return false;
    step = on_option(handshake_, offers, option, std::span<const std::byte>(received_.data() + taken_, length));
    taken_ += length;
    // Entered before the answer is sent: whoever gets its answer later is the newer connection.
    if (step.next == HandshakeStep::Next::transmit && !enter_export()) co_return false;
    auto sent = co_await stream_->write_all(std::span<const std::byte>(step.answer));
    if (!sent || ending_) co_return false;
  }
  co_return step.next == HandshakeStep::Next::transmit;
}

bool Connection::enter_export() {
  export_ = server_.find_export(handshake_.chosen.name);
  if (export_ == nullptr) return false;
  entered_ = server_.next_sequence_++;
  if (handshake_.client.empty()) return true;
  for (const auto& other : server_.connections_) {
    if (other.get() == this || other->export_ != export_ || other->client() != client()) continue;
    if (!other->ending_)
      log_info("nbd {}: a newer connection of client {} ends the older", export_->options.name, client());
    other->end();
  }
  return true;
}

}  // namespace zpair::nbd
