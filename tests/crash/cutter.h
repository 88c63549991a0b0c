#pragma once
// Cuts power. Reads a tape up to a point, makes of each drive what a power cut there might leave, starts a new life from it on
// one side's drives, the other's, all of them or a mixture, as the record stood, and judges what it finds. The new life writes
// a tape of its own, which is cut again.
// A cut is named by its path: `17` is the 17th cut of the first life, `17b.3a` the third in the recovery of 17 from side b.
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "life.h"
#include "mutations.h"

namespace zpair::crash {

struct CutOptions {
  unsigned cuts = 12;        // of a first life
  unsigned nested_cuts = 2;  // of a recovery that is cut
  unsigned depth_most = 2;
  unsigned zdb_one_in = 40;            // recoveries that zdb looks at; 0: none
  const Mutation* mutation = nullptr;  // the engine or the owner that is judged has this plant
  std::string keep;                    // a folder: where a failure leaves its tapes
  std::string only;                    // this path alone (and what leads to it)
};

struct Tally {
  std::uint64_t lives = 0, cuts = 0, recoveries = 0, nested = 0, with_absent_leg = 0, zdb_runs = 0,
                records_replayed = 0, sectors_checked = 0, grows = 0, rolled_back = 0, refusals = 0;
  Tally& operator+=(const Tally& other);
};

class Cutter {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Cutter(CutOptions options);
  // A first life of this seed and its cuts, until one fails. False: it did; why() says what.
  bool run(std::uint64_t seed, Clock::time_point give_up);
  bool replay(std::uint64_t seed, const std::string& folder);  // the tapes of a failure that was kept
  const Tally& tally() const { return tally_; }
  const std::string& why() const { return why_; }

 private:
  // A tape, read up to some point.
  struct Reading {
    const Tape& tape;
    std::size_t at = 0;
    std::vector<WriteCache> caches;
    History history;
    Record record;
    bool ready = false;
  };
  void advance(Reading& reading, std::size_t to);
  std::vector<std::size_t> cut_points(const Tape& tape, unsigned count, Random& random) const;
  std::vector<std::size_t> points_at_old_log_blocks(std::span<const Event> events, bool first_life, unsigned count,
                                                    Random& random) const;
  bool walk(Reading& reading, unsigned depth, const std::string& path, std::uint64_t seed);
  bool cut(Reading& reading, unsigned depth, const std::string& path, std::uint64_t seed);
  bool recover(Reading& reading, std::uint8_t legs, unsigned depth, const std::string& path, std::uint64_t seed);
  // The drives as they are at the cut, while the partner knows of later commits: an import must see that, or lack nothing.
  bool roll_back(Reading& reading, std::uint8_t legs, const std::string& path, std::uint64_t seed);
  bool spawn(const LifeOptions& options);  // false: it failed
  bool judge(const LifeOptions& options, const Reading& reading, const std::string& path);
  bool zdb(const std::string& folder, const std::string& path);
  bool fail(const std::string& path, const std::string& what);
  std::string story(const Reading& reading, const Outcome& outcome) const;
  std::string last_words(const Tape& tape) const;
  bool wanted(const std::string& path) const;
  bool late() const { return Clock::now() >= give_up_; }
  std::optional<Aim> aim() const {
    return options_.mutation != nullptr ? std::optional(options_.mutation->aim) : std::nullopt;
  }
  Play play() const { return options_.mutation != nullptr ? options_.mutation->play : Play::by_the_rules; }

  CutOptions options_;
  Plan plan_;
  std::vector<std::unique_ptr<Tape>> tapes_;  // one a depth
  std::vector<std::unique_ptr<Image>> images_;
  Outcome* outcome_;
  std::string said_;  // by the newest life
  Clock::time_point give_up_;
  Tally tally_;
  std::string why_;
  bool replaying_ = false;
  std::vector<std::string> cut_story_;  // of the cut under way, a line a lost or torn write
};

}  // namespace zpair::crash
