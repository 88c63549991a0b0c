#pragma once
// A volume as a BlockDevice, with the kernel's zvol layout (object 1 data, object 2 "size"), so that a stock module serves
// it. A write completes when its intent-log record is committed: durable on every leg of the ack set. Writes in flight
// share commits. A read waits for the uncommitted writes that it overlaps (rule 10). A flush has nothing left to do.
// Ownership: close() before the destructor, and before Pool::export_pool.
// Threading: the reactor; work runs on the engine's threads.
// Errors:    no_space (the pool or its reservation is full: completes, never hangs), invalid, io_error (a block that no leg
//            can serve), cancelled.
// Source:    rule 2, rule 10; module/os/linux/zfs/zvol_os.c for the layout.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "block/block_device.h"
#include "block/task.h"

namespace zpair::zfs {

class Pool;

// A volume's newest committed log record, as a number that only grows, over imports too. 0: none known.
struct VolumeLog {
  std::uint64_t volume_guid = 0;
  std::uint64_t sequence = 0;
};

struct VolumeSpec {
  std::string name;                                                      // without the pool's
  std::uint64_t size_bytes = 0;                                          // a multiple of the block size, else refused
  std::uint32_t block_size_bytes = 16384;                                // a power of two, 4 KiB to 128 KiB
  enum class Space : std::uint8_t { thick, thin } space = Space::thick;  // thick: all its blocks are reserved
  std::string compression{};                                             // empty: the pool's
};

struct VolumeInfo {
  std::string name;
  std::uint64_t guid = 0;
  std::uint64_t size_bytes = 0;
  std::uint32_t block_size_bytes = 0;
  std::uint64_t reserved_bytes = 0;  // 0: thin
  std::uint64_t used_bytes = 0;      // with snapshots and reservation
  std::uint64_t referenced_bytes = 0;
  std::string compression;
  std::vector<std::string> snapshots;
  std::string unreadable;  // why; then only the name is sure, and the guid unless it is 0
};

class Volume : public block::BlockDevice {
 public:
  ~Volume() override;
  block::Geometry geometry() const override;  // block size 512; follows Pool::resize_volume
  std::string durable_id() const override { return {}; }
  Verifier verifier() const override { return Verifier{1}; }  // never changes: nothing is acknowledged unflushed
  void submit(block::Request& request) override;
  block::Task<void> close() override;

  const VolumeInfo& info() const;
  VolumeLog log() const;
  // Whole blocks of large requests that went past the cache since it was opened.
  struct Direct {
    std::uint64_t written_bytes = 0, read_bytes = 0;
  };
  Direct direct() const;
  // Since it was opened: the rest of their blocks was read while the log was written.
  std::uint64_t partial_writes() const;

  struct State;

 private:
  friend class Pool;
  explicit Volume(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace zpair::zfs
