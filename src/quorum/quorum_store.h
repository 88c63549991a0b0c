#pragma once
// The place that holds the records and decides every compare-and-swap (rule 9).
// Threading: reactor thread only.
// Errors:    unreachable or timed_out when no majority answers; a swap never fails, it is `unknown`.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "block/task.h"
#include "record/record.h"

namespace zpair::quorum {

struct SwapAnswer {
  enum class Outcome {
    applied,  // `stored` is what was written
    other,    // the key has another mod_revision: `stored` is what it holds now (mod_revision 0: no such key)
    unknown,  // no answer: it may have been applied, or may still be; only a linearizable read tells
  } outcome;
  record::Stored stored;
};

class QuorumStore {
 public:
  virtual ~QuorumStore() = default;

  // Linearizable: never older than any swap that completed before the call. nullopt: no such pool.
  // Resolves: after it, no swap or remove of this pool that this object called `unknown` before can still be applied (the
  // record may then have a new mod_revision). Only a create may: nothing is there yet that could be compared.
  virtual block::Task<Result<std::optional<record::Stored>>> read(std::string pool, Deadline deadline) = 0;
  virtual block::Task<Result<std::vector<record::Stored>>> list(Deadline deadline) = 0;

  // Writes `record` if the key's mod_revision still is `expected_mod_revision` (0: if it does not exist).
  // The caller gives record.op a fresh operation id, and resolves `unknown` by reading.
  virtual block::Task<SwapAnswer> swap(std::uint64_t expected_mod_revision, record::Record record,
                                       Deadline deadline) = 0;

  // The same for the end of a pool (pool destroy): removes the key, and remembers the last record as destroyed(pool).
  virtual block::Task<SwapAnswer> remove(std::string pool, std::uint64_t expected_mod_revision, Deadline deadline) = 0;

  // The record of the pool of that name that was destroyed last; nullopt: none was. It tells a destroyed pool from one
  // that a store without its memory does not know.
  virtual block::Task<Result<std::optional<record::Record>>> destroyed(std::string pool, Deadline deadline) = 0;

  // `changed` runs on the reactor for every change of any record that this member learns of, in order of revision.
  // A hint: it may be late, and after an interruption it starts again with the newest values.
  virtual void watch(std::function<void(record::Stored)> changed) = 0;

  virtual block::Task<void> close() = 0;
};

}  // namespace zpair::quorum
