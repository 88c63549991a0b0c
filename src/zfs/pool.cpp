#include "zfs/pool.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>

#include "base/assert.h"
#include "base/log.h"
#include "zfs/engine_internal.h"
#include "zfs/leg_driver_internal.h"
#include "zfs/mutation.h"
#include "zfs/volume_internal.h"

namespace zpair::zfs {

using block::Task;

namespace {

constexpr std::uint64_t least_leg_bytes = 64ULL << 20;
constexpr std::size_t leaves_most = 1024;

ErrorCode code_of(int error) {
  switch (error) {
    case ENOENT:
    case ENODEV: return ErrorCode::not_found;
    case EEXIST: return ErrorCode::exists;
    case EINVAL:
    case ENOTBLK:
    case EOVERFLOW:
    case ENAMETOOLONG: return ErrorCode::invalid;
    case EPERM:
    case EBUSY:
    case ENXIO: return ErrorCode::refused;
    case ENOSPC:
    case EDQUOT: return ErrorCode::no_space;
    case ENOTSUP: return ErrorCode::unsupported;
    case EIO: return ErrorCode::io;
    default: return ErrorCode::internal;
  }
}

// What a call of the C side left: its error number and its words.
struct Outcome {
  int error = 0;
  zp_why why{};
  Result<void> result() const {
    if (error == 0) return {};
    return fail(code_of(error), "{}", why.text);
  }
};

LegState state_of(int vdev_state, int offline) {
  if (offline != 0) return LegState::offline;
  switch (vdev_state) {   // OpenZFS's vdev_state_t
    case 1: return LegState::closed;
    case 2: return LegState::offline;
    case 3: return LegState::removed;
    case 4: return LegState::cannot_open;
    case 5: return LegState::faulted;
    case 6: return LegState::degraded;
    case 7: return LegState::healthy;
    default: return LegState::unknown;
  }
}

ScanStatus scan_of(const zp_pool_stats& stats) {
  ScanStatus scan;
  scan.kind = static_cast<ScanStatus::Kind>(stats.scan_kind);
  scan.state = static_cast<ScanStatus::State>(stats.scan_state);
  scan.done_bytes = stats.scan_done_bytes;
  scan.total_bytes = stats.scan_total_bytes;
  scan.repaired_bytes = stats.scan_repaired_bytes;
  scan.error_count = stats.scan_errors;
  if (scan.state == ScanStatus::State::finished) {
    scan.percent = 100;
  } else if (scan.total_bytes > 0) {
    scan.percent = 100.0 * static_cast<double>(scan.done_bytes) / static_cast<double>(scan.total_bytes);
  }
  return scan;
}

double seconds_since(Nanoseconds begin_ns) { return static_cast<double>(boot_time_ns() - begin_ns) / ns_per_s; }

bool is_power_of_two(std::uint64_t number) { return number != 0 && (number & (number - 1)) == 0; }

// As `zfs create -V` has it: a client would not find the size that it asked for.
Result<void> check_size(std::string_view volume, std::uint64_t size_bytes, std::uint32_t block_size_bytes) {
  if (size_bytes % block_size_bytes == 0) return {};
  return fail(ErrorCode::refused, "volume {} cannot have {} bytes: its size is a multiple of its block size, {} bytes (the next one is {})",
              volume, size_bytes, block_size_bytes, (size_bytes / block_size_bytes + 1) * block_size_bytes);
}

Result<void> check_name(std::string_view kind, std::string_view name) {
  bool good = !name.empty() && name.size() <= 100 && std::isalnum(static_cast<unsigned char>(name[0])) != 0;
  for (char letter : name) {
    good = good && (std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '-' || letter == '_' || letter == '.');
  }
  if (!good) {
    return fail(ErrorCode::invalid, "{} is no name for a {}: letters, digits, - _ . and a letter or digit first", name, kind);
  }
  return {};
}

// The C form of mirrors, with the strings that it points to.
struct PlainMirrors {
  std::vector<std::string> paths;
  std::vector<std::vector<zp_leg_spec>> legs;
  std::vector<zp_mirror_spec> mirrors;

