// The brain's orders, carried out. Each has exactly one answer, the fact named beside it in brain/agent.h; a message to the
// partner may get none.
#include "base/log.h"
#include "node/pool_agent.h"

namespace zpair::node {

namespace {

namespace brain_agent = brain::agent;

constexpr std::int64_t store_limit_ms = 2000;
constexpr std::int64_t open_limit_ms = 1500;
constexpr std::int64_t handover_limit_ms = 20'000;
constexpr std::int64_t yield_limit_ms = 60'000;
constexpr std::int64_t keep_retry_ms = 1000;

}  // namespace

// --- drives and surveys ----------------------------------------------------------------------------------------------

void PoolAgent::order(const brain_agent::SurveyLocal&) { tasks_.spawn(survey_local()); }
void PoolAgent::order(const brain_agent::CloseLocalDrives& close) { tasks_.spawn(close_drives(close.epoch)); }
void PoolAgent::order(const brain_agent::OpenLocalDrives&) { tasks_.spawn(open_drives()); }

block::Task<void> PoolAgent::survey_local() {
  brain_agent::LocalSurveyed surveyed{};
  struct Found {
    LegId leg;
    std::string drive;
    Txg newest_txg;
  };
  std::vector<Found> found;
  auto collect = [&](const record::Record& record) {
    for (const record::Mirror& mirror : record.mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.node == node_.config->node && node_.drives->present(leg.drive))
          found.push_back({leg.guid, leg.drive, Txg{}});
      }
    }
  };
  if (state_.takeover && state_.takeover->base.mod_revision > 0) {
    collect(state_.takeover->base.record);
  } else if (state_.stored) {
    collect(state_.stored->record);
  }
  for (Found& one : found) {
    const Uberblock newest = co_await node_.drives->newest_uberblock(one.drive);
    one.newest_txg = newest.txg;
  }
  std::string folder = node_.folder->fence_folder();
  co_await node_.worker->run([&] {
    for (const Found& one : found) {
      auto file = fence::FenceFile::open(folder, one.drive);
      if (!file) continue;  // closed: not in reach
      auto contents = (*file)->contents();
      if (!contents) continue;
      surveyed.legs.push_back({one.leg, contents->stored.epoch, contents->stored.rev, contents->epoch, one.newest_txg});
    }
  });
  surveyed.now_ns = boot_time_ns();
  feed(std::move(surveyed));
}

block::Task<void> PoolAgent::close_drives(Epoch epoch) {
  co_await node_.drives->give_to_process(pool_, epoch);
  co_await node_.drives->wait_unlocked(pool_);
  feed(brain_agent::LocalDrivesClosed{boot_time_ns(), epoch});
}

block::Task<void> PoolAgent::open_drives() {
  node_.drives->take_back(pool_);
  std::vector<std::string> missing = co_await node_.drives->wait_exported(pool_, Deadline::in_ms(open_limit_ms));
  brain_agent::LocalDrivesOpened opened{boot_time_ns(), {}};
  if (state_.stored) {
    for (const record::Mirror& mirror : state_.stored->record.mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.node == node_.config->node && !node_.drives->exported(leg.drive)) opened.failed.push_back(leg.guid);
      }
    }
  }
  feed(std::move(opened));
}

// --- the pool process ------------------------------------------------------------------------------------------------

void PoolAgent::order(const brain_agent::StartPool& start) { tasks_.spawn(start_process(start)); }

block::Task<void> PoolAgent::start_process(brain_agent::StartPool start) {
  // The former process's object may still be on its way out.
  while (process_ && !closed_) {
    process_changed_.reset();
    co_await process_changed_.wait();
  }
  if (closed_ || stopping_) co_return;  // the node goes down: nothing is imported any more
  control::StartDocument document;
  document.mode = control::StartDocument::Mode::import;
  document.stored = start.stored;
  document.drives = places();
  document.floor = start.floor;
  document.newest_txg = start.newest_txg;
  document.first_ack_not_before_ns = start.promise_released ? 0 : start.first_ack_at_ns;
  document.accept_data_loss = start.skip_floor;
  time_import();
  document.timeline = std::exchange(timeline_, {});
  process_epoch_ = start.stored.record.epoch;
  process_state_.reset();
  engine_watch_ = {};
  engine_hangs_ = false;
  auto process = PoolProcess::spawn(process_options(), std::move(document), callbacks());
  if (!process) {
    node_.events->add(pool_, "process-died", process.error().message);
    feed(brain_agent::PoolExited{boot_time_ns(), process_epoch_, std::nullopt, process.error().message});
    co_return;
  }
  process_ = std::move(*process);
  log_info("pool {}: process {} starts at epoch {}", pool_, process_->pid(), process_epoch_);
  settle_sockets();
  sockets_.give_all();
  tasks_.spawn(follow_process_events(process_->pid(), EventsFrom::start));
}

void PoolAgent::order(const brain_agent::KillPool& kill) {
  if (ending_) return;
  if (process_) {
    log_warning("pool {}: killing process {} of epoch {}", pool_, process_->pid(), kill.epoch);
    process_->kill();
    return;
  }
  feed(brain_agent::PoolExited{boot_time_ns(), kill.epoch, std::nullopt, "no process lives"});
}

void PoolAgent::order(const brain_agent::ReleasePromise&) {
  if (process_) (void)process_->send(control::ReleasePromise{});
}

void PoolAgent::order(const brain_agent::TellCannotFence& cannot) {
  if (process_) (void)process_->send(control::CannotFence{cannot.legs});
}

