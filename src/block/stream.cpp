#include "block/stream.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "block/uring_await.h"

namespace zpair::block {

namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Result<Address> unix_address(const std::string& path) {
  Address address;
  auto& un = reinterpret_cast<sockaddr_un&>(address.storage);
  un.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof un.sun_path) {
    return fail(ErrorCode::invalid, "socket path '{}' has {} bytes, a Unix socket takes 1 to {}: use a shorter folder",
                path, path.size(), sizeof un.sun_path - 1);
  }
  std::memcpy(un.sun_path, path.c_str(), path.size() + 1);
  address.length = sizeof un;
  return address;
}

Result<Address> ip_address(std::string host, std::uint16_t port) {
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  Address address;
  auto& v4 = reinterpret_cast<sockaddr_in&>(address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    address.length = sizeof v4;
    return address;
  }
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address.storage);
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    address.length = sizeof v6;
    return address;
  }
  return fail(ErrorCode::invalid, "'{}' is not a numeric IP address", host);
}

Result<Address> address_of(const Endpoint& endpoint) {
  if (endpoint.text.starts_with("unix:")) return unix_address(endpoint.text.substr(5));
  if (endpoint.text.starts_with("tcp:")) {
    std::string rest = endpoint.text.substr(4);
    std::size_t colon = rest.rfind(':');
    if (colon != std::string::npos) {
      std::uint16_t port = 0;
      const char* end = rest.data() + rest.size();
      auto [last, error] = std::from_chars(rest.data() + colon + 1, end, port);
      if (error == std::errc{} && last == end) return ip_address(rest.substr(0, colon), port);
    }
  }
  return fail(ErrorCode::invalid, "'{}' is no endpoint: write unix:/PATH or tcp:ADDRESS:PORT", endpoint.text);
}

void send_without_delay(int fd, int family) {
  if (family == AF_UNIX) return;
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Result<Endpoint> Endpoint::parse(std::string_view text) {
  Endpoint endpoint{std::string(text)};
  ZP_TRY(address, address_of(endpoint));
  (void)address;
  return endpoint;
}

Task<Result<std::unique_ptr<Stream>>> Stream::connect(Endpoint to, Deadline deadline, std::string from) {
  ZP_CO_TRY(address, address_of(to));
  UniqueFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) co_return fail_errno(errno, "cannot make a socket for {}", to.text);
  send_without_delay(socket.get(), address.family());
  if (!from.empty()) {
    ZP_CO_TRY(local, ip_address(from, 0));
    if (::bind(socket.get(), local.get(), local.length) != 0) co_return fail_errno(errno, "cannot bind to {}", from);
  }
  // The kernel has no deadline of its own here: a timer ends the attempt by shutting the socket down.
  bool expired = false;
  int fd = socket.get();
  Reactor& reactor = Reactor::current();
  Reactor::TimerId timer = 0;
  if (deadline.at_ns != INT64_MAX) {
    timer = reactor.call_at(deadline.at_ns, [&expired, fd] {
      expired = true;
      ::shutdown(fd, SHUT_RDWR);
    });
  }
  auto prepare = [&address, fd](io_uring_sqe* entry) {
    io_uring_prep_connect(entry, fd, address.get(), address.length);
  };
  int result = co_await UringAwait(prepare);
  if (timer != 0) reactor.cancel_timer(timer);
  if (expired) co_return fail(ErrorCode::timed_out, "no answer from {}", to.text);
  if (result < 0) {
    Error cause = error_from_errno(-result);
    cause.code = ErrorCode::unreachable;
    co_return fail(cause, "cannot connect to {}", to.text);
  }
  co_return std::make_unique<Stream>(std::move(socket));
}

Task<Result<std::size_t>> Stream::read_some(std::span<std::byte> into) {
  int fd = socket_.get();
  auto prepare = [fd, into](io_uring_sqe* entry) { io_uring_prep_recv(entry, fd, into.data(), into.size(), 0); };
  int result = co_await UringAwait(prepare);
  if (result < 0) co_return fail_errno(-result, "cannot read from the connection");
  co_return static_cast<std::size_t>(result);
}

