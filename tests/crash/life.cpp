#include "life.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "zfs/engine.h"
#include "zfs/pool.h"
#include "zfs/volume.h"

namespace zpair::crash {

using block::Task;

namespace {

constexpr std::uint32_t zfs_host_id = 0x5a7a0001;
constexpr std::size_t read_bytes = 256 << 10;
constexpr Nanoseconds longest_load_ns = 6 * ns_per_s;

struct Free {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
using Buffer = std::unique_ptr<std::byte, Free>;
Buffer buffer_of(std::size_t size) {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(4096, (size + 4095) / 4096 * 4096)));
}

std::string leg_name(unsigned leg) { return fmt::format("{}{}", leg % 2 == 0 ? 'a' : 'b', leg / 2); }

}  // namespace

void Record::note(const Event& event) {
  using Kind = Event::Kind;
  switch (event.kind) {
    case Kind::record_is:
      in_sync = event.legs;
      since = event.offset;
      asked.reset();
      break;
    case Kind::record_asked: asked = event.legs; break;
    case Kind::floor: floor_txg = std::max(floor_txg, event.offset); break;
    case Kind::log_floor: floor_logs[event.leg] = {event.size, event.offset}; break;
    default: break;
  }
}

namespace {

class Life {
 public:
  explicit Life(const LifeOptions& options)
      : options_(options), plan_(options.plan), tape_(options.tape), history_(options.history), random_(options.seed) {}
  [[noreturn]] void run();

 private:
  [[noreturn]] void end(Outcome::End how);
  [[noreturn]] void wrong(std::string_view what);
  [[noreturn]] void refused(const Error& error, std::string_view what);

  Task<void> live();
  Task<void> create();
  Task<void> import();
  Task<void> open_volumes();
  Task<void> check();
  Task<void> load();
  Task<void> write_for_ever(std::uint64_t seed);
  Task<void> write_once(Random& random);
  Task<void> put(Random& random, unsigned v, std::uint64_t first, std::uint64_t count, bool zeroes);
  Task<void> keep_syncing();
  Task<void> keep_floor();
  void note_floor();
  Task<void> meet_trouble();
  Task<void> lose_power(unsigned observed_leg);
  Task<void> shrink(std::uint8_t legs);
  Task<void> bring_back(std::uint8_t legs);
  Task<void> export_pool();
  void on_leg_event(const zfs::LegEvent& event);

  zfs::LegSpec spec_of(unsigned leg, LegId guid);
  LegId guid_of(unsigned leg) const { return LegId{tape_.identity().leg_guids[leg]}; }
  std::vector<LegId> guids_of(std::uint8_t legs) const;
  std::uint8_t absent() const { return static_cast<std::uint8_t>(plan_.all_mask() & ~record_); }
  void set_record(std::uint8_t legs, std::uint64_t since) {
    record_ = legs;
    since_ = since;
    tape_.add({.kind = Event::Kind::record_is, .legs = legs, .offset = since});
  }
  bool busy() const { return boot_time_ns() < load_ends_ns_ && (operations_ < plan_.operations || troubles_ > 0); }

