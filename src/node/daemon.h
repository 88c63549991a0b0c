#pragma once
// zpaird, one a node: the drives' target, the agent of every pool, the supervisor of pool processes, the local sockets of
// volumes, the API. This class puts the parts together, starts them in the one order that is safe, and ends them.
//
// Start: the state folder's lock; pool processes of a former zpaird are found before any drive is opened (theirs stay
// closed); then the target listens (closed namespaces), then the agents speak. Nothing is imported before that.
// End: without `StopPools::yes` the pool processes serve on, and the next zpaird finds them.
// Threading: one reactor thread, and the HTTP edge's.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent_client.h"
#include "agent/agent_server.h"
#include "api/http_server.h"
#include "base/config.h"
#include "block/fault_device.h"
#include "block/reactor.h"
#include "node/drives.h"
#include "node/events.h"
#include "node/pool_agent.h"
#include "node/state_folder.h"
#include "node/worker.h"
#include "quorum/etcd_store.h"

namespace zpair::node {

class Api;

class Daemon final : public agent::AgentService {
 public:
  struct Options {
    NodeConfig config;
    std::string config_file;   // absolute: pool processes read it too
    std::string pool_program;  // zpair-pool
  };
  enum class StopPools : std::uint8_t { no, yes };

  static Result<std::unique_ptr<Daemon>> create(Options options, block::Reactor& reactor);
  ~Daemon() override;

  block::Task<Result<void>> start();
  block::Task<StopPools> wait_for_stop();  // ask_to_stop() ends it
  void ask_to_stop(StopPools pools);       // reactor thread
  block::Task<void> close(StopPools pools);

  // For the API.
  const NodeConfig& config() const { return options_.config; }
  NodeParts& parts() { return parts_; }
  Drives& drives() { return *drives_; }
  Events& events() { return *events_; }
  agent::AgentClient& partner() { return *client_; }
  quorum::EtcdStore& store() { return *store_; }
  StateFolder& folder() { return *folder_; }
  bool store_available() const { return store_available_; }
  Nanoseconds partner_heard_ns() const;
  bool partner_alive() const;  // heard on some path a moment ago
  Nanoseconds path_heard_ns(std::size_t path) const;
  std::vector<std::string> pools() const;
  PoolAgent* find_pool(const std::string& pool);
  PoolAgent& new_pool(const std::string& pool);   // its agent is not started
  block::Task<void> drop_pool(std::string pool);  // destroyed, or never made: agent, record copy, drives
  block::FaultDevice* fault_device(const std::string& durable_id);
  // The partner's registered drives, as last told.
  struct PartnerDrive {
    control::DrivePlace place;
    std::string pool;
  };
  const std::vector<PartnerDrive>& partner_drives() const { return partner_drives_; }
  // Durable ids in a line for people become the drives' short names.
  std::string with_names(std::string text) const;
  block::Task<void> refresh_partner_drives();

  // agent::AgentService
  void on_hello(std::size_t path, const agent::Hello& hello) override;
  agent::Heartbeat on_heartbeat(std::size_t path, const agent::Heartbeat& partner) override;
  agent::PromiseAnswer on_promise(std::size_t path, const agent::PromiseRequest& request) override;
  agent::CanServeAnswer on_can_serve(const agent::CanServeRequest& request) override;
  block::Task<Result<agent::SurveyAnswer>> on_survey(agent::SurveyRequest request) override;
  block::Task<Result<agent::HandoverAnswer>> on_handover(agent::HandoverRequest request) override;
  block::Task<Result<agent::YieldAnswer>> on_yield(agent::YieldRequest request) override;
  block::Task<agent::CallAnswer> on_call(agent::CallRequest request) override;
  agent::RelayAnswer on_relay(const agent::RelayHello& hello, UniqueFd& socket) override;

 private:
  Daemon(Options options, block::Reactor& reactor);
  Result<void> prepare();
  block::Task<void> start_pools();
  block::Task<Result<std::unique_ptr<block::BlockDevice>>> open_drive(RegisteredDrive drive, Deadline wait_for_lock);

  // daemon_partner.cpp
  agent::Heartbeat own_heartbeat();
  void heard(const agent::Heartbeat& partner);
  block::Task<void> beat(std::size_t path);
  block::Task<void> watch_partner();
  block::Task<void> share_memory();
  block::Task<void> follow_partner_events();
  block::Task<void> watch_store();
  bool some_partner_drive_unknown() const;
  std::string partner_drives_file() const { return options_.config.state_dir + "/partner-drives.json"; }
  void load_partner_drives();
  Result<std::vector<PartnerDrive>> partner_drives_in(const std::string& text) const;
  void on_record(record::Stored stored);
  block::Task<void> forget_if_destroyed(std::string pool);

  Options options_;
  block::Reactor& reactor_;
  std::unique_ptr<StateFolder> folder_;
  std::unique_ptr<Events> events_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<quorum::EtcdStore> store_;
  std::unique_ptr<Drives> drives_;
  std::unique_ptr<agent::AgentClient> client_;
  std::unique_ptr<agent::AgentServer> server_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<api::HttpServer> http_;
  NodeParts parts_;
  std::map<std::string, std::unique_ptr<PoolAgent>> agents_;
  std::map<std::string, block::FaultDevice*> fault_devices_;
  std::map<std::string, record::Record> copies_;
  std::vector<PartnerDrive> partner_drives_;
  std::string partner_drives_text_;  // as kept in the state folder
  Uuid start_ = Uuid::random();
  std::uint64_t heartbeat_number_ = 0;
  bool store_available_ = false;
  bool started_ = false;
  bool closed_ = false;
  StopPools stop_pools_ = StopPools::no;
  block::Signal stop_;
  block::Signal closing_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
