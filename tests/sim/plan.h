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
  process_pause,  // of the pool process; value: for how long
  agent_restart,
  agent_pause,
  node_crash,  // power loss; value: when it boots again
  node_pause,  // every process of it
  path_cut,    // both directions, held; value: for how long; late or reset at heal by `variant`
  path_cut_one_way,
  all_paths_cut,
  store_cut,  // from one node
  store_down,
  swap_reply_lost,  // the next swap's answer is lost
  swap_delayed,     // the next swap of this node arrives late
  drive_error,      // one leg answers writes with errors; value: for how long
  drive_slow,
  drive_lost_cache,  // completed but unflushed writes are gone, the verifier changes
  switchover_order,
  takeover_order,
  both_nodes_crash,
  node_isolated,  // both paths and the store are cut from one node
  drive_gone,     // pulled, and back later
  add_mirror,     // pool add
  replace_leg,    // drive replace
  export_order,   // pool export, and pool import later
  destroy_order,
  // Traps: set at their time, they spring at the next moment of their kind.
  cut_at_grow,        // the node is cut off as its next grow applies; `variant`: a leg errs instead
  cut_at_promise,     // the node is cut off as its process hears the next promise
  pause_at_handover,  // the node pauses as its agent has answered the next handover
  store_restored,     // from a snapshot older than what both nodes have kept (H23)
  count_of_kinds,
};

std::string_view name_of(FaultKind kind);

struct Fault {
  Nanoseconds at_ns;
  FaultKind kind;
  NodeId node;
  int index = 0;  // path or mirror
  Nanoseconds for_ns = 0;
  bool variant = false;
};

std::string describe(const Fault& fault);

// Schedules that random faults meet too seldom: each mirrors one of the protocol review.
enum class Scene : std::uint8_t {
  restarted_target,    // H15, H14: the former owner, cut off, meets a target that has restarted
  forgotten_promise,   // H25: the partner forgets what it promised
  promise_runs_out,    // the promise, plainly
  slow_in_flight,      // H17: something slow in flight, then another import
  different_txgs,      // legs that miss different txgs return together
  drop_in_grow,        // H21: the leg drops again while its grow is open
  slow_drain,          // H16: the last leg of a mirror drains for longer than the fence window
  dead_sender,         // H13: what a dead process sent over a path that holds it
  grow_unheard,        // H21, rule 6: both outcomes of a grow
  late_swap,           // H12, H20: an import right after another one, a swap late
  late_promise,        // rule 6: the partner's promises arrive late, the owner's questions not at all
  owner_of_yesterday,  // rule 6: the partner's own import has come and died when a former owner asks for a promise
  promise_at_start,    // rule 6: the former owner asks while the partner's process starts
  handover_stalls,     // rule 5: a handover is asked of a node that stalls
  count_of_scenes,
};

struct Plan {
  std::uint64_t seed = 0;
  std::vector<Fault> faults;
  Nanoseconds length_ns = 0;  // faults stop here; then everything heals and the pool must serve
  int mirror_count = 2;
  int block_count = 2;  // a mirror
  double clock_rate[2] = {1.0, 1.0};
  Nanoseconds promise_ns = 0;
  std::uint64_t rest_one_in = 24;  // acknowledgements after which a client only reads for a while
};

Plan plan_of(std::uint64_t seed);
Plan plan_of(std::uint64_t seed, Scene scene);  // no other faults

}  // namespace zpair::sim
