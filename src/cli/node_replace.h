#pragma once
// `zpair node replace`: a server that is lost for good comes back on new hardware, under its old name. Its store member gets a
// vote again; then its legs get drives, one after the other, each copied as a whole. Can be repeated after any
// interruption: what is done already is left alone.
// Errors: those of the node's API; invalid when the drives do not fit, before anything is changed.
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "cli/commands.h"

namespace zpair::cli {

// One drive that is to take a leg's place.
struct Seating {
  std::string pool, mirror;
  std::string old_drive, old_id;  // the leg's, by name and durable id
  std::string path, new_id;       // the drive's; the same id: the very drive that its node has forgotten
  bool operator==(const Seating&) const = default;
};

// A drive as its node sees it (POST /v1/drive/look).
struct LookedAt {
  std::string path;
  nlohmann::json answer;
};

// Which drive takes which leg's place: a leg's own drive its own, of the others the larger ones where more is needed. Pure.
// status: GET /v1/status; drives: GET /v1/drives. invalid: more or fewer drives than legs, one that is too small or in use.
Result<std::vector<Seating>> plan_seating(const std::string& node, const nlohmann::json& status,
                                          const nlohmann::json& drives, const std::vector<LookedAt>& looked_at);

struct NodeReplace {
  std::string node;
  std::vector<std::string> paths;  // empty: the store's member only
  std::string peer_url;            // as for store_readmit
  bool force = false;
};
Result<void> node_replace(const Context& context, const NodeReplace& options);

}  // namespace zpair::cli