  const LifeOptions& options_;
  const Plan& plan_;
  Tape& tape_;
  History history_;
  Random random_;
  std::unique_ptr<block::Reactor> reactor_;
  std::unique_ptr<zfs::Engine> engine_;
  std::vector<std::unique_ptr<Drive>> drives_;
  std::unique_ptr<zfs::Pool> pool_;
  std::vector<std::unique_ptr<zfs::Volume>> volumes_;
  std::vector<std::vector<bool>> claimed_;  // sectors with a write under way
  std::uint8_t record_ = 0;
  std::uint64_t since_ = 0;
  bool importing_ = false, shrinking_ = false, paused_ = false;
  unsigned troubles_ = 0;  // under way
  unsigned operations_ = 0;
  Nanoseconds load_ends_ns_ = 0;
  block::TaskGroup tasks_;
};

void Life::end(Outcome::End how) {
  options_.outcome.end = how;
  ::_exit(0);
}

void Life::wrong(std::string_view what) {
  std::snprintf(options_.outcome.text, sizeof options_.outcome.text, "%.*s", static_cast<int>(what.size()),
                what.data());
  end(Outcome::End::wrong);
}

void Life::refused(const Error& error, std::string_view what) {
  if (options_.import && options_.import->may_refuse && error.code == ErrorCode::refused) {
    ++options_.outcome.refusals;
    end(Outcome::End::well);
  }
  wrong(fmt::format("{} was refused: {}", what, error.message));
}

void Life::run() {
  auto reactor = block::Reactor::create();
  if (!reactor) wrong(reactor.error().message);
  reactor_ = std::move(*reactor);
  zfs::EngineOptions engine_options{.config_folder = "/nowhere", .zfs_host_id = zfs_host_id};
  engine_options.arc_bytes = 64 << 20;
  engine_options.dirty_bytes = 16 << 20;
  engine_options.log_bytes = 16 << 20;
  engine_options.volume_threads = 6;
  engine_options.self_test = zfs::EngineOptions::SelfTest::skip;  // every gate test runs it
  auto engine = zfs::Engine::start(*reactor_, engine_options);
  if (!engine) wrong(engine.error().message);
  engine_ = std::move(*engine);
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    drives_.push_back(std::make_unique<Drive>(*reactor_, tape_, static_cast<std::uint8_t>(leg), *options_.images[leg],
                                              plan_.manners, random_.next()));
  }
  pool_ = std::make_unique<zfs::Pool>(
      *engine_, zfs::Pool::Options{"tank", [this](const zfs::LegEvent& event) { on_leg_event(event); }});
  reactor_->run_until_done(live());
  end(Outcome::End::well);
}

Task<void> Life::live() {
  if (options_.import) {
    co_await import();
    if (options_.returns == LifeOptions::Returns::before_volumes_open) {
      co_await bring_back(absent());
      co_await reactor_->after_ms(static_cast<std::int64_t>(random_.below(30)));
    }
    co_await open_volumes();
    co_await check();
  } else {
    co_await create();
    co_await open_volumes();
  }
  note_floor();
  tape_.add({.kind = Event::Kind::ready});
  options_.outcome.served = true;
  if (options_.goes_on) co_await load();
  if (!options_.export_to.empty()) co_await export_pool();
  end(Outcome::End::well);  // as a kill does: nothing is closed
}

// ---- the pool comes

zfs::LegSpec Life::spec_of(unsigned leg, LegId guid) {
  zfs::LegSpec spec{guid, leg % 2 == 0 ? NodeId::a : NodeId::b, drives_[leg].get(), leg_name(leg)};
  const bool on_a = !options_.import || (options_.import->legs & 1) != 0;  // the owner's node
  spec.place = on_a == (leg % 2 == 0) ? zfs::LegSpec::Place::local : zfs::LegSpec::Place::remote;
  return spec;
}

std::vector<LegId> Life::guids_of(std::uint8_t legs) const {
  std::vector<LegId> guids;
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    if ((legs >> leg & 1) != 0) guids.push_back(guid_of(leg));
  }
  return guids;
}

Task<void> Life::create() {
  zfs::CreateSpec spec;
  for (unsigned leg = 0; leg < plan_.legs(); leg += 2)
    spec.mirrors.push_back({{spec_of(leg, {}), spec_of(leg + 1, {})}, "normal"});
  auto layout = co_await pool_->create_pool(spec);
  if (!layout) wrong(layout.error().message);
  Identity& identity = tape_.identity();
  identity.pool_guid = layout->guid.value;
  for (unsigned leg = 0; leg < plan_.legs(); ++leg)
    identity.leg_guids[leg] = layout->mirrors[leg / 2].legs[leg % 2].guid.value;
  for (std::size_t i = 0; i < plan_.volumes.size(); ++i) {
    zfs::VolumeSpec volume{.name = fmt::format("v{}", i),
                           .size_bytes = plan_.volumes[i].size_bytes,
                           .block_size_bytes = plan_.volumes[i].block_size_bytes};
    auto made = co_await pool_->create_volume(volume);
    if (!made) wrong(made.error().message);
  }
  set_record(plan_.all_mask(), 0);
}

