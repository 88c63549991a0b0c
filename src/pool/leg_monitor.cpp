#include "pool/leg_monitor.h"

#include <algorithm>
#include <optional>

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

constexpr Nanoseconds retry_held_ns = 500 * ns_per_ms;
constexpr Nanoseconds read_window_ns = 10 * ns_per_s;
constexpr Nanoseconds waits_ns = 100 * ns_per_ms;
constexpr std::uint64_t read_errors_bound = 200;  // in a window: a few bad sectors are healed, a dying drive goes

std::optional<Nanoseconds> instant(Nanoseconds at_ns) {
  if (at_ns == 0) return std::nullopt;
  return at_ns;
}

}  // namespace

std::vector<owner::LegPulse> LegMonitor::pulses(const std::vector<LegId>& legs, Nanoseconds now_ns) const {
  std::vector<owner::LegPulse> pulses;
  for (LegId leg : legs) {
    const LegLink link = legs_.link(leg);
    if (!link.open) continue;
    owner::LegPulse pulse;
    pulse.leg = leg;
    pulse.reachable = link.reachable;
    pulse.last_progress_ns = std::min(link.last_progress_ns, now_ns);
    if (pool_ != nullptr) {
      const zfs::LegHealth health = pool_->leg_health(legs_.engine_guid(leg));
      pulse.oldest_write_ns = instant(health.oldest_write_ns);
      pulse.oldest_trim_ns = instant(health.oldest_trim_ns);
      pulse.flushed_txg = health.newest_flushed_txg;
    }
    pulses.push_back(pulse);
  }
  return pulses;
}

void LegMonitor::on_leg_event(const zfs::LegEvent& event) {
  const LegId leg = legs_.leg_of_engine(event.leg);
  const Nanoseconds now_ns = boot_time_ns();
  switch (event.kind) {
    case zfs::LegEvent::Kind::fenced: feed_(owner::FencedOut{now_ns, leg, legs_.fenced_by(leg)}); return;
    case zfs::LegEvent::Kind::verifier_changed:
      feed_(owner::LegErred{now_ns, leg, owner::LegFault::verifier_changed, event.text});
      return;
    case zfs::LegEvent::Kind::media_error:
      return;  // ZFS reads the other leg and heals; look_after() judges their number
    case zfs::LegEvent::Kind::error:
      watches_[leg].erred = true;
      feed_(owner::LegErred{now_ns, leg, owner::LegFault::io_error, event.text});
      return;
  }
}

bool LegMonitor::engine_waits(const std::vector<LegId>& legs, Nanoseconds now_ns) const {
  if (pool_ == nullptr) return false;
  return std::any_of(legs.begin(), legs.end(), [&](LegId leg) {
    const zfs::LegHealth health = pool_->leg_health(legs_.engine_guid(leg));
    auto is_old = [now_ns](Nanoseconds began_ns) { return began_ns != 0 && now_ns - began_ns >= waits_ns; };
    return health.held_count > 0 || is_old(health.oldest_write_ns) || is_old(health.oldest_trim_ns) ||
           is_old(health.oldest_read_ns);
  });
}

void LegMonitor::look_after(const std::vector<LegId>& legs, Nanoseconds now_ns) {
  if (pool_ == nullptr) return;
  for (LegId leg : legs) {
    const zfs::LegHealth health = pool_->leg_health(legs_.engine_guid(leg));
    Watch& watch = watches_[leg];
    retry(leg, watch, health, now_ns);
    judge_reads(leg, watch, health, now_ns);
  }
}

void LegMonitor::retry(LegId leg, Watch& watch, const zfs::LegHealth& health, Nanoseconds now_ns) {
  if (health.failed) {
    watch.erred = false;
    return;
  }
  if (health.held_count == 0) {
    if (watch.erred && !health.stuck && health.last_progress_ns > watch.retried_ns && watch.retried_ns != 0) {
      watch.erred = false;
      feed_(owner::LegMended{now_ns, leg});
    }
    return;
  }
  if (health.stuck || now_ns - watch.retried_ns < retry_held_ns) return;
  watch.retried_ns = now_ns;
  pool_->retry_held(legs_.engine_guid(leg));
}

void LegMonitor::judge_reads(LegId leg, Watch& watch, const zfs::LegHealth& health, Nanoseconds now_ns) {
  if (now_ns - watch.read_window_ns >= read_window_ns) {
    watch.read_window_ns = now_ns;
    watch.read_errors_before = health.read_error_count;
    return;
  }
  if (!health.in_ack_set || health.read_error_count - watch.read_errors_before < read_errors_bound) return;
  watch.read_errors_before = health.read_error_count;
  feed_(owner::LegErred{now_ns, leg, owner::LegFault::read_errors,
                        fmt::format("{} reads failed within {} s", read_errors_bound, read_window_ns / ns_per_s)});
}

void LegMonitor::zfs_dropped(const std::vector<LegId>& engine_guids) {
  for (LegId engine_guid : engine_guids) {
    const LegId leg = legs_.leg_of_engine(engine_guid);
    feed_(owner::LegErred{boot_time_ns(), leg, owner::LegFault::io_error, "OpenZFS has given the leg up by itself"});
  }
}

}  // namespace zpair::pool
