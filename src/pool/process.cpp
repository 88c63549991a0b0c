#include "pool/process.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

constexpr std::int64_t beat_every_ms = 100;
constexpr std::int64_t look_around_ms = 250;
constexpr std::int64_t store_deadline_ms = 2000;

std::uint64_t random_number() {
  std::random_device device;
  std::uint64_t high = device();
  return (high << 32) | device();
}

}  // namespace

Process::Process(block::Reactor& reactor, zfs::Engine& engine, quorum::QuorumStore& store, Options options)
    : reactor_(reactor),
      engine_(engine),
      store_(store),
      options_(std::move(options)),
      driver_(reactor, *this,
              {.limits = options_.limits,
               .pulses =
                   [this](Nanoseconds now_ns) {
                     std::vector<LegId> legs;
                     for (const auto& [leg, view] : driver_.state().legs) legs.push_back(leg);
                     return monitor_->pulses(legs, now_ns);
                   },
               .after_step = [this] { after_step(); }}),
      copies_(options_.config.state_dir) {
  if (!options_.exit) options_.exit = [](int exit_code) { ::_exit(exit_code); };
}

Process::~Process() { ZP_ASSERT(closing_ || !control_, "a process object is closed before it ends"); }

Result<void> Process::start() {
  ZP_TRY(control, ControlLink::start({
                      .socket_path = control::control_path(options_.config.run_dir, options_.pool),
                      .on_message = [this](control::Received received) { on_message(std::move(received)); },
                      .on_connect =
                          [this] {
                            told_.clear();
                            tell_zpaird();
                          },
                  }));
  control_ = std::move(control);
  ZP_CHECK(start_api());
  if (options_.control_fd >= 0) control_->take_over(UniqueFd(options_.control_fd));
  beat();
  return {};
}

block::Task<void> Process::close() {
  closing_ = true;
  closed_.set();
  look_now_.set();
  looked_.set();
  driver_.stop();
  if (beat_timer_ != 0) reactor_.cancel_timer(beat_timer_);
  events_.close();
  for (auto& [id, command] : commands_) command->signal.set();
  kept_changed_.set();
  if (api_) co_await api_->close();
  if (promises_) co_await promises_->close();
  co_await tasks_.close();
  if (exports_) co_await exports_->close();
  exports_.reset();
  pool_.reset();
  if (legs_) co_await legs_->close();
  if (control_) co_await control_->close();
}

// ---------------------------------------------------------------- what zpaird says

void Process::on_message(control::Received received) {
  const Nanoseconds now_ns = boot_time_ns();
  control::Message& message = received.message;
  if (auto* start = std::get_if<control::Start>(&message)) {
    begin(std::move(start->document));
  } else if (auto* socket = std::get_if<control::VolumeSocket>(&message)) {
    if (exports_) {
      exports_->take_socket(socket->volume, socket->guid, std::move(received.fd));
    } else {
      early_sockets_[socket->volume] = {socket->guid, std::move(received.fd)};
    }
  } else if (auto* client = std::get_if<control::VolumeClient>(&message)) {
    if (exports_) {
      exports_->take_client(client->volume, client->guid, std::move(received.fd));
    } else {
      early_clients_.emplace_back(client->volume, EarlySocket{client->guid, std::move(received.fd)});
    }
  } else if (std::holds_alternative<control::RelayLink>(message)) {
    if (exports_) exports_->take_relay_link(std::move(received.fd));
  } else if (auto* end = std::get_if<control::Export>(&message)) {
    const bool yield = end->wanted == record::Wanted::serving;
    feed(owner::EndOrdered{now_ns, new_command(), yield ? owner::End::yield : owner::End::export_pool});
  } else if (std::holds_alternative<control::ReleasePromise>(message)) {
    document_.first_ack_not_before_ns = 0;  // should it come before the brain started
    feed(owner::PromiseReleased{now_ns});
  } else if (auto* hint = std::get_if<control::RecordHint>(&message)) {
    feed(brain::RecordSeen{now_ns, hint->stored});
  } else if (auto* cannot = std::get_if<control::CannotFence>(&message)) {
    for (LegId leg : cannot->legs) feed(owner::LegCannotFence{now_ns, leg, "its node's agent cannot hand it over"});
  } else if (auto* share = std::get_if<control::MemoryShare>(&message)) {
    engine_.set_limits(share->arc_bytes, share->dirty_bytes, share->log_bytes);
    tuning_.limits_changed();
  } else if (auto* drives = std::get_if<control::DrivePlaces>(&message)) {
    places_ = drives->drives;
    if (legs_) legs_->know(driver_.state().stored.record, places_);
  } else if (auto* kept = std::get_if<control::RecordKept>(&message)) {
    kept_ = *kept;
    kept_changed_.set();
  }
}

