#include "cli/sandbox_layout.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "cli/sizes.h"

namespace zpair::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// A drive with power-loss protection: what Micron's data sheet says of the 9200 (read 92, write 21 us at one in flight; 840000
// reads a second, so some 77 in flight; its flush has nothing to do).
constexpr const char* nvme_model = "latency-us 92 21 5; parallel 77; protected-cache on";

constexpr std::size_t longest_run_base =
    30;  // "/a/pool-NAME.control" still fits a socket path, with the longest name that a pool may have
constexpr std::int64_t longest_link_latency_ms = 10000;
constexpr std::uint32_t longest_partner_wait_s = 3600;
constexpr std::uintmax_t least_free_bytes = std::uintmax_t{320}
                                            << 20;  // three etcd members write 64 MiB of log each before anything else
constexpr int etcd_switch_host = 100;
constexpr int path_switch_host = 100;

int path_host(int path, std::string_view node) { return path * 10 + (node == "a" ? 1 : 2); }

bool can_listen(const std::string& address, std::uint16_t port) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  ::inet_pton(AF_INET, address.c_str(), &at.sin_addr);
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0 && ::listen(socket.get(), 1) == 0;
}

std::uint16_t outgoing_ports_begin() {
  std::ifstream in("/proc/sys/net/ipv4/ip_local_port_range");
  unsigned first = 0;
  return in >> first && first > 12000 && first <= 65535 ? static_cast<std::uint16_t>(first) : 32768;
}

bool all_free(const SandboxLayout& layout) {
  for (std::string_view member : member_names) {
    for (int host : {etcd_host(member), etcd_host(member) + etcd_switch_host}) {
      if (!can_listen(layout.address(host), layout.etcd_client_port()) ||
          !can_listen(layout.address(host), layout.etcd_peer_port()))
        return false;
    }
  }
  for (int path : {1, 2}) {
    for (std::string_view node : node_names) {
      for (int host : {path_host(path, node), path_host(path, node) + path_switch_host}) {
        if (!can_listen(layout.address(host), layout.port) ||
            !can_listen(layout.address(host), static_cast<std::uint16_t>(layout.port + 1)))
          return false;
      }
    }
  }
  return true;
}

Result<void> choose_addresses(SandboxLayout& layout) {
  const unsigned end = outgoing_ports_begin();
  for (int attempt = 0; attempt < 50; ++attempt) {
    const auto dice = Uuid::random().bytes;
    layout.net = fmt::format("127.{}.{}", 1 + dice[0] % 254, dice[1]);
    layout.port = static_cast<std::uint16_t>(end - 10000 + (dice[2] * 256u + dice[3]) % 2490 * 4);
    if (all_free(layout)) return {};
  }
  return fail(ErrorCode::io, "found no free loopback addresses and ports for a sandbox: is networking (lo) up?");
}

Result<void> make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return fail(error_from_errno(error.value()), "cannot make the folder {}", folder);
  return {};
}

Result<void> write_file(const std::string& file, const std::string& text) {
  const std::string temporary = file + ".new";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << text;
    out.flush();
    if (!out) return fail_errno(errno, "cannot write {}", temporary);
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) return fail_errno(errno, "cannot write {}", file);
  return {};
}

Result<void> make_drive(const std::string& file, std::uint64_t size_bytes) {
  UniqueFd drive(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!drive) return fail_errno(errno, "cannot make the drive file {}", file);
  if (::ftruncate(drive.get(), static_cast<off_t>(size_bytes)) != 0)
    return fail_errno(errno, "cannot size the drive file {}", file);
  return {};
}

// Its processes are its user's, and only that user sees and ends them.
Result<void> check_user(const std::string& dir) {
  struct stat file{};
  if (::stat((dir + "/sandbox.json").c_str(), &file) != 0 || file.st_uid == ::geteuid()) return {};
  const passwd* user = ::getpwuid(file.st_uid);
  return fail(ErrorCode::invalid, "the sandbox {} belongs to user {}: only that user can do something with it", dir,
              user == nullptr ? std::to_string(file.st_uid) : user->pw_name);
}

