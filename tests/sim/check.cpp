// The invariants of the protocol review, section 5. 8 stands where an import happens (process.cpp), 4 where
// a read is answered (client.cpp), 5 where a command is issued (engine.cpp), 12 at the end of a run (world.cpp).
#include "world_internal.h"

namespace zpair::sim {

// 2: every leg that the record names holds, durably, every acknowledged write. After each step.
void World::check_legs() {
  if (!store_ || !broken_.empty() || store_went_back_) return;
  for (const record::Mirror& mirror : store_->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) continue;
      int m = mirror_of(leg.guid);
      const Drive& where = drive_of(leg.guid);
      for (int block = 0; block < plan_.block_count; ++block) {
        std::uint64_t acked = client(m, block).acked;
        if (where.durable[static_cast<std::size_t>(block)].number >= acked) continue;
        breaks(fmt::format(
            "invariant 2: the record names {}@{}, which holds version {} of block {} durably; acknowledged is {}",
            leg.drive, leg.node, where.durable[static_cast<std::size_t>(block)].number, block, acked));
        return;
      }
    }
  }
  // 1 (rule 1): a mirror that holds acknowledged writes is recorded, with its legs.
  for (int mirror : active_mirrors_) {
    bool recorded = false;
    for (const record::Mirror& one : store_->record.mirrors) recorded |= mirror_of(one.guid) == mirror;
    for (int block = 0; !recorded && block < plan_.block_count; ++block) {
      if (client(mirror, block).acked > 0)
        return breaks(fmt::format("rule 1: mirror {} holds an acknowledged write, and no record names it", mirror));
    }
  }
}

// 1: an import finds every acknowledged write.
std::string World::what_import_lacks(const Process& at) {
  for (int mirror : at.mirrors) {
    for (int block = 0; block < plan_.block_count; ++block) {
      std::uint64_t found = at.current[static_cast<std::size_t>(mirror)][static_cast<std::size_t>(block)].number;
      std::uint64_t acked = client(mirror, block).acked;
      if (found >= acked) continue;
      return fmt::format("invariant 1: epoch {} imports mirror {} block {} at version {}, acknowledged was {}",
                         at.epoch, mirror, block, found, acked);
    }
  }
  return "";
}

bool World::overtaken(const Process& at) const { return store_ && store_->record.epoch > at.epoch; }

// 12 (H32): after a shrink every mirror has a named leg that the owner reaches. Section 3: a window counts only time in
// which the process itself ran.
void World::check_shrink_order(Process& at, const record::Record& wanted) {
  const record::Record& before = at.brain.stored.record;
  if (at.brain.phase == brain::owner::Phase::fencing || wanted.why.find("silent for") == std::string::npos) return;
  if (wanted.rev <= before.rev || wanted.op == at.checked_op) return;  // sent again: judged when it was decided
  at.checked_op = wanted.op;
  if (at.brain.last_tick_ns < at.ran_since_clock_ns) return;  // decided by a tick from before the pause
  double ran_ns = static_cast<double>(now_ns_ - at.ran_since_ns) * plan_.clock_rate[index(at.node)];
  if (ran_ns < 0.99 * static_cast<double>(at.brain.limits.hold_window_ns)) {
    return breaks("section 3: a leg is taken off for a silence that was this process's own pause");
  }
  for (const record::Mirror& mirror : wanted.mirrors) {
    bool reached = false;
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) continue;
      const LegIo& io = at.legs[leg.guid];
      bool heard = side_of(leg.guid) == at.node;
      for (const Connection& connection : at.connections)
        heard |= connection.id != 0 && clock(at.node) - connection.heard_ns < 400 * ns_per_ms;
      reached |= heard && !io.erred;
    }
    if (!reached)
      return breaks(fmt::format("invariant 12: a shrink leaves mirror {} without a leg that the owner reaches",
                                mirror_of(mirror.guid)));
  }
}

// Rule 4: a leg of the other node is named by an import only with its agent's word.
void World::check_import_order(NodeId id, const record::Record& wanted) {
  for (const record::Mirror& mirror : wanted.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync || leg.node == id || agreed_.contains({id, wanted.epoch})) continue;
      return breaks(fmt::format("rule 4: node {} imports at epoch {} and names {}@{} without its agent's word", id,
                                wanted.epoch, leg.drive, leg.node));
    }
  }
}

// Rule 9: a leg is failed only after the copy of the record that does not name it is durable.
void World::check_failing(Process& at) {
  if (at.imported && at.kept_rev < at.brain.stored.record.rev)
    breaks("rule 9: legs are failed before the copy of the record is durable");
}

// 6: epoch and revision only go up. 7: no mirror without an in-sync leg.
void World::check_record(const record::Record& before, const record::Record& after) {
  if (after.epoch > before.epoch && after.epoch <= highest_epoch_) {
    return breaks(fmt::format("invariant 6: an import takes epoch {}; epoch {} has been", after.epoch, highest_epoch_));
  }
  highest_epoch_ = std::max(highest_epoch_, after.epoch);
  if (after.epoch < before.epoch || after.rev <= before.rev) {
    breaks(fmt::format("invariant 6: the record goes from epoch {} rev {} to epoch {} rev {}", before.epoch, before.rev,
                       after.epoch, after.rev));
  }
  for (const record::Mirror& mirror : after.mirrors) {
    int before_count = 0;
    for (const record::Mirror& old : before.mirrors) {
      if (old.guid == mirror.guid) before_count = in_sync_count(old, NodeId::a) + in_sync_count(old, NodeId::b);
    }
    int now_count = in_sync_count(mirror, NodeId::a) + in_sync_count(mirror, NodeId::b);
    if (now_count == 0) breaks("invariant 7: a mirror of the record has no in-sync leg");
    if (now_count > before_count) ++stats_.grows;
    if (now_count < before_count) ++stats_.shrinks;
  }
}

std::string World::why_not_settled() {
  for (const Client& each : clients_) {
    if (each.acked != each.issued) return "a client's write is not acknowledged";
  }
  if (store_->record.wanted != record::Wanted::serving) return "the pool is exported";
  // Whoever owns it by the record also serves it.
  const Process* serves = process(node(store_->record.owner).pid);
  if (serves == nullptr || !serves->serving || serves->epoch != store_->record.epoch) return "its owner does not serve";
  for (const record::Mirror& mirror : store_->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) return fmt::format("leg {}@{} is not in sync", leg.drive, leg.node);
    }
  }
  return "";
}

bool World::settled() {
  if (store_went_back_) return false;
  if (!store_) return true;
  return why_not_settled().empty();
}

}  // namespace zpair::sim
