#include "nbd/socket_handover.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace zpair::nbd {

namespace {

// One message a socket: magic, label length, label, with the descriptor on its first byte. A batch ends with a message
// without descriptor whose length is `end_mark`. (A stream socket never merges bytes that carry descriptors.)
constexpr std::uint32_t magic = 0x5a50534b;
constexpr std::uint32_t end_mark = 0xffffffff;
constexpr std::size_t greatest_label_bytes = 1000;
constexpr std::size_t most_sockets = 100'000;

struct Prefix {
  std::uint32_t magic;
  std::uint32_t label_bytes;
};

Result<void> wait_ready(int fd, short what, Deadline deadline) {
  for (;;) {
    int wait_ms = -1;
    if (deadline.at_ns != INT64_MAX) {
      Nanoseconds left = deadline.at_ns - boot_time_ns();
      if (left <= 0) return fail(ErrorCode::timed_out, "the other process did not hand its sockets over in time");
      wait_ms = static_cast<int>(std::min<Nanoseconds>(left / ns_per_ms + 1, 1'000'000));
    }
    pollfd look{fd, what, 0};
    int ready = ::poll(&look, 1, wait_ms);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "cannot wait for the other process");
  }
}

Result<void> send_message(int over, std::string_view label, std::uint32_t label_bytes, int fd, Deadline deadline) {
  std::string bytes(sizeof(Prefix), '\0');
  Prefix prefix{magic, label_bytes};
  std::memcpy(bytes.data(), &prefix, sizeof prefix);
  bytes += label;
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    ZP_CHECK(wait_ready(over, POLLOUT, deadline));
    iovec part{bytes.data() + sent, bytes.size() - sent};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0 && sent == 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t count = ::sendmsg(over, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return fail_errno(errno, "cannot hand a socket over");
    sent += static_cast<std::size_t>(count);
  }
  return {};
}

// Fills `into`; a descriptor that comes along goes to `fd`.
Result<void> receive_bytes(int over, std::span<char> into, UniqueFd& fd, Deadline deadline) {
  while (!into.empty()) {
    ZP_CHECK(wait_ready(over, POLLIN, deadline));
    iovec part{into.data(), into.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t count = ::recvmsg(over, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return fail_errno(errno, "cannot receive a socket");
    if (count == 0) return fail(ErrorCode::io, "the other process ended while it handed its sockets over");
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      std::size_t fd_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < fd_count; ++i) {
        int received = -1;
        std::memcpy(&received, CMSG_DATA(header) + i * sizeof(int), sizeof received);
        fd = UniqueFd(received);  // a second one of the same message closes the first: a batch of ours has one
      }
    }
    into = into.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

}  // namespace

Result<void> send_sockets(int over, std::span<const SocketToSend> sockets, Deadline deadline) {
  for (const SocketToSend& socket : sockets) {
    if (socket.label.size() > greatest_label_bytes) {
      return fail(ErrorCode::invalid, "the label of a socket is longer than {} bytes", greatest_label_bytes);
    }
    ZP_CHECK(send_message(over, socket.label, static_cast<std::uint32_t>(socket.label.size()), socket.fd, deadline));
  }
  return send_message(over, "", end_mark, -1, deadline);
}

Result<std::vector<ReceivedSocket>> receive_sockets(int over, Deadline deadline) {
  std::vector<ReceivedSocket> sockets;
  for (;;) {
    UniqueFd fd;
    Prefix prefix{};
    ZP_CHECK(receive_bytes(over, std::span(reinterpret_cast<char*>(&prefix), sizeof prefix), fd, deadline));
    if (prefix.magic != magic) return fail(ErrorCode::invalid, "what came is no socket that was handed over");
    if (prefix.label_bytes == end_mark) return sockets;
    if (prefix.label_bytes > greatest_label_bytes || sockets.size() >= most_sockets) {
      return fail(ErrorCode::invalid, "a socket came with a label of {} bytes", prefix.label_bytes);
    }
    ReceivedSocket socket;
    socket.label.resize(prefix.label_bytes);
    ZP_CHECK(receive_bytes(over, socket.label, fd, deadline));
    if (!fd) return fail(ErrorCode::invalid, "socket '{}' came without its descriptor", socket.label);
    socket.fd = std::move(fd);
    sockets.push_back(std::move(socket));
  }
}

Result<UniqueFd> duplicate(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, "cannot duplicate a socket");
  return copy;
}

}  // namespace zpair::nbd
