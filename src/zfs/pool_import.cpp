// Rule 7: exactly the named legs, at or above the floor, no rewind, no dropped log.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/assert.h"
#include "base/log.h"
#include "zfs/mutation.h"
#include "zfs/pool_internal.h"

namespace zpair::zfs {

using block::Task;

namespace {

double seconds_since(Nanoseconds begin_ns) { return static_cast<double>(boot_time_ns() - begin_ns) / ns_per_s; }

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

// Each pair of labels says the same, unless a crash came between their writes or a pair is damaged.
enum class Labels : std::uint8_t {
  all,
  first_pair,  // or all, if it says nothing; of uberblocks the newest alone
};

Task<Result<std::unique_ptr<ReadLabels>>> read_labels(block::BlockDevice& device, Labels which) {
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
  auto parse = [&] {
    read->found = zp_label_parse(labels, device.geometry().size_bytes, which == Labels::all, &read->label) == 0;
  };
  for (int pair = 0; pair < 2 && !read->found; ++pair) {
    std::span<std::byte> into(bytes.get() + static_cast<std::size_t>(pair) * pair_bytes, pair_bytes);
    std::uint64_t offset = pair == 0 ? 0 : size - pair_bytes;
    auto outcome = co_await block::read(device, offset, into);
    if (outcome.status == block::IoStatus::fenced) co_return fail(ErrorCode::fenced, "a newer epoch holds the drive");
    if (!outcome.ok()) continue;
    any = true;
    labels[pair * 2] = into.data();
    labels[pair * 2 + 1] = into.data() + label_bytes;
    if (which == Labels::first_pair) parse();
  }
  if (!any) co_return fail(ErrorCode::io, "cannot read any label of the drive");
  if (which == Labels::all) parse();
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

using AllLabels = std::vector<std::unique_ptr<ReadLabels>>;

// Of all legs, side by side.
Task<Result<AllLabels>> read_all_labels(const std::vector<LegSpec>& legs, Labels which) {
  AllLabels labels(legs.size());
  std::optional<Error> unreadable;
  block::TaskGroup group;
  auto read_one = [which](const LegSpec& leg, std::unique_ptr<ReadLabels>& into,
                          std::optional<Error>& error) -> Task<void> {
    auto read = co_await read_labels(*leg.device, which);
    if (read) {
      into = std::move(*read);
    } else {
      error = Error{read.error().code, fmt::format("leg {} ({}): {}", leg.guid, leg.name, read.error().message)};
    }
  };
  for (std::size_t i = 0; i < legs.size(); ++i) group.spawn(read_one(legs[i], labels[i], unreadable));
  co_await group.close();
  if (unreadable) co_return std::unexpected(*unreadable);
  co_return labels;
}

// The newest uberblock's txg, if these are the legs, written last by one of our nodes, at or above the floor.
Result<Txg> check_labels(const std::string& pool_name, const ImportSpec& spec, const AllLabels& labels) {
  if (labels.empty()) return fail(ErrorCode::refused, "an import needs legs");
  std::uint64_t best_txg = 0;
  std::uint32_t best_host_id = 0;
  std::uint64_t newest_label_txg = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const LegSpec& leg = spec.legs[i];
    if (!labels[i]->found)
      return fail(ErrorCode::refused, "drive {} should be leg {}, but carries no pool", leg.name, leg.guid);
    const zp_label& label = labels[i]->label;
    if (label.pool_guid != spec.guid.value || label.leg_guid != leg.guid.value) {
      return fail(ErrorCode::refused, "drive {} should be leg {} of pool {}, but its label says leg {} of pool {} ({})",
                  leg.name, leg.guid, spec.guid, label.leg_guid, label.pool_guid, label.pool_name);
    }
    best_txg = std::max(best_txg, label.best_uberblock_txg);
    if (label.label_txg >= newest_label_txg) {
      newest_label_txg = label.label_txg;
      best_host_id = label.zfs_host_id;
    }
  }
  if (std::ranges::find(spec.zfs_host_ids, best_host_id) == spec.zfs_host_ids.end()) {
    return fail(ErrorCode::refused,
                "pool {} was last used under ZFS host id {:#x}, which is none of our nodes: used outside zpair",
                pool_name, best_host_id);
  }
  if (best_txg < spec.floor_txg.value && !zp_mutated(ZP_FLOOR_IGNORED)) {
    if (spec.floor == ImportSpec::Floor::enforce) {
      return fail(ErrorCode::refused,
                  "the newest uberblock of pool {} in reach is of txg {}, but txg {} is known to have synced",
                  pool_name, best_txg, spec.floor_txg);
    }
    log_warning("pool {}: importing txg {} below the floor {}, as an operator asked", pool_name, best_txg,
                spec.floor_txg);
  }
  return Txg{best_txg};
}

// Whether an import need not write them: they call the pool active, and one of our nodes its host.
bool labels_stand(const ImportSpec& spec, const AllLabels& labels) {
  return std::ranges::all_of(labels, [&spec](const auto& read) {
    constexpr std::uint64_t active = 0;
    return read->label.pool_state == active &&
           std::ranges::find(spec.zfs_host_ids, read->label.zfs_host_id) != spec.zfs_host_ids.end();
  });
}

// Of an import, which calls it from several threads, one at a time.
void note_volume(void* context, const char* name, std::uint64_t guid, int has_log) {
  const char* slash = std::strchr(name, '/');
  if (slash == nullptr) return;  // the pool's own root
  static_cast<ImportReport*>(context)->volumes.push_back({slash + 1, guid, has_log != 0});
}

}  // namespace

Task<Result<std::optional<LabelSurvey>>> survey_labels(block::BlockDevice& device) {
  ZP_CO_TRY(read, co_await read_labels(device, Labels::all));
  if (!read->found) co_return std::optional<LabelSurvey>{};
  co_return std::optional<LabelSurvey>(survey_of(read->label));
}

Task<Result<ImportReport>> Pool::import_pool(ImportSpec spec) {
  ZP_ASSERT(handle_->pool == nullptr, "a Pool is one pool");
  ImportReport report;
  Nanoseconds begin_ns = boot_time_ns();
  auto lap = [&begin_ns](double& seconds) {
    seconds = seconds_since(begin_ns);
    begin_ns = boot_time_ns();
  };

  ZP_CO_TRY(labels, co_await read_all_labels(spec.legs, Labels::first_pair));
  Result<Txg> newest = check_labels(options_.name, spec, labels);
  if (!newest) {
    ZP_CO_TRY(all_labels, co_await read_all_labels(spec.legs, Labels::all));
    labels = std::move(all_labels);
    newest = check_labels(options_.name, spec, labels);
  }
  ZP_CO_TRY(best_txg, newest);
  lap(report.label_seconds);
  co_await engine_.ready();

  std::vector<zp_label*> plain;
  std::vector<LegId> named;
  for (std::size_t i = 0; i < spec.legs.size(); ++i) {
    Leg& leg = driver_->offer(spec.legs[i]);
    leg.mirror = MirrorId{labels[i]->label.mirror_guid};
    named.push_back(spec.legs[i].guid);
    plain.push_back(&labels[i]->label);
  }
  driver_->set_ack_set(named);
  driver_->set_importing(true);
  zp_pool* pool = nullptr;
  std::uint64_t uberblock_txg = 0;
  const bool enforce = spec.floor == ImportSpec::Floor::enforce;
  std::string dropped;
  std::vector<zp_log_floor> floors;
  for (const VolumeLog& log : spec.floor_logs) floors.push_back({log.volume_guid, log.sequence});
  const zp_import_check check = {enforce,       labels_stand(spec, labels),
                                 floors.data(), enforce ? static_cast<int>(floors.size()) : 0,
                                 note_volume,   &report};
  auto import = [&](zp_why* why) {
    const int error = zp_pool_import(options_.name.c_str(), plain.data(), static_cast<int>(plain.size()), &check, &pool,
                                     &uberblock_txg, why);
    if (error == 0) dropped = why->text;
    return error;
  };
  Result<void> imported = co_await ask(engine_, import);
  if (!imported) {
    driver_->set_importing(false);
    driver_->set_ack_set({});
    for (LegId leg : named) driver_->forget(leg);
    co_return std::unexpected(imported.error());
  }
  if (!dropped.empty()) log_warning("pool {}: {}, as an operator asked", options_.name, dropped);
  handle_->pool = pool;
  driver_->set_pool(pool);
  report.uberblock_txg = Txg{uberblock_txg};
  if (report.uberblock_txg < best_txg) {
    // OpenZFS took an older one than a label shows (unreadable?), and has written since: not ours to serve.
    zp_die("rule 7: pool %s was imported at txg %llu, but a leg has an uberblock of txg %llu", options_.name.c_str(),
           static_cast<unsigned long long>(uberblock_txg), static_cast<unsigned long long>(best_txg.value));
  }
  // An uberblock is written after its txg was flushed on all legs that were in sync: these are.
  driver_->start_flushed_at(Txg{uberblock_txg - 1});
  ZP_CO_CHECK(co_await learn_layout());
  lap(report.import_seconds);

  Result<void> replayed = co_await replay_logs(report, spec.floor_logs, enforce);
  if (!replayed) {
    co_await close_replayed();
    driver_->set_importing(false);
    Result<void> exported = co_await export_pool();
    if (!exported) log_warning("pool {}: {}", options_.name, exported.error().message);
    co_return std::unexpected(replayed.error());
  }
  lap(report.replay_seconds);

  co_await take_absent_legs_offline(report);
  lap(report.offline_seconds);
  driver_->set_importing(false);
  co_return report;
}

// Every log, side by side, each until what it brought back has synced: an import without it would lose what was acknowledged
// (rule 7), or let legs return before it (rule 8). What a floor says of a volume that has no log, the import has checked. The
// volumes stay open for whoever asks for them. Not enforced: a volume that does not open is left closed.
Task<Result<void>> Pool::replay_logs(ImportReport& report, const std::vector<VolumeLog>& floor_logs, bool enforce) {
  std::vector<std::string> live;
  for (const ImportedVolume& volume : report.volumes) {
    if (volume.has_log && !zp_mutated(ZP_LOGS_NOT_REPLAYED)) live.push_back(full_name(volume.name));
    for (const VolumeLog& log : floor_logs) {
      if (enforce && log.volume_guid == volume.guid) handle_->floor_sequences[volume.name] = log.sequence;
    }
  }
  std::optional<Error> refused;
  block::TaskGroup replays;
  auto replay_one = [](Pool& self, const std::string& full_name, ImportReport& into,
                       std::optional<Error>& error) -> Task<void> {
    std::string name = full_name.substr(self.options_.name.size() + 1);
    std::uint64_t floor = self.handle_->floor_sequences[name];
    zp_volume* volume = nullptr;
    std::uint64_t replayed_count = 0;
    auto open = [&, pool = self.handle_->pool](zp_why* why) {
      return zp_volume_open(pool, full_name.c_str(), floor, &volume, &replayed_count, why);
    };
    Result<void> opened = co_await ask(self.engine_, open);
    if (!opened) {
      error = opened.error();
      co_return;
    }
    self.handle_->replayed[name] = volume;
    if (replayed_count > 0) ++into.replayed_volume_count;
    into.replayed_record_count += replayed_count;
  };
  for (const std::string& name : live) replays.spawn(replay_one(*this, name, report, refused));
  co_await replays.close();
  if (refused && enforce) co_return std::unexpected(*refused);
  if (refused) log_warning("pool {}: {}: not replayed, as an operator asked", options_.name, refused->message);
  co_return Result<void>{};
}

// What was not named, or failed meanwhile, is persistently offline from here on.
Task<void> Pool::take_absent_legs_offline(ImportReport& report) {
  for (LegId leg : legs_of(layout_)) {
    Leg* known = driver_->find(leg);
    if (known == nullptr || known->failed) report.absent_legs.push_back(leg);
  }
  if (report.absent_legs.empty()) co_return;
  Result<void> offline = co_await take_offline(report.absent_legs);
  if (!offline) log_warning("pool {}: {}", options_.name, offline.error().message);
}

}  // namespace zpair::zfs
