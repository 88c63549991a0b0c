#pragma once
// The node's ear: answers the partner's zpaird and the partner's pool processes on every path.
// Listens on the configured path addresses only (never on all) and accepts only the partner's address on each.
// Ownership: close() before the end. The service must outlive the server.
// Threading: reactor thread only.
// Errors:    create: invalid (0.0.0.0), io (cannot listen).
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/messages.h"
#include "base/unique_fd.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::agent {

// What the server asks of its daemon. A task may take its time: each request of a connection runs by itself.
class AgentService {
 public:
  virtual ~AgentService() = default;
  virtual void on_hello(std::size_t path, const Hello& hello) = 0;
  virtual Heartbeat on_heartbeat(std::size_t path, const Heartbeat& partner) = 0;
  virtual PromiseAnswer on_promise(std::size_t path, const PromiseRequest& request) = 0;
  virtual CanServeAnswer on_can_serve(const CanServeRequest& request) = 0;
  virtual block::Task<Result<SurveyAnswer>> on_survey(SurveyRequest request) = 0;
  virtual block::Task<Result<HandoverAnswer>> on_handover(HandoverRequest request) = 0;
  virtual block::Task<Result<YieldAnswer>> on_yield(YieldRequest request) = 0;
  virtual block::Task<CallAnswer> on_call(CallRequest request) = 0;
  // Takes the socket of a relayed client over when it accepts. The server has sent nothing yet: whoever takes it sends
  // `relay_accepted_bytes` first.
  virtual RelayAnswer on_relay(const RelayHello& hello, UniqueFd& socket) = 0;
};

struct ServerPath {
  std::string name;
  block::Endpoint listen;  // tcp:ADDRESS:PORT
  std::string partner;     // the only address that is let in
};

class AgentServer {
 public:
  struct Options {
    NodeId node;
    Uuid start = Uuid::random();  // the same as the client's of this process
    std::vector<ServerPath> paths;
  };
  static Result<std::unique_ptr<AgentServer>> create(Options options, AgentService& service);
  ~AgentServer();

  void start();
  block::Task<void> close();
  block::Endpoint local_endpoint(std::size_t path) const;
  Nanoseconds last_heard_ns(std::size_t path) const;  // any frame of the partner's zpaird; 0: never

 private:
  struct Connection;
  AgentServer(Options options, AgentService& service);
  block::Task<void> accept_on(std::size_t path);
  block::Task<void> serve(std::size_t path, std::unique_ptr<block::Stream> stream);
  block::Task<void> answer(std::size_t path, Connection& connection, Frame frame);

  Options options_;
  AgentService& service_;
  std::vector<std::unique_ptr<block::Listener>> listeners_;
  std::vector<Nanoseconds> last_heard_ns_;
  std::vector<Connection*> connections_;
  bool closed_ = false;
  block::TaskGroup tasks_;
};

// What a taken-over relay socket must carry first.
std::string relay_accepted_bytes();

}  // namespace zpair::agent
