#pragma once
// The other end of HttpServer: a blocking call for programs (zpair, drills), and a Task for the daemons.
// Errors: what the server answered, with its own code and message; unreachable (nobody listens there); timed_out (the
//         outcome is unknown); io (the connection broke in the middle, outcome unknown).
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "block/task.h"

namespace zpair::api {

struct Call {
  std::string socket_path;
  std::string method = "GET";
  std::string target;  // path and query: /v1/events?since=3&wait_ms=1000
  std::string body;    // JSON text; POST only
};

// Blocks the calling thread. Returns the answer's JSON text.
Result<std::string> call_and_wait(const Call& call, std::int64_t timeout_ms);

// On the current reactor, without another thread.
block::Task<Result<std::string>> call(Call call, Deadline deadline);

}  // namespace zpair::api
