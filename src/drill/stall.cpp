#include "drill/stall.h"

#include <algorithm>

namespace zpair::drill {

void StallMeter::started(StallKind kind, Nanoseconds now) {
  Kind& watched = kinds_[static_cast<std::size_t>(kind)];
  if (watched.outstanding++ == 0) watched.quiet_since_ns = now;
}

void StallMeter::completed(StallKind kind, Nanoseconds started_at, Nanoseconds now) {
  Kind& watched = kinds_[static_cast<std::size_t>(kind)];
  Nanoseconds gap = now - watched.quiet_since_ns;
  --watched.outstanding;
  watched.quiet_since_ns = now;
  for (WindowId id : open_) {
    Window& window = windows_[id];
    if (gap > window.stall_ns) {
      window.stall_ns = gap;
      window.stall_ended_ns = now;
    }
    window.slowest_ns = std::max(window.slowest_ns, now - started_at);
    ++window.completed_count;
  }
}

StallMeter::WindowId StallMeter::begin(std::string name, Nanoseconds now) {
  windows_.push_back(Window{std::move(name), now});
  open_.push_back(windows_.size() - 1);
  return open_.back();
}

void StallMeter::end(WindowId id, Nanoseconds now) {
  Window& window = windows_[id];
  if (window.ended_ns != 0) return;
  if (going_on(now) > window.stall_ns) {
    window.stall_ns = going_on(now);
    window.stall_ended_ns = 0;
  }
  window.ended_ns = now;
  std::erase(open_, id);
}

void StallMeter::restart(WindowId id, Nanoseconds now) {
  Window& window = windows_[id];
  if (window.ended_ns == 0) window = Window{std::move(window.name), now};
}

Nanoseconds StallMeter::going_on(Nanoseconds now) const {
  Nanoseconds longest = 0;
  for (const Kind& kind : kinds_) {
    if (kind.outstanding > 0) longest = std::max(longest, now - kind.quiet_since_ns);
  }
  return longest;
}

Nanoseconds StallMeter::stall_of(WindowId id, Nanoseconds now) const {
  const Window& window = windows_[id];
  return window.ended_ns != 0 ? window.stall_ns : std::max(window.stall_ns, going_on(now));
}

}  // namespace zpair::drill
