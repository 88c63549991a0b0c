#pragma once
// Where everything of a sandbox lies: folders, addresses, ports, the nodes' configurations and the switch's plan.
// A sandbox has loopback addresses of its own (127.X.Y.*), so any number of them runs side by side:
//   .1 .2 .3              etcd of a, b, witness; .101 .102 .103 the switch in front of them, for the other members
//   .11 .12   .21 .22     a and b on path1, on path2
//   .111 .112 .121 .122   the switch's places for a and b on path1, path2: what the partner connects to
// Ports lie below the system's range for outgoing connections, so that a stopped process finds them free again.
// Kept in DIR/sandbox.json. Processes are not: they are found by their environment (peer_process.h).
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/error.h"
#include "cli/switch.h"

namespace zpair::cli {

struct SandboxOptions {
  std::uint32_t pools = 2;
  std::uint32_t mirrors = 12;
  std::uint64_t drive_size_bytes = std::uint64_t{512} << 20;
  std::uint32_t volumes = 1;  // a pool: vm1, vm2, …
  std::uint64_t volume_size_bytes = std::uint64_t{256} << 20;
  bool volatile_cache = false;
  std::int64_t link_latency_ms = 0;
  std::uint32_t partner_wait_s = 10;
  std::string drive_model;    // empty: the files as they are; nvme
  bool direct_paths = false;  // the nodes speak to each other without the switch: nothing to cut, nothing to copy

  bool operator==(const SandboxOptions&) const = default;
};

Result<void> check_options(const SandboxOptions& options);  // invalid: names the option and what it may be

struct SandboxLayout {
  std::string dir;         // full path, without links
  std::string net;         // 127.X.Y
  std::uint16_t port = 0;  // agent; +1 NVMe/TCP, +2 etcd's clients, +3 etcd's peers
  std::string run_base;    // sockets: DIR/run, or a short folder elsewhere when DIR is long
  std::string run_id;      // of `up`: names the etcd cluster
  SandboxOptions options;
  std::vector<std::string> exported_by_down;  // pools that the next `up` imports again
  bool complete = false;                      // pools and volumes were made

  std::string file() const { return dir + "/sandbox.json"; }
  std::string log_dir() const { return dir + "/log"; }
  std::string run_dir(std::string_view node) const { return run_base + "/" + std::string(node); }
  std::string api_socket(std::string_view node) const { return run_dir(node) + "/zpaird.sock"; }
  std::string switch_socket() const { return run_base + "/switch.sock"; }
  std::string switch_plan_file() const { return dir + "/switch.json"; }
  std::string config_file(std::string_view node) const { return fmt::format("{}/{}/zpaird.toml", dir, node); }
  std::string state_dir(std::string_view node) const { return fmt::format("{}/{}/state", dir, node); }
  std::string etcd_dir(std::string_view member) const { return fmt::format("{}/etcd/{}", dir, member); }
  std::string etcd_mark_file(std::string_view member) const { return fmt::format("{}/etcd/{}.mark", dir, member); }
  std::string etcd_pins_file(std::string_view member) const { return fmt::format("{}/etcd/{}.pins", dir, member); }
  std::string new_store_file() const { return dir + "/etcd/new-store"; }  // members without a mark begin a new store
  std::string drives_dir(std::string_view node) const { return fmt::format("{}/drives/{}", dir, node); }
  std::string drive_file(std::string_view node, std::string_view pool, std::uint32_t mirror) const;
  std::string address(int host) const { return fmt::format("{}.{}", net, host); }
  std::uint16_t etcd_client_port() const { return static_cast<std::uint16_t>(port + 2); }
  std::uint16_t etcd_peer_port() const { return static_cast<std::uint16_t>(port + 3); }
  std::string pool_name(std::uint32_t index) const { return fmt::format("tank-{}", static_cast<char>('a' + index)); }
  std::string pool_home(std::uint32_t index) const { return index % 2 == 0 ? "a" : "b"; }
};

inline constexpr std::array<std::string_view, 2> node_names = {"a", "b"};
inline constexpr std::array<std::string_view, 3> member_names = {"a", "b", "witness"};
int etcd_host(std::string_view member);  // 1, 2, 3

// A fresh sandbox: checks the folder (absent or empty), chooses addresses and ports. Nothing is written.
Result<SandboxLayout> plan_sandbox(const std::string& dir, const SandboxOptions& options);
// Folders, sparse drive files, configurations, the switch's plan, sandbox.json. What was made goes again when it fails.
Result<void> write_sandbox(const SandboxLayout& layout);

Result<std::string> full_path(const std::string& path);  // from the root on, without links as far as it exists
bool is_sandbox(const std::string& dir);
Result<SandboxLayout> load_layout(const std::string& dir);  // not_found: names the command that makes one
Result<void> save_layout(const SandboxLayout& layout);      // replaces the file atomically

NodeConfig config_of(const SandboxLayout& layout, NodeId node);
SwitchPlan switch_plan_of(const SandboxLayout& layout);
// What a member advertises to the others, and what the node's zpaird uses (own member first, the others by the switch).
std::string etcd_peer_url(const SandboxLayout& layout, std::string_view member);
std::string etcd_client_url_for_others(const SandboxLayout& layout, std::string_view member);
std::vector<std::string> etcd_endpoints(const SandboxLayout& layout, std::string_view node);

}  // namespace zpair::cli
