#include "node/drives.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/unique_fd.h"
#include "block/drive_identity.h"

namespace zpair::node {

namespace {
constexpr std::int64_t lock_wait_ms = 200;
constexpr std::int64_t retry_ms = 300;
constexpr std::int64_t register_wait_ms = 5000;
constexpr std::int64_t lock_look_ms = 5;

// Somebody's flock on it: of a process that uses it, or of a dead one whose last I/O is not done.
bool is_locked(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}
}  // namespace

std::string_view name_of(DriveState state) {
  switch (state) {
    case DriveState::absent: return "absent";
    case DriveState::exported: return "exported";
    case DriveState::elsewhere: return "pool";
  }
  return "?";
}

Drives::Drives(Options options, StateFolder& folder)
    : options_(std::move(options)),
      folder_(folder),
      target_(nvme::TargetOptions{.subsystem_nqn = fmt::format("nqn.2026-01.io.zpair:node-{}", options_.node),
                                  .allowed_peers = options_.allowed_peers}) {}

Drives::~Drives() { ZP_ASSERT(tasks_.running() == 0, "the drives were closed"); }

Result<void> Drives::start(const std::map<std::string, Epoch>& elsewhere) {
  ZP_TRY(drives, folder_.load_drives(last_nsid_));
  for (const RegisteredDrive& drive : drives) {
    Entry& entry = insert(drive);
    auto found = elsewhere.find(drive.pool);
    if (found != elsewhere.end()) entry.wanted_elsewhere = found->second;
    settle(entry);
  }
  for (const block::Endpoint& at : options_.listen) {
    auto listening = target_.listen(at);
    if (!listening) return fail(listening.error(), "the drives' target");
    endpoints_.push_back(*listening);
  }
  return {};
}

block::Task<void> Drives::close() {
  closed_ = true;
  closing_.set();
  changed_.set();
  co_await tasks_.close();
  co_await target_.close();
  for (auto& [id, entry] : entries_) {
    if (entry->device) co_await entry->device->close();
    entry->device.reset();
    entry->state = DriveState::absent;
  }
}

// --- the list --------------------------------------------------------------------------------------------------------

Drives::Entry& Drives::insert(RegisteredDrive drive) {
  auto entry = std::make_unique<Entry>();
  entry->drive = std::move(drive);
  Entry& reference = *entry;
  entries_[reference.drive.durable_id] = std::move(entry);
  return reference;
}

block::Task<Result<void>> Drives::store() {
  std::vector<RegisteredDrive> drives;
  for (const auto& [id, entry] : entries_) {
    if (!entry->removing) drives.push_back(entry->drive);
  }
  co_return co_await folder_.store_drives(std::move(drives), last_nsid_);
}

block::Task<Result<RegisteredDrive>> Drives::add(std::string pool, std::string path) {
  ZP_CO_TRY(identity, block::identify_drive(path));
  auto found = entries_.find(identity.durable_id);
  if (found != entries_.end()) {
    Entry& entry = *found->second;
    if (entry.removing) co_return fail(ErrorCode::exists, "drive {} is being removed: try again", path);
    if (entry.drive.pool != pool) {
      co_return fail(ErrorCode::exists, "drive {} is a leg of pool {} already", path, entry.drive.pool);
    }
    if (entry.drive.path != path) {
      entry.drive.path = path;
      ZP_CO_CHECK(co_await store());
    }
    co_return entry.drive;
  }

  // No registered drive has such a file: one that is there was left by a crash in the middle of a removal.
  auto leftover = fence::FenceFile::open(folder_.fence_folder(), identity.durable_id);
  if (leftover || leftover.error().code != ErrorCode::not_found) {
    ZP_CO_CHECK(fence::FenceFile::remove(folder_.fence_folder(), identity.durable_id));
  }
  ZP_CO_TRY(fence_file, fence::FenceFile::create(folder_.fence_folder(), identity.durable_id));
  fence_file.reset();

  RegisteredDrive drive{identity.durable_id, path, ++last_nsid_, pool, identity.size_bytes, 4096};
  Entry& entry = insert(drive);
  auto stored = co_await store();
  if (!stored) {
    entries_.erase(identity.durable_id);
    co_return std::unexpected(stored.error());
  }
  settle(entry);
  std::string id = identity.durable_id;
  Deadline deadline = Deadline::in_ms(register_wait_ms);
  while (entry.state != DriveState::exported && entry.why.empty() && !deadline.passed() && !closed_) {
    changed_.reset();
    co_await block::wait_for(changed_, deadline);
  }
  if (entry.state == DriveState::exported) co_return entry.drive;
  Error cause = entry.why.empty() ? Error{ErrorCode::timed_out, "it does not open"} : Error{entry.why_code, entry.why};
  auto removed = co_await remove(id);
  if (!removed) log_warning("{}", removed.error().message);
  co_return fail(cause, "drive {}", path);
}

block::Task<Result<void>> Drives::remove(std::string durable_id) {
  auto found = entries_.find(durable_id);
  if (found == entries_.end()) co_return fail(ErrorCode::not_found, "drive {} is not registered", durable_id);
  Entry& entry = *found->second;
  if (entry.removing) co_return Result<void>{};
  entry.removing = true;
  settle(entry);
  while (entry.settling) {
    changed_.reset();
    co_await changed_.wait();
  }
  co_await target_.remove_namespace(entry.drive.nsid);
  co_await close_here(entry);
  std::string path = entry.drive.path;
  ZP_CO_CHECK(co_await store());
  entries_.erase(durable_id);
  co_return fence::FenceFile::remove(folder_.fence_folder(), durable_id);
}

block::Task<void> Drives::remove_pool(std::string pool) {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry->drive.pool == pool) ids.push_back(id);
  }
  for (const std::string& id : ids) {
    auto removed = co_await remove(id);
    if (!removed) log_warning("pool {}: {}", pool, removed.error().message);
  }
}