Task<void> Life::import() {
  const LifeOptions::Import& import = *options_.import;
  // Rule 3, at an import: `since` by the own legs' newest uberblock, before the swap; a lower one that the record knows stays.
  const std::uint64_t since = import.record.since != 0 ? import.record.since : UINT64_MAX;
  std::uint64_t newest = 0;
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    if ((import.legs >> leg & 1) == 0) continue;
    auto survey = co_await zfs::survey_labels(*drives_[leg]);
    if (!survey || !survey->has_value()) wrong(fmt::format("leg {} has no label", leg_name(leg)));
    newest = std::max(newest, (*survey)->best_uberblock_txg.value);
  }
  set_record(import.legs,
             import.legs == plan_.all_mask() ? 0 : std::min(since, newest + 1));  // rule 4: the swap comes first
  zfs::ImportSpec spec;
  spec.guid = PoolGuid{tape_.identity().pool_guid};
  spec.zfs_host_ids = {zfs_host_id};
  spec.floor_txg = Txg{import.record.floor_txg};
  for (const Record::Log& log : import.record.floor_logs) {
    if (log.volume_guid != 0) spec.floor_logs.push_back({log.volume_guid, log.sequence});
  }
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    if ((import.legs >> leg & 1) == 0) continue;
    spec.legs.push_back(spec_of(leg, guid_of(leg)));
    drives_[leg]->read_errors(import.read_errors_one_in);
  }
  importing_ = true;
  auto report = co_await pool_->import_pool(spec);
  importing_ = false;
  for (auto& drive : drives_) drive->read_errors(0);
  if (!report) refused(report.error(), "the import");
  options_.outcome.records_replayed = report->replayed_record_count;
}

Task<void> Life::open_volumes() {
  for (std::size_t i = 0; i < plan_.volumes.size(); ++i) {
    auto volume = co_await pool_->open_volume(fmt::format("v{}", i));
    if (!volume) refused(volume.error(), "a volume");
    volumes_.push_back(std::move(*volume));
    claimed_.emplace_back(history_.volumes()[i].sectors.size(), false);
  }
}

Task<void> Life::check() {
  Outcome& outcome = options_.outcome;
  Buffer buffer = buffer_of(read_bytes);
  for (unsigned v = 0; v < volumes_.size(); ++v) {
    const History::Volume& known = history_.volumes()[v];
    if (volumes_[v]->geometry().size_bytes < known.least_bytes) {
      wrong(fmt::format("volume v{} has {} bytes, its client was told of {}", v, volumes_[v]->geometry().size_bytes,
                        known.least_bytes));
    }
    const std::uint64_t size = known.sectors.size() * sector_bytes;
    for (std::uint64_t at = 0; at < size; at += read_bytes) {
      std::span<std::byte> into(buffer.get(), std::min<std::uint64_t>(read_bytes, size - at));
      auto outcome_of_read = co_await block::read(*volumes_[v], at, into);
      if (!outcome_of_read.ok())
        wrong(fmt::format("volume v{}, {} bytes at {} cannot be read: {}", v, into.size(), at,
                          block::name_of(outcome_of_read.status)));
      auto settled = [this, v](std::uint64_t sector, std::uint32_t sequence, bool zeroes) {
        tape_.add({.kind = Event::Kind::found,
                   .leg = static_cast<std::uint8_t>(v),
                   .flag = zeroes,
                   .io = sequence,
                   .offset = sector,
                   .size = 1});
      };
      for (const Finding& finding : history_.check(v, at / sector_bytes, into, settled)) {
        if (outcome.finding_count < Outcome::findings_most) outcome.findings[outcome.finding_count] = finding;
        ++outcome.finding_count;
      }
      outcome.sectors_checked += into.size() / sector_bytes;
    }
  }
  if (outcome.finding_count > 0) end(Outcome::End::wrong);
}

// ---- the load

