#pragma once
// JSON over HTTP on a Unix socket. HTTP is parsed on edge threads (cpp-httplib); every handler runs on the reactor.
// Ownership: start() before the first request, close() before the destructor. The reactor outlives the server.
// Threading: start(), close() and all handlers on the reactor thread. A request that waits (events) takes one of
//            max_requests edge threads, nothing else; one more than that waits its turn.
// Errors:    start: exists (another process answers on the socket), or the system's. A handler's Error becomes an answer
//            as errors.h says; an unknown path not_found, a known path with another method invalid.
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::api {

struct Request {
  std::string method;                        // GET or POST
  std::string path;                          // /v1/status
  std::map<std::string, std::string> query;  // ?since=3&wait_ms=1000
  std::string body;                          // JSON text, or empty
};

// Returns the answer's JSON text. Give it a lambda that only calls a coroutine: [this](Request r) { return status(std::move(r)); }
using Handler = std::function<block::Task<Result<std::string>>(Request)>;
using Routes = std::map<std::string, Handler>;  // "GET /v1/status" → handler

class HttpServer {
 public:
  static constexpr unsigned max_requests = 32;  // at one time

  // Replaces a socket that nobody answers on. The socket's mode is 0600.
  static Result<std::unique_ptr<HttpServer>> start(block::Reactor& reactor, std::string socket_path, Routes routes);
  ~HttpServer();

  // Takes no new request, waits for the handlers that run (end their waits first), and removes the socket.
  block::Task<void> close();

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zpair::api
