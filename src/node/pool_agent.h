#pragma once
// One pool as this node sees it: runs the agent's brain (brain/agent.h). Facts go in one at a time, the orders are carried out
// in their order, each outcome comes back as a fact; nothing counts as done before.
//
// It holds the pool process of this node while there is one, and the local sockets of the pool's volumes.
// Ownership: close() before the end; a living pool process goes on without us. The node's parts outlive it.
// Threading: reactor thread only.
// Source:    style, section 7; rules 4, 5, 6, 9, 11.
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/agent_client.h"
#include "agent/agent_server.h"
#include "base/config.h"
#include "block/reactor.h"
#include "brain/agent.h"
#include "node/drives.h"
#include "node/engine_watch.h"
#include "node/events.h"
#include "node/pool_process.h"
#include "node/state_folder.h"
#include "node/volume_sockets.h"
#include "node/worker.h"
#include "quorum/quorum_store.h"

namespace zpair::node {

// What all pools of a node share.
struct NodeParts {
  const NodeConfig* config = nullptr;
  std::string config_file;
  std::string pool_program;
  block::Reactor* reactor = nullptr;
  Drives* drives = nullptr;
  StateFolder* folder = nullptr;
  quorum::QuorumStore* store = nullptr;
  agent::AgentClient* partner = nullptr;
  Events* events = nullptr;
  Worker* worker = nullptr;
  std::vector<agent::ClientPath> paths;
  brain::Limits limits;
  std::function<std::string(std::string text)> with_names;  // durable ids become drives' names; may be empty
  std::function<std::vector<control::DrivePlace>(const std::string& pool)> partner_places;  // as far as known
};

class PoolAgent {
 public:
  PoolAgent(std::string pool, NodeParts& node);
  ~PoolAgent();

  // Before start(): finds a process of a former zpaird. True: it lives and keeps its drives.
  block::Task<bool> adopt(Epoch if_it_does_not_say);
  Epoch process_epoch() const { return process_epoch_; }
  // `kept`: the durable copy.
  void start(std::optional<record::Record> kept);
  // A new pool, created by a process that this node starts: returns when the record is in the store and the pool serves.
  block::Task<Result<void>> create(control::StartDocument document);
  block::Task<void> close();  // the pool process goes on
  // Planned stop of the node: asks the pool process to export (the record stays `serving`) and waits for its end.
  block::Task<void> stop_process(Deadline deadline);

  void seen(record::Stored stored);  // the store's watch

  // From the partner.
  void heard(const agent::PoolState& state);
  void heard_nothing_of_it();  // the partner's agent lives and does not know the pool
  agent::PromiseAnswer promise(std::size_t path, const agent::PromiseRequest& request);
  agent::CanServeAnswer can_serve(const agent::CanServeRequest& request);
  block::Task<Result<agent::SurveyAnswer>> survey(agent::SurveyRequest request);
  block::Task<Result<agent::HandoverAnswer>> handover(agent::HandoverRequest request);
  block::Task<Result<agent::YieldAnswer>> yield(agent::YieldRequest request);
  agent::RelayAnswer relay(const agent::RelayHello& hello, UniqueFd& socket);

  // From an operator. The text of the answer, or the rule that refuses.
  block::Task<Result<std::string>> switch_here(Deadline deadline);
  block::Task<Result<std::string>> take_over(Deadline deadline);
  // An override's event tells `sides`, what the operator was shown of them (rule 11).
  struct Override {
    bool accept_data_loss = false;
    bool accept_corruption = false;
    std::string sides;
  };
  block::Task<Result<std::string>> import(Override accepted, Deadline deadline);
  // One line for people: the last complete txg of this node's side and its age, or why it is incomplete (rule 11).
  block::Task<std::string> side();

  const std::string& pool() const { return pool_; }
  const brain::agent::State& state() const { return state_; }
  std::optional<record::Record> newest_record() const;
  bool record_changes() const;                // a copy or a swap of this agent is on its way
  std::uint64_t newest_mod_revision() const;  // the highest that this agent or its process may compare with
  bool has_process() const { return process_ != nullptr; }
  bool changes_owner() const;  // an import is under way, here or at the partner
  bool process_serves() const { return process_state_ && process_state_->serving; }
  const std::optional<control::State>& process_state() const { return process_state_; }
  pid_t process_pid() const { return process_ ? process_->pid() : 0; }
  agent::PoolState to_tell() const;  // for the heartbeat
  const std::vector<agent::PoolState::Volume>& volumes() const { return volumes_; }
  VolumeSockets& sockets() { return sockets_; }
  void tell_places();                                  // drives were registered
  void tell_share(const control::MemoryShare& share);  // to the process, when it is another one than it has
  // The record is gone from the store, or the operator destroyed the pool: nothing of it shall stay here.
  bool gone() const { return state_.gone; }
  block::Task<void> forget();