void Process::begin(control::StartDocument document) {
  if (std::exchange(begun_, true)) {
    log_warning("a second start document is ignored");
    return;
  }
  tasks_.spawn(run(std::move(document)));
}

// ---------------------------------------------------------------- from the document to the brain

block::Task<void> Process::run(control::StartDocument document) {
  document_ = document;
  timeline_ = document.timeline;
  places_ = document.drives;
  record::Stored stored = document.stored;
  if (document.mode == control::StartDocument::Mode::create) {
    auto created = co_await create(document);
    if (!created) {
      finish(control::exit_failed, "failed",
             fmt::format("cannot create pool {}: {}", options_.pool, created.error().message));
      co_return;
    }
    stored = std::move(*created);
    document_.floor = {};
    document_.first_ack_not_before_ns = 0;
  }
  auto named = co_await record_host_id(std::move(stored));
  if (!named) {
    finish(named.error().code == ErrorCode::fenced ? control::exit_fenced : control::exit_failed,
           named.error().code == ErrorCode::fenced ? "fenced" : "failed", named.error().message);
    co_return;
  }
  stored = std::move(*named);
  make_parts(stored);
  store_.watch([this](record::Stored seen) {
    if (seen.record.name == options_.pool && seen.mod_revision != 0)
      feed(brain::RecordSeen{boot_time_ns(), std::move(seen)});
  });

  owner::Started started;
  started.now_ns = boot_time_ns();
  timeline_.end_part("start", started.now_ns);
  started.node = options_.config.node;
  started.stored = std::move(stored);
  started.first_ack_at_ns = document_.first_ack_not_before_ns;
  started.promise_released = document_.first_ack_not_before_ns == 0;
  started.newest_txg = document_.newest_txg;
  started.floor = document_.floor;
  started.nonce = random_number();
  started.path_count = promises_->path_count();
  driver_.start(std::move(started));
  co_await look_around();
}

// Rule 7 lets an import take only what one of our nodes wrote: our host id must be in the record before we write.
block::Task<Result<record::Stored>> Process::record_host_id(record::Stored stored) {
  const std::uint32_t host_id = options_.config.zfs_host_id;
  auto& known = stored.record.zfs_host_ids;
  if (std::find(known.begin(), known.end(), host_id) != known.end()) co_return stored;
  record::Record wanted = stored.record;
  wanted.zfs_host_ids.push_back(host_id);
  wanted.rev = wanted.rev.next();
  wanted.op = Uuid::random().to_string();
  wanted.why = fmt::format("node {} writes with ZFS host id {:#x}", options_.config.node, host_id);
  const std::string op = wanted.op;
  const Deadline deadline = Deadline::in_ms(store_deadline_ms);
  auto answer = co_await store_.swap(stored.mod_revision, std::move(wanted), deadline);
  if (answer.outcome == quorum::SwapAnswer::Outcome::unknown) {
    const Deadline read_deadline = Deadline::in_ms(store_deadline_ms);
    auto read = co_await store_.read(options_.pool, read_deadline);
    if (!read) co_return fail(read.error(), "the store does not say whether this node's ZFS host id is recorded");
    if (!*read) co_return fail(ErrorCode::fenced, "the record of pool {} is gone", options_.pool);
    answer.stored = **read;
  }
  if (answer.stored.record.epoch != stored.record.epoch) {
    co_return fail(ErrorCode::fenced, "the record is at epoch {}, this process was started for {}",
                   answer.stored.record.epoch, stored.record.epoch);
  }
  if (answer.stored.record.op != op) {
    co_return fail(ErrorCode::timed_out, "this node's ZFS host id could not be recorded: another swap came first");
  }
  co_return answer.stored;
}