Task<void> Life::load() {
  load_ends_ns_ = boot_time_ns() + longest_load_ns;
  block::TaskGroup writers;
  ++troubles_;
  tasks_.spawn(meet_trouble());
  tasks_.spawn(keep_floor());
  tasks_.spawn(keep_syncing());
  for (unsigned i = 0; i < plan_.writers; ++i) writers.spawn(write_for_ever(random_.next()));
  co_await writers.close();
  co_await tasks_.close();
}

Task<void> Life::write_for_ever(std::uint64_t seed) {
  Random random(seed);
  while (busy()) {
    if (plan_.pause_ms_most > 0 && random.one_in(4)) {
      co_await reactor_->after_ms(static_cast<std::int64_t>(random.below(plan_.pause_ms_most + 1)));
    }
    if (paused_) {
      co_await reactor_->after_ms(1);
    } else {
      co_await write_once(random);
    }
  }
}

Task<void> Life::write_once(Random& random) {
  auto v = static_cast<unsigned>(random.below(volumes_.size()));
  if (v + 1 == volumes_.size() && !random.one_in(plan_.quiet_one_in)) v = 0;
  const std::uint64_t sectors = claimed_[v].size();
  const bool zeroes = random.below(100) < plan_.zeroes_percent;
  std::uint64_t count, first;
  if (zeroes || random.below(100) < plan_.large_percent) {
    count = 8ULL << random.below(6);
    first = random.below(sectors / count) * count;
  } else {
    count = 1 + random.below(random.one_in(3) ? 64 : 8);
    first = random.below(sectors - count + 1);
  }
  if (random.one_in(2)) first %= std::max(sectors / 8, count);  // a hot place
  first = std::min(first, sectors - count);
  auto begin = claimed_[v].begin() + static_cast<std::ptrdiff_t>(first);
  auto end = begin + static_cast<std::ptrdiff_t>(count);
  if (std::find(begin, end, true) != end) {
    co_await reactor_->yield();
    co_return;
  }
  std::fill(begin, end, true);
  co_await put(random, v, first, count, zeroes);
  if (zeroes && random.one_in(2)) {  // new blocks where a free may not have synced, then a part of one of them
    co_await reactor_->after_ms(static_cast<std::int64_t>(random.below(plan_.sync_ms)));
    co_await put(random, v, first, count, false);
    const std::uint64_t part = 1 + random.below(8);
    co_await put(random, v, first + random.below(count - part + 1), part, false);
  }
  std::fill(begin, end, false);
}

// One write, or zeroes, of sectors that the caller has claimed.
Task<void> Life::put(Random& random, unsigned v, std::uint64_t first, std::uint64_t count, bool zeroes) {
  ++operations_;
  Event event{.kind = Event::Kind::issued,
              .leg = static_cast<std::uint8_t>(v),
              .flag = zeroes,
              .io = history_.volumes()[v].last_sequence + 1,
              .offset = first,
              .size = count};
  history_.note(event);
  Buffer buffer = buffer_of(count * sector_bytes);
  std::span<std::byte> bytes(buffer.get(), count * sector_bytes);
  for (std::uint64_t i = 0; i < count && !zeroes; ++i)
    fill_sector(bytes.subspan(i * sector_bytes, sector_bytes), v, first + i, event.io);
  tape_.add(event);
  block::Op::Outcome outcome{block::IoStatus::ok, {}};
  if (!zeroes) {
    outcome = co_await block::write(*volumes_[v], first * sector_bytes, bytes);
  } else if (random.one_in(2)) {
    outcome = co_await block::trim(*volumes_[v], first * sector_bytes, bytes.size());
  } else {
    outcome = co_await block::write_zeroes(*volumes_[v], first * sector_bytes, bytes.size());
  }
  if (!outcome.ok())
    wrong(fmt::format("a write of volume v{} was answered with {}", v, block::name_of(outcome.status)));
  event.kind = Event::Kind::answered;
  tape_.add(event);
  history_.note(event);
  ++options_.outcome.answers;
}

