// The brain's orders about legs that come back or are new (rules 1 and 8).
#include <algorithm>
#include <set>
#include <utility>

#include "base/log.h"
#include "pool/process.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

constexpr std::int64_t quiesce_deadline_ms = 1000;
constexpr std::int64_t progress_every_ms = 300;
constexpr std::size_t ring_txgs = 32;  // uberblocks that a label keeps at 4 KiB each

// Rule 8: what stands on the returning legs that this pool has never written. A txg above ours is foreign; so is one
// within the last `ring_txgs` of ours that none of our legs has. Older ones cannot be told apart by number: there the ZFS
// host id of the label, and the record's own `full`, decide.
std::uint32_t count_foreign(const std::set<Txg>& returning, const std::set<Txg>& ours, Txg since, Txg last_synced) {
  const Txg oldest_known = ours.empty() ? last_synced : *ours.begin();
  std::uint32_t count = 0;
  for (Txg txg : returning) {
    if (txg < since) continue;
    if (txg > last_synced || (txg >= oldest_known && !ours.contains(txg))) ++count;
  }
  return count;
}

}  // namespace

void Process::carry_out(const owner::QuiesceLeg& order) { tasks_.spawn(run_quiesce(order.leg)); }

block::Task<void> Process::run_quiesce(LegId leg) {
  const Deadline deadline = Deadline::in_ms(quiesce_deadline_ms);
  const LegId engine_guid = legs_->engine_guid(leg);
  while (monitor_->imported() && pool_->in_flight_count(engine_guid) > 0 && !deadline.passed())
    co_await reactor_.after_ms(5);
  if (monitor_->imported() && pool_->in_flight_count(engine_guid) > 0) {
    feed(owner::LegQuiesceFailed{boot_time_ns(), leg, "its drive still has commands from before"});
    co_return;
  }
  auto quiesced = co_await legs_->quiesce(leg, deadline);
  if (quiesced) {
    feed(owner::LegQuiesced{boot_time_ns(), leg});
  } else {
    feed(owner::LegQuiesceFailed{boot_time_ns(), leg, quiesced.error().message});
  }
}

// ---------------------------------------------------------------- did the side diverge?

void Process::carry_out(const owner::InspectLegs& order) { tasks_.spawn(run_inspect(order)); }

block::Task<void> Process::run_inspect(owner::InspectLegs order) {
  const record::Record record = driver_.state().stored.record;
  const Txg last_synced = pool_->last_synced_txg();
  std::set<Txg> ours;
  for (const auto& [leg, view] : driver_.state().legs) {
    if (view.standing != owner::Standing::named || view.node != options_.config.node || legs_->device(leg) == nullptr)
      continue;
    auto survey = co_await zfs::survey_labels(*legs_->device(leg));
    if (!survey || !*survey) continue;
    const std::vector<Txg>& txgs = (*survey)->uberblock_txgs;
    const std::size_t from = txgs.size() > ring_txgs ? txgs.size() - ring_txgs : 0;
    ours.insert(txgs.begin() + static_cast<std::ptrdiff_t>(from), txgs.end());
  }
  while (ours.size() > ring_txgs) ours.erase(ours.begin());

  owner::LegsInspected inspected{0, order.legs, 0, false, order.resync_id};
  std::set<Txg> theirs;
  Txg since{UINT64_MAX};
  for (LegId leg : order.legs) {
    const record::Leg* of_record = record::find_leg(record, leg);
    if (of_record != nullptr && !of_record->resyncing) since = std::min(since, of_record->since);
    block::BlockDevice* device = legs_->device(leg);
    if (device == nullptr) {
      feed(owner::LegsInspectFailed{boot_time_ns(), order.legs, fmt::format("{} is not open", legs_->name(leg)),
                                    order.resync_id});
      co_return;
    }
    auto survey = co_await zfs::survey_labels(*device);
    if (!survey) {
      feed(owner::LegsInspectFailed{boot_time_ns(), order.legs, survey.error().message, order.resync_id});
      co_return;
    }
    if (!*survey || (*survey)->pool_guid != record.pool_guid) {
      inspected.foreign_use = true;  // wiped, or another pool's
      continue;
    }
    const auto& host_ids = record.zfs_host_ids;
    const std::uint32_t host_id = (*survey)->zfs_host_id;
    if (host_id != 0 && std::find(host_ids.begin(), host_ids.end(), host_id) == host_ids.end())
      inspected.foreign_use = true;
    // A leg in mid-resync was written to by us, in full, above its `since`.
    if (of_record != nullptr && of_record->resyncing) continue;
    theirs.insert((*survey)->uberblock_txgs.begin(), (*survey)->uberblock_txgs.end());
  }
  inspected.foreign_txg_count = count_foreign(theirs, ours, since, std::max(last_synced, pool_->last_synced_txg()));
  inspected.now_ns = boot_time_ns();
  feed(std::move(inspected));
}

