#include "base/config.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <set>
#include <sstream>

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

namespace zpair {
namespace {

constexpr std::size_t max_socket_path_bytes = 107;  // sockaddr_un
constexpr std::size_t max_run_dir_bytes = 70;       // leaves room for POOL.VOLUME.nbd

// Reads one table: every key is asked for by name, and what was not asked for is unknown.
class Table {
 public:
  Table(const toml::table& table, std::string_view file, std::string name)
      : table_(table), file_(file), name_(std::move(name)) {}

  Result<void> only(std::initializer_list<std::string_view> known) const {
    const std::set<std::string_view> names(known);
    for (const auto& [key, node] : table_) {
      if (!names.contains(key.str())) {
        std::string list;
        for (auto name : known) list += (list.empty() ? "" : ", ") + std::string(name);
        return fail(ErrorCode::invalid, "{}: unknown key `{}` (line {}): known here are {}", file_, path_of(key.str()),
                    node.source().begin.line, list);
      }
    }
    return {};
  }

  Result<std::string> text(std::string_view key, std::optional<std::string> otherwise = std::nullopt) const {
    const auto* node = table_.get(key);
    if (node == nullptr && otherwise) return *otherwise;
    if (node == nullptr) return fail(ErrorCode::invalid, "{}: `{}` is missing", file_, path_of(key));
    auto value = node->value_exact<std::string>();
    if (!value || value->empty())
      return fail(ErrorCode::invalid, "{}: `{}` must be a text in quotes", file_, path_of(key));
    return *value;
  }

  Result<std::uint64_t> number(std::string_view key, std::uint64_t least, std::uint64_t most,
                               std::optional<std::uint64_t> otherwise) const {
    const auto* node = table_.get(key);
    if (node == nullptr && otherwise) return *otherwise;
    if (node == nullptr) return fail(ErrorCode::invalid, "{}: `{}` is missing", file_, path_of(key));
    auto value = node->value_exact<std::int64_t>();
    if (!value || *value < 0 || static_cast<std::uint64_t>(*value) < least ||
        static_cast<std::uint64_t>(*value) > most) {
      return fail(ErrorCode::invalid, "{}: `{}` must be a whole number from {} to {}", file_, path_of(key), least,
                  most);
    }
    return static_cast<std::uint64_t>(*value);
  }

  Result<bool> flag(std::string_view key, bool otherwise) const {
    const auto* node = table_.get(key);
    if (node == nullptr) return otherwise;
    auto value = node->value_exact<bool>();
    if (!value) return fail(ErrorCode::invalid, "{}: `{}` must be true or false", file_, path_of(key));
    return *value;
  }

  Result<std::optional<Table>> table(std::string_view key) const {
    const auto* node = table_.get(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_table()) return fail(ErrorCode::invalid, "{}: `{}` must be a table: [{}]", file_, path_of(key), key);
    return Table(*node->as_table(), file_, path_of(key));
  }

  Result<std::vector<Table>> tables(std::string_view key) const {
    const auto* node = table_.get(key);
    if (node == nullptr) return std::vector<Table>{};
    std::vector<Table> found;
    const auto* array = node->as_array();
    if (array == nullptr)
      return fail(ErrorCode::invalid, "{}: `{}` must be a list of tables: [[{}]]", file_, path_of(key), key);
    for (const auto& entry : *array) {
      if (!entry.is_table())
        return fail(ErrorCode::invalid, "{}: `{}` must be a list of tables: [[{}]]", file_, path_of(key), key);
      found.emplace_back(*entry.as_table(), file_, path_of(key));
    }
    return found;
  }

  Result<std::vector<std::string>> texts(std::string_view key) const {
    const auto* node = table_.get(key);
    const auto* array = node == nullptr ? nullptr : node->as_array();
    if (array == nullptr) return fail(ErrorCode::invalid, "{}: `{}` must be a list of texts", file_, path_of(key));
    std::vector<std::string> found;
    for (const auto& entry : *array) {
      auto value = entry.value_exact<std::string>();
      if (!value) return fail(ErrorCode::invalid, "{}: `{}` must be a list of texts", file_, path_of(key));
      found.push_back(*value);
    }
    return found;
  }

  std::string path_of(std::string_view key) const {
    return name_.empty() ? std::string(key) : name_ + "." + std::string(key);
  }

