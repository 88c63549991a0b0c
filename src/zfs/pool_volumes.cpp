// A pool's volumes and their snapshots.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "zfs/pool_internal.h"

namespace zpair::zfs {

using block::Task;

namespace {

bool is_power_of_two(std::uint64_t number) { return number != 0 && (number & (number - 1)) == 0; }

// As `zfs create -V` has it: a client would not find the size that it asked for.
Result<void> check_size(std::string_view volume, std::uint64_t size_bytes, std::uint32_t block_size_bytes) {
  if (size_bytes % block_size_bytes == 0) return {};
  return fail(ErrorCode::refused,
              "volume {} cannot have {} bytes: its size is a multiple of its block size, {} bytes (the next one is {})",
              volume, size_bytes, block_size_bytes, (size_bytes / block_size_bytes + 1) * block_size_bytes);
}

VolumeInfo info_of(const zp_volume_info& plain) {
  VolumeInfo info;
  info.name = std::string(plain.name).substr(std::string_view(plain.name).find('/') + 1);
  info.guid = plain.guid;
  info.size_bytes = plain.size_bytes;
  info.block_size_bytes = plain.block_size_bytes;
  info.reserved_bytes = plain.reserved_bytes;
  info.used_bytes = plain.used_bytes;
  info.referenced_bytes = plain.referenced_bytes;
  info.compression = plain.compression;
  return info;
}

}  // namespace

std::string Pool::full_name(const std::string& volume) const {
  return volume.empty() ? options_.name : options_.name + "/" + volume;
}

Task<Result<VolumeInfo>> Pool::create_volume(VolumeSpec spec) {
  ZP_CO_CHECK(check_name("volume", spec.name));
  if (spec.size_bytes == 0) co_return fail(ErrorCode::invalid, "volume {} needs a size", spec.name);
  if (!is_power_of_two(spec.block_size_bytes) || spec.block_size_bytes < 4096 || spec.block_size_bytes > 131072) {
    co_return fail(ErrorCode::invalid, "a volume's block size is a power of two from 4096 to 131072, not {}",
                   spec.block_size_bytes);
  }
  std::string name = full_name(spec.name);
  ZP_CO_CHECK(check_size(name, spec.size_bytes, spec.block_size_bytes));
  auto create = [&](zp_why* why) {
    return zp_volume_create(name.c_str(), spec.size_bytes, spec.block_size_bytes,
                            spec.space == VolumeSpec::Space::thick ? 1 : 0, spec.compression.c_str(), why);
  };
  ZP_CO_CHECK(co_await ask(engine_, create));
  co_return co_await look_at(spec.name);
}

Task<Result<VolumeInfo>> Pool::look_at(std::string volume) {
  std::string name = full_name(volume);
  zp_volume_info info;
  auto look = [&](zp_why* why) { return zp_volume_look(name.c_str(), &info, why); };
  ZP_CO_CHECK(co_await ask(engine_, look));
  co_return info_of(info);
}

Task<Result<void>> Pool::destroy_volume(std::string name) {
  ZP_CO_CHECK(check_name("volume", name));
  if (handle_->open_volumes.contains(name))
    co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, name);
  zp_volume* replayed = take_replayed(name);
  std::string full = full_name(name);
  auto destroy = [&](zp_why* why) {
    if (replayed != nullptr) zp_volume_close(replayed);
    return zp_volume_destroy(full.c_str(), why);
  };
  co_return co_await ask(engine_, destroy);
}

Task<Result<VolumeInfo>> Pool::resize_volume(std::string name, std::uint64_t size_bytes) {
  ZP_CO_CHECK(check_name("volume", name));
  std::string full = full_name(name);
  ZP_CO_TRY(present, co_await look_at(name));
  ZP_CO_CHECK(check_size(full, size_bytes, present.block_size_bytes));
  zp_volume* open = nullptr;
  if (auto found = handle_->open_volumes.find(name); found != handle_->open_volumes.end()) open = found->second->handle;
  if (auto found = handle_->replayed.find(name); found != handle_->replayed.end()) open = found->second;
  auto resize = [&](zp_why* why) { return zp_volume_resize(full.c_str(), open, size_bytes, why); };
  ZP_CO_CHECK(co_await ask(engine_, resize));
  co_return co_await look_at(name);
}

Task<Result<void>> Pool::snapshot_volume(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  std::string full = full_name(name);
  auto take = [&](zp_why* why) { return zp_volume_snapshot(full.c_str(), snapshot.c_str(), why); };
  co_return co_await ask(engine_, take);
}

Task<Result<VolumeInfo>> Pool::clone_volume(std::string name, std::string snapshot, std::string clone,
                                            VolumeSpec::Space space) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  ZP_CO_CHECK(check_name("volume", clone));
  std::string origin = full_name(name) + "@" + snapshot;
  std::string full = full_name(clone);
  auto make = [&](zp_why* why) {
    return zp_volume_clone(origin.c_str(), full.c_str(), space == VolumeSpec::Space::thick ? 1 : 0, why);
  };
  ZP_CO_CHECK(co_await ask(engine_, make));
  co_return co_await look_at(clone);
}