  PlainMirrors(const LegDriver& driver, const std::vector<MirrorSpec>& specs) {
    for (const MirrorSpec& spec : specs) {
      for (const LegSpec& leg : spec.legs) paths.push_back(driver.path_of(leg));
    }
    std::size_t path = 0;
    for (const MirrorSpec& spec : specs) {
      auto& own = legs.emplace_back();
      for (std::size_t i = 0; i < spec.legs.size(); ++i) own.push_back(zp_leg_spec{paths[path++].c_str()});
    }
    for (std::size_t i = 0; i < specs.size(); ++i) {
      mirrors.push_back(zp_mirror_spec{specs[i].vdev_class.c_str(), legs[i].data(), static_cast<int>(legs[i].size())});
    }
  }
  int count() const { return static_cast<int>(mirrors.size()); }
};

Result<void> check_mirrors(const std::vector<MirrorSpec>& mirrors) {
  if (mirrors.empty()) return fail(ErrorCode::invalid, "a pool needs a mirror");
  std::set<std::pair<NodeId, std::string>> names;
  for (const MirrorSpec& mirror : mirrors) {
    if (mirror.legs.size() < 2) return fail(ErrorCode::invalid, "a mirror needs two legs, this one has {}", mirror.legs.size());
    if (mirror.vdev_class != "normal" && mirror.vdev_class != "log" && mirror.vdev_class != "special" && mirror.vdev_class != "dedup") {
      return fail(ErrorCode::invalid, "{} is no class of a mirror: normal, log, special or dedup", mirror.vdev_class);
    }
    for (const LegSpec& leg : mirror.legs) {
      ZP_CHECK(check_name("leg", leg.name));
      if (!names.emplace(leg.node, leg.name).second) {
        return fail(ErrorCode::invalid, "drive {} of node {} is named twice", leg.name, leg.node);
      }
      if (leg.device->geometry().size_bytes < least_leg_bytes) {
        return fail(ErrorCode::invalid, "drive {} has {} bytes, a leg needs at least {}", leg.name, leg.device->geometry().size_bytes,
                    least_leg_bytes);
      }
      if (leg.device->geometry().block_size_bytes > 4096) {
        return fail(ErrorCode::invalid, "drive {} has blocks of {} bytes, a leg's are at most 4096", leg.name,
                    leg.device->geometry().block_size_bytes);
      }
    }
  }
  return {};
}

// Before OpenZFS depends on a new drive: it takes a write and a flush. The first 8 KiB of a leg are never used by OpenZFS.
Task<Result<void>> prove_writable(const LegSpec& leg) {
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  constexpr std::size_t size = 4096;
  std::unique_ptr<std::byte, Free> zeroes(static_cast<std::byte*>(std::aligned_alloc(size, size)));
  std::memset(zeroes.get(), 0, size);
  std::span<const std::byte> bytes(zeroes.get(), size);
  auto written = co_await block::write(*leg.device, 0, bytes);
  if (!written.ok()) co_return fail(ErrorCode::io, "drive {} fails a write: nothing was changed", leg.name);
  auto flushed = co_await block::flush(*leg.device);
  if (!flushed.ok()) co_return fail(ErrorCode::io, "drive {} fails a flush: nothing was changed", leg.name);
  co_return Result<void>{};
}

std::vector<LegId> legs_of(const PoolLayout& layout) {
  std::vector<LegId> legs;
  for (const MirrorLayout& mirror : layout.mirrors) {
    for (const LegLayout& leg : mirror.legs) legs.push_back(leg.guid);
  }
  return legs;
}

std::vector<std::uint64_t> numbers_of(const std::vector<LegId>& legs) {
  std::vector<std::uint64_t> numbers;
  for (LegId leg : legs) numbers.push_back(leg.value);
  return numbers;
}

}  // namespace

std::string_view name_of(LegState state) {
  switch (state) {
    case LegState::healthy: return "ONLINE";
    case LegState::degraded: return "DEGRADED";
    case LegState::offline: return "OFFLINE";
    case LegState::removed: return "REMOVED";
    case LegState::faulted: return "FAULTED";
    case LegState::cannot_open: return "UNAVAIL";
    case LegState::closed: return "CLOSED";
    case LegState::unknown: return "UNKNOWN";
  }
  return "?";
}

struct Pool::Handle {
  zp_pool* pool = nullptr;
  std::map<std::string, Volume::State*> open_volumes;      // owned by their Volumes
  std::map<std::string, zp_volume*> replayed;              // opened by the import, not asked for yet
  std::map<std::string, std::uint64_t> floor_sequences;    // of volumes that are not open yet
  std::mutex progress_mutex;
  zp_pool_stats progress{};                                // written by the thread that waits for a scan