Result<void> check_space(const std::string& dir) {
  fs::path there = dir;
  std::error_code error;
  while (!fs::exists(there, error) && there.has_parent_path() && there != there.parent_path())
    there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  if (error || space.capacity == 0 || space.available >= least_free_bytes) return {};  // /proc has no capacity
  return fail(ErrorCode::no_space, "{} has {} free, a sandbox needs {} at least: choose another folder", there.string(),
              format_size(space.available), format_size(least_free_bytes));
}

// The folder was absent or empty when the sandbox was planned.
void remove_what_was_made(const SandboxLayout& layout, bool folder_was_there) {
  std::error_code ignored;
  if (!folder_was_there) {
    fs::remove_all(layout.dir, ignored);
  } else {
    for (const auto& entry : fs::directory_iterator(layout.dir, ignored)) fs::remove_all(entry.path(), ignored);
  }
  fs::remove_all(layout.run_base, ignored);
}

Result<void> write_all(const SandboxLayout& layout) {
  ZP_CHECK(make_folder(layout.log_dir()));
  for (std::string_view member : member_names) ZP_CHECK(make_folder(layout.etcd_dir(member)));
  for (std::string_view node : node_names) {
    ZP_CHECK(make_folder(layout.state_dir(node)));
    ZP_CHECK(make_folder(layout.run_dir(node)));
    ZP_CHECK(make_folder(layout.drives_dir(node)));
    ZP_TRY(id, parse_node(node));
    ZP_CHECK(write_file(layout.config_file(node),
                        "# written by `zpair sandbox up`\n" + write_config(config_of(layout, id))));
    for (std::uint32_t pool = 0; pool < layout.options.pools; ++pool) {
      for (std::uint32_t mirror = 0; mirror < layout.options.mirrors; ++mirror) {
        ZP_CHECK(make_drive(layout.drive_file(node, layout.pool_name(pool), mirror), layout.options.drive_size_bytes));
      }
    }
  }
  ZP_CHECK(write_file(layout.switch_plan_file(), to_json(switch_plan_of(layout))));
  return save_layout(layout);
}

}  // namespace

Result<void> check_options(const SandboxOptions& options) {
  if (options.pools < 1 || options.pools > 26)
    return fail(ErrorCode::invalid, "--pools is {}: give 1 to 26", options.pools);
  if (options.mirrors < 1 || options.mirrors > 99)
    return fail(ErrorCode::invalid, "--mirrors is {}: give 1 to 99", options.mirrors);
  if (options.drive_size_bytes < (std::uint64_t{64} << 20) || options.drive_size_bytes % 4096 != 0) {
    return fail(ErrorCode::invalid, "--drive-size is {} bytes: give at least 64M, a multiple of 4096",
                options.drive_size_bytes);
  }
  if (options.volumes > 0 && options.volume_size_bytes % (1 << 20) != 0) {
    return fail(ErrorCode::invalid, "--volume-size is {} bytes: give whole megabytes", options.volume_size_bytes);
  }
  if (options.link_latency_ms < 0 || options.link_latency_ms > longest_link_latency_ms) {
    return fail(ErrorCode::invalid, "--link-latency is {} ms: give 0 to {}", options.link_latency_ms,
                longest_link_latency_ms);
  }
  if (options.partner_wait_s > longest_partner_wait_s) {
    return fail(ErrorCode::invalid, "--partner-wait is {} s: give 0 to {}", options.partner_wait_s,
                longest_partner_wait_s);
  }
  if (options.direct_paths && options.link_latency_ms != 0) {
    return fail(ErrorCode::invalid, "--link-latency is what the switch adds: leave --direct-paths out");
  }
  return {};
}

int etcd_host(std::string_view member) { return member == "a" ? 1 : member == "b" ? 2 : 3; }

std::string SandboxLayout::drive_file(std::string_view node, std::string_view pool, std::uint32_t mirror) const {
  return fmt::format("{}/{}-{:02}", drives_dir(node), pool, mirror);
}

