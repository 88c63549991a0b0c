#pragma once
// Serves BlockDevices to NBD clients: fixed newstyle handshake, simple and structured replies, many requests in flight
// on a connection, many connections an export.
// Ownership: a device stays the caller's and must live until remove_export() or close() returned. The server owns its
//            listeners, connections and buffers. close() it before it is destroyed.
// Threading: reactor thread only; the devices complete there.
// Errors:    a device's error becomes the NBD error of its request, with two exceptions: `fenced` and `cancelled` mean
//            that this process no longer serves the volume, so the connection closes without a word and the client
//            finds the next owner at the same address. Nothing else ends a client either but close(), end of its session
//            (rule 10) and its own protocol errors.
// Source:    NBD protocol, doc/proto.md of the NetworkBlockDevice project; rules 6 (reads) and 10 (clients).
//
// Rule 10 here. An export name is `POOL/VOLUME~IDENTITY@CLIENT`, without the identity or the client if need be. With a client name there is one connection at a
// time: a newer one ends the older and its first request waits until the older one's requests have finished. Without a
// name (local sockets and relayed ones only) several may be open; a new one's first write waits until connections whose
// peer is gone have finished. A relayed link ends the former links that its header names (link.h) in the same way.
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "block/block_device.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::nbd {

class BufferPool;
class Connection;

struct ServerOptions {
  // Rule 6: asked after the data of a read was taken; false holds the reply. Asked again by recheck_reads() and every
  // few milliseconds while a read is held. Empty = always permitted (tests).
  std::function<bool()> read_permitted;
  std::uint32_t requests_per_connection = 256;       // more wait in the socket
  std::uint64_t bytes_per_connection = 64ull << 20;  // of reads and writes in flight
  std::int64_t handshake_ms = 10'000;                // a client that has not chosen an export by then is dropped
  // Awaited before the client of a socket or link of one export is told that there is no such export: it may be on its way.
  std::function<block::Task<void>(std::string)> make_ready;
};

struct ExportOptions {
  std::string name;  // POOL/VOLUME
  block::BlockDevice* device = nullptr;
  bool read_only = false;
  std::uint64_t identity = 0;  // the volume's guid, which a client may name (handshake.h)
};

enum class Transport : std::uint8_t {
  local,    // a Unix socket: clients with and without a name
  network,  // TCP: a client name is required
  relay,    // links of the other node's Relay (link.h); their clients came in at a Unix socket
};

struct ListenOptions {
  Transport transport = Transport::local;
  std::string volume;  // the one export of this socket, also found under the empty name; empty = every export
};

struct ClientStatus {
  std::string client;  // "" without a name
  Transport transport;
  std::uint32_t in_flight;
  bool ending;  // by rule 10, close() or its own error: waits for its requests
};

struct ExportStatus {
  std::string name;
  std::uint64_t size_bytes;
  std::uint64_t read_count, write_count, flush_count, other_count;  // answered with success
  std::uint64_t read_bytes, written_bytes;
  std::uint32_t reads_held;    // by rule 6, now
  Nanoseconds client_lost_ns;  // when a connection last ended without a goodbye: its client may come back; 0: never
  std::vector<ClientStatus> clients;
};

class Server {
 public:
  explicit Server(ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Result<void> add_export(ExportOptions options);
  // Ends its clients, also those in the handshake, waits for their requests; the device is free when it returns. Its
  // listeners close. Nothing that came for it is served by a later export of the same name.
  block::Task<Result<void>> remove_export(std::string name);

  // Accepts clients until close() (or remove_export() of its volume). While paused, clients wait in the backlog.
  Result<void> listen(std::unique_ptr<block::Listener> listener, ListenOptions options);
  // One client that somebody else accepted.
  void serve(std::unique_ptr<block::Stream> stream, ListenOptions options);

  // Switchover: takes no new request and no new client; returns when every request in flight has completed at its
  // device. What clients send meanwhile waits in their sockets: resume() goes on with it, close() leaves it to be sent
  // again to the next owner.
  block::Task<void> pause();
  void resume();
  bool paused() const { return paused_; }

  // Ends every client (no error replies), waits for the requests in flight, stops listening. Idempotent.
  block::Task<void> close();

  void recheck_reads();  // call when the promise was renewed
  std::vector<ExportStatus> status() const;

 private:
  friend class Connection;
  struct Export;
  struct Door;  // a listener and what it serves

  block::Task<void> accept_clients(Door& door);
  block::Task<void> run_connection(Connection& connection);
  void pulse();  // wakes whoever waits for a state of the server or its connections
  void arm_recheck();
  Export* find_export(const std::string& name);
  block::Task<void> make_ready(std::string name);

  ServerOptions options_;
  std::unique_ptr<BufferPool> buffers_;
  std::map<std::string, std::unique_ptr<Export>> exports_;
  std::list<std::unique_ptr<Door>> doors_;
  std::list<std::unique_ptr<Connection>> connections_;
  block::TaskGroup tasks_;
  block::Signal changed_;
  std::uint64_t next_sequence_ = 1;
  bool paused_ = false;
  bool closing_ = false;
  bool closed_ = false;
  block::Reactor::TimerId recheck_timer_ = 0;
};

}  // namespace zpair::nbd
