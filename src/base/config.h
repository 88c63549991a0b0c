#pragma once
// A node's configuration: one TOML file, read once at start. docs/two-servers.md shows one; `zpair sandbox up` writes them.
// Drives, pools and volumes are not configuration: they are registered through the API and kept in state_dir.
// Errors: invalid, one line that names the file, the key and the mend. An unknown key is an error: a misspelt limit must
//         not be silently ignored.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/ids.h"

namespace zpair {

// One network way between the nodes. Normally two, over separate switches.
struct PathConfig {
  std::string name;                 // path1
  std::string listen;               // our numeric address on this path; 0.0.0.0 and :: are refused
  std::uint16_t agent_port = 7411;  // the agent's messages
  std::uint16_t nvme_port = 4420;   // NVMe/TCP
  std::string partner;              // the partner's numeric address on this path
  std::uint16_t partner_agent_port = 7411;
  std::uint16_t partner_nvme_port = 4420;
};

// A fixed share for each pool that the node may run.
struct LimitsConfig {
  std::uint32_t arc_mb = 512;    // read cache
  std::uint32_t dirty_mb = 128;  // written, not yet in a txg
  std::uint32_t log_mb = 64;     // live intent log: bounds the replay at a takeover
};

struct FaultConfig {            // only a sandbox sets these
  bool allowed = false;         // POST /v1/fault is served
  bool volatile_cache = false;  // drives keep unflushed writes in the process: kill -9 is a power cut
  std::string model = {};       // what every drive is from its opening on, in commands of block/fault_device.h
};

struct NodeConfig {
  NodeId node = NodeId::a;
  std::string state_dir;                    // absolute; the node's state file, fence files
  std::string run_dir;                      // absolute, short: sockets lie in it (a socket's path holds 107 bytes)
  std::uint32_t zfs_host_id = 0;            // not zero, not the system's own, unlike the partner's
  std::vector<PathConfig> paths;            // [[path]], one to four
  std::vector<std::string> etcd_endpoints;  // [etcd] endpoints = ["http://…"], the node's own member first
  LimitsConfig limits;                      // [limits]
  std::uint32_t partner_wait_s = 10;  // [start] how long a starting node waits for its partner's agent; 0 = not at all
  FaultConfig fault;                  // [fault]

  std::string api_socket() const { return run_dir + "/zpaird.sock"; }
  std::string pool_socket(std::string_view pool) const;  // RUN_DIR/pool-NAME.sock
  std::string volume_socket(std::string_view pool,
                            std::string_view volume) const;  // RUN_DIR/POOL.VOLUME.nbd, in POOL ~ for .
  // invalid when a socket of this pool, or of this volume of it, would have a longer path than a socket may have.
  Result<void> check_pool_socket(std::string_view pool) const;
  Result<void> check_volume_socket(std::string_view pool, std::string_view volume) const;
  // Where its clients find it, percent-encoded. `guid` is part of the name: they are never served another volume of the same name.
  std::string volume_address(std::string_view pool, std::string_view volume, std::uint64_t guid) const;
};

// `file` stands in the messages.
Result<NodeConfig> parse_config(std::string_view text, std::string_view file);
Result<NodeConfig> load_config(const std::string& file);

// The file's text, which parse_config reads back to the same values.
std::string write_config(const NodeConfig& config);

}  // namespace zpair