Result<SandboxLayout> plan_sandbox(const std::string& dir, const SandboxOptions& options) {
  ZP_CHECK(check_options(options));
  SandboxLayout layout;
  ZP_TRY(full, full_path(dir));
  layout.dir = full;
  std::error_code error;
  if (fs::exists(dir, error) && (!fs::is_directory(dir, error) || !fs::is_empty(dir, error))) {
    return fail(ErrorCode::exists, "{} is there and is neither empty nor a sandbox: choose another folder", dir);
  }
  ZP_CHECK(check_space(layout.dir));
  layout.options = options;
  layout.run_id = Uuid::random().to_string();
  layout.run_base = layout.dir + "/run";
  if (layout.run_base.size() > longest_run_base)
    layout.run_base = fmt::format("/tmp/zpair-{}-{}", ::getuid(), layout.run_id.substr(0, 8));
  ZP_CHECK(choose_addresses(layout));
  return layout;
}

Result<void> write_sandbox(const SandboxLayout& layout) {
  std::error_code error;
  const bool folder_was_there = fs::exists(layout.dir, error);
  auto written = write_all(layout);
  if (!written) remove_what_was_made(layout, folder_was_there);
  return written;
}

Result<std::string> full_path(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::invalid, "'' names no folder and no file");
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  if (error)
    return fail(error_from_errno(error.value()), "cannot tell where {} is (is the current folder gone?)", path);
  std::string full = fs::weakly_canonical(absolute, error).string();
  if (error) return fail(error_from_errno(error.value()), "cannot find {}", path);
  while (full.size() > 1 && full.back() == '/') full.pop_back();
  return full;
}

bool is_sandbox(const std::string& dir) {
  std::error_code error;
  return fs::exists(dir + "/sandbox.json", error);
}

Result<SandboxLayout> load_layout(const std::string& dir) {
  ZP_TRY(full, full_path(dir));
  std::ifstream in(full + "/sandbox.json");
  if (!in) return fail(ErrorCode::not_found, "{} is no sandbox: make one with zpair sandbox up {}", dir, quoted(dir));
  ZP_CHECK(check_user(full));
  std::ostringstream text;
  text << in.rdbuf();
  try {
    const json parsed = json::parse(text.str());
    SandboxLayout layout;
    layout.dir = full;
    layout.net = parsed.at("net");
    layout.port = parsed.at("port");
    layout.run_base = parsed.at("run_base");
    layout.run_id = parsed.at("run_id");
    layout.exported_by_down = parsed.at("exported_by_down").get<std::vector<std::string>>();
    layout.complete = parsed.at("complete");
    const json& options = parsed.at("options");
    layout.options = {options.at("pools"),
                      options.at("mirrors"),
                      options.at("drive_size_bytes"),
                      options.at("volumes"),
                      options.at("volume_size_bytes"),
                      options.at("volatile_cache"),
                      options.at("link_latency_ms"),
                      options.at("partner_wait_s"),
                      options.value("drive_model", ""),
                      options.value("direct_paths", false)};
    if (parsed.at("dir") != full) {
      return fail(ErrorCode::invalid,
                  "the sandbox {} was made as {}: its drives are known by their place, move it back", full,
                  parsed.at("dir").get<std::string>());
    }
    return layout;
  } catch (const json::exception& problem) {
    return fail(ErrorCode::invalid, "{}/sandbox.json cannot be read ({}): make the sandbox again", full,
                problem.what());
  }
}

Result<void> save_layout(const SandboxLayout& layout) {
  const auto& o = layout.options;
  const json text = {{"dir", layout.dir},
                     {"net", layout.net},
                     {"port", layout.port},
                     {"run_base", layout.run_base},
                     {"run_id", layout.run_id},
                     {"exported_by_down", layout.exported_by_down},
                     {"complete", layout.complete},
                     {"options",
                      {{"pools", o.pools},
                       {"mirrors", o.mirrors},
                       {"drive_size_bytes", o.drive_size_bytes},
                       {"volumes", o.volumes},
                       {"volume_size_bytes", o.volume_size_bytes},
                       {"volatile_cache", o.volatile_cache},
                       {"link_latency_ms", o.link_latency_ms},
                       {"partner_wait_s", o.partner_wait_s},
                       {"drive_model", o.drive_model},
                       {"direct_paths", o.direct_paths}}}};
  return write_file(layout.file(), text.dump(2) + "\n");
}

