#pragma once
// The simulated pair. Virtual time; one queue of calls; everything random comes from the plan's seed.
//
// What is real: brain::owner and brain::agent. What is modelled:
//   store     linearizable; requests and answers are delayed, lost, late (store.cpp)
//   wire      two paths; a cut holds what is sent, a heal delivers it late or drops it with its connections (wire.cpp)
//   target    zpaird's: boots closed, fence by epoch, connections that end stay ended, drains (target.cpp)
//   drive     a durable content and a volatile cache of each block, a verifier (target.cpp)
//   engine    OpenZFS as seen from outside: writes to all online legs, flushes, txgs, resync by birth txg (process.cpp)
//   clients   one writer and one reader a block; each knows what was acknowledged (client.cpp)
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "brain/agent.h"
#include "brain/mutation.h"
#include "brain/owner.h"
#include "plan.h"
#include "random.h"

namespace zpair::sim {

// Mutations of what is not the brain: the wire, the target, the drives, the engine's driver, the clocks, the store.
enum class ModelMutation : std::uint8_t {
  none,
  resend_without_quiesce,     // H30: the old path's commands are not quiesced before they are sent again
  ended_connection_accepted,  // a connection that the target ended is accepted again
  no_verifier,                // H6: a flush does not compare the verifier
  fence_not_stored,           // H15: a power loss forgets the fence
  fence_ignores_epoch,        // H14: a lower epoch may preempt a higher one
  host_id_per_node,           // H13: the target checks the node, not the epoch
  fence_without_drain,        // H17: the fence is confirmed while older commands are in flight
  store_rolled_back,          // H23: the store is restored from an older snapshot
  clock_rate_off,             // H26: clocks differ by 30 %
  read_of_uncommitted,        // H27: a read does not wait for the uncommitted write that it overlaps
  old_client_connection,      // H29: a newer connection of a client does not end the older one
  gate_off,                   // H1: a write counts when one leg took it
  count_of_mutations,
};
std::string_view name_of(ModelMutation mutation);

struct Stats {
  std::array<std::uint64_t, std::variant_size_v<brain::agent::Event>> agent_events{};
  std::array<std::uint64_t, std::variant_size_v<brain::agent::Action>> agent_actions{};
  std::array<std::uint64_t, std::variant_size_v<brain::owner::Event>> owner_events{};
  std::array<std::uint64_t, std::variant_size_v<brain::owner::Action>> owner_actions{};
  std::array<std::uint64_t, static_cast<std::size_t>(FaultKind::count_of_kinds)> faults{};
  std::uint64_t schedules = 0, steps = 0, acks = 0, reads = 0, imports = 0, takeovers = 0, grows = 0, shrinks = 0,
                write_backs = 0;
  void add(const Stats& other);
};

class World;
struct Process;

// ---- drives and targets ----

struct Version {
  std::uint64_t number = 0;  // per block, in the order of issue
  Txg birth;
  bool operator==(const Version&) const = default;
};

struct Uberblock {
  Txg txg;
  std::uint64_t writer = 0;  // pid: two histories may use the same txg
  auto operator<=>(const Uberblock&) const = default;
};

struct Command {
  enum class Kind : std::uint8_t { write, flush, uberblock } kind = Kind::write;
  std::uint64_t id = 0;
  std::uint64_t pid = 0;
  NodeId node = NodeId::a;  // of the process
  Epoch epoch;
  int drive = 0;
  int mirror = 0;
  NodeId side = NodeId::a;  // of the leg
  int block = 0;
  Version version;
  Uberblock uberblock;
  std::uint64_t connection = 0;  // 0: local
};

enum class Answer : std::uint8_t { done, error, fenced, closed };  // closed: no fence of this host stands (any more)

// One leg's drive with its target's state. The fence is durable.
struct Drive {
  int mirror = 0;  // to which it was given
  NodeId side = NodeId::a;
  std::string id;
  Epoch imported_at;                     // the newest import that named it
  bool gone = false;                     // pulled: whatever is asked of it fails
  std::vector<Version> durable, cached;  // by block; cached.number 0: nothing in the cache
  std::vector<std::vector<Version>>
      history;  // by block: what lay there durably before (copy on write keeps it a while)
  std::set<Uberblock> uberblocks;
  std::optional<Uberblock> cached_uberblock;
  std::uint64_t verifier = 1;
  Epoch fence_epoch;  // the fence file
  NodeId fence_node = NodeId::a;
  Epoch kept_epoch;
  Revision kept_rev;
  int in_flight_remote = 0, in_flight_local = 0;
  std::map<std::uint64_t, int>
      in_flight_of;  // of in_flight_remote: by host, that is by pid (rule 5: one Host ID an epoch)
  // A fence waits for every other host's commands, also when it is asked for again by the host that holds it.
  bool others_in_flight(std::uint64_t pid) const {
    for (const auto& [host, count] : in_flight_of) {
      if (host != pid && count > 0) return true;
    }
    return false;
  }
  bool erring = false, slow = false;
  // of the running zpaird
  bool open = false;              // zpaird has the drive
  bool closed_to_writers = true;  // since the start no fence was confirmed
  Version content(int block) const { return cached[block].number != 0 ? cached[block] : durable[block]; }
};

// ---- the pool process ----

struct LegIo {                           // the process's view of one leg
  bool online = false;                   // the engine writes to it
  std::uint64_t uberblock_verifier = 0;  // seen at the last uberblock write
  Txg flushed_txg;
  Nanoseconds last_progress_ns = 0;
  std::map<std::uint64_t, std::pair<Command, Nanoseconds>> outstanding;  // by command id: held until answered
  std::map<std::uint64_t, std::uint64_t> abandoned;  // commands of a failed leg that may still land: id -> connection
  bool missed = false;                          // since it came online it missed a write (it was not in the ack set)
  std::optional<brain::owner::LegFault> erred;  // told the brain; its answers are held
};

struct Write {
  int mirror = 0, block = 0;
  Version version;
  std::uint64_t client_request = 0;       // 0: the import's own
  std::set<int> written, flushed;         // by drive
  std::set<int> passed_by;                // legs outside the ack set that answered with an error
  std::map<int, std::uint64_t> verifier;  // seen at the write
};

struct Connection {  // of one process to the partner's target, over one path
  std::uint64_t id = 0;
  int path = 0;
  bool up = false;  // the initiator uses it
  Nanoseconds heard_ns = 0;
};

struct StoreClient {                   // of one process, gone with it
  std::set<std::uint64_t> unresolved;  // revisions that its swaps of unknown outcome compared with
};

struct StoreRead {
  NodeId from = NodeId::a;
  std::shared_ptr<StoreClient> client;
  std::function<void(std::optional<record::Stored>, bool ok)> answer;
  bool ended = false;
  void end(std::optional<record::Stored> stored, bool ok) {
    if (!std::exchange(ended, true)) answer(std::move(stored), ok);
  }
};

struct TargetConnection {  // the same, as the target sees it
  NodeId at = NodeId::a;
  bool ended = false;  // for good: by the process, by a quiesce, by an end of the target
  int in_flight = 0;
};

struct Process {
  std::uint64_t pid = 0;
  NodeId node = NodeId::a;
  Epoch epoch;
  bool alive = true;
  bool paused = false;
  std::deque<std::function<void()>> inbox;  // while paused
  brain::owner::State brain;
  bool started = false, serving = false, exiting = false, draining = false;
  std::map<LegId, LegIo> legs;
  std::set<LegId> gate;                                             // as the brain ordered
  std::vector<std::vector<Version>> current;                        // [mirror][block]: what a read gives
  std::set<int> mirrors;                                            // that the pool has
  std::optional<std::pair<record::Mirror, Txg>> adding;             // AddMirror ends when this txg has synced
  std::map<std::pair<int, int>, std::uint64_t> client_connections;  // rule 10: the newest of each client
  Nanoseconds ran_since_ns = 0;        // it was not paused since (for longer than a tick may be late)
  Nanoseconds ran_since_clock_ns = 0;  // the same, by the node's clock
  Nanoseconds paused_at_ns = 0;
  std::string checked_op;                 // of the newest shrink that was judged
  Revision kept_rev;                      // of the newest copy that it made durable
  std::vector<std::vector<bool>> in_log;  // acknowledged before a crash, not yet replayed
  std::map<std::pair<int, int>, Write> writes;
  bool importing = false, imported = false, replayed = false;
  std::vector<LegId> import_legs;
  Txg open_txg{1};
  std::set<Uberblock> known_uberblocks;
  std::array<Connection, 2> connections;
  std::set<std::uint64_t> unquiesced;  // connections given up whose commands were not confirmed quiesced
  std::set<int> fenced_drives;         // remote: the reservation is ours, taken again after a reconnect
  std::optional<std::pair<std::vector<LegId>, Txg>> resync;
  std::uint64_t resync_order = 0, resync_id = 0;
  std::shared_ptr<StoreClient> store = std::make_shared<StoreClient>();  // shared with its requests under way
  record::Floor import_floor;
  std::string import_lacks;  // invariant 1, when the legs were read; unless overtaken, at the claim's end too
  bool claiming = false, replaying = false, drained = false;
  std::optional<Txg> pending_sync;  // a txg that waits for its writes
  std::optional<Txg> syncing;       // ... whose uberblocks are not yet flushed on every online leg
  Txg last_synced;
  std::optional<Txg> export_after;   // ExportPool ends when this txg has synced
  std::optional<Txg> resync_copied;  // the copy is done; ends when this txg, opened after it, has synced
  brain::owner::ScanReport resync_report;
  std::uint64_t ticks = 0;
};

// ---- the node ----

struct Node {
  NodeId id = NodeId::a;
  bool up = true;
  std::uint64_t boot = 1;
  bool agent_alive = true, agent_paused = false;
  std::uint64_t agent_run = 1;
  std::deque<std::function<void()>> agent_inbox;
  brain::agent::State agent;
  std::optional<record::Stored> kept;  // durable
  std::uint64_t pid = 0;               // of the own pool process; 0: none
  std::optional<Epoch> closing;        // CloseLocalDrives waits for the drain
  bool opening = false, holds_drives = false;
  Epoch fenced_elsewhere;
  Epoch survey_epoch;  // of the newest SurveyAsked
  bool store_reachable = true;
  std::shared_ptr<StoreClient> store = std::make_shared<StoreClient>();  // of its agent
  Nanoseconds swap_delay_ns = 0;
  bool lose_swap_reply = false;
  std::map<FaultKind, Fault> traps;
  std::uint64_t ticks = 0;
};

// ---- the client of one block ----

struct Client {
  std::uint64_t issued = 0, acked = 0, read_floor = 0;
  std::uint64_t request = 0;  // id of the outstanding write's newest attempt; 0: none
  std::uint64_t pid = 0;      // to which it went
  Nanoseconds sent_ns = 0;
  std::uint64_t connection = 0;   // rule 10: the newest
  Nanoseconds rest_until_ns = 0;  // it only reads
};

class World {
 public:
  enum class Liveness : std::uint8_t { checked, not_checked };
  World(const Plan& plan, brain::Mutation mutation, ModelMutation model_mutation, bool keep_story, Liveness liveness);

