#pragma once
// The pool process: ties brain, engine, legs, promises, volumes, control link and API together. The brain decides
// (driver.h); this carries its orders out (orders.cpp, resync.cpp) and tells people and zpaird what goes on (report.cpp).
//
//   start document -> [create: make the pool, record it] -> Started -> fence, import, replay, promise, serve -> exit
//
// Ownership: owns everything but the reactor, the engine and the store.
// Threading: reactor thread.
// Errors:    what cannot go on ends the process: one line to the log, `Exiting` to zpaird, the exit code of
//            control/message.h. Whatever is not acknowledged by then never is.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/http_server.h"
#include "base/config.h"
#include "block/reactor.h"
#include "pool/control_link.h"
#include "pool/driver.h"
#include "pool/event_log.h"
#include "pool/exports.h"
#include "pool/leg_monitor.h"
#include "pool/legs.h"
#include "pool/promises.h"
#include "pool/tuning.h"
#include "quorum/quorum_store.h"
#include "state/record_copies.h"
#include "zfs/engine.h"
#include "zfs/pool.h"

namespace zpair::pool {

// Zeroes where ZFS keeps a drive's labels, two at each end: what the drive was is gone.
block::Task<Result<void>> wipe_labels(block::BlockDevice& device);

class Process final : private Hands {
 public:
  struct Options {
    NodeConfig config;
    std::string pool;
    int control_fd = -1;  // the inherited end; -1: wait for one to connect
    brain::Limits limits;
    // The end of the process; tests put something else here. Never returns in the program.
    std::function<void(int exit_code)> exit;
  };
  Process(block::Reactor& reactor, zfs::Engine& engine, quorum::QuorumStore& store, Options options);
  ~Process() override;

  // Listens for zpaird and waits for the start document; everything else follows from there.
  Result<void> start();
  // Ends what start() began, for tests that replaced `exit`. The pool must have been exported.
  block::Task<void> close();

  const brain::owner::State& state() const { return driver_.state(); }
  const Exports* exports() const { return exports_.get(); }
  const EventLog& events() const { return events_; }

  // What zpaird says; public for tests that stand in for it.
  void on_message(control::Received received);

 private:
  // A command of an API call that the brain answers (AnswerCommand).
  struct Command {
    bool answered = false;
    bool done = false;
    std::string text;
    block::Signal signal;
  };

  // --- start (process.cpp, creation.cpp)
  void begin(control::StartDocument document);
  block::Task<void> run(control::StartDocument document);
  block::Task<Result<record::Stored>> create(const control::StartDocument& document);
  block::Task<Result<Epoch>> highest_epoch(Legs& legs, std::vector<LegId> of);
  block::Task<Result<zfs::PoolLayout>> make_pool(Legs& legs, const record::Record& plan, bool force);
  block::Task<Result<record::Stored>> record_host_id(record::Stored stored);
  void make_parts(const record::Stored& stored);
  void finish(int exit_code, std::string reason, std::string detail);
  block::Task<void> finish_gently(int exit_code, std::string reason, std::string detail);
  void feed(brain::owner::Event event) { driver_.feed(std::move(event)); }
  void beat();
  block::Task<void> look_around();  // now and then: legs that ZFS dropped, the engine's status
  void look_at_engine();
  block::Task<void> probe_engine();

  // --- orders (orders.cpp)
  void order(const brain::owner::Action& action) override;
  void carry_out(const brain::owner::FenceLeg& order);
  void carry_out(const brain::owner::ImportPool& order);
  void carry_out(const brain::owner::ReplayLogs& order);
  void carry_out(const brain::owner::Serve& order);
  void carry_out(const brain::owner::SetAckSet& order);
  void carry_out(const brain::owner::FailLegs& order);
  void carry_out(const brain::owner::QuiesceLeg& order);
  void carry_out(const brain::owner::InspectLegs& order);
  void carry_out(const brain::owner::ReturnLegs& order);
  void carry_out(const brain::owner::AwaitResync& order);
  void carry_out(const brain::owner::AskPromise& order);
  void carry_out(const brain::owner::AskPartner& order);
  void carry_out(const brain::owner::AddMirror& order);
  void carry_out(const brain::owner::AttachLeg& order);
  void carry_out(const brain::owner::DetachLeg& order);
  void carry_out(const brain::owner::StopAccepting& order);
  void carry_out(const brain::owner::ExportPool& order);
  void carry_out(const brain::owner::AnswerCommand& order);
  void carry_out(const brain::owner::Report& order);
  void carry_out(const brain::owner::ExitProcess& order);
  void carry_out(const brain::SwapRecord& order);
  void carry_out(const brain::RemoveRecord& order);
  void carry_out(const brain::ReadRecord& order);
  void carry_out(const brain::KeepCopy& order);

