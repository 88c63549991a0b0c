#include "pool/control_link.h"

#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "block/reactor.h"

namespace zpair::pool {

Result<std::unique_ptr<ControlLink>> ControlLink::start(Options options) {
  std::unique_ptr<ControlLink> link(new ControlLink(std::move(options)));
  ZP_TRY(listener, control::Channel::listen(link->options_.socket_path));
  link->listener_ = std::move(listener);
  link->tasks_.spawn(link->accept_peers());
  return link;
}

ControlLink::~ControlLink() { ZP_ASSERT(closing_, "a control link is closed before it ends"); }

block::Task<void> ControlLink::close() {
  closing_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);
  for (auto& peer : peers_) peer->channel.close();
  co_await tasks_.close();
  ::unlink(options_.socket_path.c_str());
}

void ControlLink::take_over(UniqueFd socket) {
  std::erase_if(peers_, [](const std::unique_ptr<Peer>& peer) { return peer->ended; });
  for (auto& peer : peers_) peer->channel.close();
  peers_.push_back(std::make_unique<Peer>(Peer{control::Channel(std::move(socket))}));
  tasks_.spawn(listen_to(*peers_.back()));
  if (options_.on_connect) options_.on_connect();
}

void ControlLink::send(const control::Message& message, int fd) {
  if (!connected()) return;
  auto sent = peers_.back()->channel.send(message, fd);
  if (!sent) log_debug("zpaird does not read: {}", sent.error().message);
}

bool ControlLink::connected() const { return !peers_.empty() && !peers_.back()->ended; }

block::Task<void> ControlLink::accept_peers() {
  while (!closing_) {
    auto socket = co_await control::Channel::accept(listener_.get());
    if (closing_) co_return;
    if (!socket) {
      log_warning("control connections: {}", socket.error().message);
      co_await block::Reactor::current().after_ms(100);
      continue;
    }
    take_over(std::move(*socket));
  }
}

block::Task<void> ControlLink::listen_to(Peer& peer) {
  while (true) {
    auto received = co_await peer.channel.receive();
    if (!received && received.error().code == ErrorCode::invalid) {
      log_warning("{}", received.error().message);
      continue;
    }
    if (!received) break;
    const bool newest = peers_.back().get() == &peer;
    if (newest && !closing_) options_.on_message(std::move(*received));
  }
  peer.ended = true;
  if (!closing_ && peers_.back().get() == &peer) log_warning("zpaird is gone; this process serves on");
}

}  // namespace zpair::pool
