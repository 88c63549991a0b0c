#pragma once
// The switch between the nodes of a sandbox: forwards TCP connections and can be cut as a dead switch is: a cut holds bytes
// and new connections without closing anything; heal delivers them late, or drops them and closes.
// Bytes that a peer sent before the cut but that were not forwarded yet are held too. So is the end of a connection: a
// process that dies behind a cut is silent.
// Links: path1, path2, …; store:NODE = all etcd traffic between NODE and the other members. A cut names a link, or one
// direction of it: path1:a>b holds what a sends to b, whoever opened the connection.
// Threading: reactor thread only.
// Errors:    start: what listening says (a port was taken). cut and heal: invalid, with the links that there are.
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::cli {

struct Forward {
  std::string link;  // path1; or `store`: its links are then store:FROM and store:TO
  std::string from;  // who connects here: a, b or witness; empty: known by the connecting process (etcd's members all
                     // use the one address that a member advertises), from its environment's ZPAIR_NODE
  std::string to;
  std::string listen;  // tcp:ADDRESS:PORT
  std::string target;  // tcp:ADDRESS:PORT
  std::string source;  // address to connect from: nodes accept only their partner's; empty: any
};

struct SwitchPlan {
  std::string control_socket;
  std::string sandbox_dir;      // whose processes may be found by their environment
  std::int64_t latency_ms = 0;  // added in each direction to path links
  std::vector<Forward> forwards;
};

std::string to_json(const SwitchPlan& plan);
Result<SwitchPlan> parse_switch_plan(std::string_view json);

// path1, path1:a>b, store:a
struct CutName {
  std::string link;
  std::string direction;  // a>b, or empty: both
  auto operator<=>(const CutName&) const = default;
};
CutName parse_cut(std::string_view text);

class Switch {
 public:
  enum class Heal { deliver_late, reset };

  static Result<std::unique_ptr<Switch>> start(block::Reactor& reactor, SwitchPlan plan);
  ~Switch();

  Result<void> cut(const CutName& name);             // in force when it returns
  Result<void> heal(const CutName& name, Heal how);  // a whole link: its directions too
  std::string status_json() const;                   // {"links": [{"name", "state", "connections", "held_bytes"}]}
  block::Endpoint endpoint_of(std::size_t forward) const { return listeners_[forward]->local_endpoint(); }
  block::Task<void> close();

  // The control socket's protocol: one JSON line in, one out. {"cut": "path1"}, {"heal": "path1", "reset": true}, {"status": true}
  std::string answer(std::string_view line);

 private:
  struct Pipe;
  struct Session;
  explicit Switch(block::Reactor& reactor, SwitchPlan plan) : reactor_(reactor), plan_(std::move(plan)) {}

  block::Task<void> accept_all(block::Listener& listener, const Forward& forward);
  block::Task<void> serve(std::unique_ptr<block::Stream> client, const Forward& forward);
  block::Task<void> read_side(Session& session, block::Stream& in, Pipe& pipe);
  block::Task<void> write_side(Session& session, block::Stream& out, Pipe& pipe);
  block::Task<void> serve_control();
  block::Task<void> serve_control_client(std::unique_ptr<block::Stream> client);
  bool held(const Session& session, std::string_view direction) const;
  bool known(const CutName& name) const;
  void end(Session& session);
  std::set<std::string> links() const;

  block::Reactor& reactor_;
  SwitchPlan plan_;
  std::vector<std::unique_ptr<block::Listener>> listeners_;
  std::unique_ptr<block::Listener> control_;
  std::set<block::Stream*> control_clients_;
  std::set<Session*> sessions_;
  std::set<CutName> cuts_;
  block::Signal cuts_changed_;
  block::TaskGroup tasks_;
  bool closed_ = false;
};

// Runs a switch until SIGTERM: `zpair sandbox-switch PLAN_FILE`.
int run_switch(const std::string& plan_file);

// One line to a running switch; its answer, or the error that it gave.
Result<std::string> ask_switch(const std::string& control_socket, const std::string& line);

}  // namespace zpair::cli
