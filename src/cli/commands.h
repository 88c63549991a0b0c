#pragma once
// The commands of `zpair`: each asks a node (docs/api.md) and prints to stdout what came back, as text or as JSON.
// Errors: what the node answered. Nothing was changed when a command that changes something fails, unless it says that the
//         outcome is unknown.
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/node_client.h"

namespace zpair::cli {

enum class Format { text, json };

struct Context {
  Nodes nodes;
  Format format = Format::text;
};

// 0 done, 1 failed, 2 usage, 3 refused by a rule.
int exit_code_of(const Error& error);
std::size_t terminal_width();          // columns of stdout; 0: it is no terminal
void print_error(const Error& error);  // one line: zpair: …
void print(const std::string& text);   // to stdout, as it stands
void print_json(const nlohmann::json& value);

// What follows says `invalid` when the text is not of that form: a usage error.
Result<std::pair<std::string, std::string>> parse_drive(const std::string& text);  // NODE:DRIVE
// a:DRIVE,b:DRIVE → [{"node", "path"}, …]; a path is made full.
Result<nlohmann::json> parse_mirror(const std::string& text);
struct VolumeName {
  std::string pool;
  std::string name;
};
Result<VolumeName> parse_volume_name(const std::string& text);  // POOL/NAME
struct SnapshotName {
  VolumeName volume;
  std::string snapshot;
};
Result<SnapshotName> parse_snapshot_name(const std::string& text);  // POOL/NAME@SNAPSHOT

struct PoolCreate {
  std::string name;
  std::string owner;
  std::vector<std::string> mirrors;
  bool dry_run = false;
  bool force = false;
};
struct VolumeCreate {
  std::string name;  // POOL/NAME
  std::uint64_t size_bytes = 0;
  bool thin = false;
  std::optional<std::uint64_t> block_size_bytes;
  std::optional<std::string> compression;
};
struct PoolImport {
  std::string name;
  bool accept_data_loss = false;
  bool accept_corruption = false;
};

Result<void> show_status(const Context& context, const std::string& pool);  // empty: all
Result<void> pool_create(const Context& context, const PoolCreate& options);
Result<void> pool_add(const Context& context, const PoolCreate& options);
Result<void> pool_list(const Context& context);
Result<void> pool_destroy(const Context& context, const std::string& name);
Result<void> pool_scrub(const Context& context, const std::string& name, bool stop);
Result<void> pool_export(const Context& context, const std::string& name);
Result<void> pool_import(const Context& context, const PoolImport& options);

Result<void> volume_create(const Context& context, const VolumeCreate& options);
Result<void> volume_list(const Context& context);
Result<void> volume_resize(const Context& context, const std::string& volume, std::uint64_t size_bytes);
Result<void> volume_destroy(const Context& context, const std::string& volume_or_snapshot);
Result<void> volume_snapshot(const Context& context, const std::string& snapshot);
struct VolumeClone {
  std::string snapshot;
  std::string name;
  bool thin = false;
};
Result<void> volume_clone(const Context& context, const VolumeClone& options);
Result<void> volume_rollback(const Context& context, const std::string& snapshot);

Result<void> switchover(const Context& context, const std::string& pool, const std::string& to);
Result<void> takeover(const Context& context, const std::string& pool);
Result<void> failback(const Context& context, const std::string& pool);

Result<void> drive_list(const Context& context);
Result<void> drive_replace(const Context& context, const std::string& pool, const std::string& old_drive,
                           const std::string& new_drive, bool force);
Result<void> store_status(const Context& context);
// `peer_url`: where the member's etcd listens for its peers from now on; empty: where it did.
Result<void> store_readmit(const Context& context, const std::string& member, const std::string& peer_url);
Result<void> witness_replace(const Context& context, const std::string& peer_url);
Result<void> store_rebuild(const Context& context, const std::vector<std::string>& pools, bool accept_data_loss);
// drive: NODE:PATH; node_is_off: of the other node, when it does not answer.
Result<void> drive_move(const Context& context, const std::string& pool, const std::string& drive, bool node_is_off);
Result<void> events(const Context& context, bool follow);

// All volumes, with the addresses that each node knows.
nlohmann::json merged_volumes(const Nodes& nodes);

}  // namespace zpair::cli