// --- where a drive is ------------------------------------------------------------------------------------------------

block::Task<void> Drives::give_to_process(std::string pool, Epoch epoch) {
  for (auto& [id, entry] : entries_) {
    if (entry->drive.pool != pool) continue;
    entry->wanted_elsewhere = epoch;
    settle(*entry);
  }
  for (;;) {
    bool all = std::all_of(entries_.begin(), entries_.end(), [&](const auto& item) {
      const Entry& entry = *item.second;
      return entry.drive.pool != pool || entry.wanted_elsewhere != epoch || entry.removing ||
             (entry.state == DriveState::elsewhere && entry.elsewhere == epoch && !entry.device);
    });
    if (all || closed_) co_return;
    changed_.reset();
    co_await changed_.wait();
  }
}

block::Task<void> Drives::wait_unlocked(std::string pool) {
  for (;;) {
    bool held = false;
    for (const auto& [id, entry] : entries_) {
      if (entry->drive.pool == pool && !entry->device && is_locked(entry->drive.path)) held = true;
    }
    if (!held || closed_) co_return;
    co_await block::wait_for(closing_, Deadline::in_ms(lock_look_ms));
  }
}

void Drives::take_back(const std::string& pool) {
  for (auto& [id, entry] : entries_) {
    if (entry->drive.pool != pool || !entry->wanted_elsewhere) continue;
    entry->wanted_elsewhere.reset();
    settle(*entry);
  }
}

block::Task<std::vector<std::string>> Drives::wait_exported(std::string pool, Deadline deadline) {
  std::vector<std::string> missing;
  for (;;) {
    missing.clear();
    for (const auto& [id, entry] : entries_) {
      if (entry->drive.pool == pool && !entry->removing && entry->state != DriveState::exported) missing.push_back(id);
    }
    if (missing.empty() || closed_ || deadline.passed()) co_return missing;
    changed_.reset();
    co_await block::wait_for(changed_, deadline);
  }
}

void Drives::settle(Entry& entry) {
  if (entry.settling || closed_) {
    changed_.set();
    return;
  }
  entry.settling = true;
  tasks_.spawn(run_settle(entry));
}

block::Task<void> Drives::run_settle(Entry& entry) {
  while (!closed_ && !entry.removing) {
    if (entry.wanted_elsewhere) {
      Epoch epoch = *entry.wanted_elsewhere;
      if (entry.state == DriveState::elsewhere && entry.elsewhere == epoch) break;
      co_await target_.set_fenced_elsewhere(entry.drive.nsid, epoch, entry.drive.durable_id);
      co_await close_here(entry);
      entry.elsewhere = epoch;
      entry.state = DriveState::elsewhere;
      entry.why.clear();
      changed_.set();
      continue;
    }
    if (entry.state == DriveState::exported) break;
    auto opened = co_await open_here(entry);
    if (opened) continue;
    entry.why_code = opened.error().code;
    if (opened.error().message != entry.why) {
      entry.why = opened.error().message;
      changed(entry.why);
    }
    changed_.set();
    // Woken early when its wanted place changes.
    Deadline pause = Deadline::in_ms(retry_ms);
    while (!pause.passed() && !closed_ && !entry.removing && !entry.wanted_elsewhere) {
      changed_.reset();
      co_await block::wait_for(changed_, pause);
    }
  }
  entry.settling = false;
  changed_.set();
}