 private:
  const toml::table& table_;
  std::string_view file_;
  std::string name_;
};

// A numeric address that names one interface: listening everywhere would let strangers in (there is no authentication yet).
Result<void> check_address(const std::string& address, std::string_view key, std::string_view file) {
  in_addr v4{};
  in6_addr v6{};
  const bool is_v4 = inet_pton(AF_INET, address.c_str(), &v4) == 1;
  const bool is_v6 = inet_pton(AF_INET6, address.c_str(), &v6) == 1;
  if (!is_v4 && !is_v6) {
    return fail(ErrorCode::invalid, "{}: `{}` is \"{}\": give a numeric IPv4 or IPv6 address", file, key, address);
  }
  if ((is_v4 && v4.s_addr == INADDR_ANY) || (is_v6 && IN6_IS_ADDR_UNSPECIFIED(&v6))) {
    return fail(ErrorCode::invalid, "{}: `{}` is \"{}\", which is every address: name the one address of this path",
                file, key, address);
  }
  return {};
}

Result<void> check_folder(const std::string& folder, std::string_view key, std::string_view file) {
  if (!folder.starts_with('/'))
    return fail(ErrorCode::invalid, "{}: `{}` is \"{}\": give a full path that begins with /", file, key, folder);
  return {};
}

Result<PathConfig> read_path(const Table& table, std::string_view file) {
  ZP_CHECK(
      table.only({"name", "listen", "agent_port", "nvme_port", "partner", "partner_agent_port", "partner_nvme_port"}));
  PathConfig path;
  ZP_TRY(name, table.text("name"));
  ZP_TRY(listen, table.text("listen"));
  ZP_TRY(partner, table.text("partner"));
  ZP_CHECK(check_address(listen, table.path_of("listen"), file));
  ZP_CHECK(check_address(partner, table.path_of("partner"), file));
  ZP_TRY(agent_port, table.number("agent_port", 1, 65535, path.agent_port));
  ZP_TRY(nvme_port, table.number("nvme_port", 1, 65535, path.nvme_port));
  ZP_TRY(partner_agent_port, table.number("partner_agent_port", 1, 65535, path.partner_agent_port));
  ZP_TRY(partner_nvme_port, table.number("partner_nvme_port", 1, 65535, path.partner_nvme_port));
  path.name = name;
  path.listen = listen;
  path.partner = partner;
  path.agent_port = static_cast<std::uint16_t>(agent_port);
  path.nvme_port = static_cast<std::uint16_t>(nvme_port);
  path.partner_agent_port = static_cast<std::uint16_t>(partner_agent_port);
  path.partner_nvme_port = static_cast<std::uint16_t>(partner_nvme_port);
  if (path.agent_port == path.nvme_port) {
    return fail(ErrorCode::invalid, "{}: path {}: agent_port and nvme_port are both {}: give two different ports", file,
                name, agent_port);
  }
  return path;
}

Result<void> read_paths(const Table& root, std::string_view file, NodeConfig& config) {
  ZP_TRY(tables, root.tables("path"));
  if (tables.empty())
    return fail(ErrorCode::invalid, "{}: no [[path]]: give one for each network between the nodes (two are usual)",
                file);
  if (tables.size() > 4)
    return fail(ErrorCode::invalid, "{}: {} [[path]] tables: at most 4 are supported", file, tables.size());
  std::set<std::string> names;
  std::set<std::string> places;
  for (const Table& table : tables) {
    ZP_TRY(path, read_path(table, file));
    if (!names.insert(path.name).second)
      return fail(ErrorCode::invalid, "{}: two paths are named {}: give each its own name", file, path.name);
    const bool own_ports = places.insert(fmt::format("{} {}", path.listen, path.agent_port)).second &&
                           places.insert(fmt::format("{} {}", path.listen, path.nvme_port)).second;
    if (!own_ports) {
      return fail(ErrorCode::invalid,
                  "{}: path {} listens at {} on a port of another path: give each path its own address", file,
                  path.name, path.listen);
    }
    config.paths.push_back(std::move(path));
  }
  return {};
}

Result<void> read_etcd(const Table& root, std::string_view file, NodeConfig& config) {
  ZP_TRY(table, root.table("etcd"));
  if (!table)
    return fail(ErrorCode::invalid,
                "{}: [etcd] is missing: endpoints = [\"http://…:2379\", …], the node's own member first", file);
  ZP_CHECK(table->only({"endpoints"}));
  ZP_TRY(endpoints, table->texts("endpoints"));
  if (endpoints.empty())
    return fail(ErrorCode::invalid, "{}: `etcd.endpoints` is empty: name the node's own member first, then the others",
                file);
  for (const auto& endpoint : endpoints) {
    if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://")) {
      return fail(ErrorCode::invalid, "{}: `etcd.endpoints` holds \"{}\": give URLs such as http://10.0.0.1:2379", file,
                  endpoint);
    }
  }
  config.etcd_endpoints = endpoints;
  return {};
}

Result<void> read_limits(const Table& root, NodeConfig& config) {
  ZP_TRY(table, root.table("limits"));
  if (!table) return {};
  ZP_CHECK(table->only({"arc_mb", "dirty_mb", "log_mb"}));
  ZP_TRY(arc_mb, table->number("arc_mb", 64, 1u << 20, config.limits.arc_mb));
  ZP_TRY(dirty_mb, table->number("dirty_mb", 16, 1u << 16, config.limits.dirty_mb));
  ZP_TRY(log_mb, table->number("log_mb", 8, 1u << 12, config.limits.log_mb));
  config.limits = {static_cast<std::uint32_t>(arc_mb), static_cast<std::uint32_t>(dirty_mb),
                   static_cast<std::uint32_t>(log_mb)};
  return {};
}

Result<void> read_rest(const Table& root, std::string_view file, NodeConfig& config) {
  ZP_TRY(start, root.table("start"));
  if (start) {
    ZP_CHECK(start->only({"partner_wait_s"}));
    ZP_TRY(partner_wait_s, start->number("partner_wait_s", 0, 3600, config.partner_wait_s));
    config.partner_wait_s = static_cast<std::uint32_t>(partner_wait_s);
  }
  ZP_TRY(fault, root.table("fault"));
  if (fault) {
    ZP_CHECK(fault->only({"allowed", "volatile_cache", "model"}));
    ZP_TRY(allowed, fault->flag("allowed", false));
    ZP_TRY(volatile_cache, fault->flag("volatile_cache", false));
    ZP_TRY(model, fault->text("model", ""));
    if (!model.empty() && !allowed) {
      return fail(ErrorCode::invalid, "{}: `fault.model` is for sandboxes: it counts only with `fault.allowed = true`",
                  file);
    }
    config.fault = {allowed, volatile_cache, model};
  }
  return {};
}

// An equal host id makes stock ZFS skip the multihost check of a pool that is in use here (design, section 4).
Result<void> check_zfs_host_id(std::uint32_t id, std::string_view file) {
  if (id == 0)
    return fail(ErrorCode::invalid,
                "{}: `zfs_host_id` is 0, which switches the multihost check off: choose another number", file);
  if (id == static_cast<std::uint32_t>(gethostid())) {
    return fail(ErrorCode::invalid,
                "{}: `zfs_host_id` 0x{:08x} is the system's own (hostid): choose another, unlike the partner's too",
                file, id);
  }
  return {};
}

std::string quoted(std::string_view text) {
  std::ostringstream out;
  out << toml::value<std::string>(std::string(text));
  return out.str();
}

constexpr std::size_t longest_socket_path = 107;  // sockaddr_un

Result<void> check_length(std::string_view what, std::string_view name, const std::string& socket) {
  if (socket.size() <= longest_socket_path) return {};
  return fail(ErrorCode::invalid, "{} {}: the name is too long: its socket {} would have {} bytes, {} are possible",
              what, name, socket, socket.size(), longest_socket_path);
}

// As RFC 3986 wants a path in a query; a comma separates addresses for some of our programs.
std::string percent_encoded(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("-._~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

std::string NodeConfig::pool_socket(std::string_view pool) const {
  return fmt::format("{}/pool-{}.sock", run_dir, pool);
}

// The first dot ends the pool's name: else pool a.b's volume c and pool a's volume b.c would share a socket. ~ is in no name.
std::string NodeConfig::volume_socket(std::string_view pool, std::string_view volume) const {
  std::string pool_part(pool);
  std::replace(pool_part.begin(), pool_part.end(), '.', '~');
  return fmt::format("{}/{}.{}.nbd", run_dir, pool_part, volume);
}

Result<void> NodeConfig::check_pool_socket(std::string_view pool) const {
  return check_length("pool", pool, fmt::format("{}/pool-{}.control", run_dir, pool));
}

Result<void> NodeConfig::check_volume_socket(std::string_view pool, std::string_view volume) const {
  return check_length("volume", volume, volume_socket(pool, volume));
}

std::string NodeConfig::volume_address(std::string_view pool, std::string_view volume, std::uint64_t guid) const {
  return fmt::format("nbd+unix:///{}/{}~{}?socket={}", pool, volume, guid,
                     percent_encoded(volume_socket(pool, volume)));
}

Result<NodeConfig> parse_config(std::string_view text, std::string_view file) {
  toml::table parsed;
  try {
    parsed = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::invalid, "{}: line {}: {}", file, error.source().begin.line, error.description());
  }
  const Table root(parsed, file, "");
  ZP_CHECK(root.only({"node", "state_dir", "run_dir", "zfs_host_id", "path", "etcd", "limits", "start", "fault"}));

  NodeConfig config;
  ZP_TRY(node_name, root.text("node"));
  auto node = parse_node(node_name);
  if (!node) return fail(ErrorCode::invalid, "{}: `node` is \"{}\": give \"a\" or \"b\"", file, node_name);
  config.node = *node;
  ZP_TRY(state_dir, root.text("state_dir"));
  ZP_TRY(run_dir, root.text("run_dir"));
  ZP_CHECK(check_folder(state_dir, "state_dir", file));
  ZP_CHECK(check_folder(run_dir, "run_dir", file));
  if (run_dir.size() > max_run_dir_bytes) {
    return fail(ErrorCode::invalid,
                "{}: `run_dir` is {} bytes long, sockets in it hold {} in all: give a folder of at most {} bytes", file,
                run_dir.size(), max_socket_path_bytes, max_run_dir_bytes);
  }
  config.state_dir = state_dir;
  config.run_dir = run_dir;
  ZP_TRY(zfs_host_id, root.number("zfs_host_id", 0, UINT32_MAX, std::nullopt));
  config.zfs_host_id = static_cast<std::uint32_t>(zfs_host_id);
  ZP_CHECK(check_zfs_host_id(config.zfs_host_id, file));
  ZP_CHECK(read_paths(root, file, config));
  ZP_CHECK(read_etcd(root, file, config));
  ZP_CHECK(read_limits(root, config));
  ZP_CHECK(read_rest(root, file, config));
  return config;
}

Result<NodeConfig> load_config(const std::string& file) {
  std::ifstream in(file);
  if (!in) return fail_errno(errno, "cannot read the configuration {}", file);
  std::ostringstream text;
  text << in.rdbuf();
  return parse_config(text.str(), file);
}

std::string write_config(const NodeConfig& config) {
  std::string text = fmt::format("node = \"{}\"\nstate_dir = {}\nrun_dir = {}\nzfs_host_id = 0x{:08x}\n", config.node,
                                 quoted(config.state_dir), quoted(config.run_dir), config.zfs_host_id);
  for (const auto& path : config.paths) {
    text += fmt::format(
        "\n[[path]]\nname = {}\nlisten = {}\nagent_port = {}\nnvme_port = {}\npartner = {}\npartner_agent_port = "
        "{}\npartner_nvme_port = {}\n",
        quoted(path.name), quoted(path.listen), path.agent_port, path.nvme_port, quoted(path.partner),
        path.partner_agent_port, path.partner_nvme_port);
  }
  text += "\n[etcd]\nendpoints = [";
  for (std::size_t i = 0; i < config.etcd_endpoints.size(); ++i)
    text += (i == 0 ? "" : ", ") + quoted(config.etcd_endpoints[i]);
  text += fmt::format("]\n\n[limits]\narc_mb = {}\ndirty_mb = {}\nlog_mb = {}\n\n[start]\npartner_wait_s = {}\n",
                      config.limits.arc_mb, config.limits.dirty_mb, config.limits.log_mb, config.partner_wait_s);
  if (config.fault.allowed || config.fault.volatile_cache) {
    text += fmt::format("\n[fault]\nallowed = {}\nvolatile_cache = {}\n", config.fault.allowed,
                        config.fault.volatile_cache);
    if (!config.fault.model.empty()) text += fmt::format("model = {}\n", quoted(config.fault.model));
  }
  return text;
}

}  // namespace zpair
