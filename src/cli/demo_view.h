#pragma once
// What the demo shows: on a terminal a picture that is drawn over (pools, clients, events), else one line an event.
// Threading: one thread.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/clock.h"
#include "base/timeline.h"
#include "cli/demo_load.h"

namespace zpair::cli {

struct DemoEvent {
  std::string name;                       // node-kill-takeover
  std::string what;                       // for people
  std::optional<std::uint64_t> stall_ms;  // null: still going on, or it had to refuse
  std::optional<std::uint64_t> goal_ms;   // null: it must refuse
  bool done = false;
  std::vector<TimePart> parts = {};  // of the import in it, if there was one, and of the client after that
  bool missed(std::uint64_t ordinary_ms) const { return stall_ms && goal_ms && *stall_ms > *goal_ms + ordinary_ms; }
};

class DemoView {
 public:
  DemoView();
  void step(const std::string& text);  // what happens now
  void show_event(const DemoEvent& event, std::uint64_t ordinary_ms);
  // Draws; at most some times a second, only on a terminal.
  void draw(const nlohmann::json& sandbox_state, const std::vector<DemoLoad::Now>& clients);
  void clear();  // before other output

 private:
  bool terminal_;
  Nanoseconds began_ns_;
  std::string step_;
  std::vector<DemoLoad::Now> former_;
  Nanoseconds former_ns_ = 0;
  int drawn_lines_ = 0;
};

}  // namespace zpair::cli
