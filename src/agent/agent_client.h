#pragma once
// The way to the partner's agent, over every path at once: one connection a path, made again for ever. zpaird uses it for
// everything, zpair-pool for its promises.
// Ownership: close() before the end; it waits for every request.
// Threading: reactor thread only.
// Errors:    unreachable (no connection), timed_out, cancelled (closed); what the partner refused comes with its own code.
//            A request whose connection broke may or may not have been done.
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/messages.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::agent {

struct ClientPath {
  std::string name;
  block::Endpoint to;  // tcp:PARTNER:AGENT_PORT
  std::string from;    // local address that chooses the path; empty: the system's choice
};

class AgentClient {
 public:
  struct Options {
    NodeId node;
    Role role = Role::zpaird;
    Uuid start = Uuid::random();
    std::vector<ClientPath> paths;
  };
  explicit AgentClient(Options options);
  ~AgentClient();

  void start();  // connects, and goes on connecting
  block::Task<void> close();

  std::size_t path_count() const;
  const std::string& path_name(std::size_t path) const;
  bool connected(std::size_t path) const;               // a hello was exchanged on it and it has not broken
  block::Task<bool> wait_connected(Deadline deadline);  // true: some path is connected
  Nanoseconds last_heard_ns(std::size_t path) const;    // any frame; 0: never
  Nanoseconds last_heard_ns() const;                    // on any path
  std::optional<Hello> partner() const;                 // its newest hello
  // Runs on every newly made connection; a changed `start` in it says that the partner's agent was started again.
  void on_hello(std::function<void(std::size_t path, const Hello&)> heard);

  // On exactly this path: the promise is asked on each.
  block::Task<Result<PromiseAnswer>> promise(std::size_t path, PromiseRequest request, Deadline deadline);
  block::Task<Result<Heartbeat>> heartbeat(std::size_t path, Heartbeat own,
                                           Deadline deadline);  // answers the partner's

  // On the path heard most recently; again on the other when the connection breaks (all are idempotent).
  block::Task<Result<SurveyAnswer>> survey(SurveyRequest request, Deadline deadline);
  block::Task<Result<CanServeAnswer>> can_serve(CanServeRequest request, Deadline deadline);
  block::Task<Result<HandoverAnswer>> handover(HandoverRequest request, Deadline deadline);
  block::Task<Result<YieldAnswer>> yield(YieldRequest request, Deadline deadline);
  // Sent once: when its connection breaks the outcome is unknown (timed_out or io).
  block::Task<Result<CallAnswer>> call(CallRequest request, Deadline deadline);

 private:
  struct Link;
  block::Task<Result<std::string>> ask(std::size_t path, std::string type, std::string body, Deadline deadline);
  block::Task<Result<std::string>> ask_any(std::string type, std::string body, Deadline deadline);
  std::size_t best_path() const;
  block::Task<void> keep_connected(Link& link);
  block::Task<void> run_connection(Link& link);
  block::Task<void> watch_silence(Link& link, block::Signal& ended);
  void break_link(Link& link);

  Options options_;
  std::vector<std::unique_ptr<Link>> links_;
  std::function<void(std::size_t, const Hello&)> on_hello_;
  std::optional<Hello> partner_;
  std::uint64_t last_id_ = 0;
  bool closed_ = false;
  block::Signal closing_;
  block::Signal greeted_;  // set and reset at each hello
  block::TaskGroup tasks_;
};

// A raw connection that carries one relayed NBD client to the partner: after it returns, bytes are NBD.
block::Task<Result<std::unique_ptr<block::Stream>>> connect_relay(ClientPath path, RelayHello hello, Deadline deadline);

}  // namespace zpair::agent
