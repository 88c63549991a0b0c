#include "nbd/server.h"

#include <algorithm>

#include "base/log.h"
#include "nbd/connection_internal.h"

namespace zpair::nbd {

namespace {
constexpr std::int64_t recheck_ms = 5;
constexpr std::int64_t accept_retry_ms = 20;
constexpr std::size_t most_connections = 4096;
}  // namespace

struct Server::Door {
  std::unique_ptr<block::Listener> listener;
  ListenOptions options;
  bool closing = false;
  bool closed = false;
};

Server::Server(ServerOptions options) : options_(std::move(options)), buffers_(std::make_unique<BufferPool>()) {}

Server::~Server() {
  ZP_ASSERT(closed_ || (connections_.empty() && doors_.empty()), "a server is closed before it ends");
}

Result<void> Server::add_export(ExportOptions options) {
  ZP_ASSERT(options.device != nullptr, "an export has a device");
  if (options.name.empty() || options.name.find_first_of("@~") != std::string::npos) {
    return fail(ErrorCode::invalid, "'{}' is no export name: POOL/VOLUME without '@' and '~' is", options.name);
  }
  if (exports_.contains(options.name)) return fail(ErrorCode::exists, "volume {} is served already", options.name);
  block::Geometry geometry = options.device->geometry();
  auto added = std::make_unique<Export>();
  added->facts = {options.name, geometry.size_bytes, geometry.block_size_bytes, options.read_only, options.identity};
  added->options = std::move(options);
  exports_.emplace(added->facts.name, std::move(added));
  return {};
}

Server::Export* Server::find_export(const std::string& name) {
  auto found = exports_.find(name);
  return found == exports_.end() || found->second->removing ? nullptr : found->second.get();
}

block::Task<void> Server::make_ready(std::string name) {
  if (find_export(name) == nullptr && options_.make_ready) co_await options_.make_ready(std::move(name));
}

block::Task<Result<void>> Server::remove_export(std::string name) {
  Export* removed = find_export(name);
  if (removed == nullptr) co_return fail(ErrorCode::not_found, "volume {} is not served here", name);
  removed->removing = true;
  for (auto& door : doors_) {
    if (door->options.volume != name) continue;
    door->closing = true;
    door->listener->close();
  }
  auto uses_it = [removed, &name](const auto& connection) {
    return connection->export_served() == removed || connection->volume_asked_for() == name;
  };
  auto closes = [&name](const auto& door) { return door->options.volume == name && !door->closed; };
  pulse();
  while (std::ranges::any_of(connections_, uses_it) || std::ranges::any_of(doors_, closes)) {
    for (auto& connection : connections_) {
      if (uses_it(connection)) connection->end();
    }
    co_await changed_.wait();
  }
  doors_.remove_if([&name](const auto& door) { return door->options.volume == name && door->closed; });
  exports_.erase(name);
  co_return Result<void>{};
}

Result<void> Server::listen(std::unique_ptr<block::Listener> listener, ListenOptions options) {
  if (closing_) return fail(ErrorCode::cancelled, "the NBD server is closed");
  if (!options.volume.empty() && find_export(options.volume) == nullptr) {
    return fail(ErrorCode::not_found, "volume {} is not served here: add it before its socket", options.volume);
  }
  doors_.push_back(std::make_unique<Door>());
  Door& door = *doors_.back();
  door.listener = std::move(listener);
  door.options = std::move(options);
  tasks_.spawn(accept_clients(door));
  return {};
}

block::Task<void> Server::accept_clients(Door& door) {
  while (!door.closing) {
    if (paused_) {
      co_await changed_.wait();
      continue;
    }
    auto client = co_await door.listener->accept();
    if (client) {
      serve(std::move(*client), door.options);
    } else if (client.error().code != ErrorCode::cancelled) {
      log_warning("nbd: {}", client.error().message);
      co_await block::wait_for(changed_, Deadline::in_ms(accept_retry_ms));
    }
  }
  door.closed = true;
  pulse();
}

void Server::serve(std::unique_ptr<block::Stream> stream, ListenOptions options) {
  if (closing_ || connections_.size() >= most_connections) return;
  connections_.push_back(std::make_unique<Connection>(*this, std::move(stream), std::move(options), next_sequence_++));
  tasks_.spawn(run_connection(*connections_.back()));
}

block::Task<void> Server::run_connection(Connection& connection) {
  co_await connection.run();
  connections_.remove_if([&connection](const auto& held) { return held.get() == &connection; });
  pulse();
}

block::Task<void> Server::pause() {
  paused_ = true;
  for (auto& door : doors_) door->listener->close();
  auto busy = [](const auto& connection) { return connection->in_flight() > 0; };
  while (paused_ && std::ranges::any_of(connections_, busy)) co_await changed_.wait();
}

void Server::resume() {
  if (!paused_) return;
  paused_ = false;
  for (auto& door : doors_) {
    if (!door->closing) door->listener->reopen();
  }
  pulse();
}

block::Task<void> Server::close() {
  if (closing_) {
    while (!closed_) co_await changed_.wait();
    co_return;
  }
  closing_ = true;
  for (auto& door : doors_) {
    door->closing = true;
    door->listener->close();
  }
  for (auto& connection : connections_) connection->end();
  pulse();
  co_await tasks_.close();
  if (recheck_timer_ != 0) block::Reactor::current().cancel_timer(recheck_timer_);
  recheck_timer_ = 0;
  doors_.clear();
  exports_.clear();
  closed_ = true;
  pulse();
}

void Server::pulse() {
  changed_.set();
  changed_.reset();
}

void Server::recheck_reads() {
  for (auto& connection : connections_) connection->recheck_reads();
}

// While a read is held, its permission is looked for every few milliseconds.
void Server::arm_recheck() {
  if (recheck_timer_ != 0 || closing_) return;
  recheck_timer_ = block::Reactor::current().call_at(boot_time_ns() + recheck_ms * ns_per_ms, [this] {
    recheck_timer_ = 0;
    recheck_reads();
    bool held = std::ranges::any_of(connections_, [](const auto& connection) { return connection->reads_held() > 0; });
    if (held) arm_recheck();
  });
}

std::vector<ExportStatus> Server::status() const {
  std::vector<ExportStatus> all;
  for (const auto& [name, served] : exports_) {
    ExportStatus status{};
    status.name = name;
    status.client_lost_ns = served->client_lost_ns;
    status.size_bytes = served->facts.size_bytes;
    status.read_count = served->read_count;
    status.write_count = served->write_count;
    status.flush_count = served->flush_count;
    status.other_count = served->other_count;
    status.read_bytes = served->read_bytes;
    status.written_bytes = served->written_bytes;
    for (const auto& connection : connections_) {
      if (connection->export_served() != served.get()) continue;
      status.reads_held += connection->reads_held();
      status.clients.push_back(
          {connection->client(), connection->transport(), connection->in_flight(), connection->ending()});
    }
    all.push_back(std::move(status));
  }
  return all;
}

}  // namespace zpair::nbd
