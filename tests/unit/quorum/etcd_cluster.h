#pragma once
// Three real etcd members on loopback, started through packaging/etcd-start in a folder of their own.
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"

namespace zpair::quorum {

class EtcdCluster {
 public:
  static constexpr std::array<const char*, 3> names = {"a", "b", "witness"};

  EtcdCluster() : folder_(std::filesystem::current_path() / ("etcd-" + Uuid::random().to_string())) {
    std::filesystem::create_directory(folder_);
    std::vector<UniqueFd> held;  // all at once, so that no two are the same
    for (auto& port : client_ports_) port = free_port(held);
    for (auto& port : peer_ports_) port = free_port(held);
    held.clear();
    for (std::size_t i = 0; i < names.size(); ++i) start(i, {"--bootstrap"});
  }
  ~EtcdCluster() {
    for (std::size_t i = 0; i < names.size(); ++i) kill(i);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string endpoint(std::size_t member) const { return "http://127.0.0.1:" + std::to_string(client_ports_[member]); }
  int client_port(std::size_t member) const { return client_ports_[member]; }
  // `first`: the own member.
  std::vector<std::string> endpoints(std::size_t first = 0) const {
    return {endpoint(first), endpoint((first + 1) % 3), endpoint((first + 2) % 3)};
  }
  std::filesystem::path data(std::size_t member) const { return folder_ / names[member]; }
  std::filesystem::path mark(std::size_t member) const { return folder_ / (std::string(names[member]) + ".mark"); }
  std::filesystem::path pins(std::size_t member) const { return folder_ / (std::string(names[member]) + ".pins"); }
  std::string log(std::size_t member) const {
    std::ifstream file(log_path(member));
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  void start(std::size_t member, std::vector<std::string> options = {}) {
    std::vector<std::string> command = {
        PACKAGING_DIR "/etcd-start", "--name",      names[member],         "--data-dir",
        data(member).string(),       "--mark-file", mark(member).string(), "--pins-file",
        pins(member).string()};
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (i == member) continue;
      command.push_back("--peer-client");
      command.push_back(endpoint(i));
    }
    command.insert(command.end(), options.begin(), options.end());
    std::string cluster;
    for (std::size_t i = 0; i < names.size(); ++i) cluster += (i > 0 ? "," : "") + (names[i] + ("=" + peer_url(i)));
    for (const std::string& flag :
         std::vector<std::string>{"--", "--listen-client-urls", endpoint(member), "--advertise-client-urls",
                                  endpoint(member), "--listen-peer-urls", peer_url(member),
                                  "--initial-advertise-peer-urls", peer_url(member), "--initial-cluster", cluster}) {
      command.push_back(flag);
    }
    std::vector<char*> arguments;
    for (std::string& argument : command) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    std::string log_file = log_path(member);
    pid_t child = fork();
    if (child == 0) {
      int log = ::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      ::dup2(log, 1);
      ::dup2(log, 2);
      ::execv(arguments[0], arguments.data());
      ::_exit(127);
    }
    pids_[member] = child;
  }
  void kill(std::size_t member) {
    if (pids_[member] <= 0) return;
    ::kill(pids_[member], SIGKILL);
    ::waitpid(pids_[member], nullptr, 0);
    pids_[member] = 0;
  }
  // Waits for the member to end by itself; its exit code.
  int exit_code(std::size_t member) {
    int status = 0;
    ::waitpid(pids_[member], &status, 0);
    pids_[member] = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Returns when every thread of it stands still: a signal alone is not yet a stop.
  void pause(std::size_t member) {
    ::kill(pids_[member], SIGSTOP);
    while (!stands_still(pids_[member])) std::this_thread::yield();
  }
  void resume(std::size_t member) { ::kill(pids_[member], SIGCONT); }
  bool runs(std::size_t member) const { return pids_[member] > 0; }
  std::string peer_url(std::size_t member) const { return "http://127.0.0.1:" + std::to_string(peer_ports_[member]); }
  // From its next start on it listens for its peers elsewhere: a new machine.
  void move_peer(std::size_t member) {
    std::vector<UniqueFd> held;
    peer_ports_[member] = free_port(held);
  }

 private:
  static bool stands_still(pid_t pid) {
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      std::ifstream file(thread.path() / "stat");
      std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      const std::size_t end_of_name = stat.rfind(')');
      if (end_of_name != std::string::npos && stat.compare(end_of_name + 2, 1, "T") != 0) return false;
    }
    return true;
  }
  static int free_port(std::vector<UniqueFd>& held) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    socklen_t length = sizeof address;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
    held.push_back(std::move(fd));
    return ntohs(address.sin_port);
  }
  std::string log_path(std::size_t member) const { return (folder_ / (std::string(names[member]) + ".log")).string(); }

  std::filesystem::path folder_;
  std::array<int, 3> client_ports_{};
  std::array<int, 3> peer_ports_{};
  std::array<pid_t, 3> pids_{};
};

}  // namespace zpair::quorum
