#include "drill/nbd_client.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "nbd/wire.h"

namespace zpair::drill {

namespace wire = nbd::wire;

namespace {

constexpr std::size_t receive_bytes = 64u << 10;
constexpr std::int64_t connect_timeout_ms = 1000;
constexpr std::int64_t handshake_timeout_ms = 1000;  // where there is another address to try
constexpr std::size_t commands_per_send = 64;

Error error_of(std::uint32_t number) {
  switch (number) {
    case wire::err_nospc: return {ErrorCode::no_space, "the server answered ENOSPC"};
    case wire::err_inval: return {ErrorCode::invalid, "the server answered EINVAL"};
    case wire::err_perm: return {ErrorCode::refused, "the server answered EPERM"};
    case wire::err_notsup: return {ErrorCode::unsupported, "the server answered ENOTSUP"};
    default: return {ErrorCode::io, fmt::format("the server answered error {}", number)};
  }
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::sscanf(std::string(text.substr(i + 1, 2)).c_str(), "%2x", &value) == 1) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

struct OneTarget {
  block::Endpoint address;
  std::string export_name;
};

Result<OneTarget> parse_one(std::string_view uri) {
  constexpr std::string_view unix_scheme = "nbd+unix://";
  constexpr std::string_view tcp_scheme = "nbd://";
  if (uri.starts_with(unix_scheme)) {
    std::string_view rest = uri.substr(unix_scheme.size());
    constexpr std::string_view socket_key = "?socket=";
    std::size_t query = rest.find(socket_key);
    if (query == std::string_view::npos || !rest.starts_with('/')) {
      return fail(ErrorCode::invalid, "'{}' lacks its socket: write nbd+unix:///EXPORT?socket=/PATH", uri);
    }
    std::string path = percent_decoded(rest.substr(query + socket_key.size()));
    ZP_TRY(address, block::Endpoint::parse("unix:" + path));
    return OneTarget{address, percent_decoded(rest.substr(1, query - 1))};
  }
  if (uri.starts_with(tcp_scheme)) {
    std::string_view rest = uri.substr(tcp_scheme.size());
    std::size_t slash = rest.find('/');
    std::string host(rest.substr(0, slash));
    if (host.find(':') == std::string::npos || host.ends_with(']')) host += ":10809";  // the port of NBD
    ZP_TRY(address, block::Endpoint::parse("tcp:" + host));
    std::string_view name = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash + 1);
    return OneTarget{address, percent_decoded(name)};
  }
  return fail(ErrorCode::invalid,
              "'{}' is no NBD address: write nbd+unix:///EXPORT?socket=/PATH or nbd://ADDRESS:PORT/EXPORT", uri);
}

}  // namespace

Result<NbdTarget> NbdTarget::parse(std::string_view uri) {
  NbdTarget target;
  while (!uri.empty()) {
    std::size_t comma = uri.find(',');
    ZP_TRY(one, parse_one(uri.substr(0, comma)));
    if (!target.addresses.empty() && target.export_name != one.export_name) {
      return fail(ErrorCode::invalid, "two addresses of one volume must name the same export: '{}' is not '{}'",
                  one.export_name, target.export_name);
    }
    target.export_name = one.export_name;
    target.addresses.push_back(one.address);
    uri = comma == std::string_view::npos ? std::string_view{} : uri.substr(comma + 1);
  }
  if (target.addresses.empty()) return fail(ErrorCode::invalid, "no NBD address is given");
  if (target.addresses.size() > 1 && !target.export_name.contains('@')) {
    return fail(ErrorCode::invalid, "with several addresses a client name is required (rule 10): ask for {}@CLIENT",
                target.export_name);
  }
  return target;
}

struct NbdClient::Command {
  std::uint64_t cookie = 0;
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint64_t offset_bytes = 0;
  std::uint32_t length_bytes = 0;
  std::span<const std::byte> from;  // of a write
  std::span<std::byte> into;        // of a read
  bool sent_before = false;
  bool sending = false;  // its bytes are with the kernel: it cannot go away
  std::optional<Result<void>> result;
  block::Signal done;
};

