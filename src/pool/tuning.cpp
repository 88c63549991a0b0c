#include "pool/tuning.h"

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "zfs/tunables.h"

namespace zpair::pool {

using nlohmann::json;

namespace {

constexpr const char* note_name = "org.zpair:tuning";
constexpr std::size_t undo_limit = 10;

// What a pool may keep is less than what a test may set: a value that stops it would stop it on either node, import after import.
std::optional<zfs::Tunable> find(const std::string& name) {
  for (zfs::Tunable& one : Tuning::known()) {
    if (one.name == name) return std::move(one);
  }
  return std::nullopt;
}

Result<void> check(const std::string& name, std::uint64_t value) {
  const auto known = find(name);
  if (!known)
    return fail(ErrorCode::not_found, "this OpenZFS has no tunable {} that can be set: zpair tune show lists those",
                name);
  if (value < known->least || value > known->most) {
    return fail(ErrorCode::invalid, "tunable {} takes {} to {} {}, not {}", name, known->least, known->most,
                known->unit, value);
  }
  return {};
}

// OpenZFS divides by the difference.
Result<void> check_together(const std::map<std::string, std::uint64_t>& values) {
  const auto at = [&](const char* name) {
    const auto found = values.find(name);
    return found != values.end() ? found->second : *zfs::tunable(name);
  };
  const char* least = "zfs_vdev_async_write_active_min_dirty_percent";
  const char* most = "zfs_vdev_async_write_active_max_dirty_percent";
  if (at(least) < at(most)) return {};
  return fail(ErrorCode::invalid, "{} must be below {}: {} and {} are not", least, most, at(least), at(most));
}

}  // namespace

std::vector<zfs::Tunable> Tuning::known() {
  std::vector<zfs::Tunable> all;
  for (zfs::Tunable& one : zfs::tunables()) {
    if (one.name == "zfs_scan_suspend_progress") continue;  // for tests: no resync would ever end
    if (one.name == "zfs_txg_timeout") one.most = 10;       // an idle pool's only sign of life (engine watch)
    if (one.name == "zfs_vdev_async_write_max_active") one.least = 2;         // of which OpenZFS keeps two at any time
    if (one.name == "zfs_wrlog_data_max") one.most = std::uint64_t{1} << 30;  // bounds the replay of a takeover
    all.push_back(std::move(one));
  }
  return all;
}

Tuning::Tuning() {
  for (const zfs::Tunable& one : known()) defaults_[one.name] = one.value;
}

void Tuning::limits_changed() {
  for (const char* name : {"zfs_arc_max", "zfs_arc_min", "zfs_dirty_data_max", "zfs_wrlog_data_max"}) {
    defaults_[name] = *zfs::tunable(name);
    if (const auto kept = kept_.find(name); kept != kept_.end()) (void)zfs::set_tunable(name, kept->second);
  }
}

block::Task<void> Tuning::load(zfs::Pool& pool) {
  auto text = co_await pool.note(note_name);
  if (!text) log_warning("the pool's own settings are not known: {}", text.error().message);
  if (!text || text->empty()) co_return;
  Values kept;
  try {
    const json note = json::parse(*text);
    kept = note.at("values").get<Values>();
    before_ = note.at("before").get<std::vector<Values>>();
  } catch (const json::exception& error) {
    before_.clear();
    log_warning("the pool's own settings cannot be read, and are left out: {}", error.what());
    co_return;
  }
  auto fit = check_together(kept);
  if (!fit) {
    log_warning("the pool's own settings are left out: {}", fit.error().message);
    co_return;
  }
  kept_ = std::move(kept);
  for (const auto& [name, value] : kept_) {
    auto good = check(name, value);
    if (good) good = zfs::set_tunable(name, value);
    if (!good) log_warning("a setting of the pool is left out: {}", good.error().message);
  }
}

block::Task<Result<void>> Tuning::keep(zfs::Pool& pool, Values kept, std::vector<Values> before) {
  if (changing_) co_return fail(ErrorCode::refused, "another change of the settings is under way: try again");
  changing_ = true;
  while (before.size() > undo_limit) before.erase(before.begin());
  auto noted = co_await pool.set_note(note_name, json{{"values", kept}, {"before", before}}.dump());
  changing_ = false;
  if (!noted) co_return noted;
  for (const auto& [name, value] : kept_) {
    if (!kept.contains(name)) (void)zfs::set_tunable(name, defaults_[name]);
  }
  for (const auto& [name, value] : kept) (void)zfs::set_tunable(name, value);
  kept_ = std::move(kept);
  before_ = std::move(before);
  co_return Result<void>{};
}

Result<void> Tuning::check_all(const Wanted& wanted) {
  for (const auto& [name, value] : wanted) {
    const auto known = find(name);
    ZP_CHECK(check(name, value.value_or(known ? known->least : 0)));
  }
  return {};
}

Result<void> Tuning::try_out(const Wanted& wanted) {
  ZP_CHECK(check_all(wanted));
  Values then;
  for (const auto& [name, value] : wanted) {
    const auto kept = kept_.find(name);
    then[name] = value.value_or(kept == kept_.end() ? defaults_[name] : kept->second);
  }
  ZP_CHECK(check_together(then));
  for (const auto& [name, value] : then) ZP_CHECK(zfs::set_tunable(name, value));
  return {};
}

block::Task<Result<void>> Tuning::change(zfs::Pool& pool, Wanted wanted) {
  ZP_CO_CHECK(check_all(wanted));
  Values kept = kept_;
  for (const auto& [name, value] : wanted) {
    kept.erase(name);
    if (value) kept[name] = *value;
  }
  Values then = defaults_;
  for (const auto& [name, value] : kept) then[name] = value;
  ZP_CO_CHECK(check_together(then));
  if (kept == kept_) co_return try_out(wanted);
  std::vector<Values> before = before_;
  before.push_back(kept_);
  co_return co_await keep(pool, std::move(kept), std::move(before));
}

block::Task<Result<void>> Tuning::undo(zfs::Pool& pool) {
  if (before_.empty()) co_return fail(ErrorCode::refused, "no change of the settings is left to undo");
  std::vector<Values> before = before_;
  Values kept = std::move(before.back());
  before.pop_back();
  co_return co_await keep(pool, std::move(kept), std::move(before));
}

}  // namespace zpair::pool