void Process::make_parts(const record::Stored& stored) {
  const record::Record& record = stored.record;
  legs_ = std::make_unique<Legs>(Legs::Options{
      .config = options_.config,
      .host_id = host_id_of(record.pool_guid, options_.config.node, record.epoch),
      .on_path =
          [](const nvme::PathEvent& event) {
            log_info("drives' path {} is {}: {}", event.path, event.change == nvme::PathChange::up ? "up" : "down",
                     event.why);
          },
  });
  legs_->know(record, places_);
  legs_->start();
  monitor_ = std::make_unique<LegMonitor>(*legs_, [this](owner::Event event) { feed(std::move(event)); });
  pool_ = std::make_unique<zfs::Pool>(
      engine_, zfs::Pool::Options{.name = options_.pool,
                                  // Posted: the brain may fail the leg at once, and the engine's driver is still in it.
                                  .on_leg_event = [this](const zfs::LegEvent& event) {
                                    reactor_.post([this, event] {
                                      if (!closing_ && !finishing_) monitor_->on_leg_event(event);
                                    });
                                  }});
  exports_ = std::make_unique<Exports>(
      *pool_, Exports::Options{
                  .pool_name = options_.pool,
                  .read_permitted = [this] { return driver_.may_answer_reads(); },
                  .volumes_changed = [this] { tell_zpaird(); },
                  .left_out = [this](std::string why) { events_.add("volume-left-out", std::move(why)); },
              });
  for (auto& [volume, socket] : early_sockets_) exports_->take_socket(volume, socket.guid, std::move(socket.fd));
  early_sockets_.clear();
  for (auto& [volume, client] : early_clients_) exports_->take_client(volume, client.guid, std::move(client.fd));
  early_clients_.clear();
  promises_ = std::make_unique<Promises>(
      Promises::Options{.config = options_.config, .pool = options_.pool, .feed = [this](owner::Event event) {
                          const bool granted = std::holds_alternative<owner::PromiseGranted>(event);
                          feed(std::move(event));
                          if (granted && exports_) exports_->recheck_reads();
                        }});
  promises_->start();
}

// ---------------------------------------------------------------- the end

// At once: nothing may be answered any more. The kernel closes the rest; the drives' locks go when their last I/O is done.
void Process::finish(int exit_code, std::string reason, std::string detail) {
  if (std::exchange(finishing_, true)) return;
  driver_.stop();
  if (exit_code == control::exit_exported) {
    log_info("{}: {}", reason, detail);
  } else {
    log_error("{}: {}", reason, detail);
  }
  control_->send(control::Exiting{reason, detail});
  options_.exit(exit_code);
}

// After an export: who waits for an answer of the API gets it first.
block::Task<void> Process::finish_gently(int exit_code, std::string reason, std::string detail) {
  events_.close();
  const Deadline deadline = Deadline::in_ms(500);
  while (!commands_.empty() && !deadline.passed()) co_await reactor_.after_ms(2);
  co_await reactor_.after_ms(20);  // the edge thread writes the answer
  finish(exit_code, std::move(reason), std::move(detail));
}

// ---------------------------------------------------------------- what goes on beside the brain

void Process::beat() {
  if (closing_) return;
  look_at_engine();
  control_->send(control::Heartbeat{engine_moves_});
  if (boot_time_ns() - told_ns_ >= ns_per_s) {
    told_.clear();
    tell_zpaird();
  }
  if (monitor_) {
    std::vector<LegId> legs;
    for (const auto& [leg, view] : driver_.state().legs) legs.push_back(leg);
    monitor_->look_after(legs, boot_time_ns());
  }
  beat_timer_ = reactor_.call_at(boot_time_ns() + beat_every_ms * ns_per_ms, [this] { beat(); });
}

// The engine moves when a txg synced (one does each second, also of an idle pool) and its threads take work. What it waits
// for is no hang: a leg that does not answer is the brain's matter, and so is a pool that holds.
void Process::look_at_engine() {
  if (!monitor_ || !monitor_->imported()) return;
  const auto& state = driver_.state();
  std::vector<LegId> legs;
  for (const auto& [leg, view] : state.legs) legs.push_back(leg);
  const Txg synced = pool_->last_synced_txg();
  const bool synced_one = std::exchange(synced_txg_, synced) != synced;
  const bool excused =
      state.phase != owner::Phase::serving || state.holding || monitor_->engine_waits(legs, boot_time_ns());
  if (excused || (synced_one && !engine_probe_open_)) ++engine_moves_;
  if (!engine_probe_open_) tasks_.spawn(probe_engine());
}

block::Task<void> Process::probe_engine() {
  engine_probe_open_ = true;
  co_await engine_.blocking([] { return true; });
  engine_probe_open_ = false;
}

// May hang while a leg holds: nothing waits for it.
block::Task<void> Process::look_around() {
  while (!closing_ && !finishing_) {
    look_now_.reset();
    const std::uint64_t asked = looks_asked_;
    if (pool_->is_open() && driver_.state().phase == owner::Phase::serving && !driver_.state().holding) {
      auto dropped = co_await pool_->legs_that_zfs_dropped();
      if (dropped && !dropped->empty()) monitor_->zfs_dropped(*dropped);
      auto status = co_await pool_->status();
      if (status) pool_status_ = std::move(*status);
    }
    looks_done_ = asked;
    looked_.set();
    const Deadline pause = Deadline::in_ms(look_around_ms);
    co_await block::wait_for(look_now_, pause);
  }
}

}  // namespace zpair::pool
