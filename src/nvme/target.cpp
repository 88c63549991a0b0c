#include "nvme/target.h"

#include <arpa/inet.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/log.h"
#include "nvme/target_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::int64_t watch_interval_ms = 100;

std::uint64_t random_number() {
  std::uint64_t value = 0;
  ssize_t got = ::getrandom(&value, sizeof value, 0);
  ZP_ASSERT(got == sizeof value, "the kernel gives random bytes");
  return value;
}

}  // namespace

void Namespace::add(TargetCommand& command) {
  command.name_space = this;
  command.previous_at_device = nullptr;
  command.next_at_device = at_device;
  if (at_device != nullptr) at_device->previous_at_device = &command;
  at_device = &command;
}

void Namespace::remove(TargetCommand& command) {
  if (command.previous_at_device != nullptr) {
    command.previous_at_device->next_at_device = command.next_at_device;
  } else {
    at_device = command.next_at_device;
  }
  if (command.next_at_device != nullptr) command.next_at_device->previous_at_device = command.previous_at_device;
  command.name_space = nullptr;
  if (!changed.is_set()) changed.set();
}

Target::Target(TargetOptions options) : state_(std::make_unique<State>()) { state_->options = std::move(options); }

Target::~Target() { ZP_ASSERT(state_->listeners.empty() || state_->closing, "a target is closed before it ends"); }

Result<block::Endpoint> Target::listen(block::Endpoint at) {
  ZP_ASSERT(!state_->closing, "a closed target does not listen");
  ZP_TRY(listener, block::Listener::listen(at));
  block::Endpoint here = listener->local_endpoint();
  state_->listeners.push_back(std::move(listener));
  state_->tasks.spawn(state_->accept_all(*state_->listeners.back()));
  if (!state_->watching) {
    state_->watching = true;
    state_->tasks.spawn(state_->watch_keep_alives());
  }
  return here;
}

void Target::add_namespace(std::uint32_t nsid, Uuid uuid, block::BlockDevice& device, fence::FenceFile& fence_file) {
  Namespace& added = state_->make(nsid);
  ZP_ASSERT(added.state != Namespace::State::serving, "a namespace is removed before it is added again");
  added.reservations = Reservations(fence_file);
  added.uuid = uuid;
  added.device = &device;
  added.drive = device.durable_id();
  added.block_bytes = device.geometry().block_size_bytes;
  added.state = Namespace::State::serving;
}

void Target::add_open_namespace(std::uint32_t nsid, Uuid uuid, block::BlockDevice& device) {
  Namespace& added = state_->make(nsid);
  ZP_ASSERT(added.state != Namespace::State::serving, "a namespace is removed before it is added again");
  added.reservations = Reservations();
  added.uuid = uuid;
  added.device = &device;
  added.drive = device.durable_id();
  added.block_bytes = device.geometry().block_size_bytes;
  added.state = Namespace::State::serving;
}

block::Task<void> Target::remove_namespace(std::uint32_t nsid) {
  Namespace* removed = state_->find(nsid);
  if (removed == nullptr) co_return;
  removed->state = Namespace::State::absent;
  co_await drain(*removed);
  if (removed->state == Namespace::State::absent) removed->device = nullptr;
}

block::Task<void> Target::set_fenced_elsewhere(std::uint32_t nsid, Epoch epoch, std::string drive) {
  Namespace& there = state_->make(nsid);
  if (!drive.empty()) there.drive = std::move(drive);
  there.state = Namespace::State::elsewhere;
  there.elsewhere_epoch = std::max(there.elsewhere_epoch, epoch);
  co_await drain(there);
  if (there.state == Namespace::State::elsewhere) there.device = nullptr;
}

TargetCounts Target::counts() const {
  TargetCounts counts = state_->counts;
  counts.connections = state_->connections.size();
  counts.controllers = static_cast<std::uint64_t>(
      std::ranges::count_if(state_->controllers, [](const auto& entry) { return !entry.second->ended; }));
  return counts;
}

block::Task<void> Target::close() {
  state_->closing = true;
  state_->stop.set();
  for (auto& listener : state_->listeners) listener->close();
  for (auto& [cntlid, controller] : state_->controllers) state_->end(*controller, "the target closes");
  for (auto& connection : state_->connections) connection->end();
  co_await state_->tasks.close();
  state_->listeners.clear();
  for (auto& [nsid, name_space] : state_->namespaces) name_space->state = Namespace::State::absent;
}

Namespace* Target::State::find(std::uint32_t nsid) {
  auto found = namespaces.find(nsid);
  return found == namespaces.end() ? nullptr : found->second.get();
}

