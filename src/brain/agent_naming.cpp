// Rules 4 and 11: which legs the next import names. The in-sync legs of the record that are in reach, at least one for each
// mirror; else the pool is down and says which mirror lacks which leg, since when. Only an operator's override names others.
#include <fmt/format.h>

#include "brain/agent_internal.h"

namespace zpair::brain::agent {

namespace {

bool has(const std::vector<LegId>& legs, LegId leg) { return std::find(legs.begin(), legs.end(), leg) != legs.end(); }

std::string label(const record::Leg& leg) { return fmt::format("{}@{}", leg.drive, name_of(leg.node)); }

bool lacks(const record::Mirror& mirror, const std::vector<LegId>& reached) {
  return std::none_of(mirror.legs.begin(), mirror.legs.end(),
                      [&](const record::Leg& leg) { return leg.in_sync && has(reached, leg.guid); });
}

std::string lacks_what(const record::Mirror& mirror, const std::vector<LegId>& reached) {
  std::string text;
  for (const record::Leg& leg : mirror.legs) {
    std::string state;
    if (leg.in_sync)
      state = has(reached, leg.guid) ? "in sync" : "in sync, not in reach";
    else if (leg.resyncing)
      state = fmt::format("missing since txg {}, in mid-resync", leg.since.value);
    else if (leg.full)
      state = "diverged";
    else
      state = fmt::format("missing since txg {}", leg.since.value);
    text += fmt::format("{}{} is {}", text.empty() ? "" : ", ", label(leg), state);
  }
  return text;
}

// 1 + the newest uberblock txg on the node's own named legs before the swap; unknown: everything.
Txg since_of(const Takeover& takeover) { return takeover.newest_txg.next(); }

std::vector<LegId> legs_in_reach(const State& state, const Takeover& takeover) {
  const record::Record& record = takeover.base.record;
  std::vector<LegId> reached = legs_here(record, takeover.local_legs, state.node);
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.node == state.node) continue;
      if (has(takeover.partner_legs, leg.guid) || mutated(Mutation::takeover_without_agreement))
        reached.push_back(leg.guid);
    }
  }
  return reached;
}

// The store showed less than a leg has already been told: it went back (rule 9).
bool leg_knows_more(const record::Record& record, const LocalLeg& leg) {
  if (mutated(Mutation::lower_record_accepted)) return false;
  return leg.kept_epoch > record.epoch || (leg.kept_epoch == record.epoch && leg.kept_rev > record.rev) ||
         leg.fence_epoch > record.epoch;
}

// How much a leg is worth to an override: one in sync, one that is whole up to where it went off, one that is neither.
int worth(const record::Leg& leg) {
  if (leg.in_sync) return 2;
  return leg.resyncing || leg.full ? 0 : 1;
}

// Of a mirror's legs in reach the one that holds most; own node first.
record::Leg* best_leg(record::Mirror& mirror, const std::vector<LegId>& reached, NodeId node) {
  record::Leg* best = nullptr;
  auto rank = [node](const record::Leg& leg) { return std::pair(worth(leg), leg.node == node); };
  for (record::Leg& leg : mirror.legs) {
    if (has(reached, leg.guid) && (best == nullptr || rank(*best) < rank(leg))) best = &leg;
  }
  return best;
}

// Rule 11, override: of each mirror without an in-sync leg in reach, one leg that is. History forks here: whatever is not
// named has diverged.
std::string override_legs(const State& state, const Takeover& takeover, const std::vector<LegId>& reached,
                          record::Record& wanted) {
  std::vector<LegId> chosen;
  for (record::Mirror& mirror : wanted.mirrors) {
    const record::Leg* best = best_leg(mirror, reached, state.node);
    if (best == nullptr) return fmt::format("no leg in reach at all: {}", lacks_what(mirror, reached));
    chosen.push_back(best->guid);
  }
  const std::string broken = incomplete(wanted, chosen);
  if (!broken.empty() && !takeover.accept_corruption)
    return broken + ": refused unless --accept-corruption is given too";
  std::string named;
  for (record::Mirror& mirror : wanted.mirrors) {
    if (!lacks(mirror, reached)) continue;
    record::Leg& best = *best_leg(mirror, reached, state.node);
    named += fmt::format("{}{} (since txg {})", named.empty() ? "" : ", ", label(best), best.since.value);
    best.in_sync = true;
    best.resyncing = false;
    best.full = false;
    best.since = Txg{};
    best.off_rev = Revision{};
  }
  for (record::Mirror& mirror : wanted.mirrors) {
    for (record::Leg& leg : mirror.legs) {
      if (leg.in_sync && has(reached, leg.guid)) continue;
      leg.in_sync = false;
      leg.full = true;
      leg.off_rev = wanted.rev;
    }
  }
  wanted.floor_txg = Txg{};
  wanted.why = "override, data may be lost: named " + named;
  if (!broken.empty()) wanted.why += "; " + broken;
  return "";
}

}  // namespace

