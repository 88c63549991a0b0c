#include "node/daemon.h"

#include <unistd.h>

#include <filesystem>

#include "base/log.h"
#include "block/file_device.h"
#include "node/api.h"
#include "node/circular.h"
#include "state/durable_file.h"
#include "state/fault_notes.h"

namespace zpair::node {

namespace {

constexpr std::int64_t stop_pools_limit_ms = 30'000;

std::string endpoint_text(const std::string& address, std::uint16_t port) {
  bool v6 = address.find(':') != std::string::npos && !address.starts_with('[');
  return v6 ? fmt::format("tcp:[{}]:{}", address, port) : fmt::format("tcp:{}:{}", address, port);
}

// Pools whose process left a pidfile here: a zpaird that died in the middle of a creation has no copy of the record.
std::vector<std::string> pools_with_pidfile(const std::string& run_dir) {
  std::vector<std::string> pools;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, error)) {
    std::string name = entry.path().filename();
    if (name.starts_with("pool-") && name.ends_with(".pid")) pools.push_back(name.substr(5, name.size() - 9));
  }
  return pools;
}

}  // namespace

Daemon::Daemon(Options options, block::Reactor& reactor) : options_(std::move(options)), reactor_(reactor) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::create(Options options, block::Reactor& reactor) {
  std::unique_ptr<Daemon> daemon(new Daemon(std::move(options), reactor));
  ZP_CHECK(daemon->prepare());
  return daemon;
}

Result<void> Daemon::prepare() {
  const NodeConfig& config = options_.config;
  if (config.zfs_host_id == static_cast<std::uint32_t>(::gethostid())) {
    return fail(ErrorCode::invalid,
                "zfs_host_id {:#x} is this system's own (hostid): stock ZFS would then skip its multihost check. "
                "Choose another",
                config.zfs_host_id);
  }
  ZP_CHECK(state::make_folder(config.state_dir));
  ZP_CHECK(state::make_folder(config.run_dir));
  ZP_CHECK(check_not_on_pair("the node's state folder", config.state_dir));
  ZP_TRY(folder, StateFolder::open(config.state_dir));
  folder_ = std::move(folder);
  ZP_TRY(copies, folder_->load_records());
  copies_ = std::move(copies);
  events_ = std::make_unique<Events>(config.node, config.state_dir + "/events.jsonl");

  Drives::Options drives;
  drives.node = config.node;
  agent::AgentClient::Options client;
  client.node = config.node;
  client.start = start_;
  agent::AgentServer::Options server;
  server.node = config.node;
  server.start = start_;
  for (const PathConfig& path : config.paths) {
    drives.listen.push_back({endpoint_text(path.listen, path.nvme_port)});
    drives.allowed_peers.push_back(path.partner);
    parts_.paths.push_back({path.name, {endpoint_text(path.partner, path.partner_agent_port)}, path.listen});
    server.paths.push_back({path.name, {endpoint_text(path.listen, path.agent_port)}, path.partner});
  }
  client.paths = parts_.paths;
  drives.open = [this](RegisteredDrive drive, Deadline wait) { return open_drive(std::move(drive), wait); };
  drives_ = std::make_unique<Drives>(std::move(drives), *folder_);
  client_ = std::make_unique<agent::AgentClient>(std::move(client));
  ZP_TRY(listening, agent::AgentServer::create(std::move(server), *this));
  server_ = std::move(listening);
  // From here on nothing fails any more: these two want a close().
  worker_ = std::make_unique<Worker>(reactor_);
  quorum::EtcdOptions etcd;
  etcd.endpoints = config.etcd_endpoints;
  store_ = std::make_unique<quorum::EtcdStore>(reactor_, std::move(etcd));

  parts_.config = &options_.config;
  parts_.config_file = options_.config_file;
  parts_.pool_program = options_.pool_program;
  parts_.reactor = &reactor_;
  parts_.drives = drives_.get();
  parts_.folder = folder_.get();
  parts_.store = store_.get();
  parts_.partner = client_.get();
  parts_.events = events_.get();
  parts_.worker = worker_.get();
  parts_.limits.partner_wait_ns = static_cast<Nanoseconds>(config.partner_wait_s) * ns_per_s;
  parts_.with_names = [this](std::string text) { return with_names(std::move(text)); };
  parts_.partner_places = [this](const std::string& pool) {
    std::vector<control::DrivePlace> places;
    for (const PartnerDrive& drive : partner_drives_) {
      if (drive.pool == pool) places.push_back(drive.place);
    }
    return places;
  };
  api_ = std::make_unique<Api>(*this);
  return {};
}

block::Task<Result<void>> Daemon::start() {
  started_ = true;
  load_partner_drives();
  co_await start_pools();
  std::map<std::string, Epoch> elsewhere;
  for (const auto& [name, agent] : agents_) {
    if (agent->has_process()) elsewhere[name] = agent->process_epoch();
  }
  ZP_CO_CHECK(drives_->start(elsewhere));
  server_->start();
  client_->on_hello([this](std::size_t path, const agent::Hello&) {
    log_info("path {}: connected to the partner's agent", client_->path_name(path));
    if (!closed_) tasks_.spawn(refresh_partner_drives());
  });
  client_->start();
  // Anew: a pool process that lives wrote its copy itself while no zpaird was there.
  ZP_CO_TRY(copies, folder_->load_records());
  copies_ = std::move(copies);
  for (auto& [name, agent] : agents_) {
    auto copy = copies_.find(name);
    std::optional<record::Record> kept;
    if (copy != copies_.end()) kept = copy->second;
    agent->start(std::move(kept));
  }
  store_->watch([this](record::Stored stored) { on_record(std::move(stored)); });
  store_->keep_leader_on("witness");
  for (std::size_t path = 0; path < client_->path_count(); ++path) tasks_.spawn(beat(path));
  tasks_.spawn(watch_partner());
  tasks_.spawn(share_memory());
  tasks_.spawn(follow_partner_events());
  tasks_.spawn(watch_store());
  ZP_CO_TRY(http, api::HttpServer::start(reactor_, options_.config.api_socket(), api_->routes()));
  http_ = std::move(http);
  log_info("node {} is up: {} pools known, {} drives", options_.config.node, agents_.size(), drives_->status().size());
  co_return Result<void>{};
}