// ---------------------------------------------------------------- resync

void Process::carry_out(const owner::ReturnLegs& order) { tasks_.spawn(run_return(order)); }

block::Task<void> Process::run_return(owner::ReturnLegs order) {
  std::vector<zfs::LegSpec> specs;
  for (LegId leg : order.legs) {
    if (legs_->device(leg) == nullptr) {
      feed(owner::ResyncFailed{boot_time_ns(), order.legs, fmt::format("{} is not open", legs_->name(leg)),
                               order.resync_id});
      co_return;
    }
    specs.push_back(legs_->spec(leg));
  }
  events_.add("resync-started", fmt::format("{} legs come back, from txg {} on", order.legs.size(), order.since));
  resync_runs_ = true;
  resync_began_ns_ = boot_time_ns();
  tasks_.spawn(watch_resync());
  auto outcome = co_await pool_->bring_back(std::move(specs), order.since);
  end_resync(order.legs, order.resync_id, std::move(outcome));
}

void Process::carry_out(const owner::AwaitResync& order) { tasks_.spawn(run_await_resync(order)); }

block::Task<void> Process::run_await_resync(owner::AwaitResync order) {
  resync_runs_ = true;
  resync_began_ns_ = boot_time_ns();
  tasks_.spawn(watch_resync());
  Result<zfs::ResyncOutcome> outcome = fail(ErrorCode::invalid, "no leg was named");
  for (LegId leg : order.legs) {
    outcome = co_await pool_->finish_attach(legs_->engine_guid(leg));
    if (!outcome || !outcome->accepted) break;
  }
  end_resync(order.legs, order.resync_id, std::move(outcome));
}

void Process::end_resync(const std::vector<LegId>& legs, std::uint64_t resync_id, Result<zfs::ResyncOutcome> outcome) {
  resync_runs_ = false;
  if (!outcome) {
    events_.add("resync-failed", outcome.error().message);
    feed(owner::ResyncFailed{boot_time_ns(), legs, outcome.error().message, resync_id});
    return;
  }
  if (!outcome->accepted) {
    events_.add("resync-failed", outcome->why_not);
    feed(owner::ResyncFailed{boot_time_ns(), legs, outcome->why_not, resync_id});
    return;
  }
  events_.add("resync-finished", fmt::format("{} bytes copied in {:.1f} s", outcome->repaired_bytes,
                                             static_cast<double>(boot_time_ns() - resync_began_ns_) / ns_per_s));
  owner::ScanReport report;
  report.finished = true;
  report.error_count = outcome->error_count;
  report.scan_min_txg = outcome->scan_min_txg;
  report.dtl_empty = true;  // the engine accepts nothing less
  report.synced_after_online = true;
  report.logs_replayed = true;  // the import did, or failed
  feed(owner::ResyncEnded{boot_time_ns(), legs, report, resync_id});
}

block::Task<void> Process::watch_resync() {
  while (resync_runs_ && !closing_) {
    const Deadline pause = Deadline::in_ms(progress_every_ms);
    co_await block::wait_for(closed_, pause);
    if (!resync_runs_) co_return;
    const zfs::ScanStatus scan = pool_->resync_progress();
    if (scan.state != zfs::ScanStatus::State::running) continue;
    const double elapsed_s = static_cast<double>(boot_time_ns() - resync_began_ns_) / ns_per_s;
    const bool can_tell = scan.percent > 1 && elapsed_s > 1;
    const std::int64_t left_s =
        can_tell ? static_cast<std::int64_t>(elapsed_s * (100 - scan.percent) / scan.percent) : -1;
    feed(owner::ResyncProgressed{boot_time_ns(), static_cast<int>(scan.percent), left_s});
  }
}

// ---------------------------------------------------------------- new mirrors and legs

void Process::carry_out(const owner::AddMirror& order) { tasks_.spawn(run_add_mirror(order.mirror)); }

