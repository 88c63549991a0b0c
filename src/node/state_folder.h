#pragma once
// What a node knows after a restart: its registered drives, a copy of each record, the volumes that want a socket, and
// which pools it has given up. Lies in state_dir; a lock keeps a second zpaird out.
// Threading: reactor thread. Stores of one kind are one after the other, in the order of the calls.
// Errors:    exists (another zpaird holds the folder), the system's; load: invalid when a file does not parse. A record
//            copy that does not parse is not forgotten: the pool stays closed until somebody looks (rule 9).
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/messages.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "block/reactor.h"
#include "block/task.h"
#include "record/record.h"
#include "state/record_copies.h"

namespace zpair::node {

struct RegisteredDrive {
  std::string durable_id;
  std::string path;
  std::uint32_t nsid = 0;  // for ever: a number is given once
  std::string pool;
  std::uint64_t size_bytes = 0;
  std::uint32_t block_size_bytes = 4096;
  bool operator==(const RegisteredDrive&) const = default;
};

class StateFolder {
 public:
  static Result<std::unique_ptr<StateFolder>> open(std::string state_dir);

  const std::string& path() const { return path_; }
  std::string fence_folder() const { return path_ + "/fence"; }

  Result<std::vector<RegisteredDrive>> load_drives(std::uint32_t& last_nsid) const;
  block::Task<Result<void>> store_drives(std::vector<RegisteredDrive> drives, std::uint32_t last_nsid);

  Result<std::map<std::string, record::Record>> load_records() const { return copies_.load_all(); }
  // Refuses (stale_epoch) one that is older, by epoch or revision, than the copy of the same pool stored before (rule 9). The
  // pool's own process may store one too, when this zpaird does not answer it: state/record_copies.h.
  block::Task<Result<void>> store_record(record::Record record);
  block::Task<Result<void>> remove_record(std::string pool);

  std::vector<agent::PoolState::Volume> load_volumes(const std::string& pool) const;  // none: an empty list
  block::Task<Result<void>> store_volumes(std::string pool, std::vector<agent::PoolState::Volume> volumes);

 private:
  // One store at a time, in the order of the calls: two writers of a file could else swap their renames.
  class Turn;
  explicit StateFolder(std::string state_dir) : path_(std::move(state_dir)), copies_(path_) {}
  std::string volumes_file(const std::string& pool) const { return path_ + "/volumes/" + pool + ".json"; }

  std::string path_;
  UniqueFd lock_;
  state::RecordCopies copies_;
  bool busy_ = false;
  block::Signal free_;
};

}  // namespace zpair::node