block::Task<void> Daemon::start_pools() {
  for (const auto& [name, record] : copies_) new_pool(name);
  for (const std::string& name : pools_with_pidfile(options_.config.run_dir)) {
    if (!agents_.contains(name)) new_pool(name);
  }
  std::vector<std::string> strangers;
  for (auto& [name, agent] : agents_) {
    auto copy = copies_.find(name);
    Epoch kept = copy == copies_.end() ? Epoch{} : copy->second.epoch;
    bool lives = co_await agent->adopt(kept);
    if (!lives && !copies_.contains(name)) strangers.push_back(name);
  }
  for (const std::string& name : strangers) {
    co_await agents_.at(name)->close();
    agents_.erase(name);
  }
}

block::Task<Daemon::StopPools> Daemon::wait_for_stop() {
  co_await stop_.wait();
  co_return stop_pools_;
}

void Daemon::ask_to_stop(StopPools pools) {
  if (pools == StopPools::yes) stop_pools_ = pools;
  stop_.set();
}

block::Task<void> Daemon::close(StopPools pools) {
  events_->close();
  if (http_) co_await http_->close();
  if (pools == StopPools::yes) {
    block::TaskGroup exports;
    for (auto& [name, agent] : agents_) exports.spawn(agent->stop_process(Deadline::in_ms(stop_pools_limit_ms)));
    co_await exports.close();
  }
  closed_ = true;
  closing_.set();
  // Side by side: each may wait for an answer that another one's end gives.
  block::TaskGroup ends;
  for (auto& [name, agent] : agents_) ends.spawn(agent->close());
  ends.spawn(client_->close());
  ends.spawn(server_->close());
  ends.spawn(store_->close());
  ends.spawn(tasks_.close());
  co_await ends.close();
  agents_.clear();
  co_await drives_->close();
  worker_->close();
  log_info("node {} is down", options_.config.node);
}

// --- pools -----------------------------------------------------------------------------------------------------------

std::vector<std::string> Daemon::pools() const {
  std::vector<std::string> names;
  for (const auto& [name, agent] : agents_) names.push_back(name);
  return names;
}

PoolAgent* Daemon::find_pool(const std::string& pool) {
  auto found = agents_.find(pool);
  return found == agents_.end() ? nullptr : found->second.get();
}

PoolAgent& Daemon::new_pool(const std::string& pool) {
  auto agent = std::make_unique<PoolAgent>(pool, parts_);
  PoolAgent& reference = *agent;
  agents_[pool] = std::move(agent);
  return reference;
}

block::Task<void> Daemon::drop_pool(std::string pool) {
  auto found = agents_.find(pool);
  if (found != agents_.end()) {
    std::unique_ptr<PoolAgent> agent = std::move(found->second);
    agents_.erase(found);
    co_await agent->forget();
    co_await agent->close();
  }
  copies_.erase(pool);
  drives_->take_back(pool);
  co_await drives_->remove_pool(pool);
}

// --- drives ----------------------------------------------------------------------------------------------------------

block::Task<Result<std::unique_ptr<block::BlockDevice>>> Daemon::open_drive(RegisteredDrive drive,
                                                                            Deadline wait_for_lock) {
  block::FileDeviceOptions options;
  options.path = drive.path;
  options.block_size_bytes = drive.block_size_bytes;
  options.wait_for_lock = wait_for_lock;
  auto file = co_await block::FileDevice::open(std::move(options));
  if (!file) co_return std::unexpected(file.error());
  const FaultConfig& fault = options_.config.fault;
  if (!fault.allowed && !fault.volatile_cache && fault.model.empty())
    co_return std::unique_ptr<block::BlockDevice>(std::move(*file));
  auto wrapped = state::wrap_with_faults(options_.config.run_dir, std::move(*file), fault);
  if (!wrapped) co_return std::unexpected(wrapped.error());
  fault_devices_[drive.durable_id] = wrapped->get();
  co_return std::unique_ptr<block::BlockDevice>(std::move(*wrapped));
}

std::string Daemon::with_names(std::string text) const {
  auto put = [&text](const std::string& durable_id, const std::string& path) {
    if (durable_id.empty() || path.empty()) return;
    std::string name = path.substr(path.rfind('/') + 1);
    for (std::size_t at = 0; (at = text.find(durable_id, at)) != std::string::npos; at += name.size())
      text.replace(at, durable_id.size(), name);
  };
  for (const auto& [name, agent] : agents_) {
    for (const control::DrivePlace& place : drives_->places(name)) put(place.durable_id, place.path);
  }
  for (const PartnerDrive& drive : partner_drives_) put(drive.place.durable_id, drive.place.path);
  return text;
}

block::FaultDevice* Daemon::fault_device(const std::string& durable_id) {
  if (!drives_->exported(durable_id)) return nullptr;
  auto found = fault_devices_.find(durable_id);
  return found == fault_devices_.end() ? nullptr : found->second;
}

}  // namespace zpair::node