  // Runs the whole schedule; true: no invariant was broken.
  bool run();
  static inline bool trace = false;  // the story tells of every command at every drive too
  const std::string& broken() const { return broken_; }
  const std::vector<std::string>& story() const { return story_; }
  const Stats& stats() const { return stats_; }

 private:
  // time (world.cpp)
  void at(Nanoseconds when_ns, std::function<void()> call);
  void after(Nanoseconds delay_ns, std::function<void()> call) { at(now_ns_ + delay_ns, std::move(call)); }
  void after_random(Nanoseconds low_ns, Nanoseconds high_ns, std::function<void()> call);
  Nanoseconds clock(NodeId node) const;  // the node's CLOCK_BOOTTIME
  Nanoseconds delay();                   // of one hop
  template <class... Args>
  void tell(fmt::format_string<Args...> format, Args&&... args);
  void breaks(std::string what);
  bool model(ModelMutation mutation) const { return model_mutation_ == mutation; }

  // wire.cpp: from one node to the other over a path; `arrive` runs at the other end
  void send(NodeId from, int path, std::function<void()> arrive);
  bool passes(NodeId from, int path) const;
  void cut(int path, NodeId from);
  void heal(int path, NodeId from, bool late);
  int usable_path(NodeId from);

  // store.cpp
  bool store_serves(NodeId node) const { return store_up_ && nodes_[index(node)].store_reachable; }
  void store_swap(NodeId node, std::shared_ptr<StoreClient> client, std::uint64_t expected, record::Record wanted,
                  bool remove, std::function<void(brain::owner::Event)> owner_answer,
                  std::function<void(brain::agent::Event)> agent_answer);
  void store_read(NodeId node, std::shared_ptr<StoreClient> client,
                  std::function<void(std::optional<record::Stored>, bool ok)> answer);
  void store_look(std::shared_ptr<StoreRead> reading);
  void store_write_back(std::shared_ptr<StoreRead> reading, record::Stored found);
  void store_changed();