struct NbdClient::Line {
  std::unique_ptr<block::Stream> stream;
  std::vector<std::byte> received = std::vector<std::byte>(receive_bytes);
  std::size_t taken = 0, filled = 0;
  bool structured = false;
  bool over = false;

  // At least `wanted` bytes in a row; valid until the next call.
  block::Task<Result<const std::byte*>> peek(std::size_t wanted) {
    if (wanted > received.size()) received.resize(wanted);
    while (filled - taken < wanted) {
      if (taken > 0) std::memmove(received.data(), received.data() + taken, filled - taken);
      filled -= taken;
      taken = 0;
      auto got = co_await stream->read_some(std::span(received).subspan(filled));
      if (!got) co_return std::unexpected(got.error());
      if (*got == 0) co_return fail(ErrorCode::io, "the server closed the connection");
      filled += *got;
    }
    co_return received.data() + taken;
  }
  block::Task<Result<void>> read_into(std::span<std::byte> into) {
    std::size_t there = std::min(into.size(), filled - taken);
    std::memcpy(into.data(), received.data() + taken, there);
    taken += there;
    if (there == into.size()) co_return Result<void>{};
    co_return co_await stream->read_exactly(into.subspan(there));
  }
};

NbdClient::NbdClient(NbdTarget target, NbdClientOptions options)
    : target_(std::move(target)), options_(std::move(options)) {
  ZP_ASSERT(!target_.addresses.empty(), "a client has an address");
}

NbdClient::~NbdClient() { ZP_ASSERT(tasks_.running() == 0, "a client is closed before it ends"); }

block::Task<Result<ExportInfo>> NbdClient::open(Deadline deadline) {
  if (!started_) {
    started_ = true;
    tasks_.spawn(stay_connected());
  }
  bool opened = co_await block::wait_for(opened_, deadline);
  if (!opened) {
    co_return fail(ErrorCode::timed_out, "no NBD server answers at {} for '{}' ({})", target_.addresses.front().text,
                   target_.export_name, last_failure_.empty() ? "no connection yet" : last_failure_);
  }
  if (closing_) co_return fail(ErrorCode::cancelled, "the client was closed");
  co_return info_;
}

block::Task<void> NbdClient::close() {
  closing_ = true;
  opened_.set();
  if (line_ != nullptr && connected_ && commands_.empty()) say_goodbye();
  if (line_ != nullptr) line_->stream->shutdown();
  to_send_changed_.set();
  co_await tasks_.close();
  std::vector<Command*> left;
  for (auto& [cookie, command] : commands_) left.push_back(command);
  for (Command* command : left) finish(*command, fail(ErrorCode::cancelled, "the client was closed"));
}

