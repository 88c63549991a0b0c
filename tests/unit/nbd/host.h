#pragma once
// A reactor on its own thread, so that a test can talk to a server with blocking sockets, and a blocking raw NBD client.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "block/reactor.h"
#include "block/stream.h"
#include "nbd/wire.h"

namespace zpair::test {

namespace wire = nbd::wire;

class Host {
 public:
  Host() : reactor_(std::move(*block::Reactor::create())), thread_([this] { reactor_->run(); }) {}
  ~Host() {
    reactor_->stop();
    thread_.join();
  }

  // Runs `call` on the reactor and returns its value.
  template <class Call>
  auto on(Call call) -> decltype(call()) {
    std::promise<decltype(call())> promise;
    reactor_->post([&] {
      if constexpr (std::is_void_v<decltype(call())>) {
        call();
        promise.set_value();
      } else {
        promise.set_value(call());
      }
    });
    return promise.get_future().get();
  }
  // Runs the task that `make` returns to its end.
  template <class Make>
  auto await(Make make) {
    using T = decltype(make().await_resume());
    std::promise<T> promise;
    std::optional<block::Task<void>> waiter;
    reactor_->post([&] {
      waiter.emplace(finish<T>(make(), promise));
      waiter->start();
    });
    auto future = promise.get_future();
    if constexpr (std::is_void_v<T>) {
      future.get();
      on([&] { waiter.reset(); });
    } else {
      T value = future.get();
      on([&] { waiter.reset(); });
      return value;
    }
  }
  // Waits until `condition` holds on the reactor.
  [[nodiscard]] bool until(std::function<bool()> condition) {
    Deadline deadline = Deadline::in_ms(20'000);
    while (!deadline.passed()) {
      if (on(condition)) return true;
      std::this_thread::yield();
    }
    return false;
  }
  block::Reactor& reactor() { return *reactor_; }

 private:
  template <class T>
  static block::Task<void> finish(block::Task<T> task, std::promise<T>& promise) {
    if constexpr (std::is_void_v<T>) {
      co_await task;
      promise.set_value();
    } else {
      promise.set_value(co_await task);
    }
  }
  std::unique_ptr<block::Reactor> reactor_;
  std::thread thread_;
};

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  auto span = std::as_bytes(std::span(text));
  return {span.begin(), span.end()};
}
inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Speaks NBD by hand over a blocking socket; a wait of 20 s fails.
class RawClient {
 public:
  explicit RawClient(int fd) : fd_(fd) {
    timeval limit{20, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  static RawClient to_unix(const std::string& path) {
    int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    int result = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    EXPECT_EQ(result, 0) << std::strerror(errno);
    return RawClient(fd);
  }
  RawClient(RawClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  RawClient& operator=(RawClient&& other) noexcept {
    hang_up();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~RawClient() { hang_up(); }
  void hang_up() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

  void send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return;  // the test sees the end when it receives
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }
  Bytes receive(std::size_t size) {  // shorter when the connection ends
    Bytes bytes(size);
    std::size_t filled = 0;
    while (filled < size) {
      ssize_t count = ::recv(fd_, bytes.data() + filled, size - filled, 0);
      if (count < 0 && errno == EINTR) continue;  // io_uring's work interrupts waits
      if (count <= 0) break;
      filled += static_cast<std::size_t>(count);
    }
    bytes.resize(filled);
    return bytes;
  }
  [[nodiscard]] bool ended() {  // silence for the whole time limit is no end
    std::byte byte;
    ssize_t count = -1;
    do count = ::recv(fd_, &byte, 1, 0);
    while (count < 0 && errno == EINTR);
    return count == 0 || (count < 0 && errno == ECONNRESET);
  }
  [[nodiscard]] bool silent() {
    pollfd look{fd_, POLLIN, 0};
    return ::poll(&look, 1, 0) == 0;
  }

  // ---- handshake
  void greet(std::uint32_t flags = 3) {
    Bytes hello = receive(18);
    ASSERT_EQ(hello.size(), 18u);
    wire::Writer out;
    send(out.put(flags).take());
  }
  void option(std::uint32_t number, const Bytes& data = {}) {
    wire::Writer out;
    out.put(wire::option_magic).put(number).put(static_cast<std::uint32_t>(data.size())).put(std::span(data));
    send(out.take());
  }
  [[nodiscard]] bool hung_up_on() const {
    pollfd look{fd_, POLLRDHUP, 0};
    return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP)) != 0;
  }
  struct Reply {
    std::uint32_t type = 0;
    Bytes data;
  };
  Reply reply() {
    Bytes header = receive(20);
    if (header.size() != 20) return {};
    EXPECT_EQ(wire::load<std::uint64_t>(header.data()), wire::option_reply_magic);
    auto length = wire::load<std::uint32_t>(header.data() + 16);
    return {wire::load<std::uint32_t>(header.data() + 12), receive(length)};
  }
  static Bytes go_data(std::string_view name) {
    wire::Writer out;
    return out.put(static_cast<std::uint32_t>(name.size())).put(name).put(std::uint16_t{0}).take();
  }
  static Bytes context_data(std::string_view name, const std::vector<std::string>& queries) {
    wire::Writer out;
    out.put(static_cast<std::uint32_t>(name.size())).put(name).put(static_cast<std::uint32_t>(queries.size()));
    for (const std::string& query : queries) out.put(static_cast<std::uint32_t>(query.size())).put(query);
    return out.take();
  }
  // True when the export is open.
  [[nodiscard]] bool go(std::string_view name, bool structured = false, bool allocation = false) {
    greet();
    if (structured) {
      option(wire::opt_structured_reply);
      EXPECT_EQ(reply().type, wire::rep_ack);
    }
    if (allocation) {
      option(wire::opt_set_meta_context, context_data(name, {"base:allocation"}));
      EXPECT_EQ(reply().type, wire::rep_meta_context);
      EXPECT_EQ(reply().type, wire::rep_ack);
    }
    option(wire::opt_go, go_data(name));
    for (;;) {
      Reply got = reply();
      if (got.type == wire::rep_info) continue;
      return got.type == wire::rep_ack;
    }
  }

  // ---- transmission
  void request(std::uint16_t command, std::uint64_t cookie, std::uint64_t offset, std::uint32_t length,
               const Bytes& payload = {}, std::uint16_t flags = 0) {
    wire::Writer out;
    out.put(wire::request_magic).put(flags).put(command).put(cookie).put(offset).put(length).put(std::span(payload));
    send(out.take());
  }
  struct Simple {
    std::uint32_t error = 0xffffffff;
    std::uint64_t cookie = 0;
    bool operator==(const Simple&) const = default;
  };
  Simple simple() {
    Bytes header = receive(16);
    if (header.size() != 16) return {};
    EXPECT_EQ(wire::load<std::uint32_t>(header.data()), wire::simple_reply_magic);
    return {wire::load<std::uint32_t>(header.data() + 4), wire::load<std::uint64_t>(header.data() + 8)};
  }
  // The extents of one answer: length and flags; none when it is no such answer.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> block_status() {
    Bytes header = receive(wire::chunk_header_bytes);
    if (header.size() != wire::chunk_header_bytes ||
        wire::load<std::uint16_t>(header.data() + 6) != wire::chunk_block_status)
      return {};
    Bytes body = receive(wire::load<std::uint32_t>(header.data() + 16));
    std::vector<std::pair<std::uint32_t, std::uint32_t>> extents;
    EXPECT_EQ(wire::load<std::uint32_t>(body.data()), wire::allocation_context_id);
    for (std::size_t at = 4; at + wire::extent_bytes <= body.size(); at += wire::extent_bytes)
      extents.emplace_back(wire::load<std::uint32_t>(body.data() + at),
                           wire::load<std::uint32_t>(body.data() + at + 4));
    return extents;
  }

 private:
  int fd_;
};

inline std::string socket_path(const std::string& name) {
  return "/tmp/zpair-test-" + std::to_string(::getpid()) + "-" + name + ".sock";
}

inline Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

}  // namespace zpair::test
