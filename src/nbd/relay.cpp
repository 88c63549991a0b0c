#include "nbd/relay.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "base/log.h"
#include "nbd/link.h"

namespace zpair::nbd {

namespace {

constexpr std::size_t forward_bytes = 256u << 10;
constexpr Nanoseconds late_timer_ns = 100 * ns_per_ms;  // this process did not run: its windows start anew

bool peer_is_gone(const block::Stream& stream) {
  pollfd look{stream.fd(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// What is still unsent is thrown away when the socket closes.
void drop_unsent(const block::Stream& stream) {
  linger now{1, 0};
  ::setsockopt(stream.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

// Shuts a stream down unless it is fed in time; a timer that fires late starts its window anew.
class Watchdog {
 public:
  Watchdog(block::Stream& stream, std::int64_t window_ms) : stream_(stream), window_ms_(window_ms) { feed(); }
  ~Watchdog() { stop(); }
  void feed() {
    stop();
    Nanoseconds due = boot_time_ns() + window_ms_ * ns_per_ms;
    timer_ = block::Reactor::current().call_at(due, [this, due] {
      timer_ = 0;
      if (boot_time_ns() - due > late_timer_ns) {
        feed();
      } else {
        stream_.shutdown();
      }
    });
  }
  void stop() {
    if (timer_ != 0) block::Reactor::current().cancel_timer(timer_);
    timer_ = 0;
  }

 private:
  block::Stream& stream_;
  std::int64_t window_ms_;
  block::Reactor::TimerId timer_ = 0;
};

struct Relay::Session {
  std::uint64_t id = 0;
  std::unique_ptr<block::Stream> client;
  std::unique_ptr<block::Stream> link;
  std::size_t path = 0;
  bool admitted = false;
  bool over = false;            // this client is served no more; its link may still hold requests
  bool ended_by_owner = false;  // the owner closed the link after its last request: nothing of it can land any more

  // The client must not see its end before the session counts as over: its next connection names this one.
  void finish() {
    over = true;
    client->shutdown();
    if (link) {
      if (!ended_by_owner) drop_unsent(*link);
      link->shutdown();
    }
  }
};

struct Relay::Volume {
  std::string name;
  std::unique_ptr<block::Listener> listener;
  std::list<std::unique_ptr<Session>> sessions;
  std::set<std::uint64_t> unresolved;  // sessions that are gone here, whose link the owner may still hold
  bool closing = false;
  bool accept_ended = false;
};

struct Relay::Path {
  bool lives = false;
  std::unique_ptr<block::Stream> probe;
};

Relay::Relay(RelayOptions options) : options_(std::move(options)) {
  ZP_ASSERT(options_.path_count > 0 && options_.connect, "a relay has a path and a way to connect");
  for (std::size_t i = 0; i < options_.path_count; ++i) paths_.push_back(std::make_unique<Path>());
}

Relay::~Relay() { ZP_ASSERT(tasks_.running() == 0, "a relay is closed before it ends"); }

Result<void> Relay::add_volume(std::string name, std::unique_ptr<block::Listener> listener) {
  if (closing_) return fail(ErrorCode::cancelled, "the relay is closed");
  if (volumes_.contains(name)) return fail(ErrorCode::exists, "volume {} is relayed already", name);
  bool first = volumes_.empty() && tasks_.running() == 0;
  auto volume = std::make_unique<Volume>();
  volume->name = name;
  volume->listener = std::move(listener);
  Volume& added = *volumes_.emplace(std::move(name), std::move(volume)).first->second;
  tasks_.spawn(accept_clients(added));
  if (first) {
    for (std::size_t path = 0; path < paths_.size(); ++path) tasks_.spawn(keep_probing(path));
  }
  pulse();
  return {};
}

block::Task<void> Relay::remove_volume(std::string name) {
  auto found = volumes_.find(name);
  if (found == volumes_.end()) co_return;
  Volume& volume = *found->second;
  if (!volume.closing) {
    volume.closing = true;
    volume.listener->close();
    for (auto& session : volume.sessions) {
      if (session->admitted || !options_.pass_on) {
        session->finish();
      } else if (session->link) {
        session->link->shutdown();  // ends the wait for the owner's word
      }
    }
    pulse();
  }
  while (!volume.accept_ended || !volume.sessions.empty()) co_await changed_.wait();
  volumes_.erase(name);
  pulse();
}

void Relay::drop_links() {
  for (std::size_t path = 0; path < paths_.size(); ++path) path_died(path);
}

block::Task<void> Relay::close() {
  closing_ = true;
  for (auto& [name, volume] : volumes_) {
    volume->closing = true;
    volume->listener->close();
    for (auto& session : volume->sessions) session->finish();
  }
  for (auto& path : paths_) {
    if (path->probe) path->probe->shutdown();
  }
  pulse();
  co_await tasks_.close();
  volumes_.clear();
  closed_ = true;
}

std::size_t Relay::client_count() const {
  std::size_t count = 0;
  for (const auto& [name, volume] : volumes_) count += volume->sessions.size();
  return count;
}

void Relay::pulse() {
  changed_.set();
  changed_.reset();
}

bool Relay::some_path_lives() const {
  return std::ranges::any_of(paths_, [](const auto& path) { return path->lives; });
}

// ---- clients --------------------------------------------------------------------------------------------------------

// Accepts only while the owner can be reached: until then clients wait in the backlog, where whoever serves next finds
// them (perhaps this node's own pool process).
block::Task<void> Relay::accept_clients(Volume& volume) {
  while (!volume.closing) {
    if (!some_path_lives()) {
      co_await changed_.wait();
      continue;
    }
    volume.listener->reopen();
    auto client = co_await volume.listener->accept();
    if (client && !volume.closing) {
      volume.sessions.push_back(std::make_unique<Session>());
      Session& session = *volume.sessions.back();
      session.id = next_session_++;
      session.client = std::move(*client);
      tasks_.spawn(run_session(volume, session));
    } else if (!client && client.error().code != ErrorCode::cancelled) {
      log_warning("relay {}: {}", volume.name, client.error().message);
      co_await block::wait_for(changed_, Deadline::in_ms(options_.retry_ms));
    }
  }
  volume.accept_ended = true;
  pulse();
}

block::Task<void> Relay::run_session(Volume& volume, Session& session) {
  co_await link(volume, session);
  const bool waits = !session.admitted && !session.over && volume.closing && !closing_;
  if (waits && options_.pass_on && !peer_is_gone(*session.client))
    options_.pass_on(volume.name, session.client->release());
  if (session.admitted && !session.over) {
    block::TaskGroup from_client;
    from_client.spawn(forward_from_client(session));
    co_await forward_from_owner(session);
    session.finish();
    co_await from_client.close();
  }
  if (session.client->fd() >= 0) session.finish();
  if (session.link && !session.ended_by_owner) volume.unresolved.insert(session.id);
  volume.sessions.remove_if([&session](const auto& held) { return held.get() == &session; });
  pulse();
}

// Tries the paths until the owner admits this session, or the client or the volume is gone.
block::Task<void> Relay::link(Volume& volume, Session& session) {
  for (std::size_t attempt = 0; !session.over && !volume.closing; ++attempt) {
    if (peer_is_gone(*session.client)) co_return;
    std::size_t path = (choose_path(session) + attempt) % paths_.size();
    if (!paths_[path]->lives && some_path_lives()) continue;
    bool admitted = false;
    if (paths_[path]->lives) admitted = co_await request_link(volume, session, path);
    if (admitted) co_return;
    if (session.over || volume.closing) co_return;
    co_await block::wait_for(changed_, Deadline::in_ms(options_.retry_ms));
  }
}

std::size_t Relay::choose_path(const Session& session) const { return session.id % paths_.size(); }

block::Task<bool> Relay::request_link(Volume& volume, Session& session, std::size_t path) {
  auto stream = co_await options_.connect(path);
  if (!stream || session.over || volume.closing || !paths_[path]->lives) co_return false;
  // Every session of the volume that is over, or whose client is gone without our having read its end yet.
  LinkHeader header{LinkKind::client, options_.node, instance_, session.id, volume.name, {}};
  header.ends.assign(volume.unresolved.begin(), volume.unresolved.end());
  for (auto& other : volume.sessions) {
    if (other.get() == &session || !other->link) continue;
    if (!other->over && peer_is_gone(*other->client)) other->finish();
    if (other->over) header.ends.push_back(other->id);
  }
  session.path = path;
  session.link = std::move(*stream);  // path_died() finds it here
  std::vector<std::byte> bytes = encode(header);
  auto sent = co_await session.link->write_all(std::span<const std::byte>(bytes));
  Result<LinkAnswer> answer = fail(ErrorCode::io, "the link's header was not sent");
  if (sent) answer = co_await read_link_answer(*session.link);
  if (session.over) co_return false;
  if (!answer || *answer != LinkAnswer::admitted || volume.closing) {
    // The next attempt is a newer link of the same session: the owner ends this one. No byte of the client was sent.
    session.link->shutdown();
    session.link.reset();
    co_return false;
  }
  for (std::uint64_t ended : header.ends) volume.unresolved.erase(ended);
  session.admitted = true;
  co_return true;
}

block::Task<void> Relay::forward_from_client(Session& session) {
  std::vector<std::byte> buffer(forward_bytes);
  for (;;) {
    auto got = co_await session.client->read_some(buffer);
    if (session.over) co_return;
    if (!got || *got == 0) break;
    auto sent = co_await session.link->write_all(std::span<const std::byte>(buffer.data(), *got));
    if (!sent) break;
  }
  // The client is gone: the owner finishes what it got, then closes, which the other direction sees. (If the link broke,
  // the other direction sees that as well.)
  ::shutdown(session.link->fd(), SHUT_WR);
}

block::Task<void> Relay::forward_from_owner(Session& session) {
  std::vector<std::byte> buffer(forward_bytes);
  for (;;) {
    auto got = co_await session.link->read_some(buffer);
    if (session.over) co_return;  // we ended it: an end of stream says nothing about the owner
    if (got && *got == 0) session.ended_by_owner = true;
    if (!got || *got == 0) co_return;
    auto sent = co_await session.client->write_all(std::span<const std::byte>(buffer.data(), *got));
    if (session.over) co_return;
    if (!sent) ::shutdown(session.link->fd(), SHUT_WR);  // go on reading until the owner closes
  }
}

// ---- paths ----------------------------------------------------------------------------------------------------------

block::Task<void> Relay::keep_probing(std::size_t path) {
  while (!closing_) {
    // path_died() pulses: called here without a volume, the probes of two paths would wake each other for ever.
    while (volumes_.empty() && !closing_) co_await changed_.wait();
    if (closing_) co_return;
    co_await probe(path);
    path_died(path);
    if (!closing_) co_await block::Reactor::current().after_ms(options_.retry_ms);
  }
}

// Returns when the path does not answer.
block::Task<void> Relay::probe(std::size_t path) {
  auto stream = co_await options_.connect(path);
  if (!stream || closing_) co_return;
  paths_[path]->probe = std::move(*stream);
  block::Stream& probe = *paths_[path]->probe;
  Watchdog watchdog(probe, options_.path_dead_after_ms);
  std::vector<std::byte> header = encode(LinkHeader{LinkKind::probe, options_.node, instance_, 0, "", {}});
  auto sent = co_await probe.write_all(std::span<const std::byte>(header));
  if (!sent) co_return;
  auto answer = co_await read_link_answer(probe);
  if (!answer || *answer != LinkAnswer::admitted) co_return;
  paths_[path]->lives = true;
  pulse();
  std::byte beat[8] = {};
  while (!closing_) {
    watchdog.feed();
    sent = co_await probe.write_all(std::span<const std::byte>(beat));
    if (!sent) co_return;
    auto back = co_await probe.read_exactly(beat);
    if (!back || volumes_.empty()) co_return;
    watchdog.stop();
    co_await block::Reactor::current().after_ms(options_.probe_every_ms);
  }
}

void Relay::path_died(std::size_t dead) {
  Path& path = *paths_[dead];
  if (path.probe) path.probe->shutdown();
  if (path.lives) log_info("relay: path {} to the owner does not answer", dead + 1);
  path.lives = false;
  for (auto& [name, volume] : volumes_) {
    for (auto& session : volume->sessions) {
      if (session->link && session->path == dead && !session->over) {
        if (session->admitted) {
          session->finish();
        } else {
          session->link->shutdown();  // another path may admit it
        }
      }
    }
    if (!some_path_lives() && !volume->closing) volume->listener->close();
  }
  pulse();
}

}  // namespace zpair::nbd