std::string lacking(const record::Record& record, const std::vector<LegId>& reached) {
  constexpr std::size_t told_at_most = 3;  // a whole side is often gone: one line has to do
  std::string text;
  std::size_t count = 0;
  for (std::size_t index = 0; index < record.mirrors.size(); ++index) {
    const record::Mirror& mirror = record.mirrors[index];
    if (!lacks(mirror, reached)) continue;
    if (++count > told_at_most) continue;
    text += fmt::format("{}mirror-{} has no in-sync leg in reach ({})", text.empty() ? "" : "; ", index,
                        lacks_what(mirror, reached));
  }
  if (count > told_at_most) text += fmt::format("; and {} more", count - told_at_most);
  return text;
}

std::string incomplete(const record::Record& record, const std::vector<LegId>& legs) {
  std::optional<Revision> off_rev;  // 0: in sync to the end
  for (std::size_t index = 0; index < record.mirrors.size(); ++index) {
    const record::Mirror& mirror = record.mirrors[index];
    auto is_here = [&](const record::Leg& leg) { return has(legs, leg.guid); };
    auto here = std::find_if(mirror.legs.begin(), mirror.legs.end(), is_here);
    if (here == mirror.legs.end()) return fmt::format("incomplete: it has no leg of mirror-{}", index);
    if (here->resyncing) return fmt::format("incomplete: {} is in mid-resync", label(*here));
    if (!here->in_sync && here->full)
      return fmt::format("incomplete: {} is a new leg, or of another history", label(*here));
    if (!here->in_sync && here->off_rev == Revision{})
      return fmt::format("incomplete: when {} went off is not recorded", label(*here));
    const Revision went = here->in_sync ? Revision{} : here->off_rev;
    if (off_rev && *off_rev != went)
      return fmt::format("incomplete: {} did not go off together with the other legs", label(*here));
    off_rev = went;
  }
  return "";
}

std::vector<LegId> legs_here(const record::Record& record, const std::vector<LocalLeg>& local, NodeId node) {
  std::vector<LegId> legs;
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      const bool found =
          std::any_of(local.begin(), local.end(), [&](const LocalLeg& one) { return one.leg == leg.guid; });
      if (leg.node == node && found) legs.push_back(leg.guid);
    }
  }
  return legs;
}

Naming name_legs(State& state, const Takeover& takeover) {
  Naming naming;
  const record::Record& record = takeover.base.record;
  for (const LocalLeg& leg : takeover.local_legs) {
    if (!leg_knows_more(record, leg)) continue;
    naming.refused =
        fmt::format("the store went back: leg {} has seen epoch {} revision {}, the record is at epoch {} revision {}",
                    leg.leg.value, std::max(leg.kept_epoch, leg.fence_epoch).value, leg.kept_rev.value,
                    record.epoch.value, record.rev.value);
    return naming;
  }
  const std::vector<LegId> reached = legs_in_reach(state, takeover);
  naming.wanted = record;
  record::Record& wanted = naming.wanted;
  const bool same_epoch = takeover.kind == Kind::restart && mutated(Mutation::restart_keeps_epoch);
  if (!same_epoch) wanted.epoch = wanted.epoch.next();  // rule 4: one import, one epoch
  wanted.rev = wanted.rev.next();
  wanted.owner = state.node;
  wanted.op = next_op(state);
  wanted.wanted = record::Wanted::serving;
  wanted.why = fmt::format("{} by node {}", name_of(takeover.kind), name_of(state.node));
  const std::string missing = lacking(record, reached);
  const bool anyway = mutated(Mutation::takeover_without_in_sync_leg);
  if (!missing.empty() && !takeover.accept_data_loss && !anyway) {
    naming.refused = missing;
    return naming;
  }
  if (!missing.empty() && takeover.accept_data_loss) {
    naming.refused = override_legs(state, takeover, reached, wanted);
    naming.skip_floor = true;
    return naming;
  }
  for (record::Mirror& mirror : wanted.mirrors) {
    const bool lost = lacks(mirror, reached);
    for (record::Leg& leg : mirror.legs) {
      if (lost && anyway && leg.node == state.node) leg.in_sync = true;
      // An import may find less than the former one had flushed on a leg that is off: txgs are then used again, and that
      // leg lacks them in their new form (simulator, seed 0xb7a4a).
      if (!leg.in_sync) leg.since = std::min(leg.since, since_of(takeover));
      if (!leg.in_sync || has(reached, leg.guid)) continue;
      leg.in_sync = false;
      leg.resyncing = false;
      leg.since = since_of(takeover);
      leg.off_rev = wanted.rev;
    }
  }
  return naming;
}

}  // namespace zpair::brain::agent
