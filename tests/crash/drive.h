#pragma once
// What a drive holds, what a power cut may leave of it, and the drive itself: a BlockDevice in memory that writes to the tape.
//
// Model (design, failure model): a drive keeps what a completed flush covers, which is every write that had completed when the
// flush was handed over, and a durable write (FUA) from its completion on. Of everything else that was handed over, completed
// or not, a power cut leaves any subset, each write whole, torn at sectors, or not at all. Of two writes to one sector the later
// one lies on top.
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/block_device.h"
#include "block/reactor.h"
#include "sim/random.h"
#include "tape.h"

namespace zpair::crash {

using sim::Random;

// The bytes of one drive. A forked process gets a copy of its own for nothing.
class Image {
 public:
  explicit Image(std::uint64_t size_bytes);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  std::span<std::byte> bytes() { return bytes_; }
  std::span<const std::byte> part(std::uint64_t offset, std::uint64_t size) const {
    return std::span(bytes_).subspan(offset, size);
  }
  void put(std::uint64_t offset, std::span<const std::byte> data);
  void clear();
  Result<void> save(const std::string& path) const;  // a sparse file

  // What is put after begin_trial() is taken back by end_trial(). They nest.
  void begin_trial() { marks_.push_back(undo_.size()); }
  void end_trial();

 private:
  struct Undo {
    std::uint64_t offset;
    std::vector<std::byte> before;
  };
  std::span<std::byte> bytes_;
  std::vector<Undo> undo_;
  std::vector<std::size_t> marks_;
};

// What a power cut leaves of what is not durable. A seed decides the rest.
struct Leave {
  enum class Style : std::uint8_t { nothing, everything, completed, all_but_one, prefix, some, torn, count };
  Style style = Style::nothing;
  std::uint64_t seed = 0;
  static Leave any(Random& random);
};
std::string_view name_of(Leave::Style style);

enum class Fate : std::uint8_t { durable, kept, dropped, torn };
std::string_view name_of(Fate fate);

// Commands that were handed to a drive and are not durable, or lie over one that is not.
class WriteCache {
 public:
  struct Write {
    std::uint32_t io;
    std::uint64_t offset;
    std::span<const std::byte> data;
    bool fua, durable;
    std::uint64_t completion;  // 0: in flight; else its place in the order of completions
  };
  void write_submitted(std::uint32_t io, std::uint64_t offset, std::span<const std::byte> data, bool fua);
  void flush_submitted(std::uint32_t io);
  // Calls settle(write) for each write that leaves the cache, in order.
  template <class Settle>
  void completed(std::uint32_t io, Settle settle) {
    note_completed(io);
    while (!writes_.empty() && writes_.front().durable) {
      settle(writes_.front());
      writes_.pop_front();
    }
  }
  void failed(std::uint32_t io);
  void lost(bool in_flight_too);

  const std::deque<Write>& writes() const { return writes_; }
  std::vector<Fate> fates(const Leave& leave) const;
  void leave(const Leave& leave, const std::vector<Fate>& fates, Image& image) const;

 private:
  void note_completed(std::uint32_t io);
  std::deque<Write> writes_;                        // in the order of submission
  std::map<std::uint32_t, std::uint64_t> flushes_;  // under way: completions that each covers
  std::uint64_t completions_ = 0;
};

// How a drive behaves; without troubles it only takes its time.
struct DriveManners {
  std::uint32_t immediate_percent = 70;
  std::uint32_t delay_us_most = 400;
  std::uint32_t read_errors_one_in = 0;  // 0: none
};

class Drive final : public block::BlockDevice {
 public:
  Drive(block::Reactor& reactor, Tape& tape, std::uint8_t leg, Image& image, DriveManners manners, std::uint64_t seed);

  block::Geometry geometry() const override { return {size_bytes_, 4096}; }
  std::string durable_id() const override { return {}; }
  Verifier verifier() const override { return verifier_; }
  void submit(block::Request& request) override;
  block::Task<void> close() override { co_return; }

  void lose_power(const Leave& leave);  // nothing is answered from here on
  void power_on();                      // what it had not answered is cancelled; a new verifier
  bool powered() const { return powered_; }
  void lose_cache(const Leave& leave);  // and goes on, with a new verifier
  void lose_cache_at_next_flush(const Leave& leave) { lose_at_flush_ = leave; }
  // Once, when a flush comes that would make much durable, with no write in flight: a txg's writes are all done, for one.
  void at_great_flush(std::function<void()> call) { at_great_flush_ = std::move(call); }
  void fail_writes(bool on) { fail_writes_ = on; }
  void fail_flushes(bool on) { fail_flushes_ = on; }
  void read_errors(std::uint32_t one_in) { manners_.read_errors_one_in = one_in; }

 private:
  struct Command {
    block::Request* request;
    std::uint32_t io;
    std::uint64_t offset;
    std::span<const std::byte> data;
  };
  bool is_great() const;
  void serve(Command command);
  void finish(Command command);
  void lose(const Leave& leave, bool in_flight_too);

  block::Reactor& reactor_;
  Tape& tape_;
  std::uint8_t leg_;
  Image& image_;
  std::uint64_t size_bytes_;
  DriveManners manners_;
  Random random_;
  Verifier verifier_{1};
  bool powered_ = true, fail_writes_ = false, fail_flushes_ = false;
  std::optional<Leave> lose_at_flush_;
  std::function<void()> at_great_flush_;
  std::uint32_t last_io_ = 0;
  std::uint32_t power_cycle_ = 0;
  std::vector<block::Request*> unanswered_;
  WriteCache cache_;
  struct Applied {
    std::uint32_t io;
    std::uint64_t offset;
    std::vector<std::byte> before;
  };
  std::deque<Applied> applied_;  // what lies below each completed write of the cache, in the order of completion
};

}  // namespace zpair::crash
