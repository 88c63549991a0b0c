// The pool process of this node: what it says, how it ends, how a new pool begins.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "node/pool_agent.h"

namespace zpair::node {

namespace {

namespace brain_agent = brain::agent;
namespace owner = brain::owner;

constexpr std::int64_t create_limit_ms = 60'000;
constexpr std::int64_t keep_retry_ms = 1000;

owner::Phase phase_of(const std::string& text) {
  for (int i = 0; i <= static_cast<int>(owner::Phase::exited); ++i) {
    auto phase = static_cast<owner::Phase>(i);
    if (name_of(phase) == text) return phase;
  }
  return owner::Phase::starting;
}

// What the process itself knew of its end; nullopt: it died.
std::optional<owner::ExitReason> reason_of(const ProcessExit& exit) {
  if (exit.reason == "destroyed") return owner::ExitReason::destroyed;
  if (exit.known && exit.signal != 0) return std::nullopt;
  if (exit.known && exit.exit_code == control::exit_fenced) return owner::ExitReason::fenced;
  if (exit.known && exit.exit_code == control::exit_lost) return owner::ExitReason::gave_up;
  if (exit.reason == "exported") return owner::ExitReason::exported;
  if (exit.reason == "fenced") return owner::ExitReason::fenced;
  if (exit.reason == "lost") return owner::ExitReason::gave_up;
  if (exit.reason == "failed") return owner::ExitReason::import_failed;
  if (exit.known && exit.exit_code == control::exit_exported) return owner::ExitReason::exported;
  return std::nullopt;
}

}  // namespace

PoolProcess::Options PoolAgent::process_options() const {
  return {pool_, node_.config->run_dir, node_.config_file, node_.pool_program};
}

PoolProcess::Callbacks PoolAgent::callbacks() {
  return {.on_message = [this](control::Received received) { on_message(std::move(received)); },
          .on_exit = [this](ProcessExit exit) { on_exit(std::move(exit)); }};
}

std::vector<control::DrivePlace> PoolAgent::places() const {
  std::vector<control::DrivePlace> list = node_.drives->places(pool_);
  std::vector<control::DrivePlace> partner = node_.partner_places(pool_);
  list.insert(list.end(), partner.begin(), partner.end());
  return list;
}

void PoolAgent::tell_places() {
  if (process_) (void)process_->send(control::DrivePlaces{places()});
}

void PoolAgent::tell_share(const control::MemoryShare& share) {
  if (!process_ || !process_serves() || share_ == share) return;
  if (process_->send(share)) share_ = share;
}

block::Task<bool> PoolAgent::adopt(Epoch if_it_does_not_say) {
  auto process = PoolProcess::adopt(process_options(), callbacks());
  if (!process) {
    if (process.error().code != ErrorCode::not_found) log_warning("pool {}: {}", pool_, process.error().message);
    co_return false;
  }
  process_ = std::move(*process);
  process_epoch_ = if_it_does_not_say;
  Deadline deadline = Deadline::in_ms(2000);
  while (!process_state_ && process_ && !deadline.passed() && !closed_) {
    process_changed_.reset();
    co_await block::wait_for(process_changed_, deadline);
  }
  if (process_ && process_state_) {
    process_epoch_ = process_state_->stored.record.epoch;
    log_info("pool {}: found its process {} at epoch {}", pool_, process_->pid(), process_epoch_);
    // The volumes' sockets were made anew with this zpaird.
    settle_sockets();
    sockets_.give_all();
    tasks_.spawn(follow_process_events(process_->pid(), EventsFrom::now));
  }
  co_return process_ != nullptr;
}

block::Task<Result<void>> PoolAgent::create(control::StartDocument document) {
  Visit visit(*this);
  creating_ = true;
  process_epoch_ = document.stored.record.epoch;
  co_await node_.drives->give_to_process(pool_, process_epoch_);
  co_await node_.drives->wait_unlocked(pool_);
  document.mode = control::StartDocument::Mode::create;
  document.drives = places();
  auto process = PoolProcess::spawn(process_options(), std::move(document), callbacks());
  if (!process) {
    creating_ = false;
    node_.drives->take_back(pool_);
    co_return std::unexpected(process.error());
  }
  process_ = std::move(*process);
  settle_sockets();
  tasks_.spawn(follow_process_events(process_->pid(), EventsFrom::start));
  Deadline deadline = Deadline::in_ms(create_limit_ms);
  while (process_ && !process_serves() && !deadline.passed() && !closed_) {
    process_changed_.reset();
    co_await block::wait_for(process_changed_, deadline);
  }
  if (process_ && process_serves() && process_state_->stored.mod_revision > 0) {
    record::Record record = process_state_->stored.record;
    process_epoch_ = record.epoch;  // above whatever its drives were fenced at
    co_await node_.drives->give_to_process(pool_, process_epoch_);
    auto kept = co_await node_.folder->store_record(record);
    if (!kept && kept.error().code != ErrorCode::stale_epoch) co_return kept;
    creating_ = false;
    start(record);
    co_return Result<void>{};
  }
  if (process_) {
    process_->kill();
    while (process_ && !closed_) {
      process_changed_.reset();
      co_await process_changed_.wait();
    }
  }
  creating_ = false;
  node_.drives->take_back(pool_);
  if (closed_) co_return fail(ErrorCode::cancelled, "zpaird stops");
  std::string why = last_exit_ && !last_exit_->detail.empty() ? last_exit_->detail
                    : last_exit_                              ? "its process " + to_text(*last_exit_)
                                                              : "its process did not answer in time";
  co_return fail(ErrorCode::invalid, "pool {} was not created: {}", pool_, why);
}

block::Task<void> PoolAgent::stop_process(Deadline deadline) {
  stopping_ = true;
  if (!process_) co_return;
  (void)process_->send(control::Export{record::Wanted::serving});
  while (process_ && !deadline.passed()) {
    process_changed_.reset();
    co_await block::wait_for(process_changed_, deadline);
  }
  if (process_) {
    log_warning("pool {}: its process did not export in time, killing it", pool_);
    process_->kill();
    while (process_) {
      process_changed_.reset();
      co_await process_changed_.wait();
    }
  }
}

// --- what it says ----------------------------------------------------------------------------------------------------

void PoolAgent::on_message(control::Received received) {
  if (auto* beat = std::get_if<control::Heartbeat>(&received.message)) {
    const bool hung_before = std::exchange(engine_hangs_, engine_watch_.hangs(beat->engine_moves, boot_time_ns()));
    if (engine_hangs_ && !hung_before) {
      node_.events->add(pool_, "process-hangs",
                        fmt::format("its engine has not moved for {} s: the pool process is killed and starts anew",
                                    EngineWatch::hang_ns / ns_per_s));
    }
    if (engine_hangs_) return;  // as good as none: the brain's watchdog kills the process
    owner::Phase phase = process_state_ ? phase_of(process_state_->phase) : owner::Phase::starting;
    feed(brain_agent::PoolHeartbeat{boot_time_ns(), process_epoch_, phase});
    return;
  }
  if (auto* state = std::get_if<control::State>(&received.message)) {
    bool newer = state->stored.mod_revision > 0 &&
                 (!process_state_ || process_state_->stored.mod_revision != state->stored.mod_revision);
    if (newer && !creating_) seen(state->stored);
    if (state->serving) {
      std::vector<agent::PoolState::Volume> volumes;
      for (const auto& volume : state->volumes) volumes.push_back({volume.name, volume.size_bytes, volume.guid});
      learn_volumes(std::move(volumes));
    }
    process_state_ = std::move(*state);
    process_changed_.set();
    return;
  }
  if (auto* keep_record = std::get_if<control::KeepRecord>(&received.message)) {
    tasks_.spawn(keep_for_process(std::move(keep_record->record)));
  }
}

block::Task<void> PoolAgent::keep_for_process(record::Record record) {
  while (!closed_) {
    auto kept = co_await node_.folder->store_record(record);
    if (kept || kept.error().code == ErrorCode::stale_epoch) break;
    log_error("pool {}: its record cannot be kept: {}", pool_, kept.error().message);
    co_await block::wait_for(closing_, Deadline::in_ms(keep_retry_ms));
  }
  if (process_ && !closed_) (void)process_->send(control::RecordKept{record.epoch, record.rev});
}

void PoolAgent::on_exit(ProcessExit exit) {
  ending_ = true;
  died_ns_ = boot_time_ns();
  if (!closed_) tasks_.spawn(end_process(std::move(exit)));
}

block::Task<void> PoolAgent::end_process(ProcessExit exit) {
  std::unique_ptr<PoolProcess> ended = std::move(process_);
  share_ = {};
  co_await ended->close();
  ended.reset();
  process_state_.reset();
  auto reason = reason_of(exit);
  if (!reason && !creating_) {
    node_.events->add(pool_, "process-died", fmt::format("the pool process {}", to_text(exit)));
  } else {
    log_info("pool {}: its process {}", pool_, to_text(exit));
  }
  std::string text = to_text(exit);
  last_exit_ = std::move(exit);
  ending_ = false;
  process_changed_.set();
  if (stopping_) co_return;
  feed(brain_agent::PoolExited{boot_time_ns(), process_epoch_, reason, std::move(text)});
}

}  // namespace zpair::node
