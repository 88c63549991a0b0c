#include "control/channel.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "block/uring_await.h"

namespace zpair::control {

namespace {

constexpr std::size_t longest_message_bytes = 1 << 20;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail(ErrorCode::invalid, "socket path {} is {} bytes long, a Unix socket takes {}: choose a shorter run_dir",
                path, path.size(), sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "cannot make a control socket");
  return socket;
}

// The kernel's default (about 200 KiB) bounds a datagram; a start document of many legs may want more.
void widen(int socket) {
  int bytes = static_cast<int>(longest_message_bytes);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

UniqueFd descriptor_in(msghdr& header) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
    return UniqueFd(fd);
  }
  return UniqueFd();
}

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> Channel::make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno(errno, "cannot make a control socket pair");
  }
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

Result<UniqueFd> Channel::connect(const std::string& path) {
  ZP_TRY(address, address_of(path));
  ZP_TRY(socket, make_socket());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(errno, "cannot connect to {}", path);
  }
  return std::move(socket);
}

Result<UniqueFd> Channel::listen(const std::string& path) {
  ZP_TRY(address, address_of(path));
  ZP_TRY(socket, make_socket());
  ::unlink(path.c_str());
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(errno, "cannot bind {}", path);
  }
  if (::listen(socket.get(), 8) != 0) return fail_errno(errno, "cannot listen on {}", path);
  return std::move(socket);
}

block::Task<Result<UniqueFd>> Channel::accept(int listener) {
  block::UringAwait accepting(
      [listener](io_uring_sqe* entry) { io_uring_prep_accept(entry, listener, nullptr, nullptr, SOCK_CLOEXEC); });
  const int fd = co_await accepting;
  if (fd == -EINVAL || fd == -ECANCELED) co_return fail(ErrorCode::cancelled, "the control socket was closed");
  if (fd < 0) co_return fail_errno(-fd, "cannot accept a control connection");
  co_return UniqueFd(fd);
}

Result<void> Channel::send(const Message& message, int fd) {
  std::string text = to_json(message);
  if (text.size() > longest_message_bytes) {
    return fail(ErrorCode::invalid, "a control message of {} bytes is too long", text.size());
  }
  widen(socket_.get());
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = ancillary;
    header.msg_controllen = sizeof ancillary;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  if (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    return fail_errno(errno, "cannot send a control message");
  }
  return {};
}

block::Task<Result<Received>> Channel::receive() {
  std::vector<char> buffer(longest_message_bytes);
  std::vector<char> ancillary(CMSG_SPACE(sizeof(int)));
  iovec part{buffer.data(), buffer.size()};
  for (;;) {
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.data();
    header.msg_controllen = ancillary.size();
    const int socket = socket_.get();
    msghdr* into = &header;
    block::UringAwait receiving(
        [socket, into](io_uring_sqe* entry) { io_uring_prep_recvmsg(entry, socket, into, MSG_CMSG_CLOEXEC); });
    const int size = co_await receiving;
    if (size == 0) co_return fail(ErrorCode::cancelled, "the control connection has ended");
    if (size < 0) co_return fail_errno(-size, "cannot read a control message");
    UniqueFd fd = descriptor_in(header);
    auto message = parse_message(std::string_view(buffer.data(), static_cast<std::size_t>(size)));
    if (!message && message.error().code == ErrorCode::not_found) continue;  // a newer peer
    if (!message) co_return std::unexpected(message.error());
    co_return Received{std::move(*message), std::move(fd)};
  }
}

void Channel::close() {
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
}

std::string control_path(const std::string& run_dir, std::string_view pool) {
  return fmt::format("{}/pool-{}.control", run_dir, pool);
}
std::string api_path(const std::string& run_dir, std::string_view pool) {
  return fmt::format("{}/pool-{}.sock", run_dir, pool);
}
std::string fence_folder(const std::string& state_dir) { return state_dir + "/fence"; }
std::string pid_path(const std::string& run_dir, std::string_view pool) {
  return fmt::format("{}/pool-{}.pid", run_dir, pool);
}

}  // namespace zpair::control
