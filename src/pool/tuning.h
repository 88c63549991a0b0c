#pragma once
// The pool's own settings of OpenZFS (zfs/tunables.h). They are kept in the pool itself, as a note at its root, so that they hold
// wherever it is imported, and whoever imports it next has them: what was set, and what was set before, to undo.
// Threading: reactor thread. One change at a time (refused else).
// Errors:    not_found, invalid: a tunable that this library does not have, or a value out of its bounds: nothing was changed.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/task.h"
#include "zfs/pool.h"
#include "zfs/tunables.h"

namespace zpair::pool {

class Tuning {
 public:
  using Values = std::map<std::string, std::uint64_t>;

  // What can be set, within the bounds that a pool may keep.
  static std::vector<zfs::Tunable> known();

  Tuning();  // before anything is set: what this process began with are the defaults

  // After the import: sets what the pool keeps. What this library does not take is left out, with a warning.
  block::Task<void> load(zfs::Pool& pool);
  using Wanted = std::map<std::string, std::optional<std::uint64_t>>;
  // nullopt: as by default again. Kept first, then set.
  block::Task<Result<void>> change(zfs::Pool& pool, Wanted wanted);
  // For a measurement: in force until the next change, and kept nowhere. nullopt: as kept, or by default.
  Result<void> try_out(const Wanted& wanted);
  block::Task<Result<void>> undo(zfs::Pool& pool);  // refused: nothing is there to undo

  // The limits of memory were set anew (Engine::set_limits): those are the defaults now, and what is kept holds over them.
  void limits_changed();

  const Values& kept() const { return kept_; }
  const Values& defaults() const { return defaults_; }
  std::size_t undo_count() const { return before_.size(); }

 private:
  static Result<void> check_all(const Wanted& wanted);
  block::Task<Result<void>> keep(zfs::Pool& pool, Values kept, std::vector<Values> before);

  Values defaults_, kept_;
  std::vector<Values> before_;  // what was kept before each change, the newest last
  bool changing_ = false;
};

}  // namespace zpair::pool