Task<Result<VolumeInfo>> Pool::roll_back_volume(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  if (handle_->open_volumes.contains(name))
    co_return fail(ErrorCode::refused, "volume {}/{} is open", options_.name, name);
  ZP_CO_TRY(volume, co_await open_volume(name));  // its log is what the floor asks for (rule 7), and replayed
  co_await volume->close();
  std::string full = full_name(name);
  auto roll_back = [&](zp_why* why) { return zp_volume_rollback(full.c_str(), snapshot.c_str(), why); };
  ZP_CO_CHECK(co_await ask(engine_, roll_back));
  auto info = co_await look_at(name);
  if (!info) co_return fail(info.error(), "volume {} is rolled back to {}, but then", full, snapshot);
  co_return info;
}

Task<Result<void>> Pool::destroy_snapshot(std::string name, std::string snapshot) {
  ZP_CO_CHECK(check_name("volume", name));
  ZP_CO_CHECK(check_name("snapshot", snapshot));
  std::string full = full_name(name);
  auto destroy = [&](zp_why* why) { return zp_snapshot_destroy(full.c_str(), snapshot.c_str(), why); };
  co_return co_await ask(engine_, destroy);
}

Task<Result<std::vector<VolumeInfo>>> Pool::list_volumes() {
  std::vector<std::string> names;
  std::vector<VolumeInfo> volumes;
  auto look = [&, pool = handle_->pool](zp_why* why) {
    auto found = [](void* context, const char* name) {
      static_cast<std::vector<std::string>*>(context)->push_back(name);
      return 0;
    };
    int error = zp_volumes_each(pool, found, &names);
    if (error != 0) std::snprintf(why->text, sizeof why->text, "cannot list the volumes: %s", std::strerror(error));
    for (const std::string& name : names) {
      if (name.find('@') != std::string::npos) continue;
      zp_volume_info info;
      zp_why unreadable;
      const int unread = zp_volume_look(name.c_str(), &info, &unreadable);
      if (unread == ENOTBLK || (unread == ENOENT && info.guid == 0)) continue;  // a file system; destroyed meanwhile
      volumes.push_back(info_of(info));
      if (unread != 0) volumes.back().unreadable = unreadable.text;
    }
    return error;
  };
  ZP_CO_CHECK(co_await ask(engine_, look));
  for (VolumeInfo& volume : volumes) {
    std::string prefix = full_name(volume.name) + "@";
    for (const std::string& name : names) {
      if (name.starts_with(prefix)) volume.snapshots.push_back(name.substr(prefix.size()));
    }
  }
  std::ranges::sort(volumes, {}, &VolumeInfo::name);
  co_return volumes;
}

// What the import opened to replay its log; null: it did not.
zp_volume* Pool::take_replayed(const std::string& name) {
  auto found = handle_->replayed.find(name);
  if (found == handle_->replayed.end()) return nullptr;
  zp_volume* volume = found->second;
  handle_->replayed.erase(found);
  return volume;
}

Task<Result<std::unique_ptr<Volume>>> Pool::open_volume(std::string name) {
  ZP_CO_CHECK(check_name("volume", name));
  if (handle_->open_volumes.contains(name))
    co_return fail(ErrorCode::exists, "volume {}/{} is open already", options_.name, name);
  std::string full = full_name(name);
  zp_volume* volume = take_replayed(name);
  if (volume == nullptr) {
    std::uint64_t floor = 0;
    if (auto sequence = handle_->floor_sequences.find(name); sequence != handle_->floor_sequences.end())
      floor = sequence->second;
    std::uint64_t replayed_count = 0;
    auto open = [&, pool = handle_->pool](zp_why* why) {
      return zp_volume_open(pool, full.c_str(), floor, &volume, &replayed_count, why);
    };
    ZP_CO_CHECK(co_await ask(engine_, open));
  }
  handle_->floor_sequences.erase(name);
  zp_volume_info info;
  auto look = [volume, &info](zp_why* why) { return zp_volume_look_open(volume, &info, why); };
  Result<void> looked = co_await ask(engine_, look);
  if (!looked) {
    auto close = [volume] { zp_volume_close(volume); };
    co_await apart(engine_, close);
    co_return std::unexpected(looked.error());
  }
  auto state = std::make_unique<Volume::State>(engine_);
  state->handle = volume;
  state->info = info_of(info);
  handle_->open_volumes[name] = state.get();
  state->on_closed = [handle = handle_.get(), name] { handle->open_volumes.erase(name); };
  co_return std::unique_ptr<Volume>(new Volume(std::move(state)));
}

Task<Result<void>> Pool::set_property(std::string volume, std::string property, std::string value) {
  std::string full = full_name(volume);
  auto set = [&](zp_why* why) { return zp_property_set(full.c_str(), property.c_str(), value.c_str(), why); };
  co_return co_await ask(engine_, set);
}

Task<Result<void>> Pool::set_note(std::string note, std::string value) {
  const std::string full = full_name("");
  auto set = [&](zp_why* why) { return zp_note_set(full.c_str(), note.c_str(), value.c_str(), why); };
  co_return co_await ask(engine_, set);
}

Task<Result<std::string>> Pool::note(std::string note) {
  const std::string full = full_name("");
  std::string value(ZP_NOTE_SIZE, '\0');
  auto get = [&](zp_why* why) { return zp_note_get(full.c_str(), note.c_str(), value.data(), why); };
  ZP_CO_CHECK(co_await ask(engine_, get));
  value.resize(std::strlen(value.c_str()));
  co_return value;
}

}  // namespace zpair::zfs