  // target.cpp
  Drive& drive_of(LegId leg) { return drives_[static_cast<std::size_t>(drive_index(leg))]; }
  Drive& drive(int number) { return drives_[static_cast<std::size_t>(number)]; }
  template <class Call>
  void each_drive(NodeId side, Call call) {
    for (Drive& one : drives_) {
      if (one.side == side) call(one);
    }
  }
  int add_drive(int mirror, NodeId side);
  int some_drive(const Fault& fault);  // on the fault's node
  void execute(Command command, bool local, std::function<void(Answer, std::uint64_t verifier)> answer);
  void apply(const Command& command, Drive& at);
  void fence_remote(std::uint64_t pid, int drive, std::uint64_t connection,
                    std::function<void(bool ok, Epoch by)> answer);
  void fence_remote_drained(std::uint64_t pid, int drive, std::uint64_t connection,
                            std::function<void(bool ok, Epoch by)> answer);
  void lose_cache(Drive& at, bool whole);
  void target_event(NodeId side);  // a drain may have ended

  // process.cpp
  Process* process(std::uint64_t pid);
  void start_process(NodeId node, brain::agent::StartPool order);
  void kill_process(std::uint64_t pid, std::optional<brain::owner::ExitReason> reason, std::string text);
  void to_process(std::uint64_t pid, std::function<void()> call);
  void feed(Process& at, brain::owner::Event event);
  void carry_out(Process& at, brain::owner::Action action);
  void process_tick(std::uint64_t pid);
  void fence_leg(Process& at, const brain::owner::FenceLeg& order);
  void issue(Process& at, Command command, LegId leg);
  void transmit(Process& at, const Command& command, LegId leg);
  void answered(std::uint64_t pid, LegId leg, Command command, Answer answer, std::uint64_t verifier);
  void begin_write(Process& at, Write write);
  Command command_of(const Process& at, Command::Kind kind, LegId leg);
  Command write_command(const Process& at, const Write& write, LegId leg);
  void write_moves(Process& at, std::pair<int, int> key);
  void no_answer(Process& at, LegId leg, brain::owner::LegFault fault, std::string what);
  void sync_txg(Process& at);
  void sync_moves(Process& at);
  void synced(Process& at);
  void keep(Process& at, const record::Stored& stored);
  void inspect(std::uint64_t pid, const std::vector<LegId>& legs, std::uint64_t id);
  void fence_local(std::uint64_t pid, LegId leg);
  void fence_again(std::uint64_t pid, int path, int drive);
  void refenced(std::uint64_t pid, int drive, bool ok, Epoch by);
  void add_mirror(Process& at, const record::Mirror& mirror);
  void attach_leg(Process& at, const brain::owner::AttachLeg& order);
  void offer_mirror(Process& at);
  void offer_leg(Process& at, const Fault& fault);
  void fence_offered(std::uint64_t pid, int drive, std::function<void(Process&)> then);
  void enter_mirror(Process& at, int mirror);  // the pool has it
  void connection_ended(std::uint64_t pid, int path, std::uint64_t id);
  void quiesced_at_target(std::uint64_t pid, std::uint64_t old_connection, int path, NodeId side);
  void resync(std::uint64_t pid, std::uint64_t order);
  void try_import(std::uint64_t pid);
  void import_moves(Process& at);
  void fail_legs(Process& at, const std::vector<LegId>& legs);
  void return_legs(Process& at, std::vector<LegId> legs, Txg since, std::uint64_t id);
  void path_watch(Process& at);
  void connect(std::uint64_t pid, int path);
  void quiesce(std::uint64_t pid, std::uint64_t old_connection, int through_path);
  void resend(Process& at, std::uint64_t old_connection);
  bool reachable(const Process& at, LegId leg) const;

