#include "node/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "state/durable_file.h"

namespace zpair::node {

namespace {

using nlohmann::json;

constexpr std::int64_t lock_limit_ms = 2000;  // a pool process writes its pool's copy at most this long

json json_of(const RegisteredDrive& drive) {
  return {{"durable_id", drive.durable_id},
          {"path", drive.path},
          {"nsid", drive.nsid},
          {"pool", drive.pool},
          {"size_bytes", drive.size_bytes},
          {"block_size_bytes", drive.block_size_bytes}};
}

RegisteredDrive drive_of(const json& value) {
  RegisteredDrive drive;
  drive.durable_id = value.at("durable_id");
  drive.path = value.at("path");
  drive.nsid = value.at("nsid");
  drive.pool = value.at("pool");
  drive.size_bytes = value.at("size_bytes");
  drive.block_size_bytes = value.at("block_size_bytes");
  return drive;
}

}  // namespace

class StateFolder::Turn {
 public:
  explicit Turn(StateFolder& folder) : folder_(folder) {}
  ~Turn() {
    if (!taken_) return;
    folder_.busy_ = false;
    folder_.free_.set();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  block::Task<void> take() {
    while (folder_.busy_) {
      folder_.free_.reset();
      co_await folder_.free_.wait();
    }
    folder_.busy_ = taken_ = true;
  }

 private:
  StateFolder& folder_;
  bool taken_ = false;
};

Result<std::unique_ptr<StateFolder>> StateFolder::open(std::string state_dir) {
  std::unique_ptr<StateFolder> folder(new StateFolder(std::move(state_dir)));
  for (const char* part : {"", "/volumes", "/fence"}) ZP_CHECK(state::make_folder(folder->path_ + part));
  ZP_CHECK(folder->copies_.make_folder());
  std::string lock_file = folder->path_ + "/zpaird.lock";
  folder->lock_ = UniqueFd(::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!folder->lock_) return fail_errno(errno, "cannot open {}", lock_file);
  if (::flock(folder->lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::exists, "another zpaird runs on {}: stop it first", folder->path_);
  }
  return folder;
}

Result<std::vector<RegisteredDrive>> StateFolder::load_drives(std::uint32_t& last_nsid) const {
  last_nsid = 0;
  std::string file = path_ + "/drives.json";
  auto text = state::load_file(file);
  if (!text && text.error().code == ErrorCode::not_found) return std::vector<RegisteredDrive>{};
  if (!text) return std::unexpected(text.error());
  std::vector<RegisteredDrive> drives;
  try {
    json value = json::parse(*text);
    last_nsid = value.at("last_nsid");
    for (const json& drive : value.at("drives")) drives.push_back(drive_of(drive));
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "{} does not parse ({}): restore it from a backup", file, error.what());
  }
  return drives;
}

block::Task<Result<void>> StateFolder::store_drives(std::vector<RegisteredDrive> drives, std::uint32_t last_nsid) {
  Turn turn(*this);
  co_await turn.take();
  json list = json::array();
  for (const RegisteredDrive& drive : drives) list.push_back(json_of(drive));
  std::string text = json{{"last_nsid", last_nsid}, {"drives", list}}.dump(1) + "\n";
  co_return co_await state::store_file(path_ + "/drives.json", std::move(text));
}

block::Task<Result<void>> StateFolder::store_record(record::Record record) {
  const Deadline wait_for_lock = Deadline::in_ms(lock_limit_ms);
  co_return co_await copies_.store(std::move(record), wait_for_lock);
}

block::Task<Result<void>> StateFolder::remove_record(std::string pool) {
  const Deadline wait_for_lock = Deadline::in_ms(lock_limit_ms);
  ZP_CO_CHECK(co_await copies_.remove(pool, wait_for_lock));
  Turn turn(*this);
  co_await turn.take();
  co_return co_await state::remove_file(volumes_file(pool));
}

std::vector<agent::PoolState::Volume> StateFolder::load_volumes(const std::string& pool) const {
  std::vector<agent::PoolState::Volume> volumes;
  auto text = state::load_file(volumes_file(pool));
  if (!text) return volumes;
  try {
    for (const json& value : json::parse(*text)) {
      volumes.push_back({value.at("name"), value.at("size_bytes"), std::stoull(value.at("guid").get<std::string>())});
    }
  } catch (const std::exception&) {
    volumes.clear();  // a convenience only: the owner tells them again
  }
  return volumes;
}

block::Task<Result<void>> StateFolder::store_volumes(std::string pool, std::vector<agent::PoolState::Volume> volumes) {
  Turn turn(*this);
  co_await turn.take();
  json list = json::array();
  for (const auto& volume : volumes) {
    list.push_back({{"name", volume.name}, {"size_bytes", volume.size_bytes}, {"guid", std::to_string(volume.guid)}});
  }
  std::string text = list.dump() + "\n";
  co_return co_await state::store_file(volumes_file(pool), std::move(text));
}

}  // namespace zpair::node