block::Task<void> Process::run_add_mirror(record::Mirror mirror) {
  zfs::MirrorSpec spec;
  spec.vdev_class = mirror.vdev_class;
  for (const record::Leg& leg : mirror.legs) {
    if (legs_->device(leg.guid) == nullptr) {
      feed(owner::MirrorAddFailed{boot_time_ns(), mirror.guid, fmt::format("{} is not open", legs_->name(leg.guid))});
      co_return;
    }
    spec.legs.push_back(legs_->spec_of_new(leg.guid));
  }
  std::vector<zfs::MirrorSpec> specs;
  specs.push_back(std::move(spec));
  auto added = co_await pool_->add_mirrors(std::move(specs));
  if (!added) {
    feed(owner::MirrorAddFailed{boot_time_ns(), mirror.guid, added.error().message});
    co_return;
  }
  const zfs::MirrorLayout& made = added->front();
  record::Mirror built = mirror;
  built.guid = made.guid;
  for (std::size_t index = 0; index < built.legs.size(); ++index) {
    legs_->rename(mirror.legs[index].guid, made.legs[index].guid);
    built.legs[index].guid = made.legs[index].guid;
  }
  feed(owner::MirrorAdded{boot_time_ns(), mirror.guid, std::move(built)});
}

// The engine's guid of a mirror of the record: of the one that holds another of its legs.
MirrorId Process::engine_mirror_of(MirrorId mirror, LegId except) const {
  for (const record::Mirror& of_record : driver_.state().stored.record.mirrors) {
    if (of_record.guid != mirror) continue;
    for (const record::Leg& leg : of_record.legs) {
      if (leg.guid == except) continue;
      const LegId engine_guid = legs_->engine_guid(leg.guid);
      for (const zfs::MirrorLayout& made : pool_->layout().mirrors) {
        const bool here = std::any_of(made.legs.begin(), made.legs.end(),
                                      [&](const zfs::LegLayout& one) { return one.guid == engine_guid; });
        if (here) return made.guid;
      }
    }
  }
  return mirror;
}

void Process::carry_out(const owner::AttachLeg& order) { tasks_.spawn(run_attach(order)); }

block::Task<void> Process::run_attach(owner::AttachLeg order) {
  const LegId leg = order.leg.guid;
  legs_->know(driver_.state().stored.record, places_);
  if (legs_->device(leg) == nullptr) {
    feed(owner::LegAttachFailed{boot_time_ns(), leg, fmt::format("{} is not open", legs_->name(leg))});
    co_return;
  }
  Result<LegId> attached = fail(ErrorCode::not_found, "no leg is discarded");
  if (order.discard) attached = co_await remake_in_place(*order.discard);
  // Not found: it is new, or the process died between the record's swap and the attach, so that the pool never had it.
  if (!attached && attached.error().code == ErrorCode::not_found) {
    attached = co_await pool_->attach_leg(engine_mirror_of(order.mirror, leg), legs_->spec_of_new(leg));
  }
  if (!attached) {
    feed(owner::LegAttachFailed{boot_time_ns(), leg, attached.error().message});
    co_return;
  }
  legs_->rename(leg, *attached);
  events_.add("resync-started", fmt::format("{} is new and gets everything", legs_->name(*attached)));
  feed(owner::LegAttached{boot_time_ns(), leg, *attached});
}

// A diverged leg gives its own place to a new one on the same drive. Detached first, it would leave a mirror of one leg, and
// OpenZFS then gives that leg the mirror's guid: a name that no record knows. OpenZFS takes no drive whose label says that it
// is a leg of this pool.
block::Task<Result<LegId>> Process::remake_in_place(LegId leg) {
  ZP_CO_CHECK(co_await wipe_labels(*legs_->device(leg)));
  co_return co_await pool_->replace_leg(legs_->engine_guid(leg), legs_->spec_of_new(leg));
}

void Process::carry_out(const owner::DetachLeg& order) { tasks_.spawn(run_detach(order.leg)); }

block::Task<void> Process::run_detach(LegId leg) {
  auto detached = co_await pool_->detach_leg(legs_->engine_guid(leg));
  // Not found: a former process detached it, and died before the record forgot it.
  if (!detached && detached.error().code != ErrorCode::not_found) {
    feed(owner::LegDetachFailed{boot_time_ns(), leg, detached.error().message});
    co_return;
  }
  co_await legs_->release(leg);
  feed(owner::LegDetached{boot_time_ns(), leg});
}

}  // namespace zpair::pool