// Snapshots and larger volumes: each makes a txg sync.
Task<void> Life::keep_syncing() {
  Random random(random_.next());
  unsigned taken = 0, kept = 0;
  const std::uint64_t name = random.next() % 1000000;
  while (busy()) {
    co_await reactor_->after_ms(static_cast<std::int64_t>(1 + random.below(plan_.sync_ms * 2)));
    const auto v = static_cast<unsigned>(random.below(volumes_.size()));
    Result<void> done;
    if (random.one_in(6)) {
      const std::uint64_t size = volumes_[v]->geometry().size_bytes + plan_.volumes[v].block_size_bytes;
      auto resized = co_await pool_->resize_volume(fmt::format("v{}", v), size);
      if (!resized && resized.error().code != ErrorCode::no_space) wrong(resized.error().message);
      if (resized) tape_.add({.kind = Event::Kind::grew, .leg = static_cast<std::uint8_t>(v), .size = size});
    } else if (taken - kept < 3) {
      done = co_await pool_->snapshot_volume("v0", fmt::format("s{}-{}", name, taken++));
    } else {
      done = co_await pool_->destroy_snapshot("v0", fmt::format("s{}-{}", name, kept++));
    }
    if (!done && done.error().code != ErrorCode::no_space) wrong(done.error().message);
  }
}

Task<void> Life::keep_floor() {
  while (busy()) {
    co_await reactor_->after_ms(5);
    note_floor();
  }
}

void Life::note_floor() {
  tape_.add({.kind = Event::Kind::floor, .offset = pool_->last_synced_txg().value});
  for (std::size_t v = 0; v < volumes_.size(); ++v) {
    const zfs::VolumeLog log = volumes_[v]->log();
    tape_.add({.kind = Event::Kind::log_floor,
               .leg = static_cast<std::uint8_t>(v),
               .offset = log.sequence,
               .size = log.volume_guid});
  }
}

// ---- a side goes and comes back

void Life::on_leg_event(const zfs::LegEvent& event) {
  tape_.note(event.text);
  if (!event.held) return;
  if (importing_) {
    reactor_->call_at(boot_time_ns() + ns_per_ms, [this, leg = event.leg] { pool_->retry_held(leg); });
    return;
  }
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    const std::uint8_t side = plan_.side_mask(leg % 2);
    if (guid_of(leg) == event.leg && (record_ & side) == side && !shrinking_) {
      shrinking_ = true;
      tasks_.spawn(shrink(side));
    }
  }
}

// Rule 3: off the record first, then failed.
Task<void> Life::shrink(std::uint8_t legs) {
  shrinking_ = true;
  ++troubles_;
  const auto left = static_cast<std::uint8_t>(record_ & ~legs);
  std::uint64_t since = UINT64_MAX;
  for (LegId guid : guids_of(legs)) since = std::min(since, pool_->leg_health(guid).newest_flushed_txg.value + 1);
  const auto fail_them = [](Life& self, std::uint8_t all_left, std::uint8_t failing) -> Task<void> {
    self.pool_->set_ack_set(self.guids_of(all_left));
    auto failed = co_await self.pool_->fail_legs(self.guids_of(failing));
    if (!failed) self.tape_.note(failed.error().message);
  };
  if (options_.play == Play::fail_before_swap) co_await fail_them(*this, left, legs);
  tape_.add({.kind = Event::Kind::record_asked, .legs = left});
  co_await reactor_->after_ms(static_cast<std::int64_t>(random_.below(12)));
  set_record(left, since);
  if (options_.play != Play::fail_before_swap) co_await fail_them(*this, left, legs);
  ++options_.outcome.shrinks;
  --troubles_;
  shrinking_ = false;
}

// Rule 8.
Task<void> Life::bring_back(std::uint8_t legs) {
  if (legs == 0) co_return;
  ++troubles_;
  for (LegId guid : guids_of(legs)) {
    while (pool_->in_flight_count(guid) != 0) co_await reactor_->after_ms(1);
  }
  bool accepted = false;
  for (int attempt = 0; attempt < 4 && !accepted; ++attempt) {
    std::vector<zfs::LegSpec> specs;
    for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
      if ((legs >> leg & 1) != 0) specs.push_back(spec_of(leg, guid_of(leg)));
    }
    auto outcome = co_await pool_->bring_back(std::move(specs), Txg{since_});
    if (!outcome) wrong(outcome.error().message);
    accepted = outcome->accepted;
    if (accepted) break;
    tape_.note(outcome->why_not);
    auto failed = co_await pool_->fail_legs(guids_of(legs));
    if (!failed) tape_.note(failed.error().message);
  }
  if (accepted) {
    const auto all = static_cast<std::uint8_t>(record_ | legs);
    pool_->set_ack_set(guids_of(all));
    tape_.add({.kind = Event::Kind::record_asked, .legs = all});
    co_await reactor_->after_ms(static_cast<std::int64_t>(random_.below(12)));
    set_record(all, 0);
    ++options_.outcome.grows;
  }
  --troubles_;
}

