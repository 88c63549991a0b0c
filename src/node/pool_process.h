#pragma once
// One zpair-pool process of this node: started by us, or found again by its pidfile's lock after a restart of zpaird.
// Ownership: the object owns the control connection and the pidfd, not the process: close() lets a living process go on.
// Threading: reactor thread; the callbacks run on it, never inside a call into this object.
// Errors:    spawn: the system's, not_found (no zpair-pool beside this program); adopt: not_found (no such process lives).
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "block/reactor.h"
#include "block/task.h"
#include "control/channel.h"

namespace zpair::node {

struct ProcessExit {
  bool known = false;  // false: not our child, so the kernel does not tell
  int exit_code = 0;   // by exit()
  int signal = 0;      // killed by it; 0: it exited
  std::string reason;  // control::Exiting, if it said so
  std::string detail;
};

std::string to_text(const ProcessExit& exit);

class PoolProcess {
 public:
  struct Options {
    std::string pool;
    std::string run_dir;
    std::string config_file;
    std::string program;  // the path of zpair-pool
  };
  struct Callbacks {
    std::function<void(control::Received)> on_message;
    std::function<void(ProcessExit)> on_exit;  // once; its drives may still be draining: ask for their lock
  };

  static Result<std::unique_ptr<PoolProcess>> spawn(Options options, control::StartDocument document,
                                                    Callbacks callbacks);
  static Result<std::unique_ptr<PoolProcess>> adopt(Options options, Callbacks callbacks);
  ~PoolProcess();

  pid_t pid() const { return pid_; }
  bool alive() const { return alive_; }
  void kill();  // SIGKILL: nothing else is certain
  Result<void> send(const control::Message& message, int fd = -1);
  block::Task<void> close();  // stops listening; the process goes on

 private:
  PoolProcess(Options options, Callbacks callbacks) : options_(std::move(options)), callbacks_(std::move(callbacks)) {}
  void start();
  block::Task<void> receive_messages();
  block::Task<void> wait_for_exit();
  ProcessExit reap();

  Options options_;
  Callbacks callbacks_;
  pid_t pid_ = 0;
  bool is_child_ = false;
  bool alive_ = true;
  bool closed_ = false;
  UniqueFd pidfd_;
  std::unique_ptr<control::Channel> channel_;
  block::Reactor::Completion* exit_wait_ = nullptr;
  control::Exiting last_words_;
  block::Signal messages_done_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
