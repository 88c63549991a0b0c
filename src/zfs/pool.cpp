#include "zfs/pool.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "zfs/pool_internal.h"

namespace zpair::zfs {

using block::Task;

namespace {

constexpr std::uint64_t least_leg_bytes = 64ULL << 20;
constexpr std::size_t leaves_most = 1024;

}  // namespace

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
  co_await engine_.ready();
  // Until all is written no leg is in the ack set, so that a bad drive ends the creation instead of holding it.
  PlainMirrors plain(*driver_, spec.mirrors);
  zp_pool* pool = nullptr;
  auto create = [&](zp_why* why) {
    return zp_pool_create(options_.name.c_str(), plain.mirrors.data(), plain.count(), spec.compression.c_str(), &pool,
                          why);
  };
  Result<void> created = co_await ask(engine_, create);
  if (!created) {
    for (const std::string& path : plain.paths) driver_->forget_path(path);
    co_return std::unexpected(created.error());
  }
  handle_->pool = pool;
  driver_->set_pool(pool);
  ZP_CO_CHECK(co_await learn_layout());
  driver_->set_ack_set(legs_of(layout_));
  auto sync = [pool] { zp_pool_wait_synced(pool); };
  co_await apart(engine_, sync);
  for (LegId leg : legs_of(layout_)) {
    bool flushed = co_await driver_->flush_all(leg);
    if (flushed) continue;
    std::string name = driver_->find(leg) != nullptr ? driver_->find(leg)->name : "?";
    driver_->set_ack_set({});
    Result<void> destroyed = co_await destroy_pool();
    if (!destroyed) log_warning("pool {}: {}", options_.name, destroyed.error().message);
    co_return fail(ErrorCode::io, "drive {} failed a write while the pool was created on it: nothing was created",
                   name);
  }
  co_return layout_;
}

Task<Result<void>> Pool::export_pool(ExportTo to) {
  co_return co_await end(to == ExportTo::partner ? End::handed_over : End::exported);
}

Task<Result<void>> Pool::destroy_pool() { co_return co_await end(End::destroyed); }

Task<Result<void>> Pool::end(End how) {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  if (!handle_->open_volumes.empty()) {
    co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, handle_->open_volumes.begin()->first);
  }
  co_await close_replayed();
  driver_->set_pool(nullptr);
  zp_pool* pool = handle_->pool;
  auto end_it = [pool, how](zp_why* why) {
    return how == End::destroyed ? zp_pool_destroy(pool, why) : zp_pool_export(pool, how == End::handed_over, why);
  };
  Result<void> ended = co_await ask(engine_, end_it);
  if (!ended) {
    driver_->set_pool(pool);
    co_return ended;
  }
  handle_->pool = nullptr;
  driver_->set_ack_set({});
  co_return Result<void>{};
}

// The volumes that the import opened and nobody asked for.
Task<void> Pool::close_replayed() {
  for (auto& [name, volume] : std::exchange(handle_->replayed, {})) {
    auto close = [handle = volume] { zp_volume_close(handle); };
    co_await apart(engine_, close);
  }
}

Task<Result<void>> Pool::learn_layout() {
  zp_pool* pool = handle_->pool;
  zp_pool_stats stats;
  std::vector<zp_leaf> leaves;
  auto look = [&] {
    zp_pool_look(pool, &stats);
    leaves = leaves_of(pool);
  };
  co_await apart(engine_, look);
  PoolLayout layout;
  layout.guid = PoolGuid{stats.guid};
  for (const zp_leaf& leaf : leaves) {
    MirrorId mirror{leaf.mirror_guid};
    if (layout.mirrors.empty() || layout.mirrors.back().guid != mirror)
      layout.mirrors.push_back(MirrorLayout{mirror, {}});
    layout.mirrors.back().legs.push_back(LegLayout{LegId{leaf.guid}, LegDriver::name_in_path(leaf.path)});
    driver_->learn(leaf.path, LegId{leaf.guid}, mirror);
  }
  layout_ = std::move(layout);
  co_return Result<void>{};
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

// ---- what the files of Pool share

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

PlainMirrors::PlainMirrors(const LegDriver& driver, const std::vector<MirrorSpec>& specs) {
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

Result<void> check_name(std::string_view kind, std::string_view name) {
  bool good = !name.empty() && name.size() <= 100 && std::isalnum(static_cast<unsigned char>(name[0])) != 0;
  for (char letter : name) {
    good = good &&
           (std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '-' || letter == '_' || letter == '.');
  }
  if (!good) {
    return fail(ErrorCode::invalid, "{} is no name for a {}: letters, digits, - _ . and a letter or digit first", name,
                kind);
  }
  return {};
}

Result<void> check_mirrors(const std::vector<MirrorSpec>& mirrors) {
  if (mirrors.empty()) return fail(ErrorCode::invalid, "a pool needs a mirror");
  std::set<std::pair<NodeId, std::string>> names;
  for (const MirrorSpec& mirror : mirrors) {
    if (mirror.legs.size() < 2)
      return fail(ErrorCode::invalid, "a mirror needs two legs, this one has {}", mirror.legs.size());
    if (mirror.vdev_class != "normal" && mirror.vdev_class != "log" && mirror.vdev_class != "special" &&
        mirror.vdev_class != "dedup") {
      return fail(ErrorCode::invalid, "{} is no class of a mirror: normal, log, special or dedup", mirror.vdev_class);
    }
    for (const LegSpec& leg : mirror.legs) {
      ZP_CHECK(check_name("leg", leg.name));
      if (!names.emplace(leg.node, leg.name).second) {
        return fail(ErrorCode::invalid, "drive {} of node {} is named twice", leg.name, leg.node);
      }
      if (leg.device->geometry().size_bytes < least_leg_bytes) {
        return fail(ErrorCode::invalid, "drive {} has {} bytes, a leg needs at least {}", leg.name,
                    leg.device->geometry().size_bytes, least_leg_bytes);
      }
      if (leg.device->geometry().block_size_bytes > 4096) {
        return fail(ErrorCode::invalid, "drive {} has blocks of {} bytes, a leg's are at most 4096", leg.name,
                    leg.device->geometry().block_size_bytes);
      }
    }
  }
  return {};
}

// The first 8 KiB of a leg are never used by OpenZFS.
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

std::vector<zp_leaf> leaves_of(zp_pool* pool) {
  std::vector<zp_leaf> leaves(leaves_most);
  int count = zp_pool_leaves(pool, leaves.data(), static_cast<int>(leaves.size()));
  leaves.resize(std::min<std::size_t>(static_cast<std::size_t>(count), leaves.size()));
  return leaves;
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

}  // namespace zpair::zfs
