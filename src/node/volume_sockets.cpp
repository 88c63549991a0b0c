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
  relay.pass_on = [this](const std::string& export_name, UniqueFd client) { keep_client(export_name, std::move(client)); };
  relay_ = std::make_unique<nbd::Relay>(std::move(relay));
}

VolumeSockets::~VolumeSockets() { ZP_ASSERT(tasks_.running() == 0, "the volume sockets were closed"); }

std::string VolumeSockets::socket_path(const std::string& volume) const {
  return options_.config->volume_socket(options_.pool, volume);
}

std::vector<std::string> VolumeSockets::volumes() const {
  std::vector<std::string> names;
  for (const auto& [name, socket] : sockets_) {
    if (!socket.removing) names.push_back(name);
  }
  return names;
}

void VolumeSockets::set_volumes(const std::vector<std::string>& volumes) {
  for (const std::string& volume : volumes) {
    auto found = sockets_.find(volume);
    if (found != sockets_.end()) {
      found->second.removing = false;
      continue;
    }
    auto listener = block::Listener::listen(block::Endpoint{"unix:" + socket_path(volume)});
    if (!listener) {
      log_error("volume {}/{} has no local socket: {}", options_.pool, volume, listener.error().message);
      continue;
    }
    Socket& socket = sockets_[volume];
    socket.listener = std::move(*listener);
    if (server_ == Server::process) options_.give(volume, socket.listener->fd());
  }
  for (auto& [name, socket] : sockets_) {
    if (std::find(volumes.begin(), volumes.end(), name) == volumes.end()) socket.removing = true;
  }
  settle();
}

void VolumeSockets::serve_by(Server server) {
  if (server_ == server) return;
  server_ = server;
  if (server == Server::relay) waiting_clients_.clear();   // they come again
  settle();
}

void VolumeSockets::give_all() {
  for (const auto& [name, socket] : sockets_) {
    if (!socket.removing) options_.give(name, socket.listener->fd());
  }
  for (const auto& [name, client] : waiting_clients_) {
    if (options_.give_client) options_.give_client(name, client.get());
  }
  waiting_clients_.clear();
}

// The owner died before it had admitted this client: it would see the end of its connection, and QEMU takes that for an
// error. Nothing was said to it yet, so this node's own process can serve it.
void VolumeSockets::keep_client(const std::string& export_name, UniqueFd client) {
  const std::string name = export_name.substr(export_name.find('/') + 1);
  const auto found = sockets_.find(name);
  if (closed_ || server_ == Server::relay || found == sockets_.end() || found->second.removing) return;
  if (server_ == Server::process) {
    if (options_.give_client) options_.give_client(name, client.get());
  } else {
    waiting_clients_.emplace_back(name, std::move(client));
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
      bool want_relay = server_ == Server::relay && !socket.removing;
      if (socket.relayed && !want_relay) {
        co_await relay_->remove_volume(export_name(name));
        socket.relayed = false;
      } else if (!socket.relayed && want_relay) {
        auto copy = nbd::duplicate(socket.listener->fd());
        auto added = copy ? relay_->add_volume(export_name(name), std::make_unique<block::Listener>(std::move(*copy)))
                          : Result<void>(std::unexpected(copy.error()));
        if (!added) log_error("volume {}/{} is not relayed: {}", options_.pool, name, added.error().message);
        socket.relayed = added.has_value();
      }
      if (socket.removing && !socket.relayed) {
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
