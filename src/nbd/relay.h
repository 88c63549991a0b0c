#pragma once
// Serves the volumes of a pool at this node's local sockets while the owner is the other node: accepts clients and
// forwards their bytes to the owner's server over one of the paths.
// Ownership: the relay owns its listeners, clients and links. close() it before it is destroyed.
// Threading: reactor thread only.
// Errors:    none upward. No owner, no path: clients wait (in the socket's backlog, or accepted without a byte of
//            greeting) until `connect` succeeds.
//
// When a link breaks, or its path swallows bytes (a probe on each path that carries links is answered no more), the
// relay closes the client's connection: the client reconnects to the same local socket and re-sends, over a link of a
// path that answers. Re-linking under an open client would need the relay to keep and replay NBD state; a client of a
// pair reconnects anyway (that is how it survives a takeover), so the relay stays a forwarder of bytes. A write that is
// still in the dead path can never land after its successor: the new link's header names the sessions that are over,
// the server ends those, waits for their requests, and only then admits the new link (link.h).
// A session counts as over-and-done only when the owner itself closed the link, or admitted a link that named it.
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/error.h"
#include "base/ids.h"
#include "base/unique_fd.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::nbd {

struct RelayOptions {
  NodeId node = NodeId::a;  // where this relay runs
  std::size_t path_count = 2;
  // Connects to the link listener of the pool's owner over path `path` (0 ...). An error means: not now; it is asked
  // again, on the next path, after `retry_ms`. It has to end soon (a few hundred milliseconds) when nobody answers.
  std::function<block::Task<Result<std::unique_ptr<block::Stream>>>(std::size_t path)> connect;
  // A client that was accepted and not linked yet when its volume is removed: no byte passed either way, so whoever serves
  // next can serve it. Empty: such clients are closed.
  std::function<void(const std::string& volume, UniqueFd client)> pass_on = {};
  std::int64_t retry_ms = 20;
  std::int64_t probe_every_ms = 40;
  std::int64_t path_dead_after_ms = 200;  // an unanswered probe of that age: the path's links end
};

class Relay {
 public:
  explicit Relay(RelayOptions options);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // From now on clients of this socket are served by the owner. The listener is usually a duplicate of the volume's one
  // listening socket (SocketHandover passes it to the pool process when this node owns).
  Result<void> add_volume(std::string volume, std::unique_ptr<block::Listener> listener);
  // Stops accepting and closes the volume's linked clients, both at once: they reconnect to whoever accepts next; those that
  // still wait in the handshake are passed on. Returns when
  // the last of its tasks has ended, which may take as long as a `connect` that is under way (give that a short deadline,
  // and hand the socket over without waiting for this).
  block::Task<void> remove_volume(std::string volume);
  // The owner changed or went: ends all links (and their clients) now instead of when their silence is noticed.
  void drop_links();
  block::Task<void> close();

  std::size_t client_count() const;

 private:
  struct Volume;
  struct Session;
  struct Path;

  block::Task<void> accept_clients(Volume& volume);
  block::Task<void> run_session(Volume& volume, Session& session);
  block::Task<void> link(Volume& volume, Session& session);  // sets session.link, or the session is over
  block::Task<bool> request_link(Volume& volume, Session& session, std::size_t path);
  block::Task<void> forward_from_client(Session& session);
  block::Task<void> forward_from_owner(Session& session);
  block::Task<void> keep_probing(std::size_t path);
  block::Task<void> probe(std::size_t path);
  void path_died(std::size_t path);
  bool some_path_lives() const;
  std::size_t choose_path(const Session& session) const;
  void pulse();

  RelayOptions options_;
  Uuid instance_ = Uuid::random();
  std::map<std::string, std::unique_ptr<Volume>> volumes_;
  std::vector<std::unique_ptr<Path>> paths_;
  std::uint64_t next_session_ = 1;
  block::TaskGroup tasks_;
  block::Signal changed_;
  bool closing_ = false;
  bool closed_ = false;
};

}  // namespace zpair::nbd
