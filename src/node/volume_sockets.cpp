#include "node/volume_sockets.h"

#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "nbd/socket_handover.h"

namespace zpair::node {

namespace {
constexpr std::int64_t connect_limit_ms = 300;
}

VolumeSockets::VolumeSockets(Options options) : options_(std::move(options)) {
  nbd::RelayOptions relay;
  relay.node = options_.config->node;
  relay.path_count = options_.paths.size();
  relay.connect = [this](std::size_t path) { return connect(path); };
  relay.pass_on = [this](const std::string& bound_name, UniqueFd client) {
    keep_client(bound_name, std::move(client));
  };
  relay_ = std::make_unique<nbd::Relay>(std::move(relay));
}

VolumeSockets::~VolumeSockets() { ZP_ASSERT(tasks_.running() == 0, "the volume sockets were closed"); }

std::string VolumeSockets::socket_path(const std::string& volume) const {
  return options_.config->volume_socket(options_.pool, volume);
}

std::string VolumeSockets::bound_name(const std::string& volume, std::uint64_t guid) const {
  return fmt::format("{}/{}~{}", options_.pool, volume, guid);
}

std::vector<std::string> VolumeSockets::volumes() const {
  std::vector<std::string> names;
  for (const auto& [name, socket] : sockets_) {
    if (!socket.removing) names.push_back(name);
  }
  return names;
}

void VolumeSockets::set_volumes(const std::map<std::string, std::uint64_t>& guids) {
  for (const auto& [volume, guid] : guids) {
    auto found = sockets_.find(volume);
    if (found != sockets_.end() && found->second.guid == guid) {
      found->second.removing = false;
    } else if (auto made = listen(volume, guid); !made) {
      log_error("volume {}/{} has no local socket: {}", options_.pool, volume, made.error().message);
    }
  }
  for (auto& [name, socket] : sockets_) {
    if (!guids.contains(name) || guids.at(name) != socket.guid) socket.removing = true;
  }
  settle();
}

// In the place of a former volume's socket, if there is one: its backlog ends, and the relay lets its clients go (settle).
Result<void> VolumeSockets::listen(const std::string& volume, std::uint64_t guid) {
  ZP_TRY(listener, block::Listener::listen(block::Endpoint{"unix:" + socket_path(volume)}));
  Socket& socket = sockets_[volume];
  socket.listener = std::move(listener);
  socket.guid = guid;
  socket.removing = false;
  std::erase_if(waiting_clients_, [&volume](const Client& client) { return client.volume == volume; });
  if (server_ == Server::process) options_.give(volume, guid, socket.listener->fd());
  return {};
}

void VolumeSockets::serve_by(Server server) {
  if (server_ == server) return;
  server_ = server;
  if (server == Server::relay) waiting_clients_.clear();  // they come again
  settle();
}

void VolumeSockets::give_all() {
  for (const auto& [name, socket] : sockets_) {
    if (!socket.removing) options_.give(name, socket.guid, socket.listener->fd());
  }
  for (const Client& client : waiting_clients_) {
    if (options_.give_client) options_.give_client(client.volume, client.guid, client.fd.get());
  }
  waiting_clients_.clear();
}

// The owner died before it had admitted this client: it would see the end of its connection, and QEMU takes that for an
// error. Nothing was said to it yet, so this node's own process can serve it.
void VolumeSockets::keep_client(const std::string& relayed_as, UniqueFd client) {
  if (closed_ || server_ == Server::relay) return;
  for (const auto& [name, socket] : sockets_) {
    if (socket.removing || bound_name(name, socket.guid) != relayed_as) continue;
    if (server_ != Server::process) {
      waiting_clients_.push_back({name, socket.guid, std::move(client)});
    } else if (options_.give_client) {
      options_.give_client(name, socket.guid, client.get());
    }
    return;
  }
}

void VolumeSockets::owner_changed() { relay_->drop_links(); }

block::Task<void> VolumeSockets::close() {
  closed_ = true;
  co_await tasks_.close();
  co_await relay_->close();
  // The files stay: clients that come meanwhile are refused only while nobody runs here.
  sockets_.clear();
}

void VolumeSockets::settle() {
  if (closed_) return;
  again_ = true;
  if (settling_) return;
  settling_ = true;
  tasks_.spawn(run_settle());
}

block::Task<void> VolumeSockets::run_settle() {
  while (again_ && !closed_) {
    again_ = false;
    for (auto at = sockets_.begin(); at != sockets_.end() && !closed_;) {
      auto& [name, socket] = *at;
      const bool want_relay = server_ == Server::relay && !socket.removing;
      const std::string wanted_name = want_relay ? bound_name(name, socket.guid) : "";
      if (!socket.relayed_as.empty() && socket.relayed_as != wanted_name) {
        const std::string former_name = socket.relayed_as;
        co_await relay_->remove_volume(former_name);
        socket.relayed_as.clear();
        continue;  // what is wanted may have changed meanwhile
      }
      if (want_relay && socket.relayed_as.empty()) {
        auto copy = nbd::duplicate(socket.listener->fd());
        auto added = copy ? relay_->add_volume(wanted_name, std::make_unique<block::Listener>(std::move(*copy)))
                          : Result<void>(std::unexpected(copy.error()));
        if (!added) log_error("volume {}/{} is not relayed: {}", options_.pool, name, added.error().message);
        if (added) socket.relayed_as = wanted_name;
      }
      if (socket.removing) {
        ::unlink(socket_path(name).c_str());
        at = sockets_.erase(at);
      } else {
        ++at;
      }
    }
  }
  settling_ = false;
}

block::Task<Result<std::unique_ptr<block::Stream>>> VolumeSockets::connect(std::size_t path) {
  agent::RelayHello hello{options_.pool, "", relay_session_, ++last_link_};
  co_return co_await agent::connect_relay(options_.paths[path], hello, Deadline::in_ms(connect_limit_ms));
}

}  // namespace zpair::node
