#include "world_internal.h"

namespace zpair::sim {

using namespace brain;

void World::inject(const Fault& fault) {
  if (faults_over_) return;
  ++stats_.faults[std::string(name_of(fault.kind))];
  tell("FAULT {}", describe(fault));
  Node& at = node(fault.node);
  NodeId id = fault.node;
  auto pause_process = [this](std::uint64_t pid, Nanoseconds for_ns) {
    if (Process* own = process(pid)) {
      own->paused = true;
      after(for_ns, [this, pid] { resume_process(pid); });
    }
  };
  auto pause_agent = [this](NodeId which, Nanoseconds for_ns) {
    if (!node(which).agent_alive) return;
    node(which).agent_paused = true;
    std::uint64_t run = node(which).agent_run;
    after(for_ns, [this, which, run] {
      if (node(which).agent_run == run) resume_agent(which);
    });
  };
  switch (fault.kind) {
    case FaultKind::process_kill: kill_process(at.pid, std::nullopt, "killed"); break;
    case FaultKind::process_pause: pause_process(at.pid, fault.for_ns); break;
    case FaultKind::agent_restart:
      if (!at.up) break;
      stop_agent(id);
      after(fault.variant ? fault.for_ns / 4 : 30 * ns_per_ms, [this, id] {
        if (node(id).up && !node(id).agent_alive) start_agent(id);
      });
      break;
    case FaultKind::agent_pause: pause_agent(id, fault.for_ns); break;
    case FaultKind::node_crash:
      crash(id);
      after(fault.for_ns, [this, id] { boot(id); });
      break;
    case FaultKind::both_nodes_crash:
      for (NodeId each : {NodeId::a, NodeId::b}) {
        crash(each);
        after(fault.for_ns + (each == id ? 0 : fault.for_ns / 3), [this, each] { boot(each); });
      }
      break;
    case FaultKind::node_pause:
      pause_process(at.pid, fault.for_ns);
      pause_agent(id, fault.for_ns);
      break;
    case FaultKind::path_cut: {
      int path = fault.index;
      bool late = fault.variant;
      for (NodeId each : {NodeId::a, NodeId::b}) {
        cut(path, each);
        after(fault.for_ns, [this, path, each, late] { heal(path, each, late); });
      }
      break;
    }
    case FaultKind::path_cut_one_way: {
      int path = fault.index;
      bool late = fault.variant;
      cut(path, id);
      after(fault.for_ns, [this, path, id, late] { heal(path, id, late); });
      break;
    }
    case FaultKind::all_paths_cut:
      for (int path = 0; path < 2; ++path) {
        for (NodeId each : {NodeId::a, NodeId::b}) {
          bool late = fault.variant;
          cut(path, each);
          after(fault.for_ns, [this, path, each, late] { heal(path, each, late); });
        }
      }
      break;
    case FaultKind::store_cut:
      at.store_reachable = false;
      after(fault.for_ns, [this, id] { node(id).store_reachable = true; });
      break;
    case FaultKind::store_down:
      store_up_ = false;
      after(fault.for_ns, [this] { store_up_ = true; });
      if (model(ModelMutation::store_rolled_back)) store_ = store_history_[random_.below(store_history_.size())];
      break;
    case FaultKind::swap_reply_lost: at.lose_swap_reply = true; break;
    case FaultKind::swap_delayed: at.swap_delay_ns = fault.for_ns; break;
    case FaultKind::drive_error:
    case FaultKind::drive_slow: {
      int mirror = fault.index % plan_.mirror_count;
      bool slow = fault.kind == FaultKind::drive_slow;
      (slow ? drive(mirror, id).slow : drive(mirror, id).erring) = true;
      after(fault.for_ns, [this, mirror, id, slow] { (slow ? drive(mirror, id).slow : drive(mirror, id).erring) = false; });
      break;
    }
    case FaultKind::drive_lost_cache: lose_cache(drive(fault.index % plan_.mirror_count, id), true); break;
    case FaultKind::switchover_order: feed(id, agent::SwitchoverOrdered{clock(id), ++last_order_}); break;
    case FaultKind::takeover_order: feed(id, agent::TakeoverOrdered{clock(id), ++last_order_}); break;
    case FaultKind::count_of_kinds: break;
  }
}

void World::resume_process(std::uint64_t pid) {
  Process* own = process(pid);
  if (own == nullptr || !own->paused) return;
  own->paused = false;
  std::deque<std::function<void()>> inbox = std::exchange(own->inbox, {});
  for (auto& call : inbox) to_process(pid, std::move(call));
}

void World::resume_agent(NodeId id) {
  Node& at = node(id);
  if (!at.agent_paused) return;
  at.agent_paused = false;
  std::deque<std::function<void()>> inbox = std::exchange(at.agent_inbox, {});
  for (auto& call : inbox) to_agent(id, std::move(call));
}

void World::heal_all() {
  tell("faults are over: everything heals");
  faults_over_ = true;
  store_up_ = true;
  for (NodeId id : {NodeId::a, NodeId::b}) {
    node(id).store_reachable = true;
    for (int path = 0; path < 2; ++path) heal(path, id, true);
    if (!node(id).up) boot(id);
    resume_agent(id);
    if (!node(id).agent_alive) start_agent(id);
    resume_process(node(id).pid);
    for (int mirror = 0; mirror < plan_.mirror_count; ++mirror) drive(mirror, id).erring = drive(mirror, id).slow = false;
  }
}

}  // namespace zpair::sim
