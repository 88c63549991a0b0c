// What zpaird and people see of the process: its state, and an event for each change that matters (docs/api.md).
#include <unistd.h>

#include <utility>

#include "base/log.h"
#include "pool/process.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

bool standing_serves(owner::Standing standing) {
  return standing == owner::Standing::named || standing == owner::Standing::joining;
}

// Some mirror has one leg in sync at the most: one more failure stops the pool.
bool redundancy_is_lost(const record::Record& record) {
  for (const record::Mirror& mirror : record.mirrors) {
    if (in_sync_count(mirror, NodeId::a) == 0 || in_sync_count(mirror, NodeId::b) == 0) return true;
  }
  return false;
}

}  // namespace

void Process::after_step() {
  note_changes();
  tell_zpaird();
}

void Process::note_changes() {
  const owner::State& state = driver_.state();
  for (const auto& [leg, view] : state.legs) {
    auto seen = seen_standings_.find(leg);
    const bool first = seen == seen_standings_.end();
    const bool served = !first && standing_serves(seen->second);
    const bool serves = standing_serves(view.standing);
    if (!first && served && !serves)
      events_.add("leg-off", fmt::format("{}: {}", legs_->name(leg), legs_->readable(owner::why(state, leg))));
    if (!first && !served && view.standing == owner::Standing::named) {
      events_.add("leg-back", fmt::format("{} is in sync again", legs_->name(leg)));
    }
    seen_standings_[leg] = view.standing;
  }
  const bool lost = redundancy_is_lost(state.stored.record);
  if (lost == redundancy_lost_) return;
  redundancy_lost_ = lost;
  if (lost) {
    events_.add("redundancy-lost",
                "some mirror has its in-sync legs on one node only: one more failure would stop the pool");
  } else {
    events_.add("redundancy-back", "every mirror has an in-sync leg on both nodes");
  }
}

control::State Process::state_message() const {
  const owner::State& state = driver_.state();
  control::State message;
  message.pool = options_.pool;
  message.phase = owner::name_of(state.phase);
  if (state.holding) message.holding_because = state.holding_why;
  message.stored = driver_.started() ? state.stored : document_.stored;
  message.serving = state.phase == owner::Phase::serving;
  if (exports_) {
    for (const Exports::Known& volume : exports_->known()) {
      if (volume.guid != 0) message.volumes.push_back({volume.name, volume.size_bytes, volume.guid});
    }
  }
  message.pid = ::getpid();
  return message;
}

void Process::tell_zpaird() {
  if (!control_ || !control_->connected() || !begun_ || finishing_) return;
  const owner::State& state = driver_.state();
  std::string now = fmt::format("{} {} {} {}", static_cast<int>(state.phase), state.holding, state.holding_why,
                                state.stored.mod_revision);
  if (exports_) {
    for (const Exports::Known& volume : exports_->known()) now += fmt::format(" {}={}", volume.name, volume.size_bytes);
  }
  if (now == told_) return;
  told_ = std::move(now);
  told_ns_ = boot_time_ns();
  control_->send(state_message());
}

}  // namespace zpair::pool
