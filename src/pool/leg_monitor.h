#pragma once
// Turns what the engine and the devices show of the legs into the brain's facts: a pulse of every leg with each tick,
// errors, fences. Decides nothing, except that a command which the engine holds is tried again now and then, for a leg
// that nothing may take off (rule 3).
// Threading: reactor thread.
// Source:    rules 2, 3, 6; design, section 3.
#include <functional>
#include <map>
#include <vector>

#include "brain/owner.h"
#include "pool/legs.h"
#include "zfs/pool.h"

namespace zpair::pool {

class LegMonitor {
 public:
  using Feed = std::function<void(brain::owner::Event)>;
  LegMonitor(const Legs& legs, Feed feed) : legs_(legs), feed_(std::move(feed)) {}

  void set_pool(zfs::Pool* pool) { pool_ = pool; }    // nullptr: not imported
  bool imported() const { return pool_ != nullptr; }  // or about to be
  std::vector<brain::owner::LegPulse> pulses(const std::vector<LegId>& legs, Nanoseconds now_ns) const;
  void on_leg_event(const zfs::LegEvent& event);
  // Some command has been at a leg for a while, or is held: the engine may rightly stand still.
  bool engine_waits(const std::vector<LegId>& legs, Nanoseconds now_ns) const;
  // Now and then: tries held commands again, judges read errors.
  void look_after(const std::vector<LegId>& legs, Nanoseconds now_ns);
  // Legs of the ack set that ZFS itself has given up (rule 2: an error like any other).
  void zfs_dropped(const std::vector<LegId>& engine_guids);

 private:
  struct Watch {
    Nanoseconds retried_ns = 0;
    bool erred = false;  // told the brain of an error that may mend
    std::uint64_t read_errors_before = 0;
    Nanoseconds read_window_ns = 0;
  };
  void judge_reads(LegId leg, Watch& watch, const zfs::LegHealth& health, Nanoseconds now_ns);
  void retry(LegId leg, Watch& watch, const zfs::LegHealth& health, Nanoseconds now_ns);

  const Legs& legs_;
  Feed feed_;
  zfs::Pool* pool_ = nullptr;
  std::map<LegId, Watch> watches_;
};

}  // namespace zpair::pool
