#pragma once
// A volume's requests between the reactor and the engine's threads.
//
// Group commit: writes that arrive while a commit is under way gather; the next free committer takes all of them, writes each
// into OpenZFS's memory and log list, commits once, and answers all. A few committers overlap, so that the log is never idle
// while a batch is prepared. Reads are started by a few threads and end on OpenZFS's; a look at extents occupies one of them to its end.
#include <atomic>
#include <deque>
#include <mutex>
#include <span>
#include <vector>

#include "block/reactor.h"
#include "zfs/engine.h"
#include "zfs/engine_internal.h"
#include "zfs/volume.h"
#include "zfs/worker_threads_internal.h"

namespace zpair::zfs {

struct Volume::State {
  Engine& engine;
  zp_volume* handle = nullptr;
  VolumeInfo info;
  std::uint64_t last_sequence = 0;  // when it began to close
  std::function<void()> on_closed;  // the pool's

  // Shared with the threads.
  std::mutex mutex;
  std::vector<block::Request*> waiting_writes;
  std::deque<block::Request*> waiting_reads;  // of bytes and of extents
  unsigned committers = 0, readers = 0;
  std::vector<block::Request*> done;  // to be answered on the reactor

  // Reactor only.
  struct Write {  // not answered yet: a read of its range waits (rule 10)
    block::Request* request;
    std::uint64_t number;
  };
  std::vector<Write> unanswered_writes;
  struct HeldRead {
    block::Request* request;
    std::uint64_t newest_write;  // later ones it cannot have seen
  };
  std::vector<HeldRead> held_reads;
  std::uint64_t last_write_number = 0;
  unsigned in_flight = 0;
  bool closing = false;
  block::Signal idle;
  std::vector<block::Request*> answering;  // `done`, being answered
  std::vector<block::Request*> immediate;  // flushes and refused requests, answered in the next turn

  explicit State(Engine& the_engine) : engine(the_engine) {}
  std::uint64_t size_bytes() const { return handle != nullptr ? zp_volume_size(handle) : info.size_bytes; }
  std::uint64_t sequence() const { return handle != nullptr ? zp_volume_sequence(handle) : last_sequence; }
  void submit(block::Request& request);
  void answer_done();
  void answer(block::Request& request);
  void answer_soon(block::Request& request, block::IoStatus status);
  bool must_wait(const block::Request& read, std::uint64_t newest_write) const;
  void commit_batches();  // a thread's
  void start_reads();     // a thread's; they end on others
  void find_extents(block::Request& request);
  void finished(std::span<block::Request* const> requests);
};

}  // namespace zpair::zfs
