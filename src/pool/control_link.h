#pragma once
// The process's end of the control connection to zpaird: the inherited one, and after a restart of zpaird the one that it
// made at RUN_DIR/pool-NAME.control. The newest connection counts, older ones end.
// Ownership: close() before the end.
// Threading: reactor thread; `on_message` runs on it.
// Errors:    none upward: with no zpaird there the process serves on.
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "block/task.h"
#include "control/channel.h"

namespace zpair::pool {

class ControlLink {
 public:
  struct Options {
    std::string socket_path;  // to listen at
    std::function<void(control::Received)> on_message;
    std::function<void()> on_connect;  // a new connection counts now: say the state
  };
  static Result<std::unique_ptr<ControlLink>> start(Options options);
  ~ControlLink();

  void take_over(UniqueFd socket);                          // the inherited end, or a new connection
  void send(const control::Message& message, int fd = -1);  // to whoever listens now
  bool connected() const;
  block::Task<void> close();

 private:
  struct Peer {
    control::Channel channel;
    bool ended = false;
  };
  explicit ControlLink(Options options) : options_(std::move(options)) {}
  block::Task<void> accept_peers();
  block::Task<void> listen_to(Peer& peer);

  Options options_;
  UniqueFd listener_;
  std::list<std::unique_ptr<Peer>> peers_;  // the last one counts
  bool closing_ = false;
  block::TaskGroup tasks_;
};

}  // namespace zpair::pool