  // node.cpp
  Node& node(NodeId id) { return nodes_[index(id)]; }
  brain::Limits limits() const;
  void start_agent(NodeId id);
  std::optional<LegId> named_leg(const Drive& drive, NodeId id) const;
  void import_by_command();
  void to_own_process(NodeId id, Epoch epoch, std::function<void(Process&)> call);
  void stop_agent(NodeId id);
  void to_agent(NodeId id, std::function<void()> call);
  void feed(NodeId id, brain::agent::Event event);
  void carry_out(NodeId id, brain::agent::Action action);
  void agent_tick(NodeId id, std::uint64_t run);
  void drives_move(NodeId id);
  bool open_drive(Drive& own);
  void open_missing(NodeId id, std::uint64_t run);
  void message(NodeId from, brain::agent::Event to_partner);
  void crash(NodeId id);
  void boot(NodeId id);

  // faults.cpp
  void inject(const Fault& fault);
  bool springs(NodeId node, FaultKind trap);
  void heal_all();
  void resume_process(std::uint64_t pid);
  void resume_agent(NodeId id);

  // client.cpp
  void client_tick(int mirror, int block);
  void take_request(std::uint64_t pid, int mirror, int block, std::uint64_t request, std::uint64_t number,
                    std::uint64_t connection);
  void acknowledge(int mirror, int block, std::uint64_t request, std::uint64_t number);
  void read(std::uint64_t pid, int mirror, int block, std::uint64_t floor);

