#pragma once
// Processes of a sandbox, told by their environment (ZPAIR_SANDBOX, ZPAIR_NODE), which they hand to their children and
// which no foreign process has: so that a recycled pid is never mistaken.
// Source: proc(5), pidfd_open(2).
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace zpair::cli {

struct SandboxProcess {
  pid_t pid = 0;
  std::string node;   // a, b, witness or switch
  std::string name;   // zpaird, zpair-pool tank-a, etcd, switch
  std::string state;  // running, paused
};

// Every living process of the sandbox (zombies are not).
std::vector<SandboxProcess> find_processes(const std::string& sandbox_dir);

// The node of the process that holds the other end of an accepted TCP connection of this machine; empty: nobody found.
std::string node_of_tcp_peer(int accepted_fd, const std::string& sandbox_dir);

// A handle that stays that very process, or empty when it is gone or is none of this sandbox.
UniqueFd open_process(const SandboxProcess& process, const std::string& sandbox_dir);

Result<void> send_signal(const UniqueFd& process, int signal_number);
bool wait_gone(const UniqueFd& process, int timeout_ms);

}  // namespace zpair::cli
