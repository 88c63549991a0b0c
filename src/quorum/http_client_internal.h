#pragma once
// HTTP POSTs on an edge thread (libcurl's multi interface); answers come back on the reactor.
// Threading: everything is called on the reactor's thread; only the class's own thread touches libcurl.
// Errors:    in HttpAnswer. `not_sent` is said only when surely no byte of the request left.
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::quorum {

struct HttpAnswer {
  enum class Outcome { answered, not_sent, no_answer } outcome = Outcome::no_answer;
  int status = 0;
  std::string body;
  std::string error;  // in words, unless it is answered with status 200
  bool ok() const { return outcome == Outcome::answered && status == 200; }
};

struct HttpRequest {
  std::string url;
  std::string body;
  Deadline deadline = Deadline::never();
  std::int64_t connect_ms = 250;
  // A request that must not be sent twice: libcurl silently repeats one on a kept connection that turns out dead.
  bool fresh_connection = false;
  std::function<void(std::string line)> on_line = {};  // a streaming answer: runs on the reactor for every line
};

class HttpClient {
 public:
  explicit HttpClient(block::Reactor& reactor);
  ~HttpClient();  // asserts that close() ran

  struct Call;
  using CallPointer = std::shared_ptr<Call>;  // shared by the edge thread, the waiter and posted lines
  CallPointer start(HttpRequest request);
  block::Task<HttpAnswer> finish(CallPointer call);
  void cancel(const CallPointer& call);                          // it then ends with no_answer
  block::Task<bool> ended(CallPointer call, Deadline deadline);  // false: the deadline came first
  block::Task<HttpAnswer> post(HttpRequest request);

  void close();  // cancels what is under way (finish() still returns) and joins the thread

 private:
  void run();

  block::Reactor& reactor_;
  void* multi_ = nullptr;
  std::mutex mutex_;
  std::vector<CallPointer> new_;  // guarded by mutex_
  bool stop_ = false;             // guarded by mutex_
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace zpair::quorum