  // check.cpp
  void check_legs();
  std::string what_import_lacks(const Process& at);
  bool overtaken(const Process& at) const;
  void check_shrink_order(Process& at, const record::Record& wanted);
  void check_import_order(NodeId node, const record::Record& wanted);
  void check_failing(Process& at);
  void check_record(const record::Record& before, const record::Record& after);
  bool settled();
  std::string why_not_settled();

  static std::size_t index(NodeId node) { return node == NodeId::a ? 0 : 1; }
  // Ids: a leg is its drive's number + 100, a mirror its number + 50; what comes back as new, or is built, has 1000 n more.
  static int drive_index(LegId leg) { return static_cast<int>(leg.value % 1000) - 100; }
  static LegId leg_id(int drive) { return LegId{static_cast<std::uint64_t>(100 + drive)}; }
  int mirror_of(LegId leg) const { return drives_[static_cast<std::size_t>(drive_index(leg))].mirror; }
  static int mirror_of(MirrorId mirror) { return static_cast<int>(mirror.value % 1000) - 50; }
  NodeId side_of(LegId leg) const { return drives_[static_cast<std::size_t>(drive_index(leg))].side; }

  struct Call {  // small, since a heap moves its entries often
    Nanoseconds at_ns;
    std::uint64_t order;
    std::size_t place;  // in call_bodies_
    bool operator>(const Call& other) const { return std::tie(at_ns, order) > std::tie(other.at_ns, other.order); }
  };

  Plan plan_;
  ModelMutation model_mutation_;
  bool keep_story_;
  Liveness liveness_;
  Random random_;
  std::string broken_;
  std::vector<std::string> story_;
  Stats stats_;

  Nanoseconds now_ns_ = 0;
  std::uint64_t call_count_ = 0;
  std::priority_queue<Call, std::vector<Call>, std::greater<>> calls_;
  std::vector<std::function<void()>> call_bodies_;
  std::vector<std::size_t> free_places_;  // of call_bodies_
  bool faults_over_ = false;

  std::optional<record::Stored> store_;
  std::vector<record::Stored> store_history_;
  std::uint64_t store_revision_ = 1;
  bool store_up_ = true;
  int store_restores_ = 0;

  struct Link {
    bool cut = false;
    std::deque<std::function<void()>> held;
    Nanoseconds last_arrival_ns = 0;  // TCP keeps the order
  };
  std::array<std::array<Link, 2>, 2> links_;             // [path][from]
  std::vector<TargetConnection> target_connections_{1};  // by id

  std::array<Node, 2> nodes_;
  std::deque<Drive> drives_;
  int mirror_count_ = 0;                           // all that were ever given
  std::map<Uberblock, std::set<int>> mirrors_at_;  // the pool's configuration at each uberblock
  std::set<int> active_mirrors_;                   // their clients run
  Epoch highest_epoch_{1};                         // ever swapped in by an import
  bool store_went_back_ = false;  // restored from an older snapshot: nothing may be imported, the pool may stand still
  std::set<std::pair<NodeId, Epoch>> agreed_;  // rule 4: the partner's agent agreed to this node's import
  std::map<std::uint64_t, std::unique_ptr<Process>> processes_;
  std::uint64_t last_pid_ = 0, last_command_ = 0, last_request_ = 0, last_order_ = 0;
  std::map<Epoch, std::uint64_t> writer_of_epoch_;
  std::vector<Client> clients_;  // [mirror * block_count + block]
  Client& client(int mirror, int block) {
    return clients_[static_cast<std::size_t>(mirror * plan_.block_count + block)];
  }
};

}  // namespace zpair::sim
