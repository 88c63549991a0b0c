#include "world_internal.h"

namespace zpair::sim {

using namespace brain;

namespace {

bool is_trap(FaultKind kind) {
  return kind == FaultKind::cut_at_grow || kind == FaultKind::cut_at_promise || kind == FaultKind::pause_at_handover;
}

}  // namespace

void World::inject(const Fault& fault) {
  if (faults_over_) return;
  if (is_trap(fault.kind)) {
    node(fault.node).traps[fault.kind] = fault;
    return;
  }
  ++stats_.faults[static_cast<std::size_t>(fault.kind)];
  tell("FAULT {}", describe(fault));
  Node& at = node(fault.node);
  NodeId id = fault.node;
  auto pause_process = [this](std::uint64_t pid, Nanoseconds for_ns) {
    if (Process* own = process(pid)) {
      if (!own->paused) own->paused_at_ns = now_ns_;
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
    case FaultKind::store_restored: {
      if (!store_ || !node(NodeId::a).kept || !node(NodeId::b).kept) break;
      auto place = [](const record::Stored& stored) { return std::tie(stored.record.epoch, stored.record.rev); };
      const record::Stored* older = nullptr;
      for (const record::Stored& each : store_history_) {
        if (place(each) < place(*node(NodeId::a).kept) && place(each) < place(*node(NodeId::b).kept)) older = &each;
      }
      if (older == nullptr) break;
      store_ = *older;
      store_revision_ = older->mod_revision;
      store_went_back_ = true;
      ++store_restores_;  // requests from before meet members that have restarted: they are gone
      break;
    }
    case FaultKind::swap_reply_lost: at.lose_swap_reply = true; break;
    case FaultKind::swap_delayed: at.swap_delay_ns = fault.for_ns; break;
    case FaultKind::drive_error:
    case FaultKind::drive_slow: {
      int number = some_drive(fault);
      bool slow = fault.kind == FaultKind::drive_slow;
      (slow ? drive(number).slow : drive(number).erring) = true;
      after(fault.for_ns, [this, number, slow] { (slow ? drive(number).slow : drive(number).erring) = false; });
      break;
    }
    case FaultKind::drive_lost_cache: lose_cache(drive(some_drive(fault)), true); break;
    case FaultKind::drive_gone: {
      int number = some_drive(fault);
      drive(number).gone = true;
      after(fault.for_ns, [this, number] { drive(number).gone = false; });
      break;
    }
    case FaultKind::node_isolated:  // both paths and the store
      for (int path = 0; path < 2; ++path) {
        for (NodeId each : {NodeId::a, NodeId::b}) {
          bool late = fault.variant;
          cut(path, each);
          after(fault.for_ns, [this, path, each, late] { heal(path, each, late); });
        }
      }
      at.store_reachable = false;
      after(fault.for_ns, [this, id] { node(id).store_reachable = true; });
      break;
    case FaultKind::add_mirror:
    case FaultKind::replace_leg:
    case FaultKind::export_order:
    case FaultKind::destroy_order:
      for (NodeId each : {NodeId::a, NodeId::b}) {
        Process* owner_process = process(node(each).pid);
        if (owner_process == nullptr || !owner_process->serving || owner_process->paused) continue;
        if (fault.kind == FaultKind::add_mirror) return offer_mirror(*owner_process);
        if (fault.kind == FaultKind::replace_leg) return offer_leg(*owner_process, fault);
        bool destroy = fault.kind == FaultKind::destroy_order;
        feed(*owner_process,
             owner::EndOrdered{clock(each), ++last_order_, destroy ? owner::End::destroy : owner::End::export_pool});
        if (!destroy)
          after(fault.for_ns, [this, id] { feed(id, agent::ImportOrdered{clock(id), ++last_order_, false, false}); });
        return;
      }
      break;
    case FaultKind::switchover_order: feed(id, agent::SwitchoverOrdered{clock(id), ++last_order_}); break;
    case FaultKind::takeover_order: feed(id, agent::TakeoverOrdered{clock(id), ++last_order_}); break;
    case FaultKind::cut_at_grow:
    case FaultKind::cut_at_promise:
    case FaultKind::pause_at_handover:
    case FaultKind::count_of_kinds: break;
  }
}

// The moment for which the trap was set, if it was.
bool World::springs(NodeId id, FaultKind trap) {
  auto found = node(id).traps.find(trap);
  if (found == node(id).traps.end()) return false;
  Fault fault = found->second;
  node(id).traps.erase(found);
  ++stats_.faults[static_cast<std::size_t>(trap)];
  tell("FAULT {}", name_of(trap));
  if (trap == FaultKind::pause_at_handover) {
    fault.kind = FaultKind::node_pause;
  } else if (trap == FaultKind::cut_at_grow && fault.variant) {
    fault.kind = FaultKind::drive_error;
    fault.node = partner_of(id);
  } else {
    fault.kind = FaultKind::node_isolated;
  }
  inject(fault);
  return true;
}

void World::resume_process(std::uint64_t pid) {
  Process* own = process(pid);
  if (own == nullptr || !own->paused) return;
  own->paused = false;
  if (now_ns_ - own->paused_at_ns > 160 * ns_per_ms) {
    own->ran_since_ns = now_ns_;
    own->ran_since_clock_ns = clock(own->node);
  }
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
    node(id).traps.clear();
    node(id).store_reachable = true;
    for (int path = 0; path < 2; ++path) heal(path, id, true);
    if (!node(id).up) boot(id);
    resume_agent(id);
    if (!node(id).agent_alive) start_agent(id);
    resume_process(node(id).pid);
    each_drive(id, [](Drive& own) { own.erring = own.slow = own.gone = false; });
  }
  import_by_command();
}

// The operator who exported the pool imports it again; until it serves.
void World::import_by_command() {
  if (store_ && store_->record.wanted == record::Wanted::exported) {
    NodeId id = random_.one_in(2) ? NodeId::a : NodeId::b;
    feed(id, agent::ImportOrdered{clock(id), ++last_order_, false, false});
  }
  after(2 * ns_per_s, [this] { import_by_command(); });
}

int World::some_drive(const Fault& fault) {
  std::vector<int> own;
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    if (drives_[i].side == fault.node) own.push_back(static_cast<int>(i));
  }
  return own[static_cast<std::size_t>(fault.index) % own.size()];
}

}  // namespace zpair::sim
