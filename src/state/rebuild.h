#pragma once
// Which records a store that has lost its memory is given anew: of each pool the newest copy that a node has. Every act that a
// record allows (a leg is failed, a pool is imported) comes after the acting node's copy is durable (rule 9), so the newest of
// both nodes' copies is never older than what was done. With one node's copy alone that is not so: it is taken only when an
// operator accepts the loss (rule 11), and then what the other node did meanwhile is never believed again.
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
  // From both nodes' copies: as it was, its revision and operation id too, so that whoever acts by it goes on. From one
  // node's: far above whatever the other may have seen, and the other's legs are diverged where this node can serve without.
  record::Record record;
  NodeId from = NodeId::a;
  bool with_loss = false;
};

// copies: of each node that could be asked. named: the pools that shall be rebuilt; empty: all.
Result<std::vector<Rebuilt>> plan_rebuild(const std::vector<NodeCopies>& copies, const std::vector<std::string>& named,
                                          bool accept_data_loss);

}  // namespace zpair::state
