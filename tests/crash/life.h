#pragma once
// One life: the real engine on the drives' images, in a process of its own, since OpenZFS starts once in a process. It creates
// the pool, or imports it after a cut and checks what it finds; then it may go on under load, lose a side, take it back.
// The owner's part (record, shrink, grow) is played here, by rules 2, 3 and 8; the simulator judges the real one.
#include <memory>
#include <optional>
#include <vector>

#include "drive.h"
#include "history.h"
#include "plan.h"
#include "tape.h"

namespace zpair::crash {

// How a life ended, in memory shared with the process that started it.
struct Outcome {
  enum class End : std::uint32_t { unfinished, well, wrong };
  static constexpr unsigned findings_most = 16;
  End end = End::unfinished;
  bool served = false;              // the pool was imported, checked and open
  std::uint32_t finding_count = 0;  // all; the first ones are here
  Finding findings[findings_most];
  char text[1024];  // what else went wrong
  std::uint64_t sectors_checked = 0, records_replayed = 0, answers = 0;
  std::uint32_t shrinks = 0, grows = 0, refusals = 0;
};

// The record as a cut finds it, and what the partner knows.
struct Record {
  std::uint8_t in_sync = 0;
  std::optional<std::uint8_t> asked;
  std::uint64_t since = 0;  // of those not in sync; 0: none known
  std::uint64_t floor_txg = 0;
  struct Log {
    std::uint64_t volume_guid = 0, sequence = 0;
  };
  Log floor_logs[volumes_most];
  void note(const Event& event);
};

// How the owner is played: mutations of the record's part.
enum class Play : std::uint8_t {
  by_the_rules,
  fail_before_swap,  // a leg is failed before the record drops it
  record_ignored,    // an import takes legs that the record does not name (the cutter's part)
};

struct LifeOptions {
  const Plan& plan;
  Tape& tape;
  std::vector<std::unique_ptr<Image>>& images;
  History history;
  Outcome& outcome;
  std::uint64_t seed = 0;
  struct Import {
    std::uint8_t legs;  // exactly these
    Record record;
    std::uint32_t read_errors_one_in = 0;
    bool may_refuse = false;  // the drives are older than the floor: to refuse is right
  };
  std::optional<Import> import = {};  // else the pool is created
  bool goes_on = true;                // under load, after the check
  enum class Returns : std::uint8_t { never, under_load, before_volumes_open };
  Returns returns = Returns::never;  // of the legs that are absent
  Play play = Play::by_the_rules;
  std::string export_to = {};  // a folder for the drives of the exported pool, for zdb
};

[[noreturn]] void live(const LifeOptions& options);

}  // namespace zpair::crash
