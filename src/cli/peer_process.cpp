#include "cli/peer_process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

namespace zpair::cli {
namespace {

std::string read_whole(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> split_zeroes(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\0', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string proc(pid_t pid, const char* file) { return fmt::format("/proc/{}/{}", pid, file); }

std::optional<std::string> variable(const std::vector<std::string>& environment, std::string_view name) {
  for (const auto& entry : environment) {
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=')
      return entry.substr(name.size() + 1);
  }
  return std::nullopt;
}

// R, S, D, T (stopped), Z (zombie), X; empty when gone. The name in brackets may hold anything, so count from its end.
char state_letter(pid_t pid) {
  const std::string stat = read_whole(proc(pid, "stat"));
  const auto end = stat.rfind(") ");
  return end == std::string::npos || end + 2 >= stat.size() ? '\0' : stat[end + 2];
}

std::string process_name(pid_t pid) {
  const auto arguments = split_zeroes(read_whole(proc(pid, "cmdline")));
  if (arguments.empty()) return {};
  std::string name = std::filesystem::path(arguments[0]).filename();
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    if (arguments[i] == "sandbox-switch") return "switch";
    if (i == 1 && arguments[i].ends_with("/etcd-start")) return "etcd-start";
    if (name == "zpair-pool" && arguments[i] == "--pool" && i + 1 < arguments.size())
      return name + " " + arguments[i + 1];
  }
  return name;
}

std::optional<SandboxProcess> look_at(pid_t pid, const std::string& sandbox_dir) {
  const auto environment = split_zeroes(read_whole(proc(pid, "environ")));
  if (variable(environment, "ZPAIR_SANDBOX") != sandbox_dir) return std::nullopt;
  const char letter = state_letter(pid);
  if (letter == '\0' || letter == 'Z' || letter == 'X') return std::nullopt;
  return SandboxProcess{pid, variable(environment, "ZPAIR_NODE").value_or(""), process_name(pid),
                        letter == 'T' || letter == 't' ? "paused" : "running"};
}

// The inode of the one TCP socket with these two ends; 0: there is none. One question to the kernel: a read of
// /proc/net/tcp takes longer the more connections the machine has, and the switch does nothing else meanwhile.
std::uint32_t inode_of(const sockaddr_in& from, const sockaddr_in& to) {
  UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink) return 0;
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_family = AF_INET;
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.idiag_states = ~0U;
  question.request.id.idiag_sport = from.sin_port;
  question.request.id.idiag_dport = to.sin_port;
  question.request.id.idiag_src[0] = from.sin_addr.s_addr;
  question.request.id.idiag_dst[0] = to.sin_addr.s_addr;
  question.request.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  question.request.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (::send(netlink.get(), &question, sizeof question, 0) != static_cast<ssize_t>(sizeof question)) return 0;
  alignas(nlmsghdr) char answer[4096];
  const ssize_t size = ::recv(netlink.get(), answer, sizeof answer, 0);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  if (size < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(inet_diag_msg))) || header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
    return 0;
  return static_cast<const inet_diag_msg*>(NLMSG_DATA(header))->idiag_inode;
}

bool holds_socket(pid_t pid, const std::string& wanted) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(proc(pid, "fd"), error)) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone).string() == wanted) return true;
  }
  return false;
}

}  // namespace

std::vector<SandboxProcess> find_processes(const std::string& sandbox_dir) {
  std::vector<SandboxProcess> found;
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) return found;
  while (const dirent* entry = ::readdir(folder)) {
    pid_t pid = 0;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, pid).ptr != end || pid <= 0) continue;
    if (auto process = look_at(pid, sandbox_dir)) found.push_back(std::move(*process));
  }
  ::closedir(folder);
  std::sort(found.begin(), found.end(), [](const auto& x, const auto& y) {
    return std::tie(x.node, x.name, x.pid) < std::tie(y.node, y.name, y.pid);
  });
  return found;
}

std::string node_of_tcp_peer(int accepted_fd, const std::string& sandbox_dir) {
  sockaddr_in own{};
  sockaddr_in peer{};
  socklen_t own_size = sizeof own;
  socklen_t peer_size = sizeof peer;
  if (::getsockname(accepted_fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0 ||
      ::getpeername(accepted_fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0 || peer.sin_family != AF_INET) {
    return {};
  }
  const std::uint32_t inode = inode_of(peer, own);
  if (inode == 0) return {};
  const std::string wanted = fmt::format("socket:[{}]", inode);
  static std::vector<SandboxProcess> known;  // of one sandbox and one thread: the switch's
  for (const auto& process : known) {
    if (holds_socket(process.pid, wanted)) return process.node;
  }
  known = find_processes(sandbox_dir);
  for (const auto& process : known) {
    if (holds_socket(process.pid, wanted)) return process.node;
  }
  return {};
}

UniqueFd open_process(const SandboxProcess& process, const std::string& sandbox_dir) {
  UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  if (!handle) return {};
  // The handle is fixed now; what it stands for is looked at again, for the pid may have been recycled before.
  const auto now = look_at(process.pid, sandbox_dir);
  if (!now || now->node != process.node) return {};
  return handle;
}

Result<void> send_signal(const UniqueFd& process, int signal_number) {
  if (::syscall(SYS_pidfd_send_signal, process.get(), signal_number, nullptr, 0) != 0 && errno != ESRCH) {
    return fail_errno(errno, "cannot signal a process of the sandbox");
  }
  return {};
}

bool wait_gone(const UniqueFd& process, int timeout_ms) {
  pollfd entry{process.get(), POLLIN, 0};
  return ::poll(&entry, 1, timeout_ms) == 1;
}

}  // namespace zpair::cli
