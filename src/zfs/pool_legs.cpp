// A pool's legs: the ack set, legs that leave and come back, new ones.
#include <algorithm>
#include <set>

#include "base/assert.h"
#include "base/log.h"
#include "zfs/pool_internal.h"

namespace zpair::zfs {

using block::Task;

// ---- the ack set, and legs that do not answer

void Pool::set_ack_set(std::span<const LegId> legs) { driver_->set_ack_set(legs); }

void Pool::retry_held(LegId leg) { driver_->retry_held(leg); }

Task<Result<void>> Pool::fail_legs(std::vector<LegId> legs) {
  for (LegId leg : legs) driver_->fail(leg);
  if (handle_->pool == nullptr) co_return Result<void>{};  // an import that runs takes them offline at its end
  co_return co_await take_offline(legs);
}

// Persistently, in one step.
Task<Result<void>> Pool::take_offline(const std::vector<LegId>& legs) {
  auto go_offline = [pool = handle_->pool, guids = numbers_of(legs)](zp_why* why) {
    return zp_legs_offline(pool, guids.data(), static_cast<int>(guids.size()), why);
  };
  co_return co_await ask(engine_, go_offline);
}

LegHealth Pool::leg_health(LegId leg) const {
  const Leg* known = driver_->find(leg);
  if (known == nullptr) {
    LegHealth gone;
    gone.failed = true;
    return gone;
  }
  return driver_->health(*known);
}

unsigned Pool::in_flight_count(LegId leg) const {
  const Leg* known = driver_->find(leg);
  return known != nullptr ? known->at_device_count : 0;
}

Task<Result<std::vector<LegId>>> Pool::legs_that_zfs_dropped() {
  auto now = co_await status();
  if (!now) co_return std::unexpected(now.error());
  std::vector<LegId> dropped;
  for (const PoolStatus::Leg& leg : now->legs) {
    const Leg* known = driver_->find(leg.guid);
    if (known != nullptr && known->in_ack_set && leg.state != LegState::healthy && leg.state != LegState::degraded) {
      dropped.push_back(leg.guid);
    }
  }
  co_return dropped;
}

// ---- growing back

Task<Result<ResyncOutcome>> Pool::bring_back(std::vector<LegSpec> legs, Txg since) {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  std::vector<LegId> ids;
  for (const LegSpec& leg : legs) {
    if (in_flight_count(leg.guid) != 0) {
      co_return fail(ErrorCode::refused, "leg {} ({}) still has older commands at its drive (rule 8)", leg.guid,
                     leg.name);
    }
    ids.push_back(leg.guid);
  }
  for (const LegSpec& leg : legs) {
    Leg* known = driver_->find(leg.guid);
    ZP_ASSERT(known == nullptr || !known->in_ack_set, "rule 8: a leg joins the ack set after its resync");
    driver_->offer(leg);
  }
  ZP_CO_CHECK(co_await learn_layout());  // which mirrors they are of
  co_return co_await resync(std::move(ids), since, true);
}

Task<Result<ResyncOutcome>> Pool::resync(std::vector<LegId> legs, Txg since, bool seed) {
  resyncing_ = true;
  {
    std::lock_guard lock(handle_->progress_mutex);
    handle_->progress = {};
  }
  ResyncOutcome outcome;
  zp_resync resync{};
  resync.on_progress = Handle::note_progress;
  resync.context = handle_.get();
  auto run = [&, pool = handle_->pool, guids = numbers_of(legs)](zp_why* why) {
    int error = seed ? zp_legs_bring_back(pool, guids.data(), static_cast<int>(guids.size()), since.value, &resync, why)
                     : zp_leg_finish_attach(pool, guids[0], &resync, why);
    if (resync.accepted == 0) outcome.why_not = why->text;
    return error;
  };
  Result<void> ran = co_await ask(engine_, run);
  resyncing_ = false;
  if (!ran) co_return std::unexpected(ran.error());

  outcome.accepted = resync.accepted != 0;
  outcome.scan_min_txg = Txg{resync.scan.scan_min_txg};
  outcome.scan_max_txg = Txg{resync.scan.scan_max_txg};
  outcome.error_count = resync.scan.scan_errors;
  outcome.repaired_bytes = resync.scan.scan_repaired_bytes;
  for (LegId leg : legs) {
    if (!outcome.accepted) break;
    bool flushed = co_await driver_->flush_all(leg);
    if (!flushed) {
      outcome.accepted = false;
      outcome.why_not = fmt::format("leg {} failed a command, or may have lost one, during the resync", leg);
    }
  }
  if (!seed) ZP_CO_CHECK(co_await learn_layout());
  co_return outcome;
}

// ---- legs that come and go for good

Task<Result<LegId>> Pool::attach_leg(MirrorId mirror, LegSpec leg) {
  for (const MirrorLayout& each : layout_.mirrors) {
    if (each.guid != mirror) continue;
    LegId beside = each.legs.front().guid;
    for (const LegLayout& other : each.legs) {
      if (leg_health(other.guid).in_ack_set) beside = other.guid;
    }
    co_return co_await attach(beside, std::move(leg), Attach::beside);
  }
  co_return fail(ErrorCode::not_found, "pool {} has no mirror {}", options_.name, mirror);
}

Task<Result<LegId>> Pool::replace_leg(LegId old_leg, LegSpec leg) {
  co_return co_await attach(old_leg, std::move(leg), Attach::in_place_of);
}

Task<Result<LegId>> Pool::attach(LegId old_leg, LegSpec leg, Attach how) {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  ZP_CO_CHECK(check_name("leg", leg.name));
  ZP_CO_CHECK(co_await prove_writable(leg));
  leg.guid = LegId{};
  resyncing_ = true;
  driver_->offer(leg);
  std::string path = driver_->path_of(leg);
  LegId attached;
  auto do_attach = [&, pool = handle_->pool](zp_why* why) {
    return zp_leg_attach(pool, old_leg.value, path.c_str(), how == Attach::in_place_of ? 1 : 0, &attached.value, why);
  };
  Result<void> done = co_await ask(engine_, do_attach);
  resyncing_ = false;
  if (!done) {
    driver_->forget_path(path);
    co_return std::unexpected(done.error());
  }
  ZP_CO_CHECK(co_await learn_layout());
  co_return attached;
}

Task<Result<ResyncOutcome>> Pool::finish_attach(LegId leg) {
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  co_return co_await resync({leg}, Txg{}, false);
}

Task<Result<void>> Pool::detach_leg(LegId leg) {
  Leg* known = driver_->find(leg);
  if (known != nullptr && known->in_ack_set) {
    co_return fail(ErrorCode::refused, "leg {} is in the ack set: the record drops it first", leg);
  }
  auto detach = [pool = handle_->pool, leg](zp_why* why) { return zp_leg_detach(pool, leg.value, why); };
  ZP_CO_CHECK(co_await ask(engine_, detach));
  driver_->forget(leg);
  co_return co_await learn_layout();
}

Task<Result<std::vector<MirrorLayout>>> Pool::add_mirrors(std::vector<MirrorSpec> mirrors) {
  ZP_CO_CHECK(check_mirrors(mirrors));
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  for (const MirrorSpec& mirror : mirrors) {
    for (const LegSpec& leg : mirror.legs) ZP_CO_CHECK(co_await prove_writable(leg));
  }
  for (const MirrorSpec& mirror : mirrors) {
    for (const LegSpec& leg : mirror.legs) driver_->offer(leg).in_ack_set = true;  // from its first write on
  }
  PlainMirrors plain(*driver_, mirrors);
  std::set<MirrorId> before;
  for (const MirrorLayout& mirror : layout_.mirrors) before.insert(mirror.guid);
  auto add = [&, pool = handle_->pool](zp_why* why) {
    return zp_mirrors_add(pool, plain.mirrors.data(), plain.count(), why);
  };
  Result<void> done = co_await ask(engine_, add);
  if (!done) {
    for (const std::string& path : plain.paths) driver_->forget_path(path);
    co_return std::unexpected(done.error());
  }
  ZP_CO_CHECK(co_await learn_layout());
  std::vector<MirrorLayout> added;
  for (const MirrorLayout& mirror : layout_.mirrors) {
    if (!before.contains(mirror.guid)) added.push_back(mirror);
  }
  co_return added;
}

}  // namespace zpair::zfs
