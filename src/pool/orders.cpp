// The brain's orders of an import's life: fence, import, serve, fail, swap, keep, export. Each is answered by the fact that
// owner.h names beside it.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "pool/process.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

constexpr std::int64_t fence_deadline_ms = 500;  // the brain orders it again within its own window
constexpr std::int64_t swap_deadline_ms = 1500;  // longer than an etcd election
constexpr std::int64_t read_deadline_ms = 1000;
constexpr std::int64_t keep_deadline_ms = 300;
constexpr std::int64_t keep_retry_ms = 200;

std::vector<zfs::VolumeLog> logs_of(const record::Floor& floor) {
  std::vector<zfs::VolumeLog> logs;
  for (const record::Floor::Log& log : floor.logs) logs.push_back({log.volume_guid, log.sequence});
  return logs;
}

}  // namespace

void Process::order(const owner::Action& action) {
  std::visit([this](const auto& one) { carry_out(one); }, action);
}

// ---------------------------------------------------------------- fence (rule 5)

void Process::carry_out(const owner::FenceLeg& order) { tasks_.spawn(run_fence(order)); }

block::Task<void> Process::run_fence(owner::FenceLeg order) {
  const std::uint64_t digest = record::digest_of(driver_.state().stored.record);
  const Deadline deadline = Deadline::in_ms(fence_deadline_ms);
  FenceOutcome outcome = co_await legs_->fence(order.leg, order.epoch, order.rev, digest, deadline);
  const Nanoseconds now_ns = boot_time_ns();
  switch (outcome.kind) {
    case FenceOutcome::Kind::done: feed(owner::LegFenced{now_ns, order.leg}); break;
    case FenceOutcome::Kind::failed: feed(owner::LegFenceFailed{now_ns, order.leg, outcome.why}); break;
    case FenceOutcome::Kind::rolled_back:
      if (std::exchange(refused_legs_[order.leg], outcome.why) != outcome.why) events_.add("leg-refused", outcome.why);
      feed(owner::LegFenceFailed{now_ns, order.leg, outcome.why});
      break;
    case FenceOutcome::Kind::fenced_out: feed(owner::FencedOut{now_ns, order.leg, outcome.by}); break;
  }
}

// ---------------------------------------------------------------- import (rule 7)

void Process::carry_out(const owner::ImportPool& order) { tasks_.spawn(run_import(order)); }

block::Task<void> Process::run_import(owner::ImportPool order) {
  timeline_.end_part("fence", boot_time_ns());
  const record::Record& record = driver_.state().stored.record;
  std::vector<MirrorId> absent = co_await match_labels(order.legs);

  zfs::ImportSpec spec;
  spec.guid = record.pool_guid;
  spec.floor_txg = order.floor.txg;
  spec.floor_logs = logs_of(order.floor);
  spec.zfs_host_ids = record.zfs_host_ids;
  if (document_.accept_data_loss) spec.floor = zfs::ImportSpec::Floor::skip_and_say_so;
  for (LegId leg : order.legs) {
    const record::Mirror* mirror = record::mirror_of(record, leg);
    const bool mirror_absent =
        mirror != nullptr && std::find(absent.begin(), absent.end(), mirror->guid) != absent.end();
    if (!mirror_absent && legs_->device(leg) != nullptr) spec.legs.push_back(legs_->spec(leg));
  }
  monitor_->set_pool(pool_.get());  // from now on the engine may hold, and the brain must see it
  const Nanoseconds began_ns = boot_time_ns();
  auto imported = co_await pool_->import_pool(std::move(spec));
  if (!imported) {
    feed(owner::ImportFailed{boot_time_ns(), imported.error().message});
    co_return;
  }
  log_info(
      "imported at txg {} in {} ms: labels {:.3f} s, import {:.3f} s, replay of {} records {:.3f} s, absent legs "
      "{:.3f} s",
      imported->uberblock_txg, (boot_time_ns() - began_ns) / ns_per_ms, imported->label_seconds,
      imported->import_seconds, imported->replayed_record_count, imported->replay_seconds, imported->offline_seconds);
  double seconds = 0;
  for (auto [part, took] :
       {std::pair{"labels", imported->label_seconds}, std::pair{"import", imported->import_seconds},
        std::pair{"replay", imported->replay_seconds}, std::pair{"absent", imported->offline_seconds}}) {
    seconds += took;
    timeline_.end_part(part, began_ns + static_cast<Nanoseconds>(seconds * static_cast<double>(ns_per_s)));
  }
  imported_volumes_ = std::move(imported->volumes);
  apply_ack_set();
  co_await tuning_.load(*pool_);
  feed(owner::Imported{boot_time_ns(), imported->uberblock_txg, std::move(absent)});
}

