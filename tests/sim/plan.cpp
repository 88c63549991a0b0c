#include "plan.h"

#include <algorithm>

#include <fmt/format.h>

namespace zpair::sim {

std::string_view name_of(FaultKind kind) {
  switch (kind) {
    case FaultKind::process_kill: return "process_kill";
    case FaultKind::process_pause: return "process_pause";
    case FaultKind::agent_restart: return "agent_restart";
    case FaultKind::agent_pause: return "agent_pause";
    case FaultKind::node_crash: return "node_crash";
    case FaultKind::node_pause: return "node_pause";
    case FaultKind::path_cut: return "path_cut";
    case FaultKind::path_cut_one_way: return "path_cut_one_way";
    case FaultKind::all_paths_cut: return "all_paths_cut";
    case FaultKind::store_cut: return "store_cut";
    case FaultKind::store_down: return "store_down";
    case FaultKind::swap_reply_lost: return "swap_reply_lost";
    case FaultKind::swap_delayed: return "swap_delayed";
    case FaultKind::drive_error: return "drive_error";
    case FaultKind::drive_slow: return "drive_slow";
    case FaultKind::drive_lost_cache: return "drive_lost_cache";
    case FaultKind::switchover_order: return "switchover_order";
    case FaultKind::takeover_order: return "takeover_order";
    case FaultKind::both_nodes_crash: return "both_nodes_crash";
    case FaultKind::node_isolated: return "node_isolated";
    case FaultKind::drive_gone: return "drive_gone";
    case FaultKind::add_mirror: return "add_mirror";
    case FaultKind::replace_leg: return "replace_leg";
    case FaultKind::export_order: return "export_order";
    case FaultKind::destroy_order: return "destroy_order";
    case FaultKind::count_of_kinds: break;
  }
  return "unknown";
}

std::string describe(const Fault& fault) {
  return fmt::format("{} node {} index {} for {} ms{}", name_of(fault.kind), fault.node, fault.index,
                     fault.for_ns / ns_per_ms, fault.variant ? " (variant)" : "");
}

Plan plan_of(std::uint64_t seed) {
  Random random(seed ^ 0x706c616e);
  Plan plan;
  plan.seed = seed;
  plan.length_ns = random.between(2'000, 9'000) * ns_per_ms;
  plan.mirror_count = static_cast<int>(random.between(1, 3));
  plan.block_count = static_cast<int>(random.between(1, 2));
  for (double& rate : plan.clock_rate) rate = 1.0 + static_cast<double>(random.between(-49, 49)) / 10'000.0;
  plan.promise_ns = random.one_in(4) ? random.between(400, 8'000) * ns_per_ms : 1'000 * ns_per_ms;

  // Swarm: a schedule has a few kinds of faults, so that rare pairs meet often.
  std::vector<FaultKind> kinds;
  std::int64_t kind_count = random.between(1, 5);
  for (std::int64_t i = 0; i < kind_count; ++i) {
    kinds.push_back(static_cast<FaultKind>(random.below(static_cast<std::uint64_t>(FaultKind::count_of_kinds))));
  }
  std::int64_t fault_count = random.one_in(2) ? random.between(1, 4) : random.between(4, 8);
  bool one_node = random.one_in(3);            // trouble that comes twice to the same node
  NodeId only = random.one_in(3) ? NodeId::b : NodeId::a;
  for (std::int64_t i = 0; i < fault_count; ++i) {
    Fault fault;
    fault.kind = kinds[random.below(kinds.size())];
    fault.at_ns = random.between(200, plan.length_ns / ns_per_ms) * ns_per_ms + random.between(0, 999'999);
    // Faults come in bursts: every third one follows shortly on the one before.
    if (!plan.faults.empty() && random.one_in(3)) {
      fault.at_ns = plan.faults.back().at_ns + random.between(1, 1'500) * ns_per_ms;
    }
    if (fault.kind == FaultKind::destroy_order && !random.one_in(4)) fault.kind = FaultKind::export_order;
    fault.node = one_node ? only : random.one_in(2) ? NodeId::a : NodeId::b;
    fault.index = static_cast<int>(random.below(2));
    fault.for_ns = (random.one_in(2) ? random.between(20, 900) : random.between(900, 5'000)) * ns_per_ms;
    fault.variant = random.one_in(2);
    plan.faults.push_back(fault);
  }
  std::ranges::sort(plan.faults, {}, &Fault::at_ns);
  return plan;
}

}  // namespace zpair::sim
