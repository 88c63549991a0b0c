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
    case FaultKind::store_restored: return "store_restored";
    case FaultKind::cut_at_grow: return "cut_at_grow";
    case FaultKind::cut_at_promise: return "cut_at_promise";
    case FaultKind::pause_at_handover: return "pause_at_handover";
    case FaultKind::count_of_kinds: break;
  }
  return "unknown";
}

std::string describe(const Fault& fault) {
  return fmt::format("{} node {} index {} for {} ms{}", name_of(fault.kind), fault.node, fault.index,
                     fault.for_ns / ns_per_ms, fault.variant ? " (variant)" : "");
}

namespace {

void add_scene(Plan& plan, Random& random, Scene scene) {
  Nanoseconds begin = random.between(1'500, 3'500) * ns_per_ms;
  auto add = [&plan, begin](FaultKind kind, NodeId node, std::int64_t at_ms, std::int64_t for_ms, int index,
                            bool variant) {
    Fault fault;
    fault.kind = kind;
    fault.node = node;
    fault.at_ns = std::max<Nanoseconds>(begin + at_ms * ns_per_ms, 100 * ns_per_ms);
    fault.for_ns = std::max<std::int64_t>(for_ms, 10) * ns_per_ms;
    fault.index = index;
    fault.variant = variant;
    plan.faults.push_back(fault);
  };
  NodeId owner = random.one_in(5) ? NodeId::b : NodeId::a;
  NodeId other = partner_of(owner);
  bool coin = random.one_in(2);
  switch (scene) {
    case Scene::restarted_target: {
      std::int64_t cut_ms = random.between(1'400, 4'000);
      std::int64_t crash_ms = random.between(1'100, cut_ms);
      add(FaultKind::node_isolated, owner, 0, cut_ms, 0, coin);
      add(random.one_in(3) ? FaultKind::agent_restart : FaultKind::node_crash, other, crash_ms,
          cut_ms - crash_ms + random.between(-300, 300), 0, true);
      break;
    }
    case Scene::forgotten_promise:
      plan.promise_ns = random.between(2'500, 8'000) * ns_per_ms;
      add(FaultKind::node_isolated, owner, 0, random.between(3'000, 8'000), 0, coin);
      add(random.one_in(2) ? FaultKind::agent_restart : FaultKind::node_crash, other, random.between(-800, 1'500),
          random.between(20, 300), 0, false);
      break;
    case Scene::promise_runs_out:
      plan.promise_ns = random.between(800, 6'000) * ns_per_ms;
      add(FaultKind::node_isolated, owner, 0, random.between(1'200, 8'000), 0, coin);
      if (random.one_in(2))
        add(FaultKind::process_pause, owner, random.between(0, 1'500), random.between(200, 2'000), 0, false);
      break;
    case Scene::slow_in_flight:
      add(FaultKind::drive_slow, coin ? owner : other, random.between(0, 800), random.between(100, 900),
          static_cast<int>(random.below(2)), false);
      add(random.one_in(2) ? FaultKind::process_kill : FaultKind::node_crash, owner, random.between(100, 1'200),
          random.between(100, 3'000), 0, false);
      if (random.one_in(2)) add(FaultKind::process_kill, owner, random.between(1'200, 2'500), 0, 0, false);
      break;
    case Scene::different_txgs: {
      plan.mirror_count = std::max(plan.mirror_count, 2);
      plan.rest_one_in = 4;
      std::int64_t end_ms = random.between(1'500, 3'500);
      std::int64_t second_ms = random.between(300, 1'400);
      FaultKind kind = coin ? FaultKind::drive_error : FaultKind::drive_slow;
      add(kind, other, 0, end_ms, 0, false);
      add(kind, other, second_ms, end_ms - second_ms, 1, false);
      break;
    }
    case Scene::drop_in_grow:
      add(FaultKind::all_paths_cut, owner, 0, random.between(650, 1'200), 0, coin);
      add(random.one_in(2) ? FaultKind::swap_reply_lost : FaultKind::swap_delayed, owner, random.between(1'400, 2'600),
          random.between(100, 900), 0, false);
      add(random.one_in(2) ? FaultKind::drive_error : FaultKind::node_isolated, random.one_in(2) ? other : owner,
          random.between(1'600, 3'200), random.between(300, 3'000), static_cast<int>(random.below(2)), coin);
      if (random.one_in(2)) add(FaultKind::process_kill, owner, random.between(2'000, 3'500), 0, 0, false);
      break;
    case Scene::slow_drain:
      add(FaultKind::drive_error, owner, 0, random.between(4'000, 7'000), 0, false);
      add(FaultKind::drive_slow, other, random.between(300, 1'200), random.between(200, 900), 0, false);
      add(FaultKind::process_kill, owner, random.between(600, 2'000), 0, 0, false);
      break;
    case Scene::dead_sender:
      add(FaultKind::path_cut, owner, 0, random.between(300, 3'000), static_cast<int>(random.below(2)), true);
      add(FaultKind::process_kill, owner, random.between(5, 350), 0, 0, false);
      break;
    case Scene::grow_unheard:
      add(FaultKind::cut_at_grow, owner, -500, random.between(1'500, 6'000), static_cast<int>(random.below(2)),
          random.one_in(2));
      add(FaultKind::all_paths_cut, owner, 0, random.between(650, 1'200), 0, coin);
      add(FaultKind::process_kill, owner, random.between(1'800, 5'000), 0, 0, false);
      plan.length_ns = std::max(plan.length_ns, begin + 8'000 * ns_per_ms);
      break;
    case Scene::late_swap:
      add(FaultKind::swap_delayed, owner, random.between(-300, 300), random.between(50, 2'500), 0, false);
      add(FaultKind::all_paths_cut, owner, 0, random.between(600, 2'500), 0, coin);
      add(random.one_in(2) ? FaultKind::process_kill : FaultKind::process_pause, owner, random.between(400, 2'000),
          random.between(200, 2'000), 0, false);
      break;
    case Scene::late_promise: {
      plan.promise_ns = random.between(1'500, 6'000) * ns_per_ms;
      std::int64_t late_ms = random.between(plan.promise_ns / ns_per_ms / 2, plan.promise_ns / ns_per_ms);
      std::int64_t gap_ms = random.between(30, 250);
      add(FaultKind::store_cut, owner, 0, 2 * late_ms + 3'000, 0, false);
      for (int path = 0; path < 2; ++path) {
        add(FaultKind::path_cut_one_way, other, 0, late_ms, path, true);
        add(FaultKind::path_cut_one_way, owner, gap_ms, 2 * late_ms + 3'000, path, coin);
      }
      plan.length_ns = std::max(plan.length_ns, begin + 2 * plan.promise_ns + 3'000 * ns_per_ms);
      break;
    }
    case Scene::owner_of_yesterday: {
      std::int64_t away_ms = random.between(2'500, 5'000);
      add(random.one_in(2) ? FaultKind::node_isolated : FaultKind::node_pause, owner, 0, away_ms, 0, random.one_in(4));
      std::int64_t dies_ms = away_ms - random.between(5, 300);
      add(FaultKind::store_down, owner, dies_ms, 2'000, 0, false);
      add(FaultKind::process_kill, other, dies_ms, 0, 0, false);
      plan.length_ns = std::max(plan.length_ns, begin + (away_ms + 3'000) * ns_per_ms);
      break;
    }
    case Scene::promise_at_start: {
      std::int64_t cut_ms = random.between(900, 1'050);  // healed about when the partner imports
      add(FaultKind::store_cut, owner, 0, cut_ms + 4'000, 0, false);
      add(FaultKind::all_paths_cut, owner, 0, cut_ms, 0, random.one_in(4));
      add(FaultKind::cut_at_promise, owner, 500, random.between(1'000, 3'000), 0, coin);
      break;
    }
    case Scene::handover_stalls: {
      plan.promise_ns = random.between(3'000, 8'000) * ns_per_ms;
      std::int64_t cut_ms = random.between(1'000, 2'500);
      add(FaultKind::store_cut, owner, 0, cut_ms + 4'000, 0, false);
      add(FaultKind::all_paths_cut, owner, 0, cut_ms, 0, random.one_in(4));
      add(FaultKind::pause_at_handover, owner, 500, random.between(200, 1'500), 0, false);
      break;
    }
    case Scene::count_of_scenes: break;
  }
  plan.length_ns = std::max(plan.length_ns, begin + 4'000 * ns_per_ms);
}

// What every schedule has but its faults.
Plan frame_of(std::uint64_t seed, Random& random) {
  Plan plan;
  plan.seed = seed;
  plan.length_ns = random.between(2'000, 9'000) * ns_per_ms;
  plan.mirror_count = static_cast<int>(random.between(1, 3));
  plan.block_count = static_cast<int>(random.between(1, 2));
  for (double& rate : plan.clock_rate) rate = 1.0 + static_cast<double>(random.between(-49, 49)) / 10'000.0;
  plan.promise_ns = random.one_in(4) ? random.between(400, 8'000) * ns_per_ms : 1'000 * ns_per_ms;
  plan.rest_one_in = random.one_in(4) ? 4 : 24;
  return plan;
}

}  // namespace

Plan plan_of(std::uint64_t seed, Scene scene) {
  Random random(seed ^ 0x7363656e65);
  Plan plan = frame_of(seed, random);
  add_scene(plan, random, scene);
  std::ranges::sort(plan.faults, {}, &Fault::at_ns);
  return plan;
}

Plan plan_of(std::uint64_t seed) {
  Random random(seed ^ 0x706c616e);
  Plan plan = frame_of(seed, random);

  // Swarm: a schedule has a few kinds of faults, so that rare pairs meet often.
  std::vector<FaultKind> kinds;
  std::int64_t kind_count = random.between(1, 5);
  for (std::int64_t i = 0; i < kind_count; ++i) {
    kinds.push_back(static_cast<FaultKind>(random.below(static_cast<std::uint64_t>(FaultKind::count_of_kinds))));
  }
  std::int64_t fault_count = random.one_in(2) ? random.between(1, 4) : random.between(4, 8);
  bool one_node = random.one_in(3);  // trouble that comes twice to the same node
  NodeId only = random.one_in(3) ? NodeId::b : NodeId::a;
  for (std::int64_t i = 0; i < fault_count; ++i) {
    Fault fault;
    fault.kind = kinds[random.below(kinds.size())];
    fault.at_ns = random.between(200, plan.length_ns / ns_per_ms) * ns_per_ms + random.between(0, 999'999);
    // Faults come in bursts: every third one follows shortly on the one before.
    if (!plan.faults.empty() && random.one_in(3)) {
      fault.at_ns = plan.faults.back().at_ns + random.between(1, 1'500) * ns_per_ms;
    }
    if (fault.kind == FaultKind::store_restored && !random.one_in(4)) fault.kind = FaultKind::store_cut;
    if (fault.kind == FaultKind::destroy_order && !random.one_in(4)) fault.kind = FaultKind::export_order;
    fault.node = one_node ? only : random.one_in(2) ? NodeId::a : NodeId::b;
    fault.index = static_cast<int>(random.below(2));
    fault.for_ns = (random.one_in(2) ? random.between(20, 900) : random.between(900, 5'000)) * ns_per_ms;
    fault.variant = random.one_in(2);
    plan.faults.push_back(fault);
  }
  if (random.one_in(3)) {
    if (random.one_in(2)) plan.faults.clear();
    add_scene(plan, random, static_cast<Scene>(random.below(static_cast<std::uint64_t>(Scene::count_of_scenes))));
  }
  std::ranges::sort(plan.faults, {}, &Fault::at_ns);
  return plan;
}

}  // namespace zpair::sim
