#pragma once
// A verified load on one volume over NBD: writers and readers, the history checker and the stall meter in one object,
// for demos, drills and `zpair-load`.
//   Load load(options);  co_await load.open(deadline);  load.start();  auto window = load.begin_event("node-kill");
//   ...;  load.end_event(window);  co_await load.stop();  co_await load.verify();  load.report()
// Ownership: owns its client. close() it before it is destroyed.
// Threading: reactor thread only.
// Errors:    of open(): what the server says, timed_out. Faults of the storage are no errors here but findings.
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "block/reactor.h"
#include "block/task.h"
#include "drill/history.h"
#include "drill/nbd_client.h"
#include "drill/stall.h"

namespace zpair::drill {

struct LoadOptions {
  NbdTarget target;
  std::uint32_t writers = 4;
  std::uint32_t readers = 1;
  double operations_per_second = 0;             // all writers and readers together; 0 = as fast as it goes
  std::uint64_t working_set_bytes = 64u << 20;  // from the start of the volume; at most its size
  std::uint32_t least_bytes = 4096;             // sizes are powers of two between, small ones more often
  std::uint32_t greatest_bytes = 256u << 10;
  std::uint32_t flush_every = 64;  // writes of a writer between two flushes; 0 = none
  std::uint64_t seed = 1;
  std::string state_file;  // loaded if it is there; saved by save_state()
  NbdClientOptions client;
};

struct LoadReport {
  std::string export_name;
  History::Counts counts;
  std::uint64_t operations = 0, write_operations = 0, read_operations = 0, flush_operations = 0;
  std::uint64_t failed_operations = 0;  // answered with an NBD error
  std::string first_error;
  std::uint64_t reconnects = 0, resent = 0;
  double seconds = 0;  // of load
  double operations_per_second = 0;
  std::uint64_t stall_ms = 0;  // the longest of the run
  struct Event {
    std::string name;
    std::uint64_t stall_ms = 0, slowest_ms = 0, length_ms = 0, operations = 0;
  };
  std::vector<Event> events;
  std::vector<std::string> findings;  // one line each, the first 100
  bool verified = false;
  bool good() const { return verified && counts.bad() == 0 && failed_operations == 0; }
};
std::string to_json(const std::vector<LoadReport>& reports);  // zpair-load's --json: keys in README.md

class Load {
 public:
  explicit Load(LoadOptions options);
  ~Load();
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  block::Task<Result<void>> open(Deadline deadline);  // connects, sets up the history
  void start();
  block::Task<void> stop();  // no new operations; waits until those under way are answered (for ever, if nobody serves)
  // Stops issuing and drops what is unanswered (its outcome counts as unknown): when nobody may ever serve again.
  block::Task<void> abandon();
  // Reads the whole working set; findings are in report(). io: a read was answered with an error.
  block::Task<Result<void>> verify();
  block::Task<void> close();

  using EventId = StallMeter::WindowId;
  EventId begin_event(std::string name);
  void end_event(EventId event);
  std::uint64_t stall_ms(EventId event) const;      // so far
  Nanoseconds stall_ended_ns(EventId event) const;  // CLOCK_BOOTTIME; 0: it goes on
  std::uint64_t stalled_now_ms() const;
  std::uint64_t operations() const { return operations_; }

  // For a chart: what happened since the sample before (the first: since start()).
  struct Sample {
    std::uint64_t operations = 0, acknowledged_blocks = 0;  // since the start of the load
    double slowest_ms = 0;                                  // of the operations that were answered since
    double stalled_ms = 0;                                  // right now
  };
  Sample take_sample();

  LoadReport report() const;
  Result<void> save_state() const;
  const History& history() const { return *history_; }
  NbdClient& client() { return *client_; }

 private:
  block::Task<void> write_for_ever(std::uint32_t writer);
  block::Task<void> read_for_ever(std::uint32_t reader);
  block::Task<void> keep_rate();
  block::Task<Result<History>> new_history(std::uint64_t block_count);
  std::uint64_t random_extent(std::mt19937_64& random, std::uint64_t& block_count) const;
  void note_error(const Error& error);

  LoadOptions options_;
  std::unique_ptr<NbdClient> client_;
  std::optional<History> history_;
  StallMeter stalls_;
  std::optional<EventId> whole_run_;
  std::optional<EventId> since_sample_;
  std::vector<EventId> events_;
  block::TaskGroup tasks_;
  Nanoseconds next_slot_ns_ = 0;
  bool stopping_ = false;
  bool client_closed_ = false;
  bool verified_ = false;
  std::uint64_t operations_ = 0, write_operations_ = 0, read_operations_ = 0, flush_operations_ = 0,
                failed_operations_ = 0;
  std::string first_error_;
  Nanoseconds started_ns_ = 0, stopped_ns_ = 0;
};

}  // namespace zpair::drill