 private:
  using Event = brain::agent::Event;
  using Action = brain::agent::Action;
  struct Answer {
    block::Signal done;
    bool ok = false;
    std::string text;
    agent::SurveyAnswer survey;
    agent::HandoverAnswer handover;
    agent::YieldAnswer yield;
  };

  // A call from outside that waits inside this object: close() waits for it.
  struct Visit {
    explicit Visit(PoolAgent& host) : agent(host) { ++agent.visitor_count_; }
    ~Visit() {
      if (--agent.visitor_count_ == 0) agent.visitors_left_.set();
    }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    PoolAgent& agent;
  };

  void feed(Event event);
  void digest();
  void tick();
  void after_step();
  void note_changes();
  void settle_sockets();
  void time_import();

  // Orders (pool_agent_orders.cpp).
  void order(const brain::agent::SurveyLocal&);
  void order(const brain::agent::CloseLocalDrives&);
  void order(const brain::agent::OpenLocalDrives&);
  void order(const brain::agent::StartPool&);
  void order(const brain::agent::KillPool&);
  void order(const brain::agent::ReleasePromise&);
  void order(const brain::agent::TellCannotFence&);
  void order(const brain::agent::DrainPool&);
  void order(const brain::agent::AnswerPromise&);
  void order(const brain::agent::AnswerCanServe&);
  void order(const brain::agent::SendSurvey&);
  void order(const brain::agent::AnswerSurvey&);
  void order(const brain::agent::SendHandover&);
  void order(const brain::agent::AnswerHandover&);
  void order(const brain::agent::SendYield&);
  void order(const brain::agent::AnswerYield&);
  void order(const brain::owner::AnswerCommand&);
  void order(const brain::owner::Report&);
  void order(const brain::SwapRecord&);
  void order(const brain::ReadRecord&);
  void order(const brain::KeepCopy&);
  block::Task<void> survey_local();
  block::Task<void> close_drives(Epoch epoch);
  block::Task<void> open_drives();
  block::Task<void> start_process(brain::agent::StartPool order);
  block::Task<void> send_survey(std::uint64_t id, Epoch epoch);
  block::Task<void> send_handover(record::Stored stored);
  block::Task<void> send_yield(Epoch epoch);
  block::Task<void> swap(brain::SwapRecord order);
  block::Task<void> read();
  block::Task<void> keep(record::Stored stored);

  // The pool process (pool_agent_process.cpp).
  PoolProcess::Options process_options() const;
  PoolProcess::Callbacks callbacks();
  void on_message(control::Received received);
  void on_exit(ProcessExit exit);
  block::Task<void> end_process(ProcessExit exit);
  block::Task<void> keep_for_process(record::Record record);
  void learn_volumes(std::vector<agent::PoolState::Volume> volumes);
  enum class EventsFrom : std::uint8_t { start, now };
  block::Task<void> follow_process_events(pid_t pid, EventsFrom from);

  block::Task<Result<std::string>> command(std::function<Event(std::uint64_t)> make, Deadline deadline);
  std::vector<control::DrivePlace> places() const;

  std::string pool_;
  NodeParts& node_;
  brain::agent::State state_;
  std::deque<Event> waiting_;
  bool digesting_ = false;
  bool started_ = false;
  bool closed_ = false;
  block::Signal closing_;
  block::Reactor::TimerId timer_ = 0;

  control::MemoryShare share_;  // as last told to the process
  std::unique_ptr<PoolProcess> process_;
  Epoch process_epoch_;
  EngineWatch engine_watch_;
  bool engine_hangs_ = false;
  std::optional<control::State> process_state_;
  block::Signal process_changed_;  // set and reset at each change of the process
  std::optional<ProcessExit> last_exit_;
  bool creating_ = false;
  bool stopping_ = false;
  bool ending_ = false;  // it has exited, PoolExited is on its way

  std::vector<agent::PoolState::Volume> volumes_;
  VolumeSockets sockets_;

  std::optional<brain::agent::AnswerPromise> promise_answer_;
  std::optional<brain::agent::AnswerCanServe> can_serve_answer_;
  std::uint64_t last_id_ = 0;
  std::map<std::uint64_t, Answer*> surveys_;  // asked by the partner
  std::map<std::uint64_t, Answer*> commands_;
  std::multimap<Epoch, Answer*> handovers_;
  std::multimap<Epoch, Answer*> yields_;
  std::string noted_owner_;  // what the last events said
  std::string noted_refused_;
  Timeline timeline_;  // of the import under way, until its process has it
  brain::agent::Takeover::Phase timed_phase_{};
  Nanoseconds ordered_ns_ = 0;  // the switchover to here
  Nanoseconds died_ns_ = 0;     // the end of the last process
  int visitor_count_ = 0;
  block::Signal visitors_left_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
