#pragma once
// Which records a store that has lost its memory is given anew: of each pool the newest copy that a node has. Every act that a
// record allows (a leg is failed, a pool is imported) comes after the acting node's copy is durable (rule 9), so the newest of
// both nodes' copies is never older than what was done. With one node's copies alone that is not so.
// Threading: any. Errors: refused, naming the pool and the mend.
#include <string>
#include <vector>

#include "base/error.h"
#include "record/record.h"

namespace zpair::state {

struct NodeCopies {
  NodeId node = NodeId::a;
  std::vector<record::Record> records;
};

struct Rebuilt {
  record::Record record;  // as it was, its revision and operation id too: whoever acts by it goes on
  NodeId from = NodeId::a;
};

// `named`: the pools that shall be rebuilt; empty: all. Of two nodes, both of which know every pool unless it was destroyed
// while one was away: a pool that only one of them knows must be named.
Result<std::vector<Rebuilt>> plan_rebuild(const std::vector<NodeCopies>& copies, const std::vector<std::string>& named);

}  // namespace zpair::state