// At any moment, or where ZFS notes no failed write: when all of a txg is written and not yet flushed.
Task<void> Life::lose_power(unsigned observed_leg) {
  bool lost = false;
  if (random_.below(3) != 0) {
    // With the clients quiet the next great flush is a txg's.
    paused_ = random_.below(3) != 0;
    if (paused_) co_await reactor_->after_ms(10);
    drives_[observed_leg]->at_great_flush([this, &lost] {
      lost = true;
      for (unsigned leg = plan_.trouble_side; leg < plan_.legs(); leg += 2)
        drives_[leg]->lose_power(Leave{Leave::Style::nothing, 0});
    });
    const Nanoseconds give_up_ns = boot_time_ns() + ns_per_s / 2;
    while (!lost && boot_time_ns() < give_up_ns) co_await reactor_->after_ms(1);
    paused_ = false;
    drives_[observed_leg]->at_great_flush(nullptr);
  }
  for (unsigned leg = plan_.trouble_side; leg < plan_.legs() && !lost; leg += 2)
    drives_[leg]->lose_power(Leave::any(random_));
}

Task<void> Life::meet_trouble() {
  if (absent() != 0) {
    co_await reactor_->after_ms(static_cast<std::int64_t>(random_.below(60)));
    if (options_.returns == LifeOptions::Returns::under_load) co_await bring_back(absent());
  } else if (plan_.trouble != Trouble::none) {
    const std::uint8_t side = plan_.side_mask(plan_.trouble_side);
    while (operations_ < plan_.operations / 4) co_await reactor_->after_ms(1);
    const unsigned one = plan_.trouble_side + 2 * static_cast<unsigned>(random_.below(plan_.mirrors));
    switch (plan_.trouble) {
      case Trouble::power:
        co_await lose_power(one);
        co_await reactor_->after_ms(static_cast<std::int64_t>(5 + random_.below(20)));
        shrinking_ = true;
        co_await shrink(side);
        break;
      case Trouble::write_errors: drives_[one]->fail_writes(true); break;
      case Trouble::flush_errors: drives_[one]->fail_flushes(true); break;
      case Trouble::lost_cache: drives_[one]->lose_cache_at_next_flush(Leave::any(random_)); break;
      default: break;
    }
    const Nanoseconds give_up_ns = boot_time_ns() + ns_per_s / 2;  // the trouble may meet no command that minds it
    while ((record_ & side) != 0 && boot_time_ns() < give_up_ns) co_await reactor_->after_ms(1);
    co_await reactor_->after_ms(static_cast<std::int64_t>(random_.below(100)));
    if ((record_ & side) == 0) {
      for (unsigned leg = plan_.trouble_side; leg < plan_.legs(); leg += 2) {
        if (drives_[leg]->powered() && random_.one_in(2)) drives_[leg]->lose_power(Leave::any(random_));
        drives_[leg]->power_on();
      }
      if (!plan_.stays_away) co_await bring_back(side);
    }
  }
  --troubles_;
}

// ---- the end

Task<void> Life::export_pool() {
  for (auto& volume : volumes_) co_await volume->close();
  auto exported = co_await pool_->export_pool();
  if (!exported) wrong(exported.error().message);
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    if ((record_ >> leg & 1) == 0) continue;
    auto saved = options_.images[leg]->save(options_.export_to + "/" + leg_name(leg));
    if (!saved) wrong(saved.error().message);
  }
}

}  // namespace

void live(const LifeOptions& options) { Life(options).run(); }

}  // namespace zpair::crash