// A crash between `zpool add` and the swap that records the new guids leaves a mirror with provisional ones in the record.
// The labels tell whether the pool has it, and under which guids. Returns the mirrors that the pool has never had.
block::Task<std::vector<MirrorId>> Process::match_labels(std::vector<LegId> legs) {
  std::vector<MirrorId> absent;
  const std::vector<record::Mirror> mirrors = driver_.state().stored.record.mirrors;
  for (const record::Mirror& mirror : mirrors) {
    if (mirror.legs.empty() || mirror.guid != provisional_mirror_guid(mirror.legs.front().guid)) continue;
    std::vector<LegId> of_mirror;
    for (const record::Leg& leg : mirror.legs) {
      const bool named = std::find(legs.begin(), legs.end(), leg.guid) != legs.end();
      if (!named || legs_->device(leg.guid) == nullptr) continue;
      if (leg.node == options_.config.node) {
        of_mirror.insert(of_mirror.begin(), leg.guid);
      } else {
        of_mirror.push_back(leg.guid);
      }
    }
    if (of_mirror.empty()) continue;
    const bool there = co_await match_mirror(std::move(of_mirror));
    if (!there) absent.push_back(mirror.guid);
  }
  co_return absent;
}

block::Task<bool> Process::match_mirror(std::vector<LegId> legs) {
  const PoolGuid pool_guid = driver_.state().stored.record.pool_guid;
  bool renamed = false;
  for (LegId leg : legs) {
    auto survey = co_await zfs::survey_labels(*legs_->device(leg));
    if (!survey) continue;  // unreadable: the import will say
    const bool ours = *survey && (*survey)->pool_guid == pool_guid && (*survey)->label_txg.value != 0;
    if (!ours && !renamed) co_return false;  // all legs of a new mirror get their labels in one txg
    if (!ours) continue;
    if ((*survey)->leg_guid == leg) co_return true;  // one as recorded: the others are too
    log_warning("{}: the record calls it {}, its label {}", legs_->name(leg), leg, (*survey)->leg_guid);
    legs_->set_engine_guid(leg, (*survey)->leg_guid);
    renamed = true;
  }
  co_return true;
}

void Process::carry_out(const owner::ReplayLogs&) { tasks_.spawn(run_replay()); }

block::Task<void> Process::run_replay() {
  auto opened = co_await exports_->open_imported(std::exchange(imported_volumes_, {}));
  if (!opened) {
    finish(control::exit_failed, "failed", opened.error().message);
    co_return;
  }
  timeline_.end_part("volumes", boot_time_ns());
  tell_zpaird();
  feed(owner::Replayed{boot_time_ns()});
}

void Process::carry_out(const owner::Serve&) {
  ZP_ASSERT(owner::may_acknowledge(driver_.state()), "rule 6: nobody is served before the promise has run out");
  exports_->serve();
  if (timeline_.since.empty()) return;
  timeline_.end_part("promise", boot_time_ns());
  events_.add("serving", "clients are answered " + to_text(timeline_), timeline_.parts);
  timeline_ = {};
}

// ---------------------------------------------------------------- ack set, shrink (rules 2 and 3)

void Process::carry_out(const owner::SetAckSet& order) {
  ack_set_ = order;
  apply_ack_set();
  feed(owner::AckSetStands{boot_time_ns(), order.generation});
}

// Before the import the engine has no legs: it starts with those named, and hears the newest set right after.
void Process::apply_ack_set() {
  if (!ack_set_ || !pool_ || !pool_->is_open()) return;
  std::vector<LegId> engine_guids;
  for (const zfs::MirrorLayout& mirror : pool_->layout().mirrors) {
    for (const zfs::LegLayout& leg : mirror.legs) {
      const LegId of_record = legs_->leg_of_engine(leg.guid);
      const auto& wanted = ack_set_->legs;
      if (std::find(wanted.begin(), wanted.end(), of_record) != wanted.end()) engine_guids.push_back(leg.guid);
    }
  }
  pool_->set_ack_set(engine_guids);
}

void Process::carry_out(const owner::FailLegs& order) {
  // The record dropped them. The brain's next SetAckSet says so too, but the engine must hear it first.
  if (ack_set_) {
    std::erase_if(ack_set_->legs,
                  [&](LegId leg) { return std::find(order.legs.begin(), order.legs.end(), leg) != order.legs.end(); });
    apply_ack_set();
  }
  tasks_.spawn(run_fail(order.legs));
}

