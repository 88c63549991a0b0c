#include "state/rebuild.h"

#include <algorithm>
#include <map>

#include "state/record_copies.h"

namespace zpair::state {

Result<std::vector<Rebuilt>> plan_rebuild(const std::vector<NodeCopies>& copies,
                                          const std::vector<std::string>& named) {
  std::map<std::string, std::vector<Rebuilt>> by_pool;
  for (const NodeCopies& of_node : copies) {
    for (const record::Record& record : of_node.records) by_pool[record.name].push_back({record, of_node.node});
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
    if (named.empty() && known.size() < copies.size()) {
      return fail(
          ErrorCode::refused,
          "only node {} knows pool {}: was it destroyed while the other was away? Name the pools that are to be "
          "rebuilt: zpair store rebuild POOL ...",
          known.front().from, pool);
    }
    Rebuilt newest = known.front();
    for (const Rebuilt& one : known) {
      if (one.record.pool_guid != newest.record.pool_guid) {
        return fail(
            ErrorCode::refused,
            "nodes {} and {} know two pools of the name {}, so one of them was destroyed: remove that one's copy, "
            "records/{}.json in the state folder, and start that node's zpaird again",
            newest.from, one.from, pool, pool);
      }
      if (is_older(newest.record, one.record)) newest = one;
    }
    plan.push_back(std::move(newest));
  }
  return plan;
}

}  // namespace zpair::state