  static void note_progress(void* context, const zp_pool_stats* stats) {
    auto* self = static_cast<Handle*>(context);
    std::lock_guard lock(self->progress_mutex);
    self->progress = *stats;
  }
};

Pool::Pool(Engine& engine, Options options)
    : engine_(engine),
      options_(std::move(options)),
      driver_(std::make_unique<LegDriver>(engine.reactor(), options_.name, options_.on_leg_event)),
      handle_(std::make_unique<Handle>()) {}

Pool::~Pool() {
  ZP_ASSERT(handle_->pool == nullptr, "a pool is exported or destroyed before it ends");
  ZP_ASSERT(driver_->in_flight_count() == 0, "no device has a command of the pool any more");
}

bool Pool::is_open() const { return handle_->pool != nullptr; }

// ---- a pool's life

Task<Result<void>> Pool::learn_layout() {
  zp_pool* pool = handle_->pool;
  auto ask = [pool] {
    std::vector<zp_leaf> leaves(leaves_most);
    int count = zp_pool_leaves(pool, leaves.data(), static_cast<int>(leaves.size()));
    leaves.resize(std::min<std::size_t>(static_cast<std::size_t>(count), leaves.size()));
    return leaves;
  };
  auto leaves = co_await engine_.blocking(ask);
  auto ask_stats = [pool] {
    zp_pool_stats stats;
    zp_pool_look(pool, &stats);
    return stats;
  };
  auto stats = co_await engine_.blocking(ask_stats);
  PoolLayout layout;
  layout.guid = PoolGuid{stats.guid};
  for (const zp_leaf& leaf : leaves) {
    MirrorId mirror{leaf.mirror_guid};
    if (layout.mirrors.empty() || layout.mirrors.back().guid != mirror) layout.mirrors.push_back(MirrorLayout{mirror, {}});
    layout.mirrors.back().legs.push_back(LegLayout{LegId{leaf.guid}, LegDriver::name_in_path(leaf.path)});
    driver_->learn(leaf.path, LegId{leaf.guid}, mirror);
  }
  layout_ = std::move(layout);
  co_return Result<void>{};
}

Task<Result<PoolLayout>> Pool::create_pool(CreateSpec spec) {
  ZP_ASSERT(handle_->pool == nullptr, "a Pool is one pool");
  ZP_CO_CHECK(check_name("pool", options_.name));
  ZP_CO_CHECK(check_mirrors(spec.mirrors));
  for (const MirrorSpec& mirror : spec.mirrors) {
    for (const LegSpec& leg : mirror.legs) ZP_CO_CHECK(co_await prove_writable(leg));
  }
  for (const MirrorSpec& mirror : spec.mirrors) {
    for (const LegSpec& leg : mirror.legs) driver_->offer(leg);
  }
  // Until all is written no leg is in the ack set, so that a bad drive ends the creation instead of holding it.
  PlainMirrors plain(*driver_, spec.mirrors);
  struct Made : Outcome {
    zp_pool* pool = nullptr;
  };
  auto create = [&] {
    Made made;
    made.error = zp_pool_create(options_.name.c_str(), plain.mirrors.data(), plain.count(), spec.compression.c_str(), &made.pool,
                                &made.why);
    return made;
  };
  Made made = co_await engine_.blocking(create);
  if (made.error != 0) {
    for (const std::string& path : plain.paths) driver_->forget_path(path);
    co_return std::unexpected(made.result().error());
  }
  handle_->pool = made.pool;
  driver_->set_pool(made.pool);
  ZP_CO_CHECK(co_await learn_layout());
  driver_->set_ack_set(legs_of(layout_));
  auto synced = [pool = made.pool] {
    zp_pool_wait_synced(pool);
    return true;
  };
  co_await engine_.blocking(synced);
  for (LegId leg : legs_of(layout_)) {
    bool flushed = co_await driver_->flush_all(leg);
    if (flushed) continue;
    std::string name = driver_->find(leg) != nullptr ? driver_->find(leg)->name : "?";
    driver_->set_ack_set({});
    Result<void> destroyed = co_await destroy_pool();
    if (!destroyed) log_warning("pool {}: {}", options_.name, destroyed.error().message);
    co_return fail(ErrorCode::io, "drive {} failed a write while the pool was created on it: nothing was created", name);
  }
  co_return layout_;
}

namespace {

// The labels of one device: what they say, and the C form for an import.
struct ReadLabels {
  zp_label label{};
  bool found = false;
  ReadLabels() = default;
  ReadLabels(const ReadLabels&) = delete;
  ReadLabels& operator=(const ReadLabels&) = delete;
  ~ReadLabels() {
    if (found) zp_label_free(&label);
  }
};

Task<Result<std::unique_ptr<ReadLabels>>> read_labels(block::BlockDevice& device) {
  constexpr std::uint64_t label_bytes = ZP_LABEL_SIZE;
  constexpr std::uint64_t pair_bytes = 2 * label_bytes;
  auto read = std::make_unique<ReadLabels>();
  std::uint64_t size = device.geometry().size_bytes / label_bytes * label_bytes;
  if (size < 4 * label_bytes) co_return read;
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes(static_cast<std::byte*>(std::aligned_alloc(4096, 2 * pair_bytes)));
  const void* labels[4] = {};
  bool any = false;
  for (int pair = 0; pair < 2; ++pair) {
    std::span<std::byte> into(bytes.get() + static_cast<std::size_t>(pair) * pair_bytes, pair_bytes);
    std::uint64_t offset = pair == 0 ? 0 : size - pair_bytes;
    auto outcome = co_await block::read(device, offset, into);
    if (outcome.status == block::IoStatus::fenced) co_return fail(ErrorCode::fenced, "a newer epoch holds the drive");
    if (!outcome.ok()) continue;
    any = true;
    labels[pair * 2] = into.data();
    labels[pair * 2 + 1] = into.data() + label_bytes;
  }
  if (!any) co_return fail(ErrorCode::io, "cannot read any label of the drive");
  read->found = zp_label_parse(labels, device.geometry().size_bytes, &read->label) == 0;
  co_return read;
}

LabelSurvey survey_of(const zp_label& label) {
  LabelSurvey survey;
  survey.pool_name = label.pool_name;
  survey.pool_guid = PoolGuid{label.pool_guid};
  survey.leg_guid = LegId{label.leg_guid};
  survey.mirror_guid = MirrorId{label.mirror_guid};
  survey.label_txg = Txg{label.label_txg};
  survey.pool_state = label.pool_state;
  survey.zfs_host_id = label.zfs_host_id;
  survey.best_uberblock_txg = Txg{label.best_uberblock_txg};
  for (int i = 0; i < label.uberblock_count; ++i) survey.uberblock_txgs.push_back(Txg{label.uberblock_txgs[i]});
  return survey;
}

}  // namespace

Task<Result<std::optional<LabelSurvey>>> survey_labels(block::BlockDevice& device) {
  ZP_CO_TRY(read, co_await read_labels(device));
  if (!read->found) co_return std::optional<LabelSurvey>{};
  co_return std::optional<LabelSurvey>(survey_of(read->label));
}

Task<Result<ImportReport>> Pool::import_pool(ImportSpec spec) {
  ZP_ASSERT(handle_->pool == nullptr, "a Pool is one pool");
  ImportReport report;
  Nanoseconds begin_ns = boot_time_ns();

  // The labels of all legs, side by side.
  std::vector<std::unique_ptr<ReadLabels>> labels(spec.legs.size());
  std::optional<Error> unreadable;
  block::TaskGroup group;
  for (std::size_t i = 0; i < spec.legs.size(); ++i) {
    auto read_one = [](const LegSpec& leg, std::unique_ptr<ReadLabels>& into, std::optional<Error>& error) -> Task<void> {
      auto read = co_await read_labels(*leg.device);
      if (read) {
        into = std::move(*read);
      } else {
        error = Error{read.error().code, fmt::format("leg {} ({}): {}", leg.guid, leg.name, read.error().message)};
      }
    };
    group.spawn(read_one(spec.legs[i], labels[i], unreadable));
  }
  co_await group.close();
  if (unreadable) co_return std::unexpected(*unreadable);

  // Rule 7: exactly these legs, at or above the floor, written by one of our nodes.
  std::uint64_t best_txg = 0;
  std::uint32_t best_host_id = 0;
  std::uint64_t newest_label_txg = 0;
  std::vector<zp_label*> plain;
  for (std::size_t i = 0; i < spec.legs.size(); ++i) {
    const LegSpec& leg = spec.legs[i];
    if (!labels[i]->found) co_return fail(ErrorCode::refused, "drive {} should be leg {}, but carries no pool", leg.name, leg.guid);
    zp_label& label = labels[i]->label;
    if (label.pool_guid != spec.guid.value || label.leg_guid != leg.guid.value) {
      co_return fail(ErrorCode::refused, "drive {} should be leg {} of pool {}, but its label says leg {} of pool {} ({})", leg.name,
                     leg.guid, spec.guid, label.leg_guid, label.pool_guid, label.pool_name);
    }
    best_txg = std::max(best_txg, label.best_uberblock_txg);
    if (label.label_txg >= newest_label_txg) {
      newest_label_txg = label.label_txg;
      best_host_id = label.zfs_host_id;
    }
    plain.push_back(&label);
  }
  if (plain.empty()) co_return fail(ErrorCode::refused, "an import needs legs");
  if (std::ranges::find(spec.zfs_host_ids, best_host_id) == spec.zfs_host_ids.end()) {
    co_return fail(ErrorCode::refused, "pool {} was last used under ZFS host id {:#x}, which is none of our nodes: used outside zpair",
                   options_.name, best_host_id);
  }
  if (best_txg < spec.floor_txg.value && !zp_mutated(ZP_FLOOR_IGNORED)) {
    if (spec.floor == ImportSpec::Floor::enforce) {
      co_return fail(ErrorCode::refused, "the newest uberblock of pool {} in reach is of txg {}, but txg {} is known to have synced",
                     options_.name, best_txg, spec.floor_txg);
    }
    log_warning("pool {}: importing txg {} below the floor {}, as an operator asked", options_.name, best_txg, spec.floor_txg);
  }
  report.label_seconds = seconds_since(begin_ns);

  begin_ns = boot_time_ns();
  std::vector<LegId> named;
  for (std::size_t i = 0; i < spec.legs.size(); ++i) {
    Leg& leg = driver_->offer(spec.legs[i]);
    leg.mirror = MirrorId{labels[i]->label.mirror_guid};
    named.push_back(spec.legs[i].guid);
  }
  driver_->set_ack_set(named);
  driver_->set_importing(true);
  struct Imported : Outcome {
    zp_pool* pool = nullptr;
    std::uint64_t uberblock_txg = 0;
  };
  auto import = [&] {
    Imported imported;
    imported.error = zp_pool_import(options_.name.c_str(), plain.data(), static_cast<int>(plain.size()), &imported.pool,
                                    &imported.uberblock_txg, &imported.why);
    return imported;
  };
  Imported imported = co_await engine_.blocking(import);
  if (imported.error != 0) {
    driver_->set_importing(false);
    driver_->set_ack_set({});
    for (LegId leg : named) driver_->forget(leg);
    co_return std::unexpected(imported.result().error());
  }
  handle_->pool = imported.pool;
  driver_->set_pool(imported.pool);
  report.uberblock_txg = Txg{imported.uberblock_txg};
  if (imported.uberblock_txg < best_txg) {
    // OpenZFS took an older one than a label shows (unreadable?), and has written since: not ours to serve.
    zp_die("rule 7: pool %s was imported at txg %llu, but a leg has an uberblock of txg %llu", options_.name.c_str(),
           static_cast<unsigned long long>(imported.uberblock_txg), static_cast<unsigned long long>(best_txg));
  }
  // An uberblock is written after its txg was flushed on all legs that were in sync: these are.
  driver_->start_flushed_at(Txg{imported.uberblock_txg - 1});
  ZP_CO_CHECK(co_await learn_layout());
  report.import_seconds = seconds_since(begin_ns);

  // Every log, side by side.
  begin_ns = boot_time_ns();
  if (spec.floor == ImportSpec::Floor::enforce) {
    auto volumes = co_await list_volumes();
    if (volumes) {
      for (const VolumeInfo& volume : *volumes) {
        for (const VolumeLog& log : spec.floor_logs) {
          if (log.volume_guid == volume.guid) handle_->floor_sequences[volume.name] = log.sequence;
        }
      }
    }
  }
  zp_pool* pool = handle_->pool;
  auto find_live = [pool] {
    std::vector<std::string> names;
    auto found = [](void* context, const char* name) {
      zp_volume_info info;
      zp_why why;
      if (std::strchr(name, '@') == nullptr && zp_volume_look(name, &info, &why) == 0 && info.log_is_live) {
        static_cast<std::vector<std::string>*>(context)->push_back(name);
      }
      return 0;
    };
    zp_volumes_each(pool, found, &names);
    return names;
  };
  std::vector<std::string> live = co_await engine_.blocking(find_live);
  if (zp_mutated(ZP_LOGS_NOT_REPLAYED)) live.clear();
  std::optional<Error> refused;
  block::TaskGroup replays;
  for (const std::string& name : live) {
    auto replay_one = [](Pool& self, std::string full_name, ImportReport& into, std::optional<Error>& error) -> Task<void> {
      std::string short_name = full_name.substr(self.options_.name.size() + 1);
      std::uint64_t floor = self.handle_->floor_sequences[short_name];
      struct Opened : Outcome {
        zp_volume* volume = nullptr;
        std::uint64_t replayed_count = 0;
      };
      zp_pool* its_pool = self.handle_->pool;
      auto open = [&full_name, floor, its_pool] {
        Opened opened;
        opened.error = zp_volume_open(its_pool, full_name.c_str(), floor, &opened.volume, &opened.replayed_count, &opened.why);
        return opened;
      };
      Opened opened = co_await self.engine_.blocking(open);
      if (opened.error != 0) {
        error = opened.result().error();
        co_return;
      }
      self.handle_->replayed[short_name] = opened.volume;
      if (opened.replayed_count > 0) ++into.replayed_volume_count;
      into.replayed_record_count += opened.replayed_count;
    };
    replays.spawn(replay_one(*this, name, report, refused));
  }
  co_await replays.close();
  if (refused) {
    for (auto& [name, volume] : handle_->replayed) {
      auto close = [handle = volume] {
        zp_volume_close(handle);
        return true;
      };
      co_await engine_.blocking(close);
    }
    handle_->replayed.clear();
    driver_->set_importing(false);
    Result<void> exported = co_await export_pool();
    if (!exported) log_warning("pool {}: {}", options_.name, exported.error().message);
    co_return std::unexpected(*refused);
  }
  auto synced = [pool] {
    zp_pool_wait_synced(pool);
    return true;
  };
  co_await engine_.blocking(synced);
  report.replay_seconds = seconds_since(begin_ns);

  // What was not named, or failed meanwhile, is persistently offline from here on.
  begin_ns = boot_time_ns();
  std::vector<LegId> offline;
  for (LegId leg : legs_of(layout_)) {
    Leg* known = driver_->find(leg);
    if (known == nullptr || known->failed) {
      offline.push_back(leg);
      report.absent_legs.push_back(leg);
    }
  }
  if (!offline.empty()) {
    auto go_offline = [pool, guids = numbers_of(offline)] {
      Outcome outcome;
      outcome.error = zp_legs_offline(pool, guids.data(), static_cast<int>(guids.size()), &outcome.why);
      return outcome;
    };
    Outcome outcome = co_await engine_.blocking(go_offline);
    if (outcome.error != 0) log_warning("pool {}: {}", options_.name, outcome.why.text);
  }
  report.offline_seconds = seconds_since(begin_ns);
  driver_->set_importing(false);
  co_return report;
}

Task<Result<void>> Pool::export_pool() {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (!handle_->open_volumes.empty()) {
    co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, handle_->open_volumes.begin()->first);
  }
  for (auto& [name, volume] : std::exchange(handle_->replayed, {})) {
    auto close = [handle = volume] {
      zp_volume_close(handle);
      return true;
    };
    co_await engine_.blocking(close);
  }
  driver_->set_pool(nullptr);
  zp_pool* pool = handle_->pool;
  auto do_export = [pool] {
    Outcome outcome;
    outcome.error = zp_pool_export(pool, &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(do_export);
  if (outcome.error != 0) {
    driver_->set_pool(pool);
    co_return outcome.result();
  }
  handle_->pool = nullptr;
  driver_->set_ack_set({});
  co_return Result<void>{};
}

Task<Result<void>> Pool::destroy_pool() {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (!handle_->open_volumes.empty()) {
    co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, handle_->open_volumes.begin()->first);
  }
  for (auto& [name, volume] : std::exchange(handle_->replayed, {})) {
    auto close = [handle = volume] {
      zp_volume_close(handle);
      return true;
    };
    co_await engine_.blocking(close);
  }
  driver_->set_pool(nullptr);
  zp_pool* pool = handle_->pool;
  auto destroy = [pool] {
    Outcome outcome;
    outcome.error = zp_pool_destroy(pool, &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(destroy);
  if (outcome.error != 0) {
    driver_->set_pool(pool);
    co_return outcome.result();
  }
  handle_->pool = nullptr;
  driver_->set_ack_set({});
  co_return Result<void>{};
}

// ---- the ack set, and legs that do not answer

void Pool::set_ack_set(std::span<const LegId> legs) { driver_->set_ack_set(legs); }

void Pool::retry_held(LegId leg) { driver_->retry_held(leg); }

Task<Result<void>> Pool::fail_legs(std::vector<LegId> legs) {
  for (LegId leg : legs) driver_->fail(leg);
  if (handle_->pool == nullptr) co_return Result<void>{};   // an import that runs takes them offline at its end
  zp_pool* pool = handle_->pool;
  auto go_offline = [pool, guids = numbers_of(legs)] {
    Outcome outcome;
    outcome.error = zp_legs_offline(pool, guids.data(), static_cast<int>(guids.size()), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(go_offline);
  co_return outcome.result();
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

ScanStatus Pool::resync_progress() const {
  std::lock_guard lock(handle_->progress_mutex);
  return scan_of(handle_->progress);
}

namespace {
struct Resynced : Outcome {
  zp_resync resync{};
};
}  // namespace

Task<Result<ResyncOutcome>> Pool::bring_back(std::vector<LegSpec> legs, Txg since) {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  std::vector<LegId> ids;
  for (const LegSpec& leg : legs) {
    if (in_flight_count(leg.guid) != 0) {
      co_return fail(ErrorCode::refused, "leg {} ({}) still has older commands at its drive (rule 8)", leg.guid, leg.name);
    }
    ids.push_back(leg.guid);
  }
  for (const LegSpec& leg : legs) {
    Leg* known = driver_->find(leg.guid);
    ZP_ASSERT(known == nullptr || !known->in_ack_set, "rule 8: a leg joins the ack set after its resync");
    driver_->offer(leg);
  }
  ZP_CO_CHECK(co_await learn_layout());   // which mirrors they are of
  co_return co_await resync(std::move(ids), since, true);
}

Task<Result<ResyncOutcome>> Pool::resync(std::vector<LegId> legs, Txg since, bool seed) {
  resyncing_ = true;
  {
    std::lock_guard lock(handle_->progress_mutex);
    handle_->progress = {};
  }
  zp_pool* pool = handle_->pool;
  Handle* handle = handle_.get();
  auto run = [pool, handle, seed, since, guids = numbers_of(legs)] {
    Resynced resynced;
    resynced.resync.on_progress = Handle::note_progress;
    resynced.resync.context = handle;
    resynced.error = seed ? zp_legs_bring_back(pool, guids.data(), static_cast<int>(guids.size()), since.value, &resynced.resync,
                                               &resynced.why)
                          : zp_leg_finish_attach(pool, guids[0], &resynced.resync, &resynced.why);
    return resynced;
  };
  Resynced resynced = co_await engine_.blocking(run);
  resyncing_ = false;
  if (resynced.error != 0) co_return std::unexpected(resynced.result().error());

  ResyncOutcome outcome;
  outcome.accepted = resynced.resync.accepted != 0;
  outcome.scan_min_txg = Txg{resynced.resync.scan.scan_min_txg};
  outcome.scan_max_txg = Txg{resynced.resync.scan.scan_max_txg};
  outcome.error_count = resynced.resync.scan.scan_errors;
  outcome.repaired_bytes = resynced.resync.scan.scan_repaired_bytes;
  if (!outcome.accepted) outcome.why_not = resynced.why.text;
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
  struct Attached : Outcome {
    std::uint64_t guid = 0;
  };
  std::string path = driver_->path_of(leg);
  zp_pool* pool = handle_->pool;
  auto do_attach = [pool, path, old_leg, how] {
    Attached attached;
    attached.error = zp_leg_attach(pool, old_leg.value, path.c_str(), how == Attach::in_place_of ? 1 : 0, &attached.guid, &attached.why);
    return attached;
  };
  Attached attached = co_await engine_.blocking(do_attach);
  resyncing_ = false;
  if (attached.error != 0) {
    driver_->forget_path(path);
    co_return std::unexpected(attached.result().error());
  }
  ZP_CO_CHECK(co_await learn_layout());
  co_return LegId{attached.guid};
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
  zp_pool* pool = handle_->pool;
  auto detach = [pool, leg] {
    Outcome outcome;
    outcome.error = zp_leg_detach(pool, leg.value, &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(detach);
  if (outcome.error != 0) co_return outcome.result();
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
    for (const LegSpec& leg : mirror.legs) driver_->offer(leg).in_ack_set = true;   // from its first write on
  }
  PlainMirrors plain(*driver_, mirrors);
  std::set<MirrorId> before;
  for (const MirrorLayout& mirror : layout_.mirrors) before.insert(mirror.guid);
  zp_pool* pool = handle_->pool;
  auto add = [pool, &plain] {
    Outcome outcome;
    outcome.error = zp_mirrors_add(pool, plain.mirrors.data(), plain.count(), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(add);
  if (outcome.error != 0) {
    for (const std::string& path : plain.paths) driver_->forget_path(path);
    co_return std::unexpected(outcome.result().error());
  }
  ZP_CO_CHECK(co_await learn_layout());
  std::vector<MirrorLayout> added;
  for (const MirrorLayout& mirror : layout_.mirrors) {
    if (!before.contains(mirror.guid)) added.push_back(mirror);
  }
  co_return added;
}

Task<Result<void>> Pool::start_scrub() {
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  zp_pool* pool = handle_->pool;
  auto start = [pool] {
    Outcome outcome;
    outcome.error = zp_scrub_start(pool, &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(start);
  co_return outcome.result();
}

Task<Result<void>> Pool::cancel_scrub() {
  zp_pool* pool = handle_->pool;
  auto cancel = [pool] {
    Outcome outcome;
    outcome.error = zp_scan_cancel(pool, &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(cancel);
  co_return outcome.result();
}

Task<Result<PoolStatus>> Pool::status() {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  zp_pool* pool = handle_->pool;
  struct Seen {
    zp_pool_stats stats;
    std::vector<zp_leaf> leaves;
  };
  auto look = [pool] {
    Seen seen;
    zp_pool_look(pool, &seen.stats);
    seen.leaves.resize(leaves_most);
    int count = zp_pool_leaves(pool, seen.leaves.data(), static_cast<int>(seen.leaves.size()));
    seen.leaves.resize(std::min<std::size_t>(static_cast<std::size_t>(count), seen.leaves.size()));
    return seen;
  };
  Seen seen = co_await engine_.blocking(look);
  PoolStatus status;
  status.suspended = seen.stats.suspended != 0;
  status.size_bytes = seen.stats.size_bytes;
  status.allocated_bytes = seen.stats.allocated_bytes;
  status.free_bytes = status.size_bytes - std::min(status.size_bytes, status.allocated_bytes);
  status.last_synced_txg = Txg{seen.stats.last_synced_txg};
  status.data_error_count = seen.stats.data_errors;
  status.scan = scan_of(seen.stats);
  for (const zp_leaf& leaf : seen.leaves) {
    status.legs.push_back(PoolStatus::Leg{LegId{leaf.guid}, MirrorId{leaf.mirror_guid}, LegDriver::name_in_path(leaf.path),
                                          state_of(leaf.state, leaf.offline), leaf.read_errors, leaf.write_errors,
                                          leaf.checksum_errors, leaf.repaired_bytes, leaf.dtl_empty == 0});
  }
  co_return status;
}

// ---- floor

Txg Pool::last_synced_txg() const {
  return handle_->pool != nullptr ? Txg{zp_pool_last_synced_txg(handle_->pool)} : Txg{};
}

std::vector<VolumeLog> Pool::volume_logs() const {
  std::vector<VolumeLog> logs;
  for (const auto& [name, volume] : handle_->open_volumes) {
    logs.push_back(VolumeLog{volume->info.guid, volume->sequence()});
  }
  return logs;
}

// ---- volumes

namespace {

VolumeInfo info_of(const zp_volume_info& plain, std::size_t pool_name_size) {
  VolumeInfo info;
  info.name = std::string(plain.name).substr(pool_name_size + 1);
  info.guid = plain.guid;
  info.size_bytes = plain.size_bytes;
  info.block_size_bytes = plain.block_size_bytes;
  info.reserved_bytes = plain.reserved_bytes;
  info.used_bytes = plain.used_bytes;
  info.referenced_bytes = plain.referenced_bytes;
  info.compression = plain.compression;
  return info;
}

struct Described : Outcome {
  zp_volume_info info{};
};

}  // namespace

Task<Result<VolumeInfo>> Pool::create_volume(VolumeSpec spec) {
  ZP_CO_CHECK(check_name("volume", spec.name));
  if (spec.size_bytes == 0) co_return fail(ErrorCode::invalid, "volume {} needs a size", spec.name);
  if (!is_power_of_two(spec.block_size_bytes) || spec.block_size_bytes < 4096 || spec.block_size_bytes > 131072) {
    co_return fail(ErrorCode::invalid, "a volume's block size is a power of two from 4096 to 131072, not {}", spec.block_size_bytes);
  }
  std::string name = options_.name + "/" + spec.name;
  ZP_CO_CHECK(check_size(name, spec.size_bytes, spec.block_size_bytes));
  auto create = [&] {
    Described made;
    made.error = zp_volume_create(name.c_str(), spec.size_bytes, spec.block_size_bytes,
                                  spec.space == VolumeSpec::Space::thick ? 1 : 0, spec.compression.c_str(), &made.why);
    if (made.error == 0) made.error = zp_volume_look(name.c_str(), &made.info, &made.why);
    return made;
  };
  Described made = co_await engine_.blocking(create);
  if (made.error != 0) co_return std::unexpected(made.result().error());
  co_return info_of(made.info, options_.name.size());
}

Task<Result<void>> Pool::destroy_volume(std::string name) {
  ZP_CO_CHECK(check_name("volume", name));
  if (handle_->open_volumes.contains(name)) co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, name);
  std::string full_name = options_.name + "/" + name;
  zp_volume* replayed = nullptr;
  if (auto found = handle_->replayed.find(name); found != handle_->replayed.end()) {
    replayed = found->second;
    handle_->replayed.erase(found);
  }
  auto destroy = [&full_name, replayed] {
    if (replayed != nullptr) zp_volume_close(replayed);
    Outcome outcome;
    outcome.error = zp_volume_destroy(full_name.c_str(), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(destroy);
  // Nothing of this process uses it (checked above): what else keeps a volume is what hangs on it.
  if (outcome.error == EEXIST || outcome.error == EBUSY) {
    co_return fail(ErrorCode::refused, "cannot destroy volume {}: it has snapshots, which would go with it: destroy them first (zpair volume "
                   "destroy {}@SNAPSHOT)", full_name, full_name);
  }
  co_return outcome.result();
}

Task<Result<VolumeInfo>> Pool::resize_volume(std::string name, std::uint64_t size_bytes) {
  ZP_CO_CHECK(check_name("volume", name));
  std::string full_name = options_.name + "/" + name;
  zp_volume* open = nullptr;
  if (auto found = handle_->open_volumes.find(name); found != handle_->open_volumes.end()) open = found->second->handle;
  if (auto found = handle_->replayed.find(name); found != handle_->replayed.end()) open = found->second;
  auto look = [&full_name] {
    Described described;
    described.error = zp_volume_look(full_name.c_str(), &described.info, &described.why);
    return described;
  };
  Described present = co_await engine_.blocking(look);
  if (present.error != 0) co_return std::unexpected(present.result().error());
  ZP_CO_CHECK(check_size(full_name, size_bytes, present.info.block_size_bytes));
  auto resize = [&full_name, open, size_bytes] {
    Described resized;
    resized.error = zp_volume_resize(full_name.c_str(), open, size_bytes, &resized.why);
    if (resized.error == 0) resized.error = zp_volume_look(full_name.c_str(), &resized.info, &resized.why);
    return resized;
  };
  Described resized = co_await engine_.blocking(resize);
  if (resized.error != 0) co_return std::unexpected(resized.result().error());
  co_return info_of(resized.info, options_.name.size());
}

Task<Result<void>> Pool::snapshot_volume(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  std::string full_name = options_.name + "/" + name;
  auto take = [&] {
    Outcome outcome;
    outcome.error = zp_volume_snapshot(full_name.c_str(), snapshot.c_str(), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(take);
  co_return outcome.result();
}

Task<Result<VolumeInfo>> Pool::clone_volume(std::string name, std::string snapshot, std::string clone, VolumeSpec::Space space) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  ZP_CO_CHECK(check_name("volume", clone));
  std::string origin = fmt::format("{}/{}@{}", options_.name, name, snapshot);
  std::string full_name = options_.name + "/" + clone;
  auto make = [&] {
    Described made;
    made.error = zp_volume_clone(origin.c_str(), full_name.c_str(), space == VolumeSpec::Space::thick ? 1 : 0, &made.why);
    if (made.error == 0) made.error = zp_volume_look(full_name.c_str(), &made.info, &made.why);
    return made;
  };
  Described made = co_await engine_.blocking(make);
  if (made.error != 0) co_return std::unexpected(made.result().error());
  co_return info_of(made.info, options_.name.size());
}

Task<Result<VolumeInfo>> Pool::roll_back_volume(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  if (handle_->open_volumes.contains(name)) co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, name);
  ZP_CO_TRY(volume, co_await open_volume(name));   // its log is what the floor asks for (rule 7), and replayed
  co_await volume->close();
  std::string full_name = options_.name + "/" + name;
  auto roll_back = [&] {
    Described rolled;
    rolled.error = zp_volume_rollback(full_name.c_str(), snapshot.c_str(), &rolled.why);
    if (rolled.error == 0) rolled.error = zp_volume_look(full_name.c_str(), &rolled.info, &rolled.why);
    return rolled;
  };
  Described rolled = co_await engine_.blocking(roll_back);
  if (rolled.error != 0) co_return std::unexpected(rolled.result().error());
  co_return info_of(rolled.info, options_.name.size());
}

Task<Result<void>> Pool::destroy_snapshot(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  std::string full_name = options_.name + "/" + name;
  auto destroy = [&] {
    Outcome outcome;
    outcome.error = zp_snapshot_destroy(full_name.c_str(), snapshot.c_str(), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(destroy);
  co_return outcome.result();
}

Task<Result<std::vector<VolumeInfo>>> Pool::list_volumes() {
  zp_pool* pool = handle_->pool;
  struct Listing : Outcome {
    std::vector<std::string> names;
    std::vector<zp_volume_info> infos;
  };
  auto look = [pool] {
    Listing listing;
    auto found = [](void* context, const char* name) {
      static_cast<Listing*>(context)->names.push_back(name);
      return 0;
    };
    listing.error = zp_volumes_each(pool, found, &listing);
    if (listing.error != 0) std::snprintf(listing.why.text, sizeof listing.why.text, "cannot list the volumes");
    for (const std::string& name : listing.names) {
      zp_volume_info info;
      zp_why why;
      if (name.find('@') == std::string::npos && zp_volume_look(name.c_str(), &info, &why) == 0) listing.infos.push_back(info);
    }
    return listing;
  };
  Listing listing = co_await engine_.blocking(look);
  if (listing.error != 0) co_return std::unexpected(listing.result().error());
  std::vector<VolumeInfo> volumes;
  for (const zp_volume_info& plain : listing.infos) {
    VolumeInfo& info = volumes.emplace_back(info_of(plain, options_.name.size()));
    for (const std::string& name : listing.names) {
      std::string prefix = std::string(plain.name) + "@";
      if (name.starts_with(prefix)) info.snapshots.push_back(name.substr(prefix.size()));
    }
  }
  std::ranges::sort(volumes, {}, &VolumeInfo::name);
  co_return volumes;
}

Task<Result<std::unique_ptr<Volume>>> Pool::open_volume(std::string name) {
  ZP_CO_CHECK(check_name("volume", name));
  if (handle_->open_volumes.contains(name)) co_return fail(ErrorCode::exists, "volume {}/{} is open already", options_.name, name);
  std::string full_name = options_.name + "/" + name;
  auto state = std::make_unique<Volume::State>(engine_);
  if (auto found = handle_->replayed.find(name); found != handle_->replayed.end()) {
    state->handle = found->second;
    handle_->replayed.erase(found);
  } else {
    struct Opened : Outcome {
      zp_volume* volume = nullptr;
      std::uint64_t replayed_count = 0;
    };
    std::uint64_t floor = 0;
    if (auto sequence = handle_->floor_sequences.find(name); sequence != handle_->floor_sequences.end()) floor = sequence->second;
    zp_pool* pool = handle_->pool;
    auto open = [pool, &full_name, floor] {
      Opened opened;
      opened.error = zp_volume_open(pool, full_name.c_str(), floor, &opened.volume, &opened.replayed_count, &opened.why);
      return opened;
    };
    Opened opened = co_await engine_.blocking(open);
    if (opened.error != 0) co_return std::unexpected(opened.result().error());
    state->handle = opened.volume;
  }
  handle_->floor_sequences.erase(name);
  auto describe = [&full_name] {
    Described described;
    described.error = zp_volume_look(full_name.c_str(), &described.info, &described.why);
    return described;
  };
  Described described = co_await engine_.blocking(describe);
  if (described.error != 0) {
    auto close = [handle = state->handle] {
      zp_volume_close(handle);
      return true;
    };
    co_await engine_.blocking(close);
    co_return std::unexpected(described.result().error());
  }
  state->info = info_of(described.info, options_.name.size());
  handle_->open_volumes[name] = state.get();
  state->on_closed = [handle = handle_.get(), name] { handle->open_volumes.erase(name); };
  co_return std::unique_ptr<Volume>(new Volume(std::move(state)));
}

Task<Result<void>> Pool::set_property(std::string volume, std::string property, std::string value) {
  std::string full_name = volume.empty() ? options_.name : options_.name + "/" + volume;
  auto set = [&] {
    Outcome outcome;
    outcome.error = zp_property_set(full_name.c_str(), property.c_str(), value.c_str(), &outcome.why);
    return outcome;
  };
  Outcome outcome = co_await engine_.blocking(set);
  co_return outcome.result();
}

}  // namespace zpair::zfs