block::Task<void> Process::run_fail(std::vector<LegId> legs) {
  std::vector<LegId> engine_guids;
  for (LegId leg : legs) engine_guids.push_back(legs_->engine_guid(leg));
  Result<void> failed;
  if (monitor_->imported()) {
    // Starts: what the engine holds fails now, and what a device answers from here on does not count any more.
    auto failing = pool_->fail_legs(std::move(engine_guids));
    failing.start();
    for (LegId leg : legs) legs_->fail(leg);
    failed = co_await failing;
  } else {
    for (LegId leg : legs) legs_->fail(leg);
  }
  if (!failed) {
    finish(control::exit_failed, "failed", fmt::format("a leg cannot be taken off: {}", failed.error().message));
    co_return;
  }
  feed(owner::LegsFailed{boot_time_ns(), std::move(legs)});
}

// ---------------------------------------------------------------- promises (rules 6 and 3)

void Process::carry_out(const owner::AskPromise& order) {
  record::Floor floor;
  if (pool_->is_open()) {
    floor.txg = pool_->last_synced_txg();
    for (const zfs::VolumeLog& log : pool_->volume_logs()) floor.logs.push_back({log.volume_guid, log.sequence});
  }
  promises_->ask(order, std::move(floor));
}

void Process::carry_out(const owner::AskPartner&) { promises_->ask_partner(driver_.state().epoch); }

// ---------------------------------------------------------------- the store (rule 9)

void Process::carry_out(const brain::SwapRecord& order) { tasks_.spawn(run_swap(order)); }

// The store has no such key. A store that lost its memory says so too, and means nothing by it.
block::Task<bool> Process::is_destroyed() {
  const Deadline deadline = Deadline::in_ms(read_deadline_ms);
  auto destroyed = co_await store_.destroyed(options_.pool, deadline);
  co_return destroyed && *destroyed && (*destroyed)->pool_guid == driver_.state().stored.record.pool_guid;
}

block::Task<void> Process::run_swap(brain::SwapRecord order) {
  const std::string op = order.record.op;
  const Deadline deadline = Deadline::in_ms(swap_deadline_ms);
  auto answer = co_await store_.swap(order.expected_mod_revision, std::move(order.record), deadline);
  const bool no_key = answer.outcome == quorum::SwapAnswer::Outcome::other && answer.stored.mod_revision == 0;
  const bool forgotten = no_key && !co_await is_destroyed();
  if (forgotten) answer.outcome = quorum::SwapAnswer::Outcome::unknown;
  const Nanoseconds now_ns = boot_time_ns();
  switch (answer.outcome) {
    case quorum::SwapAnswer::Outcome::applied: feed(brain::SwapApplied{now_ns, op, std::move(answer.stored)}); break;
    case quorum::SwapAnswer::Outcome::unknown: feed(brain::SwapUnknown{now_ns, op}); break;
    case quorum::SwapAnswer::Outcome::other: {
      std::optional<record::Stored> stored;
      if (answer.stored.mod_revision != 0) stored = std::move(answer.stored);
      feed(brain::SwapOther{now_ns, op, std::move(stored)});
      break;
    }
  }
}

void Process::carry_out(const brain::RemoveRecord& order) { tasks_.spawn(run_remove(order)); }

block::Task<void> Process::run_remove(brain::RemoveRecord order) {
  const Deadline deadline = Deadline::in_ms(swap_deadline_ms);
  auto answer = co_await store_.remove(options_.pool, order.expected_mod_revision, deadline);
  const Nanoseconds now_ns = boot_time_ns();
  switch (answer.outcome) {
    case quorum::SwapAnswer::Outcome::applied:
      feed(brain::SwapApplied{now_ns, order.op, std::move(answer.stored)});
      break;
    case quorum::SwapAnswer::Outcome::unknown: feed(brain::SwapUnknown{now_ns, order.op}); break;
    case quorum::SwapAnswer::Outcome::other: {
      std::optional<record::Stored> stored;
      if (answer.stored.mod_revision != 0) stored = std::move(answer.stored);
      feed(brain::SwapOther{now_ns, order.op, std::move(stored)});
      break;
    }
  }
}

void Process::carry_out(const brain::ReadRecord&) { tasks_.spawn(run_read()); }

block::Task<void> Process::run_read() {
  const Deadline deadline = Deadline::in_ms(read_deadline_ms);
  auto read = co_await store_.read(options_.pool, deadline);
  const bool forgotten = read && !*read && !co_await is_destroyed();
  if (read && !forgotten) {
    feed(brain::RecordRead{boot_time_ns(), std::move(*read)});
  } else {
    feed(brain::RecordReadFailed{boot_time_ns()});
  }
}

