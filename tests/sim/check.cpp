// The invariants of the protocol review, section 5. 1 and 8 stand where an import happens (engine.cpp, process.cpp), 4 where
// a read is answered (client.cpp), 5 where a command is issued (engine.cpp), 12 at the end of a run (world.cpp).
#include "world_internal.h"

namespace zpair::sim {

// 2: every leg that the record names holds, durably, every acknowledged write. After each step.
void World::check_legs() {
  if (!store_ || !broken_.empty()) return;
  for (const record::Mirror& mirror : store_->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) continue;
      int m = mirror_of(leg.guid);
      const Drive& where = drive(m, side_of(leg.guid));
      for (int block = 0; block < plan_.block_count; ++block) {
        std::uint64_t acked = client(m, block).acked;
        if (where.durable[static_cast<std::size_t>(block)].number >= acked) continue;
        breaks(fmt::format("invariant 2: the record names m{}@{}, which holds version {} of block {} durably; acknowledged is {}", m, leg.node,
                           where.durable[static_cast<std::size_t>(block)].number, block, acked));
        return;
      }
    }
  }
}

// 6: epoch and revision only go up. 7: no mirror without an in-sync leg.
void World::check_record(const record::Record& before, const record::Record& after) {
  if (after.epoch < before.epoch || after.rev <= before.rev) {
    breaks(fmt::format("invariant 6: the record goes from epoch {} rev {} to epoch {} rev {}", before.epoch, before.rev, after.epoch, after.rev));
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
  for (const record::Mirror& mirror : store_->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) return fmt::format("leg m{}@{} is not in sync", mirror_of(leg.guid), leg.node);
    }
  }
  return "";
}

bool World::settled() {
  if (!store_) return true;
  return why_not_settled().empty();
}

}  // namespace zpair::sim
