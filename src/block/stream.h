#pragma once
// Byte streams (TCP and Unix sockets) on the reactor.
// Ownership: buffers stay the caller's and must live until the await returns.
// Threading: reactor thread only. One read and one write may be under way at a time.
// Errors:    unreachable, timed_out (only connect and read with a deadline), cancelled (after shutdown()), io.
#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::block {

// A place to listen at or connect to: "unix:/path", or "tcp:ADDRESS:PORT" (numeric IPv4 or [IPv6]; port 0 = any free).
struct Endpoint {
  std::string text;
  static Result<Endpoint> parse(std::string_view text);
};

class Stream {
 public:
  explicit Stream(UniqueFd socket) : socket_(std::move(socket)) {}
  // `from`: local address to bind (which chooses the path), empty = the system's choice.
  static Task<Result<std::unique_ptr<Stream>>> connect(Endpoint to, Deadline deadline, std::string from = "");

  Task<Result<std::size_t>> read_some(std::span<std::byte> into);  // 0: the peer closed its end
  Task<Result<void>> read_exactly(std::span<std::byte> into);      // io when the stream ends in the middle
  Task<Result<void>> write_all(std::span<const std::byte> bytes);
  Task<Result<void>> write_all(std::span<iovec> parts);  // changes the iovecs as it goes

  void shutdown();  // both ways: what waits in a read or write ends with an error or end of stream; idempotent
  int fd() const { return socket_.get(); }
  UniqueFd release() { return std::move(socket_); }  // to hand it to another process; nothing may be under way

 private:
  UniqueFd socket_;
};

class Listener {
 public:
  static Result<std::unique_ptr<Listener>> listen(Endpoint at);
  // Takes over a listening socket that another process made (SCM_RIGHTS).
  explicit Listener(UniqueFd socket) : socket_(std::move(socket)) {}
  Task<Result<std::unique_ptr<Stream>>> accept();  // one at a time; cancelled after close()
  Endpoint local_endpoint() const;                 // with the port that the kernel chose
  // Ends accept() by taking the request back: shutting the socket down would end it for another process that shares it.
  // The descriptor closes with the object, which must outlive the accept().
  void close();
  void reopen() { closed_ = false; }  // accept() may be called again (clients waited in the backlog meanwhile)
  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  Reactor::Completion* pending_ = nullptr;
  bool closed_ = false;
};

}  // namespace zpair::block