  block::Task<void> run_fence(brain::owner::FenceLeg order);
  block::Task<void> run_import(brain::owner::ImportPool order);
  block::Task<std::vector<MirrorId>> match_labels(std::vector<LegId> legs);
  block::Task<bool> match_mirror(std::vector<LegId> legs);
  block::Task<void> run_replay();
  block::Task<void> run_fail(std::vector<LegId> legs);
  block::Task<void> run_drain();
  block::Task<void> run_export(brain::owner::End end);
  block::Task<void> run_swap(brain::SwapRecord order);
  block::Task<void> run_remove(brain::RemoveRecord order);
  block::Task<void> run_read();
  block::Task<bool> is_destroyed();
  block::Task<void> run_keep(record::Stored stored);
  block::Task<void> keep_in_state_folder(record::Record record);
  block::Task<bool> kept_by_zpaird(record::Record record);
  void apply_ack_set();

  // --- legs that come back, new legs and mirrors (resync.cpp)
  block::Task<void> run_quiesce(LegId leg);
  block::Task<void> run_inspect(brain::owner::InspectLegs order);
  block::Task<void> run_return(brain::owner::ReturnLegs order);
  block::Task<void> run_await_resync(brain::owner::AwaitResync order);
  block::Task<void> run_add_mirror(record::Mirror mirror);
  block::Task<void> run_attach(brain::owner::AttachLeg order);
  block::Task<Result<LegId>> remake_in_place(LegId leg);
  block::Task<void> run_detach(LegId leg);
  block::Task<void> watch_resync();
  void end_resync(const std::vector<LegId>& legs, std::uint64_t resync_id, Result<zfs::ResyncOutcome> outcome);
  MirrorId engine_mirror_of(MirrorId mirror, LegId except) const;

  // --- what others see (report.cpp)
  void after_step();
  void tell_zpaird();
  control::State state_message() const;
  void note_changes();

  // --- API (api.cpp, api_status.cpp)
  Result<void> start_api();
  std::string pool_json() const;
  block::Task<Result<std::string>> get_pools();
  block::Task<Result<std::string>> get_volumes();
  block::Task<Result<std::string>> get_events(api::Request request);
  std::string describe(const zfs::VolumeInfo& info) const;
  block::Task<Result<std::string>> post_volume(std::string verb, std::string body);
  block::Task<Result<std::string>> post_scrub(std::string body);
  block::Task<Result<std::string>> post_end(brain::owner::End end, std::string body);
  block::Task<Result<std::string>> post_add(std::string body);
  block::Task<Result<std::string>> post_replace(std::string body);
  block::Task<Result<std::string>> post_fault(std::string body);
  block::Task<Result<std::string>> get_tunables();
  block::Task<Result<std::string>> post_tune(std::string body);
  block::Task<Result<LegId>> prepare_new_leg(control::DrivePlace place, bool force);
  block::Task<Result<std::string>> await_command(std::uint64_t id);
  std::uint64_t new_command();
  Result<void> check_serving() const;

  block::Reactor& reactor_;
  zfs::Engine& engine_;
  quorum::QuorumStore& store_;
  Options options_;
  EventLog events_;
  Driver driver_;
  std::unique_ptr<ControlLink> control_;
  std::unique_ptr<api::HttpServer> api_;

  control::StartDocument document_;
  Timeline timeline_;  // of this import, until clients are served
  std::vector<control::DrivePlace> places_;
  bool begun_ = false;
  std::unique_ptr<Legs> legs_;
  std::unique_ptr<LegMonitor> monitor_;
  std::unique_ptr<Promises> promises_;
  std::unique_ptr<zfs::Pool> pool_;
  Tuning tuning_;
  std::unique_ptr<Exports> exports_;
  std::vector<zfs::ImportedVolume> imported_volumes_;  // not opened yet
  struct EarlySocket {
    std::uint64_t guid = 0;
    UniqueFd fd;
  };
  std::map<std::string, EarlySocket> early_sockets_;  // came before the volumes were there
  std::vector<std::pair<std::string, EarlySocket>> early_clients_;
  std::optional<brain::owner::SetAckSet> ack_set_;  // as last ordered

  std::map<std::uint64_t, std::unique_ptr<Command>> commands_;
  std::uint64_t last_command_ = 0;
  state::RecordCopies copies_;  // written here only when no zpaird answers
  std::optional<control::RecordKept> kept_;
  block::Signal kept_changed_;

  std::optional<zfs::PoolStatus> pool_status_;  // as last seen: a question to a pool that holds may hang
  std::uint64_t looks_asked_ = 0;               // looks around that somebody waits for
  std::uint64_t looks_done_ = 0;
  block::Signal look_now_;
  block::Signal looked_;
  std::uint64_t engine_moves_ = 0;
  Txg synced_txg_;
  bool engine_probe_open_ = false;
  bool resync_runs_ = false;
  Nanoseconds resync_began_ns_ = 0;
  block::Reactor::TimerId beat_timer_ = 0;
  Nanoseconds told_ns_ = 0;
  std::string told_;  // what the last State said, in short
  bool redundancy_lost_ = false;
  std::map<LegId, std::string> refused_legs_;  // as the last event about each said
  std::map<LegId, brain::owner::Standing> seen_standings_;
  bool finishing_ = false;
  bool closing_ = false;
  block::Signal closed_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::pool
