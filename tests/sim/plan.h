#pragma once
// The faults of one schedule, drawn from its seed: what the failure model allows, at chosen times. A failing plan is
// shrunk by dropping faults while it still fails.
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "random.h"

namespace zpair::sim {

enum class FaultKind : std::uint8_t {
  process_kill,
  process_pause,      // of the pool process; value: for how long
  agent_restart,
  agent_pause,
  node_crash,         // power loss; value: when it boots again
  node_pause,         // every process of it
  path_cut,           // both directions, held; value: for how long; late or reset at heal by `variant`
  path_cut_one_way,
  all_paths_cut,
  store_cut,          // from one node
  store_down,
  swap_reply_lost,    // the next swap's answer is lost
  swap_delayed,       // the next swap of this node arrives late
  drive_error,        // one leg answers writes with errors; value: for how long
  drive_slow,
  drive_lost_cache,   // completed but unflushed writes are gone, the verifier changes
  switchover_order,
  takeover_order,
  both_nodes_crash,
  node_isolated,      // both paths and the store are cut from one node
  drive_gone,         // pulled, and back later
  add_mirror,         // pool add
  replace_leg,        // drive replace
  export_order,       // pool export, and pool import later
  destroy_order,
  cut_at_grow,        // the node is cut off at the very moment that its next grow applies; `variant`: a leg errs instead
  store_restored,     // from a snapshot older than what both nodes have kept (H23)
  count_of_kinds,
};

std::string_view name_of(FaultKind kind);

struct Fault {
  Nanoseconds at_ns;
  FaultKind kind;
  NodeId node;
  int index = 0;               // path or mirror
  Nanoseconds for_ns = 0;
  bool variant = false;
};

std::string describe(const Fault& fault);

struct Plan {
  std::uint64_t seed = 0;
  std::vector<Fault> faults;
  Nanoseconds length_ns = 0;   // faults stop here; then everything heals and the pool must serve
  int mirror_count = 2;
  int block_count = 2;         // a mirror
  double clock_rate[2] = {1.0, 1.0};
  Nanoseconds promise_ns = 0;
};

Plan plan_of(std::uint64_t seed);

}  // namespace zpair::sim