void Process::carry_out(const brain::KeepCopy& order) { tasks_.spawn(run_keep(order.stored)); }

block::Task<void> Process::run_keep(record::Stored stored) {
  legs_->know(stored.record, places_);
  const Deadline deadline = Deadline::in_ms(keep_deadline_ms);
  auto kept = co_await legs_->keep(stored.record, deadline);
  if (!kept) {
    finish(control::exit_failed, "failed", kept.error().message);
    co_return;
  }
  co_await keep_in_state_folder(stored.record);
  if (closing_ || finishing_) co_return;
  feed(brain::RecordKept{boot_time_ns(), stored.record.epoch, stored.record.rev});
}

// Rule 9: nothing that hangs on this record goes on before the node's copy of it is durable. zpaird writes it; when none
// answers, this process does. While neither can, this waits: held, not failed.
block::Task<void> Process::keep_in_state_folder(record::Record record) {
  std::string told;
  while (!closing_ && !finishing_) {
    const bool kept = co_await kept_by_zpaird(record);
    if (kept) co_return;
    const Deadline wait_for_lock = Deadline::in_ms(keep_deadline_ms);
    auto stored = co_await copies_.store(record, wait_for_lock);
    if (stored ||
        stored.error().code == ErrorCode::stale_epoch) {  // stale: a newer copy is durable, and that keeps this one too
      log_info("wrote the node's copy of revision {} itself: no zpaird answered", record.rev);
      co_return;
    }
    if (told != stored.error().message)
      log_error("the record cannot be kept, nothing goes on: {}", stored.error().message);
    told = stored.error().message;
    const Deadline pause = Deadline::in_ms(keep_retry_ms);
    co_await block::wait_for(closed_, pause);
  }
}

block::Task<bool> Process::kept_by_zpaird(record::Record record) {
  if (!control_->connected()) co_return false;
  control_->send(control::KeepRecord{record});
  const Deadline deadline = Deadline::in_ms(keep_deadline_ms);
  while (control_->connected() && !deadline.passed() && !closing_) {
    if (kept_ && kept_->epoch == record.epoch && kept_->rev >= record.rev) co_return true;
    kept_changed_.reset();
    co_await block::wait_for(kept_changed_, deadline);
  }
  co_return false;
}

// ---------------------------------------------------------------- the end

void Process::carry_out(const owner::StopAccepting&) { tasks_.spawn(run_drain()); }

block::Task<void> Process::run_drain() {
  co_await exports_->drain();
  feed(owner::Drained{boot_time_ns()});
}

void Process::carry_out(const owner::ExportPool& order) { tasks_.spawn(run_export(order.end)); }

block::Task<void> Process::run_export(owner::End end) {
  co_await exports_->close();
  Result<void> ended;
  if (end == owner::End::destroy) {
    ended = co_await pool_->destroy_pool();
  } else {
    using To = zfs::Pool::ExportTo;
    ended = co_await pool_->export_pool(end == owner::End::yield ? To::partner : To::anybody);
  }
  if (ended) {
    monitor_->set_pool(nullptr);
    feed(owner::Exported{boot_time_ns()});
  } else {
    feed(owner::ExportFailed{boot_time_ns(), ended.error().message});
  }
}

void Process::carry_out(const owner::AnswerCommand& order) {
  auto found = commands_.find(order.command);
  if (found == commands_.end()) return;  // zpaird's own, or nobody waits any more
  found->second->answered = true;
  found->second->done = order.done;
  found->second->text = order.text;
  found->second->signal.set();
}

void Process::carry_out(const owner::Report& order) { events_.add("note", legs_->readable(order.text)); }

void Process::carry_out(const owner::ExitProcess& order) {
  switch (order.reason) {
    case owner::ExitReason::fenced: return finish(control::exit_fenced, "fenced", order.text);
    case owner::ExitReason::gave_up: return finish(control::exit_lost, "lost", order.text);
    case owner::ExitReason::exported:
      return tasks_.spawn(finish_gently(control::exit_exported, "exported", order.text));
    case owner::ExitReason::destroyed:
      return tasks_.spawn(finish_gently(control::exit_exported, "destroyed", order.text));
    case owner::ExitReason::import_failed:
    case owner::ExitReason::export_failed: return finish(control::exit_failed, "failed", order.text);
    case owner::ExitReason::lost_writes: return finish(control::exit_failed, "lost_writes", order.text);
  }
}

}  // namespace zpair::pool
