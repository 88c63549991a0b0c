#include "cli/switch.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "block/uring_await.h"
#include "cli/peer_process.h"

namespace zpair::cli {

using block::Task;
using nlohmann::json;

namespace {

constexpr std::size_t piece_bytes = std::size_t{64} << 10;
constexpr std::size_t most_queued_bytes = std::size_t{1} << 20;  // then the sender feels it, as in a real switch
constexpr std::int64_t connect_timeout_ms = 5000;

std::string other_way(std::string_view direction) {
  const auto arrow = direction.find('>');
  return fmt::format("{}>{}", direction.substr(arrow + 1), direction.substr(0, arrow));
}

std::vector<std::string> links_of(const Forward& forward, std::string_view from) {
  if (forward.link != "store") return {forward.link};
  return {fmt::format("store:{}", from), fmt::format("store:{}", forward.to)};
}

}  // namespace

// One direction of one connection.
struct Switch::Pipe {
  struct Piece {
    std::vector<std::byte> bytes;
    Nanoseconds due_ns;
  };
  std::string direction;  // a>b
  std::deque<Piece> queue;
  std::size_t queued_bytes = 0;
  bool ended = false;  // the sender closed: told on only after what is queued, and never through a cut
  block::Signal filled;
  block::Signal drained;
};

struct Switch::Session {
  std::vector<std::string> links;
  std::string direction;  // of the one who connected
  std::unique_ptr<block::Stream> client;
  std::unique_ptr<block::Stream> server;
  Pipe to_server;
  Pipe to_client;
  bool ended = false;
};

std::string to_json(const SwitchPlan& plan) {
  json forwards = json::array();
  for (const auto& f : plan.forwards) {
    forwards.push_back({{"link", f.link},
                        {"from", f.from},
                        {"to", f.to},
                        {"listen", f.listen},
                        {"target", f.target},
                        {"source", f.source}});
  }
  return json{{"control_socket", plan.control_socket},
              {"sandbox_dir", plan.sandbox_dir},
              {"latency_ms", plan.latency_ms},
              {"forwards", forwards}}
      .dump(2);
}

Result<SwitchPlan> parse_switch_plan(std::string_view text) {
  try {
    const json parsed = json::parse(text);
    SwitchPlan plan{parsed.at("control_socket"), parsed.at("sandbox_dir"), parsed.at("latency_ms"), {}};
    for (const json& f : parsed.at("forwards")) {
      plan.forwards.push_back({f.at("link"), f.at("from"), f.at("to"), f.at("listen"), f.at("target"), f.at("source")});
    }
    return plan;
  } catch (const json::exception& error) {
    return fail(ErrorCode::invalid, "the switch's plan cannot be read: {}", error.what());
  }
}

CutName parse_cut(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || text.find('>', colon) == std::string_view::npos)
    return {std::string(text), ""};
  return {std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
}

Result<std::unique_ptr<Switch>> Switch::start(block::Reactor& reactor, SwitchPlan plan) {
  std::unique_ptr<Switch> self(new Switch(reactor, std::move(plan)));
  for (const Forward& forward : self->plan_.forwards) {
    ZP_TRY(at, block::Endpoint::parse(forward.listen));
    ZP_TRY(listener, block::Listener::listen(at));
    self->listeners_.push_back(std::move(listener));
  }
  if (!self->plan_.control_socket.empty()) {
    ::unlink(self->plan_.control_socket.c_str());
    ZP_TRY(at, block::Endpoint::parse("unix:" + self->plan_.control_socket));
    ZP_TRY(control, block::Listener::listen(at));
    self->control_ = std::move(control);
    self->tasks_.spawn(self->serve_control());
  }
  for (std::size_t i = 0; i < self->listeners_.size(); ++i) {
    self->tasks_.spawn(self->accept_all(*self->listeners_[i], self->plan_.forwards[i]));
  }
  return self;
}

Switch::~Switch() { ZP_ASSERT(tasks_.running() == 0, "a switch is closed before it ends"); }

Task<void> Switch::close() {
  closed_ = true;
  for (auto& listener : listeners_) listener->close();
  if (control_) control_->close();
  for (block::Stream* client : control_clients_) client->shutdown();
  for (Session* session : sessions_) end(*session);
  co_await tasks_.close();
}

Task<void> Switch::accept_all(block::Listener& listener, const Forward& forward) {
  while (!closed_) {
    auto client = co_await listener.accept();
    if (!client && client.error().code == ErrorCode::cancelled) co_return;
    if (!client) {
      log_warning("cannot accept at {}: {}", forward.listen,
                  client.error().message);  // a client that gave up, or no descriptor left
      co_await reactor_.after_ms(10);
      continue;
    }
    tasks_.spawn(serve(std::move(*client), forward));
  }
}

Task<void> Switch::serve(std::unique_ptr<block::Stream> client, const Forward& forward) {
  const std::string from = forward.from.empty() ? node_of_tcp_peer(client->fd(), plan_.sandbox_dir) : forward.from;
  if (from.empty() || closed_) co_return;  // gone already, or a stranger: closed without a word
  Session session;
  session.links = links_of(forward, from);
  session.direction = fmt::format("{}>{}", from, forward.to);
  session.to_server.direction = session.direction;
  session.to_client.direction = other_way(session.direction);
  session.client = std::move(client);
  sessions_.insert(&session);
  // A dead switch lets no handshake through, in either direction.
  while (!session.ended && (held(session, session.to_server.direction) || held(session, session.to_client.direction))) {
    co_await cuts_changed_.wait();
  }
  if (!session.ended) {
    auto target = block::Endpoint::parse(forward.target);
    ZP_ASSERT(target.has_value(), "the plan's targets were made by us");
    auto server = co_await block::Stream::connect(*target, Deadline::in_ms(connect_timeout_ms), forward.source);
    if (server && !session.ended) {
      session.server = std::move(*server);
      block::TaskGroup sides;
      sides.spawn(read_side(session, *session.client, session.to_server));
      sides.spawn(write_side(session, *session.server, session.to_server));
      sides.spawn(read_side(session, *session.server, session.to_client));
      sides.spawn(write_side(session, *session.client, session.to_client));
      co_await sides.close();
    }
  }
  session.client->shutdown();
  sessions_.erase(&session);
}

Task<void> Switch::read_side(Session& session, block::Stream& in, Pipe& pipe) {
  const bool delayed = plan_.latency_ms > 0 && session.links.front().starts_with("path");
  while (!session.ended) {
    if (pipe.queued_bytes >= most_queued_bytes) {
      pipe.drained.reset();
      co_await pipe.drained.wait();
      continue;
    }
    std::vector<std::byte> bytes(piece_bytes);
    auto count = co_await in.read_some(bytes);
    if (!count || *count == 0) break;
    bytes.resize(*count);
    pipe.queued_bytes += *count;
    pipe.queue.push_back({std::move(bytes), delayed ? boot_time_ns() + plan_.latency_ms * ns_per_ms : 0});
    pipe.filled.set();
  }
  pipe.ended = true;
  pipe.filled.set();
}

Task<void> Switch::write_side(Session& session, block::Stream& out, Pipe& pipe) {
  while (!session.ended) {
    if (pipe.queue.empty() && !pipe.ended) {
      pipe.filled.reset();
      co_await pipe.filled.wait();
      continue;
    }
    if (held(session, pipe.direction)) {
      co_await cuts_changed_.wait();
      continue;
    }
    if (pipe.queue.empty()) break;  // the sender closed, and all that it sent was delivered
    if (pipe.queue.front().due_ns > boot_time_ns()) {
      co_await reactor_.until(pipe.queue.front().due_ns);
      continue;
    }
    Pipe::Piece piece = std::move(pipe.queue.front());
    pipe.queue.pop_front();
    auto written = co_await out.write_all(std::span<const std::byte>(piece.bytes));
    pipe.queued_bytes -= piece.bytes.size();
    pipe.drained.set();
    if (!written) break;
  }
  end(session);
}

void Switch::end(Session& session) {
  if (session.ended) return;
  session.ended = true;
  session.client->shutdown();
  if (session.server) session.server->shutdown();
  for (Pipe* pipe : {&session.to_server, &session.to_client}) {
    pipe->filled.set();
    pipe->drained.set();
  }
  cuts_changed_.set();
  cuts_changed_.reset();
}

bool Switch::held(const Session& session, std::string_view direction) const {
  for (const auto& link : session.links) {
    if (cuts_.contains({link, ""}) || cuts_.contains({link, std::string(direction)})) return true;
  }
  return false;
}

std::set<std::string> Switch::links() const {
  std::set<std::string> names;
  for (const Forward& forward : plan_.forwards) {
    if (forward.link != "store") {
      names.insert(forward.link);
      continue;
    }
    names.insert("store:" + forward.to);
    if (!forward.from.empty()) names.insert("store:" + forward.from);
  }
  return names;
}

bool Switch::known(const CutName& name) const {
  const auto arrow = name.direction.find('>');
  const std::string from = name.direction.substr(0, arrow);
  const std::string to = arrow == std::string::npos ? "" : name.direction.substr(arrow + 1);
  const auto is_node = [](const std::string& node) { return node == "a" || node == "b" || node == "witness"; };
  const bool direction_known = name.direction.empty() || (is_node(from) && is_node(to) && from != to);
  return direction_known && links().contains(name.link);
}

namespace {
auto unknown_link(const CutName& name, const std::set<std::string>& links) {
  std::string list;
  for (const auto& link : links) list += (list.empty() ? "" : ", ") + link;
  return fail(ErrorCode::invalid, "no such link: {}{}{}: there are {}; one direction is written path1:a>b", name.link,
              name.direction.empty() ? "" : ":", name.direction, list);
}
}  // namespace

Result<void> Switch::cut(const CutName& name) {
  if (!known(name)) return unknown_link(name, links());
  cuts_.insert(name);
  return {};
}

Result<void> Switch::heal(const CutName& name, Heal how) {
  if (!known(name)) return unknown_link(name, links());
  if (how == Heal::reset) {
    // First the ends, then the release: nothing that was held may slip through.
    for (Session* session : sessions_) {
      for (const auto& link : session->links) {
        if (link == name.link) end(*session);
      }
    }
  }
  std::erase_if(cuts_, [&](const CutName& cut) {
    return cut.link == name.link && (name.direction.empty() || cut.direction == name.direction);
  });
  cuts_changed_.set();
  cuts_changed_.reset();
  return {};
}

std::string Switch::status_json() const {
  json list = json::array();
  for (const auto& link : links()) {
    std::string state;
    if (cuts_.contains({link, ""})) state = "cut";
    for (const auto& cut : cuts_) {
      if (cut.link == link && !cut.direction.empty() && state != "cut")
        state += (state.empty() ? "cut " : ", ") + cut.direction;
    }
    std::size_t connections = 0;
    std::size_t held_bytes = 0;
    for (const Session* session : sessions_) {
      if (std::find(session->links.begin(), session->links.end(), link) == session->links.end()) continue;
      ++connections;
      for (const Pipe* pipe : {&session->to_server, &session->to_client})
        held_bytes += held(*session, pipe->direction) ? pipe->queued_bytes : 0;
    }
    list.push_back({{"name", link},
                    {"state", state.empty() ? "up" : state},
                    {"connections", connections},
                    {"held_bytes", held_bytes}});
  }
  return json{{"links", list}}.dump();
}

std::string Switch::answer(std::string_view line) {
  const json request = json::parse(line, nullptr, false);
  const auto said = [](const Result<void>& done) {
    return done ? json{{"ok", true}}.dump()
                : json{{"ok", false}, {"message", done.error().message}}.dump(-1, ' ', false,
                                                                              json::error_handler_t::replace);
  };
  if (!request.is_object()) return said(fail(ErrorCode::invalid, "the switch wants one JSON object a line"));
  if (request.contains("cut") && request["cut"].is_string())
    return said(cut(parse_cut(request["cut"].get<std::string>())));
  if (request.contains("heal") && request["heal"].is_string()) {
    const bool reset = request.value("reset", false);
    return said(heal(parse_cut(request["heal"].get<std::string>()), reset ? Heal::reset : Heal::deliver_late));
  }
  if (request.contains("status")) return status_json();
  return said(fail(ErrorCode::invalid, "the switch knows cut, heal and status"));
}

Task<void> Switch::serve_control() {
  while (!closed_) {
    auto client = co_await control_->accept();
    if (!client) co_return;
    tasks_.spawn(serve_control_client(std::move(*client)));
  }
}

Task<void> Switch::serve_control_client(std::unique_ptr<block::Stream> client) {
  if (closed_) co_return;
  control_clients_.insert(client.get());
  std::string text;
  std::array<std::byte, 4096> piece;
  while (true) {
    auto count = co_await client->read_some(piece);
    if (!count || *count == 0) break;
    text.append(reinterpret_cast<const char*>(piece.data()), *count);
    bool broken = false;
    for (auto end = text.find('\n'); end != std::string::npos && !broken; end = text.find('\n')) {
      const std::string said = answer(text.substr(0, end)) + "\n";
      text.erase(0, end + 1);
      auto written = co_await client->write_all(std::as_bytes(std::span(said)));
      broken = !written;
    }
    if (broken || text.size() > 65536) break;
  }
  control_clients_.erase(client.get());
}

namespace {

Task<int> run(block::Reactor& reactor, SwitchPlan plan, int signals) {
  auto running = Switch::start(reactor, std::move(plan));
  if (!running) {
    log_error("{}", running.error().message);
    co_return 1;
  }
  block::UringAwait stopped([signals](io_uring_sqe* entry) { io_uring_prep_poll_add(entry, signals, POLLIN); });
  co_await stopped;
  co_await (*running)->close();
  co_return 0;
}

}  // namespace

int run_switch(const std::string& plan_file) {
  start_log("switch", LogLevel::info);
  std::ifstream in(plan_file);
  std::ostringstream text;
  text << in.rdbuf();
  auto plan =
      in ? parse_switch_plan(text.str()) : Result<SwitchPlan>(fail(ErrorCode::not_found, "cannot read {}", plan_file));
  if (!plan) {
    log_error("{}", plan.error().message);
    return 1;
  }
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGTERM);
  sigaddset(&wanted, SIGINT);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  UniqueFd signals(::signalfd(-1, &wanted, SFD_CLOEXEC));
  auto reactor = block::Reactor::create();
  if (!reactor) {
    log_error("{}", reactor.error().message);
    return 1;
  }
  return (*reactor)->run_until_done(run(**reactor, std::move(*plan), signals.get()));
}

Result<std::string> ask_switch(const std::string& control_socket, const std::string& line) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (control_socket.size() >= sizeof address.sun_path)
    return fail(ErrorCode::invalid, "the socket path {} is too long", control_socket);
  std::memcpy(address.sun_path, control_socket.c_str(), control_socket.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(errno, "the sandbox's switch does not answer at {}", control_socket);
  }
  const std::string request = line + "\n";
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    return fail_errno(errno, "cannot talk to the sandbox's switch");
  }
  std::string text;
  std::array<char, 4096> piece;
  while (text.find('\n') == std::string::npos) {
    const ssize_t count = ::recv(socket.get(), piece.data(), piece.size(), 0);
    if (count <= 0) return fail(ErrorCode::io, "the sandbox's switch broke off");
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
  const json said = json::parse(text, nullptr, false);
  if (said.is_object() && said.contains("ok") && !said["ok"].get<bool>())
    return fail(ErrorCode::invalid, "{}", said.value("message", "refused"));
  return text.substr(0, text.find('\n'));
}

}  // namespace zpair::cli
