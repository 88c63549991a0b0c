#pragma once
// A drive that misbehaves on command, around any other device: for tests, drills and sandboxes. Without a fault and without
// the volatile cache it hands requests through untouched.
// Ownership: owns the inner device.
// Threading: reactor thread, apply() and power_cut() too.
// Errors:    apply(): invalid, names the word. I/O: what the commands ask for.
//
// Commands of apply(), one a line or separated by `;`. WHERE is any of: `on`, `off`, a probability (`0.01`), a byte range
// (`1048576+65536`); a second command of the same kind adds to the first, `off` ends the kind.
//   read-errors WHERE     media_error; a successful write over a range heals it, as a drive remaps a sector
//   write-errors WHERE    io_error for write, write-zeroes and trim; nothing is stored
//   flush-errors WHERE    io_error; nothing is flushed
//   torn-writes WHERE     some of a write's sectors are stored, then io_error
//   wrong-data WHERE      a read succeeds with one byte changed in each block
//   slow MS | off         everything takes this much longer before it is done
//   latency-us READ WRITE FLUSH | off     what each costs, to model a drive; a durable write costs both
//   parallel N | off      at most N at a time, the others queue
//   protected-cache on | off   a drive with power-loss protection: what it completed is durable, so nothing below is flushed (a
//                         model for measuring: the file then does not survive a crash of the machine)
//   hang on | off         nothing is answered until `off`
//   lose-cache            power cut: what was not flushed is gone; the verifier changes
//   tear-cache            the same, but a random part of the sectors had reached the medium
//   clear                 ends all faults (the cache stays)
//
// Volatile cache: unflushed writes live in this process's memory only, so that a kill is a power cut; reads see them. Each
// instance then starts with a new verifier, and close() drops what was not flushed (design, section 4).
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "block/block_device.h"
#include "block/reactor.h"

namespace zpair::block {

struct FaultOptions {
  bool volatile_cache = false;
  std::uint64_t seed = 0;     // decides probabilities and what is torn; 0: a random one
  std::string commands = {};  // applied at once; a drive that changes its opener takes its faults along
};

class FaultDevice final : public BlockDevice {
 public:
  static Result<std::unique_ptr<FaultDevice>> wrap(std::unique_ptr<BlockDevice> inner, FaultOptions options = {});
  ~FaultDevice() override;  // asserts that close() ran

  Geometry geometry() const override { return inner_->geometry(); }
  std::string durable_id() const override { return inner_->durable_id(); }
  Verifier verifier() const override;
  void submit(Request& request) override;
  Task<void> close() override;

  Result<void> apply(std::string_view commands);
  std::string faults() const;  // the commands that would make the present faults, one a line
  void power_cut();            // lose-cache
  std::size_t unflushed_blocks() const { return cache_.size(); }
  std::uint64_t error_count() const { return error_count_; }  // requests that were failed or falsified on command

 private:
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = UINT64_MAX;
  };
  struct Fault {
    double probability = 1;
    bool everywhere = true;
    Range range;
  };
  using Faults = std::vector<Fault>;
  struct Latency {
    std::int64_t read_us = 0, write_us = 0, flush_us = 0;
  };
  // A block of an unflushed write. `sequence` tells it from a later write of the same block.
  struct CachedBlock {
    std::uint64_t sequence;
    std::shared_ptr<const std::vector<std::byte>> bytes;
  };
  using Cache = std::map<std::uint64_t, CachedBlock>;  // by block number

  FaultDevice(std::unique_ptr<BlockDevice> inner, FaultOptions options);
  Result<void> apply_one(std::string_view command);
  Result<void> apply_fault(Faults& faults, const std::vector<std::string_view>& words);
  Faults* faults_named(std::string_view name);
  bool transparent() const;
  bool strikes(const Faults& faults, const Request& request);
  void heal(const Request& request);
  std::int64_t delay_us(const Request& request) const;

  Task<void> serve(Request& request);
  Task<Op::Outcome> perform(Request& request);
  Task<Op::Outcome> forward(Request& request);
  Task<IoStatus> tear(Request& request);
  Task<IoStatus> cached(Request& request);
  Task<IoStatus> cached_read(Request& request);
  Task<IoStatus> cached_zeroes(Request& request);
  void put_in_cache(const Request& request);
  void drop_from_cache(const Request& request, std::uint64_t before_sequence);
  Task<IoStatus> write_out(std::uint64_t first_block = 0, std::uint64_t end_block = UINT64_MAX);
  Task<void> tear_cache(Cache cache);
  Task<void> lock_write_out();
  void unlock_write_out();
  void falsify(const Request& request);

  std::unique_ptr<BlockDevice> inner_;
  FaultOptions options_;
  std::mt19937_64 random_;
  std::uint64_t verifier_salt_ = 0;  // 0: the inner device's own verifier

  Faults read_errors_, write_errors_, flush_errors_, torn_writes_, wrong_data_;
  std::int64_t slow_ms_ = 0;
  Latency latency_;
  bool protected_cache_ = false;
  std::size_t parallel_ = 0;  // 0: no limit
  Signal not_hanging_;
  std::uint64_t error_count_ = 0;

  Cache cache_;
  std::uint64_t last_sequence_ = 0;
  bool tearing_ = false;  // nothing is served until what a power cut left has landed
  Signal torn_;
  std::uint64_t power_cuts_ = 0;
  bool writing_out_ = false;  // one at a time, or an older block could overtake a newer one
  Signal write_out_free_;

  std::size_t active_ = 0;  // under way, for `parallel`
  Signal slot_free_;
  TaskGroup tasks_;
  bool closing_ = false;
  bool closed_ = false;
};

}  // namespace zpair::block