block::Task<Result<void>> Drives::open_here(Entry& entry) {
  ZP_CO_TRY(device, co_await options_.open(entry.drive, Deadline::in_ms(lock_wait_ms)));
  Result<void> fit;
  if (device->durable_id() != entry.drive.durable_id) {
    fit = fail(ErrorCode::refused, "{} holds another drive ({}) than the registered one ({})", entry.drive.path,
               device->durable_id(), entry.drive.durable_id);
  } else if (device->geometry().size_bytes < entry.drive.size_bytes) {
    fit = fail(ErrorCode::refused, "drive {} has shrunk from {} to {} bytes", entry.drive.path, entry.drive.size_bytes,
               device->geometry().size_bytes);
  }
  auto fence_file = fence::FenceFile::open(folder_.fence_folder(), entry.drive.durable_id);
  if (fit && !fence_file)
    fit = fail(fence_file.error(), "drive {} stays closed, its fence file cannot be used", entry.drive.path);
  if (!fit || closed_ || entry.wanted_elsewhere || entry.removing) {
    co_await device->close();
    co_return fit;
  }
  entry.device = std::move(device);
  entry.fence_file = std::move(*fence_file);
  target_.add_namespace(entry.drive.nsid, Uuid::from_name(entry.drive.durable_id), *entry.device, *entry.fence_file);
  bool came_back = !entry.why.empty();
  entry.state = DriveState::exported;
  entry.why.clear();
  if (came_back) changed(fmt::format("drive {} is there again", entry.drive.path));
  changed_.set();
  co_return Result<void>{};
}

// The target must have let go of it before.
block::Task<void> Drives::close_here(Entry& entry) {
  if (!entry.device) co_return;
  while (entry.users > 0) {
    changed_.reset();
    co_await changed_.wait();
  }
  co_await entry.device->close();
  entry.device.reset();
  entry.fence_file.reset();
  if (entry.state == DriveState::exported) entry.state = DriveState::absent;
}

void Drives::changed(std::string line) {
  log_info("{}", line);
  if (options_.on_change) options_.on_change(std::move(line));
}

// --- what others ask -------------------------------------------------------------------------------------------------

bool Drives::exported(const std::string& durable_id) const {
  auto found = entries_.find(durable_id);
  return found != entries_.end() && found->second->state == DriveState::exported;
}

bool Drives::present(const std::string& durable_id) const {
  auto found = entries_.find(durable_id);
  return found != entries_.end() && found->second->state != DriveState::absent;
}

block::Task<Uberblock> Drives::newest_uberblock(std::string durable_id) {
  auto found = entries_.find(durable_id);
  if (found == entries_.end() || found->second->state != DriveState::exported || found->second->removing)
    co_return Uberblock{};
  Entry& entry = *found->second;
  ++entry.users;
  Uberblock newest = co_await node::newest_uberblock(*entry.device);
  --entry.users;
  changed_.set();
  co_return newest;
}

std::optional<RegisteredDrive> Drives::find(const std::string& durable_id) const {
  auto found = entries_.find(durable_id);
  if (found == entries_.end() || found->second->removing) return std::nullopt;
  return found->second->drive;
}

std::optional<RegisteredDrive> Drives::find_path(const std::string& path) const {
  for (const auto& [id, entry] : entries_) {
    if (entry->drive.path == path && !entry->removing) return entry->drive;
  }
  return std::nullopt;
}

std::vector<control::DrivePlace> Drives::places(const std::string& pool) const {
  std::vector<control::DrivePlace> places;
  for (const auto& [id, entry] : entries_) {
    const RegisteredDrive& drive = entry->drive;
    if (drive.pool == pool && !entry->removing) {
      places.push_back({options_.node, drive.durable_id, drive.path, drive.nsid, drive.size_bytes});
    }
  }
  return places;
}

std::vector<DriveStatus> Drives::status() const {
  std::vector<DriveStatus> list;
  for (const auto& [id, entry] : entries_) {
    DriveStatus status{entry->drive, entry->state, entry->why, Epoch{}, ""};
    auto fence_file = fence::FenceFile::open(folder_.fence_folder(), id);
    if (fence_file) {
      auto contents = (*fence_file)->contents();
      if (contents) status.fence_epoch = contents->epoch;
    }
    auto identity = block::identify_drive(entry->drive.path);
    if (identity) status.cache = block::name_of(identity->cache);
    list.push_back(std::move(status));
  }
  return list;
}

}  // namespace zpair::node
