#pragma once
// One end of the control connection: datagrams of JSON (message.h), each with at most one descriptor.
// zpaird makes a socketpair (make_pair), hands one end to the new process (--control-fd N) and keeps the other. The
// process also listens at RUN_DIR/pool-NAME.control (control_path): a zpaird that was restarted connects there and gets a
// `State` first. The newest connection counts; the process ends older ones.
// Ownership: the channel owns its socket.
// Threading: reactor thread only; one receive() at a time; send() may be called any time and keeps the order.
// Errors:    cancelled after close() or when the peer closed its end; invalid: bytes that are no message.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "block/task.h"
#include "control/message.h"

namespace zpair::control {

struct Received {
  Message message;
  UniqueFd fd;  // of VolumeSocket and RelayLink; empty otherwise
};

class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}
  // Both ends of a new connection, close-on-exec: the child clears the flag of its end (F_SETFD) between fork and exec.
  static Result<std::pair<UniqueFd, UniqueFd>> make_pair();
  static Result<UniqueFd> connect(const std::string& path);
  static Result<UniqueFd> listen(const std::string& path);  // removes a stale socket file first
  // One connection of a socket from listen(); ends with cancelled when `listener` was shut down.
  static block::Task<Result<UniqueFd>> accept(int listener);

  // Never blocks: what the socket does not take at once is dropped with an error (a peer that does not read is stuck,
  // and its supervisor knows).
  Result<void> send(const Message& message, int fd = -1);
  block::Task<Result<Received>> receive();
  void close();  // receive() ends

 private:
  UniqueFd socket_;
};

std::string control_path(const std::string& run_dir, std::string_view pool);  // RUN_DIR/pool-NAME.control
std::string api_path(const std::string& run_dir, std::string_view pool);      // RUN_DIR/pool-NAME.sock: its HTTP API
std::string fence_folder(const std::string& state_dir);                       // STATE_DIR/fence: fence::FenceFile's
std::string pid_path(const std::string& run_dir,
                     std::string_view pool);  // RUN_DIR/pool-NAME.pid: flocked by the process

}  // namespace zpair::control