Namespace& Target::State::make(std::uint32_t nsid) {
  ZP_ASSERT(nsid != 0 && nsid != 0xffffffff, "namespace ids begin at 1");
  auto& place = namespaces[nsid];
  if (!place) {
    place = std::make_unique<Namespace>();
    place->nsid = nsid;
  }
  return *place;
}

bool Target::State::peer_allowed(const block::Stream& stream) const {
  if (options.allowed_peers.empty()) return true;
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  if (::getpeername(stream.fd(), reinterpret_cast<sockaddr*>(&peer), &length) != 0) return false;
  char text[INET6_ADDRSTRLEN] = {};
  if (peer.ss_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in&>(peer).sin_addr, text, sizeof text);
  } else {
    ::inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6&>(peer).sin6_addr, text, sizeof text);
  }
  return std::ranges::find(options.allowed_peers, std::string_view(text)) != options.allowed_peers.end();
}

block::Task<void> Target::State::accept_all(block::Listener& listener) {
  while (!closing) {
    auto stream = co_await listener.accept();
    if (!stream) {
      if (stream.error().code == ErrorCode::cancelled || closing) co_return;
      log_warning("nvme target: {}", stream.error().message);
      co_await block::Reactor::current().after_ms(10);  // out of descriptors: do not spin
      continue;
    }
    if (closing || !peer_allowed(**stream)) continue;
    connections.push_back(std::make_unique<Connection>(*this, std::move(*stream)));
    tasks.spawn(serve(*connections.back()));
  }
}

block::Task<void> Target::State::serve(Connection& connection) {
  co_await connection.run();
  if (auto controller = connection.controller_) {
    std::erase(controller->connections, &connection);
    // A controller lives and dies with its admin queue; what is left of it ends with it.
    if (connection.qid() == 0) end(*controller, "its admin connection ended");
    if (controller->ended && controller->connections.empty()) controllers.erase(controller->cntlid);
  }
  std::erase_if(connections, [&connection](const auto& entry) { return entry.get() == &connection; });
}

block::Task<void> Target::State::begin_store() {
  while (storing) {
    stored.reset();
    co_await stored.wait();
  }
  storing = true;
}

block::Task<void> Target::State::end_store() {
  co_await block::Reactor::current().yield();
  storing = false;
  stored.set();
}

// Ends controllers whose host is silent for longer than its keep-alive time.
block::Task<void> Target::State::watch_keep_alives() {
  while (!closing) {
    bool stopping = co_await block::wait_for(stop, Deadline::in_ms(watch_interval_ms));
    if (stopping) co_return;
    Nanoseconds now = boot_time_ns();
    std::vector<std::shared_ptr<Controller>> silent;
    for (auto& [cntlid, controller] : controllers) {
      bool timed = controller->keep_alive_ms != 0 && !controller->ended;
      if (timed && now - controller->last_heard_ns > controller->keep_alive_ms * ns_per_ms)
        silent.push_back(controller);
    }
    for (auto& controller : silent) end(*controller, "its keep-alive ran out");
  }
}

std::shared_ptr<Controller> Target::State::new_controller(const Uuid& host, std::uint32_t keep_alive_ms) {
  do {
    if (++last_cntlid >= 0xfff0) last_cntlid = 1;
  } while (controllers.contains(last_cntlid));
  auto controller = std::make_shared<Controller>();
  controller->cntlid = last_cntlid;
  controller->random_number = random_number();
  controller->uniquifier = static_cast<std::uint8_t>(1 + random_number() % 255);
  controller->host_id = host;
  controller->keep_alive_ms = keep_alive_ms;
  controller->last_heard_ns = boot_time_ns();
  controllers[last_cntlid] = controller;
  return controller;
}

void Target::State::end(Controller& controller, std::string_view why) {
  if (controller.ended) return;
  controller.ended = true;
  log_debug("nvme target: controller {} of host {} ends: {}", controller.cntlid, controller.host_id.to_string(), why);
  for (Connection* connection : controller.connections) connection->end();
}

block::Task<void> wait_until_quiet(std::shared_ptr<Controller> controller) {
  while (controller->busy_count > 0) {
    controller->changed.reset();
    co_await controller->changed.wait();
  }
}

block::Task<void> drain_older_writes(Namespace& name_space, Uuid than_host) {
  while (name_space.has_older_writes(than_host)) {
    name_space.changed.reset();
    co_await name_space.changed.wait();
  }
}

block::Task<void> drain(Namespace& name_space) {
  while (name_space.at_device != nullptr) {
    name_space.changed.reset();
    co_await name_space.changed.wait();
  }
}

}  // namespace zpair::nvme
