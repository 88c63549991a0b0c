#pragma once
// The node's durable copies of the records, one file a pool in STATE_DIR/records (rule 9: neither epoch nor revision ever goes
// back). zpaird writes them, and a pool process writes its own pool's when no zpaird answers: a lock file a pool lets one
// process at a time read, decide and write, so a slow writer never puts an older copy over a newer one.
// Ownership: no descriptor between calls; several objects, in several processes, may name one folder.
// Threading: reactor thread. Waits for the lock without blocking the reactor.
// Errors:    stale_epoch (a newer copy is there, and durable), timed_out (another process holds the lock),
//            invalid (what is there does not parse: it is not forgotten, the pool stays closed), the system's.
#include <map>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "block/task.h"
#include "record/record.h"

namespace zpair::state {

class RecordCopies {
 public:
  explicit RecordCopies(std::string state_dir);

  Result<void> make_folder() const;
  Result<std::map<std::string, record::Record>> load_all() const;
  // On success the copy is durable. stale_epoch: the copy that is there has a higher epoch or revision, and is durable.
  block::Task<Result<void>> store(record::Record record, Deadline wait_for_lock);
  block::Task<Result<void>> remove(std::string pool, Deadline wait_for_lock);

 private:
  std::string file_of(const std::string& pool) const { return folder_ + "/" + pool + ".json"; }
  std::string folder_;
};

// By epoch or by revision; a copy of another pool of that name is neither older nor newer.
bool is_older(const record::Record& left, const record::Record& right);

}  // namespace zpair::state