void PoolAgent::order(const brain_agent::DrainPool&) {
  if (process_) (void)process_->send(control::Export{record::Wanted::serving});
}

// --- the partner -----------------------------------------------------------------------------------------------------

void PoolAgent::order(const brain_agent::AnswerPromise& answer) { promise_answer_ = answer; }
void PoolAgent::order(const brain_agent::AnswerCanServe& answer) { can_serve_answer_ = answer; }

void PoolAgent::order(const brain_agent::SendSurvey& send) { tasks_.spawn(send_survey(send.id, send.epoch)); }
void PoolAgent::order(const brain_agent::SendHandover& send) { tasks_.spawn(send_handover(send.stored)); }
void PoolAgent::order(const brain_agent::SendYield& send) { tasks_.spawn(send_yield(send.epoch)); }

block::Task<void> PoolAgent::send_survey(std::uint64_t id, Epoch epoch) {
  Deadline deadline{boot_time_ns() + 2 * state_.limits.survey_ns};
  auto answer = co_await node_.partner->survey({pool_, epoch}, deadline);
  if (!answer) co_return;
  feed(brain_agent::SurveyAnswered{boot_time_ns(), id, answer->agreed, answer->legs, answer->why});
}

block::Task<void> PoolAgent::send_handover(record::Stored stored) {
  auto answer = co_await node_.partner->handover({std::move(stored)}, Deadline::in_ms(handover_limit_ms));
  if (!answer) co_return;
  feed(brain_agent::HandoverAnswered{boot_time_ns(), answer->epoch, answer->done, answer->cannot});
}

block::Task<void> PoolAgent::send_yield(Epoch epoch) {
  auto answer = co_await node_.partner->yield({pool_, epoch}, Deadline::in_ms(yield_limit_ms));
  if (!answer) co_return;
  feed(brain_agent::YieldAnswered{boot_time_ns(), epoch, answer->done, answer->why});
}

void PoolAgent::order(const brain_agent::AnswerSurvey& answer) {
  auto found = surveys_.find(answer.id);
  if (found == surveys_.end()) return;
  found->second->survey = {answer.agreed, answer.legs, answer.why};
  found->second->ok = true;
  found->second->done.set();
}

void PoolAgent::order(const brain_agent::AnswerHandover& answer) {
  auto [begin, end] = handovers_.equal_range(answer.epoch);
  for (auto at = begin; at != end; ++at) {
    at->second->handover = {answer.epoch, answer.done, answer.cannot};
    at->second->ok = true;
    at->second->done.set();
  }
}

void PoolAgent::order(const brain_agent::AnswerYield& answer) {
  auto [begin, end] = yields_.equal_range(answer.epoch);
  for (auto at = begin; at != end; ++at) {
    at->second->yield = {answer.done, answer.why};
    at->second->ok = true;
    at->second->done.set();
  }
}

// --- people ----------------------------------------------------------------------------------------------------------

void PoolAgent::order(const brain::owner::AnswerCommand& answer) {
  auto found = commands_.find(answer.command);
  if (found == commands_.end()) return;
  found->second->ok = answer.done;
  found->second->text = answer.text;
  found->second->done.set();
}

void PoolAgent::order(const brain::owner::Report& report) { log_info("pool {}: {}", pool_, report.text); }

// --- the store -------------------------------------------------------------------------------------------------------

void PoolAgent::order(const brain::SwapRecord& order_given) { tasks_.spawn(swap(order_given)); }
void PoolAgent::order(const brain::ReadRecord&) { tasks_.spawn(read()); }
void PoolAgent::order(const brain::KeepCopy& order_given) { tasks_.spawn(keep(order_given.stored)); }

block::Task<void> PoolAgent::swap(brain::SwapRecord order_given) {
  std::string op = order_given.record.op;
  quorum::SwapAnswer answer = co_await node_.store->swap(
      order_given.expected_mod_revision, std::move(order_given.record), Deadline::in_ms(store_limit_ms));
  Nanoseconds now_ns = boot_time_ns();
  switch (answer.outcome) {
    case quorum::SwapAnswer::Outcome::applied: feed(brain::SwapApplied{now_ns, op, std::move(answer.stored)}); break;
    case quorum::SwapAnswer::Outcome::other: {
      std::optional<record::Stored> stored;
      if (answer.stored.mod_revision > 0) stored = std::move(answer.stored);
      feed(brain::SwapOther{now_ns, op, std::move(stored)});
      break;
    }
    case quorum::SwapAnswer::Outcome::unknown: feed(brain::SwapUnknown{now_ns, op}); break;
  }
}

block::Task<void> PoolAgent::read() {
  auto stored = co_await node_.store->read(pool_, Deadline::in_ms(store_limit_ms));
  if (stored) {
    feed(brain::RecordRead{boot_time_ns(), std::move(*stored)});
  } else {
    feed(brain::RecordReadFailed{boot_time_ns()});
  }
}

block::Task<void> PoolAgent::keep(record::Stored stored) {
  Epoch epoch = stored.record.epoch;
  Revision rev = stored.record.rev;
  while (!closed_) {
    auto kept = co_await node_.folder->store_record(stored.record);
    // A newer copy is durable already: that keeps this one too.
    if (kept || kept.error().code == ErrorCode::stale_epoch) break;
    log_error("pool {}: its record cannot be kept, nothing goes on: {}", pool_, kept.error().message);
    co_await block::wait_for(closing_, Deadline::in_ms(keep_retry_ms));
  }
  if (closed_) co_return;
  feed(brain::RecordKept{boot_time_ns(), epoch, rev});
}

}  // namespace zpair::node
