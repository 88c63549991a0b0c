#pragma once
// The local sockets of one pool's volumes: one listening socket a volume, at the same path on either node, for the volume's
// whole life. Whoever serves accepts from it: the node's own pool process, or a relay to the partner's; in between clients
// wait in its backlog and are never refused. A volume that was destroyed and made again is another one, told by its guid:
// it gets a socket of its own, and whoever waits at the former one is turned away.
// Ownership: the listening sockets and the relay lie here. close() before the end.
// Threading: reactor thread.
// Errors:    a socket that cannot be made is logged and tried again with the next list.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent_client.h"
#include "base/config.h"
#include "base/unique_fd.h"
#include "block/task.h"
#include "nbd/relay.h"

namespace zpair::node {

class VolumeSockets {
 public:
  enum class Server : std::uint8_t { nobody, process, relay };
  struct Options {
    std::string pool;
    const NodeConfig* config = nullptr;
    std::vector<agent::ClientPath> paths;  // to the partner's agent, for the relay
    using Give = std::function<void(const std::string& volume, std::uint64_t guid, int fd)>;
    Give give;              // a duplicate goes to the pool process
    Give give_client = {};  // the same: a client that still waits in the handshake
  };
  explicit VolumeSockets(Options options);
  ~VolumeSockets();

  // The volumes that exist: new ones get a socket, those that are gone lose theirs.
  void set_volumes(const std::map<std::string, std::uint64_t>& guids);
  void serve_by(Server server);
  void give_all();       // to a process that was started or found again
  void owner_changed();  // the relay's links lead to a former owner
  block::Task<void> close();
  std::string socket_path(const std::string& volume) const;
  std::vector<std::string> volumes() const;
  std::size_t client_count() const { return relay_ ? relay_->client_count() : 0; }

 private:
  block::Task<Result<std::unique_ptr<block::Stream>>> connect(std::size_t path);
  void keep_client(const std::string& relayed_as, UniqueFd client);
  void settle();
  block::Task<void> run_settle();
  std::string bound_name(const std::string& volume, std::uint64_t guid) const;  // what a relay asks for
  Result<void> listen(const std::string& volume, std::uint64_t guid);

  Options options_;
  struct Socket {
    std::unique_ptr<block::Listener> listener;
    std::uint64_t guid = 0;
    std::string relayed_as;  // its bound name at the relay; empty: it is not relayed
    bool removing = false;
  };
  std::map<std::string, Socket> sockets_;
  std::unique_ptr<nbd::Relay> relay_;
  struct Client {
    std::string volume;
    std::uint64_t guid;
    UniqueFd fd;
  };
  std::vector<Client> waiting_clients_;  // of a relay that ended; for the next process here
  Uuid relay_session_ = Uuid::random();
  std::uint64_t last_link_ = 0;
  Server server_ = Server::nobody;
  bool settling_ = false;
  bool again_ = false;
  bool closed_ = false;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
