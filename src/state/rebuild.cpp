#include "state/rebuild.h"

#include <map>

#include "base/ids.h"
#include "state/record_copies.h"

namespace zpair::state {

namespace {

constexpr std::size_t node_count = 2;
constexpr std::uint64_t out_of_reach = 1'000'000;  // no node makes so many imports or swaps while it is away

Rebuilt with_loss(Rebuilt one) {
  record::Record& record = one.record;
  record.epoch = Epoch{record.epoch.value + out_of_reach};
  record.rev = Revision{record.rev.value + out_of_reach};
  record.op = Uuid::random().to_string();
  record.why = fmt::format("the store was rebuilt from node {}'s copy alone, with accepted data loss", one.from);
  one.with_loss = true;
  if (!record::serves_alone(record, one.from)) return one;  // an override of the pool decides what is left
  for (record::Mirror& mirror : record.mirrors) {
    for (record::Leg& leg : mirror.legs) {
      if (leg.node == one.from) continue;
      leg.in_sync = leg.resyncing = false;
      leg.full = true;
      leg.since = Txg{};
    }
  }
  return one;
}

Result<Rebuilt> newest_of(const std::string& pool, const std::vector<Rebuilt>& known) {
  Rebuilt newest = known.front();
  for (const Rebuilt& one : known) {
    if (one.record.pool_guid != newest.record.pool_guid) {
      return fail(
          ErrorCode::refused,
          "nodes {} and {} know two pools of the name {}, so one of them was destroyed: remove that one's copy, "
          "records/{}.json in the state folder, and start that node's zpaird again",
          newest.from, one.from, pool, pool);
    }
    const bool newer = is_older(newest.record, one.record), older = is_older(one.record, newest.record);
    if ((newer && older) || (!newer && !older && one.record != newest.record)) {
      return fail(
          ErrorCode::refused,
          "nodes {} and {} have copies of the record of pool {} of which neither is the newer one (epoch {} revision "
          "{}, epoch {} revision {}): remove the wrong one, records/{}.json in the state folder, and start that node's "
          "zpaird again",
          newest.from, one.from, pool, newest.record.epoch, newest.record.rev, one.record.epoch, one.record.rev, pool);
    }
    if (newer) newest = one;
  }
  return newest;
}

}  // namespace

Result<std::vector<Rebuilt>> plan_rebuild(const std::vector<NodeCopies>& copies, const std::vector<std::string>& named,
                                          bool accept_data_loss) {
  std::map<std::string, std::vector<Rebuilt>> by_pool;
  for (const NodeCopies& of_node : copies) {
    for (const record::Record& record : of_node.records) by_pool[record.name].push_back({record, of_node.node, false});
  }
  std::vector<std::string> wanted = named;
  if (wanted.empty()) {
    for (const auto& [pool, found] : by_pool) wanted.push_back(pool);
  }
  std::vector<Rebuilt> plan;
  for (const std::string& pool : wanted) {
    const auto found = by_pool.find(pool);
    if (found == by_pool.end()) return fail(ErrorCode::not_found, "no node has a copy of the record of pool {}", pool);
    const std::vector<Rebuilt>& known = found->second;
    if (known.size() < node_count && !accept_data_loss) {
      return fail(ErrorCode::refused,
                  "only node {} has a copy of the record of pool {}: the other one has lost its own, or the pool was "
                  "destroyed while a node was away (then name the others: zpair store rebuild POOL ...). With "
                  "--accept-data-loss it is rebuilt from this copy; what the other node acknowledged alone is lost",
                  known.front().from, pool);
    }
    ZP_TRY(newest, newest_of(pool, known));
    plan.push_back(known.size() < node_count ? with_loss(std::move(newest)) : std::move(newest));
  }
  return plan;
}

}  // namespace zpair::state