Task<Result<void>> Stream::read_exactly(std::span<std::byte> into) {
  while (!into.empty()) {
    int fd = socket_.get();
    auto prepare = [fd, into](io_uring_sqe* entry) {
      io_uring_prep_recv(entry, fd, into.data(), into.size(), MSG_WAITALL);
    };
    int result = co_await UringAwait(prepare);
    if (result < 0) co_return fail_errno(-result, "cannot read from the connection");
    if (result == 0) co_return fail(ErrorCode::io, "the connection ended");
    into = into.subspan(static_cast<std::size_t>(result));
  }
  co_return Result<void>{};
}

Task<Result<void>> Stream::write_all(std::span<const std::byte> bytes) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  co_return co_await write_all(std::span<iovec>(&part, 1));
}

Task<Result<void>> Stream::write_all(std::span<iovec> parts) {
  while (!parts.empty()) {
    if (parts.front().iov_len == 0) {
      parts = parts.subspan(1);
      continue;
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = std::min<std::size_t>(parts.size(), 1024);
    int fd = socket_.get();
    auto prepare = [fd, &message](io_uring_sqe* entry) { io_uring_prep_sendmsg(entry, fd, &message, MSG_NOSIGNAL); };
    int result = co_await UringAwait(prepare);
    if (result < 0) co_return fail_errno(-result, "cannot write to the connection");
    auto left = static_cast<std::size_t>(result);
    while (left > 0) {
      iovec& part = parts.front();
      std::size_t taken = std::min(left, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
      part.iov_len -= taken;
      left -= taken;
      if (part.iov_len == 0) parts = parts.subspan(1);
    }
  }
  co_return Result<void>{};
}

void Stream::shutdown() { ::shutdown(socket_.get(), SHUT_RDWR); }

Result<std::unique_ptr<Listener>> Listener::listen(Endpoint at) {
  ZP_TRY(address, address_of(at));
  UniqueFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "cannot make a socket for {}", at.text);
  if (address.family() == AF_UNIX) {
    ::unlink(at.text.c_str() + 5);
  } else {
    int on = 1;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  if (::bind(socket.get(), address.get(), address.length) != 0) return fail_errno(errno, "cannot bind to {}", at.text);
  if (::listen(socket.get(), 128) != 0) return fail_errno(errno, "cannot listen at {}", at.text);
  return std::make_unique<Listener>(std::move(socket));
}

Task<Result<std::unique_ptr<Stream>>> Listener::accept() {
  if (closed_) co_return fail(ErrorCode::cancelled, "the listener was closed");
  int fd = socket_.get();
  auto prepare = [fd](io_uring_sqe* entry) { io_uring_prep_accept(entry, fd, nullptr, nullptr, SOCK_CLOEXEC); };
  UringAwait accepted(prepare);
  pending_ = &accepted.completion();
  int result = co_await accepted;
  pending_ = nullptr;
  if (result == -ECANCELED) co_return fail(ErrorCode::cancelled, "the listener was closed");
  if (result < 0) co_return fail_errno(-result, "cannot accept a connection");
  UniqueFd client(result);
  sockaddr_storage local{};
  socklen_t length = sizeof local;
  ::getsockname(client.get(), reinterpret_cast<sockaddr*>(&local), &length);
  send_without_delay(client.get(), local.ss_family);
  co_return std::make_unique<Stream>(std::move(client));
}

void Listener::close() {
  if (closed_) return;
  closed_ = true;
  if (pending_ == nullptr) return;
  static Reactor::Completion ignored{[](Reactor::Completion&, int) {}};
  io_uring_sqe& entry = Reactor::current().next_entry(ignored);
  io_uring_prep_cancel(&entry, pending_, 0);
  io_uring_sqe_set_data(&entry, &ignored);
}

Endpoint Listener::local_endpoint() const {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&storage), &length);
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_UNIX)
    return Endpoint{fmt::format("unix:{}", reinterpret_cast<sockaddr_un&>(storage).sun_path)};
  if (storage.ss_family == AF_INET) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return Endpoint{fmt::format("tcp:{}:{}", text, ntohs(v4.sin_port))};
  }
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return Endpoint{fmt::format("tcp:[{}]:{}", text, ntohs(v6.sin6_port))};
}

}  // namespace zpair::block
