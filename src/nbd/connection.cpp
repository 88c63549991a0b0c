#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"
#include "nbd/connection_internal.h"

namespace zpair::nbd {

namespace {
constexpr std::size_t receive_bytes = 64u << 10;
constexpr std::size_t replies_per_send = 64;
constexpr std::int64_t gone_peer_look_ms = 5;
constexpr std::uint32_t extents_a_reply = 1024;
}  // namespace

struct Connection::Slot : block::Request {
  Connection* connection = nullptr;
  WireRequest wire;
  BufferPool::Buffer buffer;
  iovec part{};
  std::size_t data_skip = 0;  // of an unaligned read: bytes before those that were asked for
  std::uint64_t counted_bytes = 0;
  std::array<std::byte, greatest_reply_header_bytes> header;
  std::size_t header_bytes = 0;
  std::span<std::byte> data;  // that follows the header
  std::vector<block::Extent> found_extents;
  std::vector<std::byte> encoded_extents;
};

Connection::Connection(Server& server, std::unique_ptr<block::Stream> stream, ListenOptions options,
                       std::uint64_t sequence)
    : server_(server), stream_(std::move(stream)), options_(std::move(options)), sequence_(sequence) {}

Connection::~Connection() { ZP_ASSERT(in_flight_ == 0 && slots_in_use_ == 0, "a connection ends after its requests"); }

block::Task<void> Connection::run() {
  bool linked = true;
  if (options_.transport == Transport::relay) linked = co_await admit_link();
  bool serves = false;
  if (linked && !ending_) serves = co_await negotiate();
  if (serves && !ending_) {
    tasks_.spawn(write_replies());
    co_await read_requests();
    if (!disconnected_) export_->client_lost_ns = boot_time_ns();
  }
  if (!disconnected_) end();
  while (in_flight_ > 0) co_await changed_.wait();
  while (disconnected_ && !ending_ && slots_in_use_ > 0) co_await changed_.wait();
  ending_ = true;
  writer_stops_ = true;
  wake();
  stream_->shutdown();
  co_await tasks_.close();
  drop_replies();
}

void Connection::end() {
  if (ending_) return;
  ending_ = true;
  // Only the reading half: the peer must see the end when the requests have finished, not before. In the handshake nothing
  // of it is at a device yet, and an answer that it does not read must not hold us.
  ::shutdown(stream_->fd(), negotiating_ ? SHUT_RDWR : SHUT_RD);
  wake();
  server_.pulse();
}

void Connection::wake() {
  changed_.set();
  changed_.reset();
}

bool Connection::peer_is_gone() const {
  pollfd look{stream_->fd(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// ---- reading --------------------------------------------------------------------------------------------------------

block::Task<void> Connection::read_requests() {
  for (;;) {
    bool header_there = co_await fill(wire::request_bytes);
    if (!header_there) co_return;
    auto parsed =
        parse_request(std::span<const std::byte, wire::request_bytes>(received_.data() + taken_, wire::request_bytes));
    if (!parsed) {
      log_warning("nbd {}: {}: the client is dropped", export_->options.name, parsed.error().message);
      co_return;
    }
    WireRequest request = *parsed;
    taken_ += wire::request_bytes;
    if (request.command == wire::cmd_disc) {
      disconnected_ = true;
      co_return;
    }
    wire::Errno error = check_request(request, export_->facts, handshake_);
    while (!has_room(request) && !ending_) co_await changed_.wait();
    if (ending_) co_return;

    Slot& slot = take_slot(request, error);
    if (carries_payload(request)) {
      bool received = false;
      if (error == wire::err_none) {
        received = co_await receive_payload(slot);
      } else {
        received = co_await skip_payload(request.length_bytes);
      }
      if (!received) {
        free_slot(slot);
        co_return;
      }
    }
    co_await wait_until_allowed(request);
    if (ending_) {
      free_slot(slot);
      co_return;
    }
    if (error != wire::err_none) {
      queue_reply(slot, error);
    } else {
      submit(slot);  // nothing is waited for between the checks above and this
    }
  }
}

// True when at least `wanted` bytes are there. (Only for what fits the receive buffer.)
block::Task<bool> Connection::fill(std::size_t wanted) {
  if (received_.empty()) received_.resize(receive_bytes);
  while (filled_ - taken_ < wanted) {
    if (ending_) co_return false;
    if (taken_ > 0) {
      std::memmove(received_.data(), received_.data() + taken_, filled_ - taken_);
      filled_ -= taken_;
      taken_ = 0;
    }
    auto got = co_await stream_->read_some(std::span(received_).subspan(filled_));
    if (!got || *got == 0 || ending_) co_return false;
    filled_ += *got;
  }
  co_return !ending_;
}

block::Task<bool> Connection::receive_payload(Slot& slot) {
  std::span<std::byte> payload(slot.buffer.bytes, slot.wire.length_bytes);
  std::size_t there = std::min(payload.size(), filled_ - taken_);
  std::memcpy(payload.data(), received_.data() + taken_, there);
  taken_ += there;
  if (there == payload.size()) co_return true;
  auto got = co_await stream_->read_exactly(payload.subspan(there));
  co_return got.has_value();
}

block::Task<bool> Connection::skip_payload(std::uint32_t size) {
  while (size > 0) {
    bool there = co_await fill(1);
    if (!there) co_return false;
    auto part = static_cast<std::uint32_t>(std::min<std::size_t>(size, filled_ - taken_));
    taken_ += part;
    size -= part;
  }
  co_return true;
}

// Returns when this request may go to the device: the server is not paused, and rule 10 is met. Or the connection ends.
block::Task<void> Connection::wait_until_allowed(const WireRequest& request) {
  for (;;) {
    if (ending_) co_return;
    if (server_.paused_ || older_of_my_name()) {
      co_await server_.changed_.wait();
      continue;
    }
    if (first_write_done_ || !is_mutating(request)) co_return;
    if (!handshake_.client.empty() || !someone_is_gone()) {
      first_write_done_ = true;
      co_return;
    }
    // Two that wait for each other cannot be: a connection whose own peer is gone does not wait, it ends.
    if (peer_is_gone()) {
      end();
      co_return;
    }
    co_await block::wait_for(server_.changed_, Deadline::in_ms(gone_peer_look_ms));
  }
}

bool Connection::older_of_my_name() const {
  if (handshake_.client.empty()) return false;
  return std::ranges::any_of(server_.connections_, [this](const auto& other) {
    return other->export_ == export_ && other->client() == client() && other->entered_ < entered_;
  });
}

// Ends the unnamed connections of this export whose peer is gone; true while there are such.
bool Connection::someone_is_gone() {
  bool found = false;
  for (const auto& other : server_.connections_) {
    if (other.get() == this || other->export_ != export_ || !other->client().empty()) continue;
    if (!other->ending_ && !other->peer_is_gone()) continue;
    other->end();
    found = true;
  }
  return found;
}

bool Connection::is_mutating(const WireRequest& request) const {
  return !tells_content(request) && request.command != wire::cmd_flush;
}

bool Connection::has_room(const WireRequest& request) const {
  if (slots_in_use_ == 0) return true;
  if (slots_in_use_ >= server_.options_.requests_per_connection) return false;
  bool has_data = request.command == wire::cmd_read || request.command == wire::cmd_write;
  return !has_data || bytes_in_use_ + request.length_bytes <= server_.options_.bytes_per_connection;
}

// ---- requests -------------------------------------------------------------------------------------------------------

Connection::Slot& Connection::take_slot(const WireRequest& asked, wire::Errno error) {
  if (free_slots_.empty()) {
    slots_.push_back(std::make_unique<Slot>());
    free_slots_.push_back(slots_.back().get());
  }
  Slot& slot = *free_slots_.back();
  free_slots_.pop_back();
  slot.connection = this;
  slot.wire = asked;
  slot.data_skip = 0;
  slot.data = {};
  slot.counted_bytes = 0;

  std::uint64_t first = asked.offset_bytes;
  std::uint64_t size = asked.length_bytes;
  bool has_data = asked.command == wire::cmd_read || asked.command == wire::cmd_write;
  if (has_data && error == wire::err_none) {
    if (asked.command == wire::cmd_read) {  // whole blocks around what is asked for
      std::uint64_t block_size = export_->facts.block_size_bytes;
      slot.data_skip = first % block_size;
      std::uint64_t end = (first + size + block_size - 1) / block_size * block_size;
      first -= slot.data_skip;
      size = end - first;
    }
    slot.buffer = server_.buffers_->take(size);
    slot.part = {slot.buffer.bytes, size};
    slot.counted_bytes = size;
  }
  static_cast<block::Request&>(slot) = block::Request{};
  slot.operation = operation_of(asked);
  slot.durable = (asked.flags & wire::cmd_flag_fua) != 0 && is_mutating(asked);
  slot.offset_bytes = first;
  slot.size_bytes = size;
  if (slot.buffer.bytes != nullptr) slot.buffers = std::span<const iovec>(&slot.part, 1);
  if (slot.operation == block::Operation::extents) {
    slot.found_extents.clear();
    slot.extents = &slot.found_extents;
    slot.most_extents = (asked.flags & wire::cmd_flag_req_one) != 0 ? 1 : extents_a_reply;
  }
  slot.on_done = [](block::Request& request) {
    auto& done = static_cast<Slot&>(request);
    done.connection->completed(done);
  };
  ++slots_in_use_;
  bytes_in_use_ += slot.counted_bytes;
  return slot;
}

void Connection::free_slot(Slot& slot) {
  server_.buffers_->give(slot.buffer);
  slot.buffer = {};
  bytes_in_use_ -= slot.counted_bytes;
  --slots_in_use_;
  free_slots_.push_back(&slot);
}

void Connection::submit(Slot& slot) {
  ZP_ASSERT(!server_.paused_, "a paused server sends nothing to its devices");
  ZP_ASSERT(!ending_, "an ended connection sends nothing to its device");
  ++in_flight_;
  export_->options.device->submit(slot);
}

void Connection::completed(Slot& slot) {
  --in_flight_;
  if (in_flight_ == 0) server_.pulse();
  block::IoStatus result = slot.status;
  if (ends_client(result)) end();
  if (ending_) {
    free_slot(slot);
    wake();
    return;
  }
  if (tells_content(slot.wire) && server_.options_.read_permitted && !server_.options_.read_permitted()) {
    held_.push_back(&slot);  // rule 6: the data is taken, the permission is not there
    server_.arm_recheck();
    return;
  }
  queue_reply(slot, errno_of(result));
}

void Connection::recheck_reads() {
  if (held_.empty() || ending_ || !server_.options_.read_permitted()) return;
  for (Slot* slot : std::exchange(held_, {})) queue_reply(*slot, errno_of(slot->status));
}

void Connection::queue_reply(Slot& slot, wire::Errno error) {
  if (error == wire::err_none && slot.wire.command == wire::cmd_read) {
    slot.data = std::span(slot.buffer.bytes + slot.data_skip, slot.wire.length_bytes);
  } else if (error == wire::err_none && slot.wire.command == wire::cmd_block_status) {
    slot.encoded_extents = encode_extents(slot.found_extents);
    slot.data = slot.encoded_extents;
  }
  slot.header_bytes = encode_reply(slot.header, slot.wire, error, slot.data.size(), handshake_.structured_replies);
  if (error == wire::err_none) count(slot);
  replies_.push_back(&slot);
  if (replies_.size() == 1) wake();
}

void Connection::count(const Slot& slot) {
  switch (slot.wire.command) {
    case wire::cmd_read:
      ++export_->read_count;
      export_->read_bytes += slot.wire.length_bytes;
      return;
    case wire::cmd_write:
      ++export_->write_count;
      export_->written_bytes += slot.wire.length_bytes;
      return;
    case wire::cmd_flush: ++export_->flush_count; return;
    default: ++export_->other_count; return;
  }
}

// ---- answering ------------------------------------------------------------------------------------------------------

block::Task<void> Connection::write_replies() {
  std::vector<Slot*> batch;
  std::vector<iovec> parts;
  for (;;) {
    while (replies_.empty() && !writer_stops_) co_await changed_.wait();
    if (writer_stops_ || ending_) co_return;
    batch.clear();
    parts.clear();
    while (!replies_.empty() && batch.size() < replies_per_send) {
      Slot* slot = replies_.front();
      replies_.pop_front();
      batch.push_back(slot);
      parts.push_back({slot->header.data(), slot->header_bytes});
      if (!slot->data.empty()) parts.push_back({slot->data.data(), slot->data.size()});
    }
    auto sent = co_await stream_->write_all(std::span<iovec>(parts));
    for (Slot* slot : batch) free_slot(*slot);
    wake();
    if (!sent) {
      end();
      co_return;
    }
  }
}

void Connection::drop_replies() {
  for (Slot* slot : std::exchange(held_, {})) free_slot(*slot);
  for (Slot* slot : std::exchange(replies_, {})) free_slot(*slot);
}

}  // namespace zpair::nbd
