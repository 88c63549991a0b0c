#include "pool/exports.h"

#include <poll.h>

#include <algorithm>
#include <span>
#include <utility>

#include "agent/agent_server.h"
#include "base/assert.h"
#include "base/log.h"
#include "nbd/socket_handover.h"

namespace zpair::pool {

namespace {

constexpr std::size_t volumes_at_a_time = 64;  // each waits, for reads or a txg, and occupies a thread of the engine
constexpr std::size_t pending_at_a_time = 4;   // while others are served

// Runs each(volume) for all of them, many at a time.
template <class Volumes, class Each>
block::Task<void> side_by_side(Volumes& volumes, Each& each) {
  auto next = volumes.begin();
  auto work = [&volumes, &each, &next]() -> block::Task<void> {
    while (next != volumes.end()) co_await each(*next++);
  };
  block::TaskGroup workers;
  for (std::size_t i = 0; i < std::min(volumes.size(), volumes_at_a_time); ++i) workers.spawn(work());
  co_await workers.close();
}

}  // namespace

Exports::Exports(zfs::Pool& pool, Options options)
    : pool_(pool),
      options_(std::move(options)),
      server_(nbd::ServerOptions{.read_permitted = options_.read_permitted, .make_ready = [this](std::string name) {
                                   const std::string prefix = export_name("");
                                   return open_pending(name.starts_with(prefix) ? name.substr(prefix.size()) : "");
                                 }}) {}

Exports::~Exports() { ZP_ASSERT(closed_, "exports are closed before they end"); }

block::Task<Result<void>> Exports::open_imported(std::vector<zfs::ImportedVolume> volumes) {
  std::vector<std::string> with_log;
  for (const zfs::ImportedVolume& volume : volumes) {
    Entry& entry = entries_[volume.name];
    entry.known = {.name = volume.name, .guid = volume.guid};
    entry.imported = entry.pending = true;
    if (volume.has_log) with_log.push_back(volume.name);
  }
  auto open_one = [this](const std::string& name) { return open_pending(name); };
  co_await side_by_side(with_log, open_one);
  if (closed_) co_return fail(ErrorCode::cancelled, "pool {} is no longer served here", options_.pool_name);
  co_return Result<void>{};
}

block::Task<void> Exports::open_pending(std::string name) {
  auto is_pending = [this, &name] {
    auto found = entries_.find(name);
    return !closed_ && found != entries_.end() && found->second.pending;
  };
  while (is_pending() && changing_.contains(name)) co_await change_over_.wait();
  if (!is_pending()) co_return;
  const Change change(*this, name);
  auto opened = co_await open(name);
  entries_[name].pending = false;
  if (opened || closed_) co_return;
  options_.left_out(
      fmt::format("volume {} does not open and is not served: {}", export_name(name), opened.error().message));
}

// One that a client waits for at its socket, before any other; empty: none is left.
std::string Exports::next_pending() const {
  std::vector<const Entry*> entries;
  std::vector<pollfd> sockets;
  for (const auto& [name, entry] : entries_) {
    if (!entry.pending || changing_.contains(name)) continue;
    entries.push_back(&entry);
    sockets.push_back({.fd = entry.socket ? entry.socket.get() : -1, .events = POLLIN, .revents = 0});
  }
  if (entries.empty()) return {};
  static_cast<void>(::poll(sockets.data(), sockets.size(), 0));
  auto asked_for = std::ranges::find_if(sockets, [](const pollfd& socket) { return socket.revents != 0; });
  return entries[asked_for == sockets.end() ? 0 : asked_for - sockets.begin()]->known.name;
}

block::Task<void> Exports::open_rest() {
  auto work = [this]() -> block::Task<void> {
    for (std::string name = next_pending(); !closed_ && !name.empty(); name = next_pending())
      co_await open_pending(name);
  };
  block::TaskGroup workers;
  for (std::size_t i = 0; i < pending_at_a_time; ++i) workers.spawn(work());
  co_await workers.close();
  if (!closed_) options_.volumes_changed();
}

Result<void> Exports::check_free(const std::string& name) const {
  if (closed_) return fail(ErrorCode::unreachable, "pool {} is no longer served here: try again", options_.pool_name);
  if (changing_.contains(name))
    return fail(ErrorCode::refused, "volume {} is being changed: try again", export_name(name));
  return {};
}

// It need not be open: what failed to open again can be rolled back or destroyed.
Result<void> Exports::check_known(const std::string& name) const {
  auto found = entries_.find(name);
  if (found != entries_.end() && found->second.known.guid != 0) return {};
  return fail(ErrorCode::not_found, "pool {} has no volume {}", options_.pool_name, name);
}

// Nobody's data changes under a client, and no client of a former volume writes to the next one of its name.
Result<void> Exports::check_no_client(const std::string& name) const {
  if (const std::uint32_t clients = client_count(name); clients > 0) {
    return fail(ErrorCode::refused,
                "volume {} has {} client(s), whose data would change under them: disconnect them first",
                export_name(name), clients);
  }
  Nanoseconds last_seen_ns = entries_.at(name).imported ? serving_since_ns_ : 0;
  for (const nbd::ExportStatus& status : server_.status()) {
    if (status.name == export_name(name)) last_seen_ns = std::max(last_seen_ns, status.client_lost_ns);
  }
  const Nanoseconds left_ns = last_seen_ns + options_.may_come_back_ms * ns_per_ms - boot_time_ns();
  if (last_seen_ns == 0 || left_ns <= 0) return {};
  return fail(ErrorCode::refused,
              "volume {} may have a client whose connection broke and that comes back with old data: end it, and try "
              "again in {} s",
              export_name(name), (left_ns + ns_per_s - 1) / ns_per_s);
}

block::Task<Result<void>> Exports::open(std::string name) {
  if (closed_) co_return fail(ErrorCode::cancelled, "pool {} is no longer served here", options_.pool_name);
  auto volume = co_await pool_.open_volume(name);
  if (!volume) {
    entries_[name].known.problem = volume.error().message;
    co_return std::unexpected(volume.error());
  }
  if (closed_) {
    co_await (*volume)->close();
    co_return fail(ErrorCode::cancelled, "pool {} is no longer served here", options_.pool_name);
  }
  Entry& entry = entries_[name];
  entry.volume = std::move(*volume);
  entry.known = {name, entry.volume->geometry().size_bytes, entry.volume->info().guid, ""};
  auto added =
      server_.add_export({.name = export_name(name), .device = entry.volume.get(), .identity = entry.known.guid});
  ZP_ASSERT(added.has_value(), "a volume is exported once");
  listen_where_possible(name, entry);
  co_return Result<void>{};
}

void Exports::serve() {
  serving_ = true;
  serving_since_ns_ = boot_time_ns();
  for (auto& [name, entry] : entries_) listen_where_possible(name, entry);
  for (Client& client : std::exchange(waiting_clients_, {}))
    take_client(client.volume, client.guid, std::move(client.fd));
  tasks_.spawn(open_rest());
}

void Exports::listen_where_possible(const std::string& name, Entry& entry) {
  if (!serving_ || !entry.volume || !entry.socket || entry.listening || entry.socket_guid != entry.known.guid) return;
  auto duplicate = nbd::duplicate(entry.socket.get());  // ours stays: the server closes its own with the export
  if (!duplicate) {
    log_error("volume {}: {}", export_name(name), duplicate.error().message);
    return;
  }
  auto listener = std::make_unique<block::Listener>(std::move(*duplicate));
  auto listening =
      server_.listen(std::move(listener), {.transport = nbd::Transport::local, .volume = export_name(name)});
  if (!listening) {
    log_error("volume {}: {}", export_name(name), listening.error().message);
    return;
  }
  entry.listening = true;
}

block::Task<void> Exports::drain() { co_await server_.pause(); }

block::Task<void> Exports::close() {
  closed_ = true;
  co_await server_.close();
  co_await tasks_.close();
  while (!changing_.empty()) co_await change_over_.wait();
  std::vector<zfs::Volume*> volumes;
  for (auto& [name, entry] : entries_) {
    if (entry.volume) volumes.push_back(entry.volume.get());
  }
  auto close_one = [](zfs::Volume* volume) -> block::Task<void> { co_await volume->close(); };
  co_await side_by_side(volumes, close_one);
  for (auto& [name, entry] : entries_) entry.volume.reset();
}

void Exports::take_socket(std::string volume, std::uint64_t guid, UniqueFd listening) {
  if (closed_) return;
  // A zpaird that was restarted made a new socket at the same path: it is served besides the former one, which may have
  // clients in its backlog still.
  Entry& entry = entries_[volume];
  if (entry.known.guid != 0 && entry.known.guid != guid) return;
  entry.socket = std::move(listening);
  entry.socket_guid = guid;
  entry.listening = false;
  listen_where_possible(volume, entry);
}

void Exports::take_client(std::string volume, std::uint64_t guid, UniqueFd connected) {
  if (closed_) return;
  if (!serving_) {
    waiting_clients_.push_back({std::move(volume), guid, std::move(connected)});
    return;
  }
  auto found = entries_.find(volume);
  if (found == entries_.end() || found->second.known.guid != guid) return;
  auto stream = std::make_unique<block::Stream>(std::move(connected));
  server_.serve(std::move(stream), {.transport = nbd::Transport::local, .volume = export_name(volume)});
}

void Exports::take_relay_link(UniqueFd connected) {
  if (closed_ || !serving_) return;  // closes it: the relay tries again
  tasks_.spawn(run_relay_link(std::move(connected)));
}

block::Task<void> Exports::run_relay_link(UniqueFd connected) {
  auto stream = std::make_unique<block::Stream>(std::move(connected));
  const std::string accepted = agent::relay_accepted_bytes();
  auto written = co_await stream->write_all(std::as_bytes(std::span(accepted)));
  if (!written || closed_) co_return;
  server_.serve(std::move(stream), {.transport = nbd::Transport::relay, .volume = ""});
}

block::Task<Result<zfs::VolumeInfo>> Exports::create(zfs::VolumeSpec spec) {
  const std::string name = spec.name;
  co_await open_pending(name);
  ZP_CO_CHECK(check_free(name));
  const Change change(*this, name);
  ZP_CO_TRY(info, co_await pool_.create_volume(std::move(spec)));
  co_return co_await begin(std::move(info));
}

block::Task<Result<void>> Exports::resize(std::string name, std::uint64_t size_bytes) {
  co_await open_pending(name);
  ZP_CO_CHECK(check_free(name));
  const Change change(*this, name);
  ZP_CO_TRY(info, co_await pool_.resize_volume(name, size_bytes));
  static_cast<void>(info);
  options_.volumes_changed();
  co_return Result<void>{};
}

block::Task<Result<void>> Exports::destroy(std::string name) {
  co_await open_pending(name);
  ZP_CO_CHECK(check_free(name));
  ZP_CO_CHECK(check_known(name));
  ZP_CO_CHECK(check_no_client(name));
  const Change change(*this, name);
  co_await shut(name);
  auto destroyed = co_await pool_.destroy_volume(name);
  if (!destroyed) {
    auto again = co_await open(name);  // it has snapshots, say: it serves on
    if (!again) log_error("volume {}: {}", export_name(name), again.error().message);
    co_return std::unexpected(destroyed.error());
  }
  entries_.erase(name);
  options_.volumes_changed();
  co_return Result<void>{};
}

// Taken out before anything is waited for: nobody else finds it and ends it too.
block::Task<void> Exports::shut(std::string name) {
  Entry& entry = entries_[name];
  const auto volume = std::move(entry.volume);
  if (!volume) co_return;
  entry.known.size_bytes = volume->geometry().size_bytes;
  entry.listening = false;
  auto removed = co_await server_.remove_export(export_name(name));
  static_cast<void>(removed);
  co_await volume->close();
}

block::Task<Result<void>> Exports::snapshot(std::string name, std::string snapshot) {
  co_return co_await pool_.snapshot_volume(std::move(name), std::move(snapshot));
}

block::Task<Result<void>> Exports::destroy_snapshot(std::string name, std::string snapshot) {
  co_return co_await pool_.destroy_snapshot(std::move(name), std::move(snapshot));
}

block::Task<Result<zfs::VolumeInfo>> Exports::clone(std::string name, std::string snapshot, std::string clone,
                                                    zfs::VolumeSpec::Space space) {
  co_await open_pending(clone);
  ZP_CO_CHECK(check_free(clone));
  const Change change(*this, clone);
  ZP_CO_TRY(info, co_await pool_.clone_volume(std::move(name), std::move(snapshot), clone, space));
  co_return co_await begin(std::move(info));
}

// A volume that is there now: known at once, so that one which does not open can still be destroyed.
block::Task<Result<zfs::VolumeInfo>> Exports::begin(zfs::VolumeInfo info) {
  entries_[info.name].known = {.name = info.name, .size_bytes = info.size_bytes, .guid = info.guid};
  auto opened = co_await open(info.name);
  options_.volumes_changed();
  if (!opened) co_return fail(opened.error(), "volume {} was made, but does not open", export_name(info.name));
  co_return info;
}

block::Task<Result<void>> Exports::roll_back(std::string name, std::string snapshot) {
  co_await open_pending(name);
  ZP_CO_CHECK(check_free(name));
  ZP_CO_CHECK(check_known(name));
  ZP_CO_CHECK(check_no_client(name));
  const Change change(*this, name);
  co_await shut(name);
  auto rolled = co_await pool_.roll_back_volume(name, snapshot);
  auto again = co_await open(name);  // clients that came meanwhile wait at its socket
  if (!again) log_error("volume {}: {}", export_name(name), again.error().message);
  options_.volumes_changed();
  if (!rolled) co_return std::unexpected(rolled.error());
  if (!again)
    co_return fail(again.error(), "volume {} is rolled back to {}, but does not open", export_name(name), snapshot);
  co_return Result<void>{};
}

block::Task<Result<std::vector<VolumeView>>> Exports::list() {
  ZP_CO_TRY(volumes, co_await pool_.list_volumes());
  std::vector<VolumeView> views;
  for (zfs::VolumeInfo& info : volumes) {
    const std::string name = info.name;
    auto found = entries_.find(name);
    const bool open = found != entries_.end() && (found->second.volume != nullptr || found->second.pending);
    std::string problem = found != entries_.end() ? found->second.known.problem : info.unreadable;
    views.push_back({std::move(info), open, client_count(name), std::move(problem)});
  }
  co_return views;
}

std::vector<Exports::Known> Exports::known() const {
  std::vector<Known> volumes;
  for (const auto& [name, entry] : entries_) {
    if (entry.known.name.empty()) continue;
    volumes.push_back(entry.known);
    if (entry.volume) volumes.back().size_bytes = entry.volume->geometry().size_bytes;
  }
  return volumes;
}

std::uint32_t Exports::client_count(const std::string& volume) const {
  for (const nbd::ExportStatus& status : server_.status()) {
    if (status.name == export_name(volume)) return static_cast<std::uint32_t>(status.clients.size());
  }
  return 0;
}

std::uint32_t Exports::client_count() const {
  std::size_t count = 0;
  for (const nbd::ExportStatus& status : server_.status()) count += status.clients.size();
  return static_cast<std::uint32_t>(count);
}

std::uint64_t Exports::answered_count() const {
  std::uint64_t count = 0;
  for (const nbd::ExportStatus& status : server_.status()) {
    count += status.read_count + status.write_count + status.flush_count + status.other_count;
  }
  return count;
}

}  // namespace zpair::pool