// So that the server knows that this client does not come back. Nothing else is being sent.
void NbdClient::say_goodbye() {
  std::byte header[wire::request_bytes] = {};
  wire::store(header, wire::request_magic);
  wire::store(header + 6, std::uint16_t{wire::cmd_disc});
  ::send(line_->stream->fd(), header, sizeof header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// ---- commands -------------------------------------------------------------------------------------------------------

block::Task<Result<void>> NbdClient::run(Command& command) {
  if (closing_) co_return fail(ErrorCode::cancelled, "the client was closed");
  command.cookie = next_cookie_++;
  commands_.emplace(command.cookie, &command);
  to_send_.push_back(command.cookie);
  to_send_changed_.set();
  co_await command.done.wait();
  co_return *command.result;
}

block::Task<Result<void>> NbdClient::read(std::uint64_t offset_bytes, std::span<std::byte> into) {
  Command command;
  command.type = wire::cmd_read;
  command.offset_bytes = offset_bytes;
  command.length_bytes = static_cast<std::uint32_t>(into.size());
  command.into = into;
  co_return co_await run(command);
}

block::Task<Result<void>> NbdClient::write(std::uint64_t offset_bytes, std::span<const std::byte> from) {
  Command command;
  command.type = wire::cmd_write;
  command.offset_bytes = offset_bytes;
  command.length_bytes = static_cast<std::uint32_t>(from.size());
  command.from = from;
  co_return co_await run(command);
}

block::Task<Result<void>> NbdClient::write_durable(std::uint64_t offset_bytes, std::span<const std::byte> from) {
  Command command;
  command.type = wire::cmd_write;
  command.flags = wire::cmd_flag_fua;
  command.offset_bytes = offset_bytes;
  command.length_bytes = static_cast<std::uint32_t>(from.size());
  command.from = from;
  co_return co_await run(command);
}

block::Task<Result<void>> NbdClient::flush() {
  Command command;
  command.type = wire::cmd_flush;
  co_return co_await run(command);
}

block::Task<Result<void>> NbdClient::trim(std::uint64_t offset_bytes, std::uint32_t size_bytes) {
  Command command;
  command.type = wire::cmd_trim;
  command.offset_bytes = offset_bytes;
  command.length_bytes = size_bytes;
  co_return co_await run(command);
}

block::Task<Result<void>> NbdClient::write_zeroes(std::uint64_t offset_bytes, std::uint32_t size_bytes) {
  Command command;
  command.type = wire::cmd_write_zeroes;
  command.offset_bytes = offset_bytes;
  command.length_bytes = size_bytes;
  co_return co_await run(command);
}

void NbdClient::finish(Command& command, Result<void> result) {
  commands_.erase(command.cookie);
  command.result = std::move(result);
  if (!command.sending) command.done.set();  // else when the send has returned
}

NbdClient::Command* NbdClient::unanswered(std::uint64_t cookie) {
  auto found = commands_.find(cookie);
  return found == commands_.end() ? nullptr : found->second;
}

// ---- the connection -------------------------------------------------------------------------------------------------

block::Task<void> NbdClient::stay_connected() {
  block::Reactor& reactor = block::Reactor::current();
  while (!closing_) {
    const block::Endpoint address = target_.addresses[next_address_];
    auto stream = co_await block::Stream::connect(address, Deadline::in_ms(connect_timeout_ms));
    if (stream && !closing_) {
      Line line;
      line.stream = std::move(*stream);
      line_ = &line;
      co_await serve_line(line);
      line_ = nullptr;
      if (connected_ && options_.on_connection) options_.on_connection(false);
      connected_ = false;
    } else if (!stream) {
      last_failure_ = stream.error().message;
    }
    if (closing_) co_return;
    next_address_ = (next_address_ + 1) % target_.addresses.size();
    co_await reactor.after_ms(options_.retry_ms);
  }
}

// A stopped node's kernel still takes connections, and nobody answers on them.
block::Task<void> NbdClient::hang_up_unless(block::Signal& answered, Line& line) {
  bool in_time = co_await block::wait_for(answered, Deadline::in_ms(handshake_timeout_ms));
  if (!in_time) line.stream->shutdown();
}

block::Task<void> NbdClient::serve_line(Line& line) {
  block::Signal answered;
  block::TaskGroup watch;
  if (target_.addresses.size() > 1) watch.spawn(hang_up_unless(answered, line));
  auto negotiated = co_await negotiate(line);
  answered.set();
  co_await watch.close();
  if (!negotiated) {
    last_failure_ = negotiated.error().message;
    co_return;
  }
  queue_all_again();
  connected_ = true;
  ++connection_count_;
  if (options_.on_connection) options_.on_connection(true);
  opened_.set();

  block::TaskGroup sender;
  sender.spawn(send_commands(line));
  auto ended = co_await receive_replies(line);
  if (!ended) last_failure_ = ended.error().message;
  line.over = true;
  line.stream->shutdown();
  to_send_changed_.set();
  co_await sender.close();
}

// Whatever was not answered is sent again, in the order of issue, before anything newer.
void NbdClient::queue_all_again() {
  to_send_.clear();
  for (auto& [cookie, command] : commands_) {
    if (command->sent_before) ++resent_count_;
    to_send_.push_back(cookie);
  }
}

block::Task<Result<void>> NbdClient::negotiate(Line& line) {
  auto hello = co_await line.peek(18);
  if (!hello) co_return std::unexpected(hello.error());
  bool newstyle = wire::load<std::uint64_t>(*hello) == wire::greeting_magic &&
                  wire::load<std::uint64_t>(*hello + 8) == wire::option_magic;
  bool fixed = (wire::load<std::uint16_t>(*hello + 16) & wire::server_flag_fixed_newstyle) != 0;
  if (!newstyle || !fixed) co_return fail(ErrorCode::unsupported, "the server speaks no fixed newstyle NBD");
  line.taken += 18;
  std::byte flags[4];
  wire::store(flags, std::uint32_t{wire::client_flag_fixed_newstyle | wire::client_flag_no_zeroes});
  ZP_CO_CHECK(co_await line.stream->write_all(std::span<const std::byte>(flags)));

  auto structured = co_await ask(line, wire::opt_structured_reply, {});
  if (!structured && structured.error().code != ErrorCode::refused) co_return structured;
  line.structured = structured.has_value();

  wire::Writer go;
  go.put(static_cast<std::uint32_t>(target_.export_name.size())).put(target_.export_name);
  go.put(std::uint16_t{1}).put(std::uint16_t{wire::info_block_size});
  std::vector<std::byte> data = go.take();
  co_return co_await ask(line, wire::opt_go, data);
}

// Sends an option and reads its replies up to the acknowledgement. refused: the server answered with an error.
block::Task<Result<void>> NbdClient::ask(Line& line, std::uint32_t option, std::span<const std::byte> data) {
  wire::Writer out;
  out.put(wire::option_magic).put(option).put(static_cast<std::uint32_t>(data.size())).put(data);
  std::vector<std::byte> message = out.take();
  ZP_CO_CHECK(co_await line.stream->write_all(std::span<const std::byte>(message)));
  for (;;) {
    auto header = co_await line.peek(20);
    if (!header) co_return std::unexpected(header.error());
    bool ours = wire::load<std::uint64_t>(*header) == wire::option_reply_magic &&
                wire::load<std::uint32_t>(*header + 8) == option;
    auto type = wire::load<std::uint32_t>(*header + 12);
    auto length = wire::load<std::uint32_t>(*header + 16);
    if (!ours || length > 1u << 20) co_return fail(ErrorCode::io, "the server's answer to an option is malformed");
    line.taken += 20;
    auto body = co_await line.peek(length);
    if (!body) co_return std::unexpected(body.error());
    wire::Reader in(std::span(*body, length));
    line.taken += length;
    if (type == wire::rep_ack) co_return Result<void>{};
    if ((type & 0x80000000u) != 0) {
      co_return fail(ErrorCode::refused, "the server refuses '{}': {}", target_.export_name, in.text(length));
    }
    if (type != wire::rep_info) continue;
    auto info = in.get<std::uint16_t>();
    if (info == wire::info_export) {
      info_.size_bytes = in.get<std::uint64_t>();
      info_.flags = in.get<std::uint16_t>();
    } else if (info == wire::info_block_size) {
      info_.block_size_bytes = in.get<std::uint32_t>();
      in.get<std::uint32_t>();
      info_.greatest_payload_bytes = in.get<std::uint32_t>();
    }
  }
}

block::Task<void> NbdClient::send_commands(Line& line) {
  struct Header {
    std::byte bytes[wire::request_bytes];
  };
  std::vector<Header> headers(commands_per_send);
  std::vector<iovec> parts;
  std::vector<Command*> batch;
  while (!line.over) {
    if (to_send_.empty()) {
      to_send_changed_.reset();
      co_await to_send_changed_.wait();
      continue;
    }
    parts.clear();
    batch.clear();
    while (!to_send_.empty() && batch.size() < commands_per_send) {
      Command* command = unanswered(to_send_.front());
      to_send_.pop_front();
      if (command == nullptr) continue;
      std::byte* at = headers[batch.size()].bytes;
      wire::store(at, wire::request_magic);
      wire::store(at + 4, command->flags);
      wire::store(at + 6, command->type);
      wire::store(at + 8, command->cookie);
      wire::store(at + 16, command->offset_bytes);
      wire::store(at + 24, command->length_bytes);
      parts.push_back({at, wire::request_bytes});
      if (!command->from.empty()) parts.push_back({const_cast<std::byte*>(command->from.data()), command->from.size()});
      command->sending = true;
      command->sent_before = true;
      batch.push_back(command);
    }
    auto sent = co_await line.stream->write_all(std::span<iovec>(parts));
    for (Command* command : batch) {
      command->sending = false;
      if (command->result) command->done.set();
    }
    if (!sent) line.stream->shutdown();  // the receiver ends the line
    if (!sent) co_return;
  }
}

block::Task<Result<void>> NbdClient::receive_replies(Line& line) {
  for (;;) {
    auto start = co_await line.peek(4);
    if (!start) co_return std::unexpected(start.error());
    auto magic = wire::load<std::uint32_t>(*start);
    if (magic == wire::simple_reply_magic) {
      ZP_CO_CHECK(co_await receive_simple(line));
    } else if (magic == wire::structured_reply_magic && line.structured) {
      ZP_CO_CHECK(co_await receive_chunk(line));
    } else {
      co_return fail(ErrorCode::io, "the server sent no reply but {:#x}", magic);
    }
  }
}

block::Task<Result<void>> NbdClient::receive_simple(Line& line) {
  auto header = co_await line.peek(wire::simple_reply_bytes);
  if (!header) co_return std::unexpected(header.error());
  auto error = wire::load<std::uint32_t>(*header + 4);
  Command* command = unanswered(wire::load<std::uint64_t>(*header + 8));
  line.taken += wire::simple_reply_bytes;
  if (command == nullptr) co_return fail(ErrorCode::io, "the server answered what was not asked");
  if (error == 0 && command->type == wire::cmd_read) {
    if (line.structured) co_return fail(ErrorCode::io, "the server answered a read without structure");
    ZP_CO_CHECK(co_await line.read_into(command->into));
  }
  Result<void> result{};
  if (error != 0) result = std::unexpected(error_of(error));
  finish(*command, std::move(result));
  co_return Result<void>{};
}

// A chunk: of a read that our server answers whole, or an error. Others may send data in several chunks.
block::Task<Result<void>> NbdClient::receive_chunk(Line& line) {
  auto header = co_await line.peek(wire::chunk_header_bytes);
  if (!header) co_return std::unexpected(header.error());
  auto flags = wire::load<std::uint16_t>(*header + 4);
  auto type = wire::load<std::uint16_t>(*header + 6);
  Command* command = unanswered(wire::load<std::uint64_t>(*header + 8));
  auto length = wire::load<std::uint32_t>(*header + 16);
  line.taken += wire::chunk_header_bytes;
  if (command == nullptr) co_return fail(ErrorCode::io, "the server answered what was not asked");
  Result<void> result{};
  if (type == wire::chunk_offset_data || type == wire::chunk_offset_hole) {
    std::size_t fields = type == wire::chunk_offset_data ? 8 : 12;
    auto body = co_await line.peek(fields);
    if (!body) co_return std::unexpected(body.error());
    auto offset = wire::load<std::uint64_t>(*body);
    std::size_t size = type == wire::chunk_offset_data ? length - 8 : wire::load<std::uint32_t>(*body + 8);
    line.taken += fields;
    bool inside = length >= fields && offset >= command->offset_bytes &&
                  offset - command->offset_bytes <= command->into.size() &&
                  size <= command->into.size() - (offset - command->offset_bytes);
    if (!inside) co_return fail(ErrorCode::io, "the server sent data outside of the read");
    std::span<std::byte> into = command->into.subspan(offset - command->offset_bytes, size);
    if (type == wire::chunk_offset_data) {
      ZP_CO_CHECK(co_await line.read_into(into));
    } else {
      std::memset(into.data(), 0, into.size());
    }
  } else if (length > 0) {
    if (length > 1u << 20) co_return fail(ErrorCode::io, "the server sent a chunk that is too long");
    auto body = co_await line.peek(length);
    if (!body) co_return std::unexpected(body.error());
    if ((type & 0x8000) != 0 && length >= 4) result = std::unexpected(error_of(wire::load<std::uint32_t>(*body)));
    line.taken += length;
  }
  bool done = (flags & wire::chunk_flag_done) != 0;
  if (!done && !result) co_return fail(ErrorCode::unsupported, "the server sends an error in pieces");
  if (done) finish(*command, std::move(result));
  co_return Result<void>{};
}

}  // namespace zpair::drill
