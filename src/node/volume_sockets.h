#pragma once
// The local sockets of one pool's volumes: one listening socket a volume, at the same path on either node, for the volume's
// whole life. Whoever serves accepts from it: the node's own pool process, or a relay to the partner's; in between clients
// wait in its backlog and are never refused.
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
    std::vector<agent::ClientPath> paths;                         // to the partner's agent, for the relay
    std::function<void(const std::string& volume, int fd)> give;  // a duplicate goes to the pool process
    std::function<void(const std::string& volume, int fd)> give_client = {};  // the same: a client that still waits in the handshake
  };
  explicit VolumeSockets(Options options);
  ~VolumeSockets();

  // The volumes that exist: new ones get a socket, those that are gone lose theirs.
  void set_volumes(const std::vector<std::string>& volumes);
  void serve_by(Server server);
  void give_all();       // to a process that was started or found again
  void owner_changed();  // the relay's links lead to a former owner
  block::Task<void> close();
  std::string socket_path(const std::string& volume) const;
  std::vector<std::string> volumes() const;
  std::size_t client_count() const { return relay_ ? relay_->client_count() : 0; }

 private:
  block::Task<Result<std::unique_ptr<block::Stream>>> connect(std::size_t path);
  void keep_client(const std::string& export_name, UniqueFd client);
  void settle();
  block::Task<void> run_settle();
  std::string export_name(const std::string& volume) const { return options_.pool + "/" + volume; }

  Options options_;
  struct Socket {
    std::unique_ptr<block::Listener> listener;
    bool relayed = false;
    bool removing = false;
  };
  std::map<std::string, Socket> sockets_;
  std::unique_ptr<nbd::Relay> relay_;
  std::vector<std::pair<std::string, UniqueFd>> waiting_clients_;   // of a relay that ended; for the next process here
  Uuid relay_session_ = Uuid::random();
  std::uint64_t last_link_ = 0;
  Server server_ = Server::nobody;
  bool settling_ = false;
  bool again_ = false;
  bool closed_ = false;
  block::TaskGroup tasks_;
};

}  // namespace zpair::node
