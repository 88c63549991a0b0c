#pragma once
// The demo's clients: one verified load on each volume (drill::Load), on a reactor thread of their own, so that the scenario
// may block. Each client has a name and knows the volume's socket on either node, as a guest that is started elsewhere would.
// Threading: every call from one thread, not the reactor's.
// Errors:    open: what the volumes' server says. finish: a volume could not be read back.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "drill/load.h"

namespace zpair::cli {

class DemoLoad {
 public:
  struct Volume {
    std::string pool;
    std::string uri;  // as NbdTarget takes it
  };
  struct Now {
    std::string pool;
    std::uint64_t operations = 0;
    std::uint64_t acknowledged_blocks = 0;
    std::uint64_t stalled_ms = 0;
    bool connected = false;
  };

  static Result<std::unique_ptr<DemoLoad>> open(const std::vector<Volume>& volumes);
  ~DemoLoad();  // gives up what is unanswered

  // The longest wait of the pool's client between begin and end counts as the event's stall.
  void begin_event(const std::string& pool, const std::string& name);
  struct Stall {
    std::uint64_t ms = 0;
    Nanoseconds ended_ns = 0;  // CLOCK_BOOTTIME; 0: it goes on
  };
  Stall end_event(const std::string& pool);
  std::vector<Now> now();

  // No new operations, waits for those under way, reads everything back. Call once.
  Result<std::vector<drill::LoadReport>> finish();

 private:
  struct Impl;
  explicit DemoLoad(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zpair::cli