NodeConfig config_of(const SandboxLayout& layout, NodeId node) {
  NodeConfig config;
  const std::string own(name_of(node));
  const std::string other(name_of(partner_of(node)));
  config.node = node;
  config.state_dir = layout.state_dir(own);
  config.run_dir = layout.run_dir(own);
  // Unlike the system's own, too: the check at start would refuse it.
  const auto system_id = static_cast<std::uint32_t>(::gethostid());
  config.zfs_host_id = 0x5a7a0001u + static_cast<std::uint32_t>(node);
  if (config.zfs_host_id == system_id) config.zfs_host_id += 0x100;
  for (int path : {1, 2}) {
    PathConfig entry;
    entry.name = fmt::format("path{}", path);
    entry.listen = layout.address(path_host(path, own));
    entry.partner = layout.address(path_host(path, other) + (layout.options.direct_paths ? 0 : path_switch_host));
    entry.agent_port = entry.partner_agent_port = layout.port;
    entry.nvme_port = entry.partner_nvme_port = static_cast<std::uint16_t>(layout.port + 1);
    config.paths.push_back(std::move(entry));
  }
  config.etcd_endpoints = etcd_endpoints(layout, own);
  config.limits = {128, 256, 64};  // MiB: two pools a node on a machine that carries the whole pair
  config.partner_wait_s = layout.options.partner_wait_s;
  config.fault = {true, layout.options.volatile_cache, layout.options.drive_model.empty() ? "" : nvme_model};
  return config;
}

SwitchPlan switch_plan_of(const SandboxLayout& layout) {
  SwitchPlan plan{layout.switch_socket(), layout.dir, layout.options.link_latency_ms, {}};
  const auto place = [&](int host, int port) { return fmt::format("tcp:{}:{}", layout.address(host), port); };
  for (int path : {1, 2}) {
    if (layout.options.direct_paths) break;
    for (std::string_view to : node_names) {
      const std::string_view from = to == "a" ? "b" : "a";
      const int host = path_host(path, to);
      // `to` accepts its partner's address only: what it calls its partner is the switch's place for `from`.
      const std::string source = layout.address(path_host(path, from) + path_switch_host);
      for (int port : {int(layout.port), layout.port + 1}) {
        plan.forwards.push_back({fmt::format("path{}", path), std::string(from), std::string(to),
                                 place(host + path_switch_host, port), place(host, port), source});
      }
    }
  }
  for (std::string_view to : member_names) {
    const int host = etcd_host(to);
    for (int port : {int(layout.etcd_client_port()), int(layout.etcd_peer_port())}) {
      plan.forwards.push_back(
          {"store", "", std::string(to), place(host + etcd_switch_host, port), place(host, port), ""});
    }
  }
  return plan;
}

std::string etcd_peer_url(const SandboxLayout& layout, std::string_view member) {
  return fmt::format("http://{}:{}", layout.address(etcd_host(member) + etcd_switch_host), layout.etcd_peer_port());
}

std::string etcd_client_url_for_others(const SandboxLayout& layout, std::string_view member) {
  return fmt::format("http://{}:{}", layout.address(etcd_host(member) + etcd_switch_host), layout.etcd_client_port());
}

std::vector<std::string> etcd_endpoints(const SandboxLayout& layout, std::string_view node) {
  std::vector<std::string> urls = {
      fmt::format("http://{}:{}", layout.address(etcd_host(node)), layout.etcd_client_port())};
  for (std::string_view member : member_names) {
    if (member == node) continue;
    urls.push_back(etcd_client_url_for_others(layout, member));
  }
  return urls;
}

}  // namespace zpair::cli
