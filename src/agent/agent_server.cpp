#include "agent/agent_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "agent/channel.h"
#include "base/log.h"

namespace zpair::agent {

namespace {

constexpr std::size_t most_connections_per_path = 256;  // relayed clients leave at once
constexpr Nanoseconds first_frame_limit_ns = 3 * ns_per_s;
constexpr Nanoseconds longest_silence_ns = 10 * ns_per_s;
constexpr std::int64_t look_ms = 500;

// The numeric address of the other end.
std::string peer_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return "";
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in&>(storage).sin_addr, text, sizeof text);
  } else if (storage.ss_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6&>(storage).sin6_addr, text, sizeof text);
  }
  return text;
}

bool is_everywhere(const std::string& endpoint) {
  return endpoint.starts_with("tcp:0.0.0.0:") || endpoint.starts_with("tcp:[::]:");
}

}  // namespace

struct AgentServer::Connection {
  explicit Connection(std::unique_ptr<block::Stream> stream) : channel(std::move(stream)) {}
  Channel channel;
  std::size_t path = 0;
  std::optional<Hello> hello;
  Nanoseconds last_heard_ns = boot_time_ns();
  block::Signal ended;
  block::TaskGroup tasks;
};

Result<std::unique_ptr<AgentServer>> AgentServer::create(Options options, AgentService& service) {
  std::unique_ptr<AgentServer> server(new AgentServer(std::move(options), service));
  for (const ServerPath& path : server->options_.paths) {
    if (is_everywhere(path.listen.text)) {
      return fail(ErrorCode::invalid, "path {} listens on every address ({}): give the address of that path", path.name,
                  path.listen.text);
    }
    ZP_TRY(listener, block::Listener::listen(path.listen));
    server->listeners_.push_back(std::move(listener));
    server->last_heard_ns_.push_back(0);
  }
  return server;
}

AgentServer::AgentServer(Options options, AgentService& service) : options_(std::move(options)), service_(service) {}

AgentServer::~AgentServer() { ZP_ASSERT(tasks_.running() == 0, "the agent server was closed"); }

void AgentServer::start() {
  for (std::size_t path = 0; path < listeners_.size(); ++path) tasks_.spawn(accept_on(path));
}

block::Task<void> AgentServer::close() {
  closed_ = true;
  for (auto& listener : listeners_) listener->close();
  for (Connection* connection : connections_) connection->channel.shutdown();
  co_await tasks_.close();
}

block::Endpoint AgentServer::local_endpoint(std::size_t path) const { return listeners_[path]->local_endpoint(); }
Nanoseconds AgentServer::last_heard_ns(std::size_t path) const { return last_heard_ns_[path]; }

block::Task<void> AgentServer::accept_on(std::size_t path) {
  bool stranger_logged = false;
  while (!closed_) {
    auto stream = co_await listeners_[path]->accept();
    if (closed_) break;
    if (!stream) {
      log_warning("path {}: {}", options_.paths[path].name, stream.error().message);
      co_await block::Reactor::current().after_ms(100);
      continue;
    }
    std::string peer = peer_of((*stream)->fd());
    if (peer != options_.paths[path].partner) {
      if (!stranger_logged) {
        log_warning("path {}: turned away a connection from {}, only the partner {} is let in",
                    options_.paths[path].name, peer, options_.paths[path].partner);
      }
      stranger_logged = true;
      continue;
    }
    if (connections_.size() >= most_connections_per_path * listeners_.size()) continue;
    tasks_.spawn(serve(path, std::move(*stream)));
  }
}

static block::Task<void> end_when_silent(Channel& channel, const Nanoseconds& last_heard_ns,
                                         const std::optional<Hello>& hello, block::Signal& ended) {
  while (!ended.is_set()) {
    bool over = co_await block::wait_for(ended, Deadline::in_ms(look_ms));
    if (over) break;
    Nanoseconds limit_ns = hello ? longest_silence_ns : first_frame_limit_ns;
    if (boot_time_ns() - last_heard_ns > limit_ns) channel.shutdown();
  }
}

block::Task<void> AgentServer::serve(std::size_t path, std::unique_ptr<block::Stream> stream) {
  Connection connection(std::move(stream));
  connection.path = path;
  connections_.push_back(&connection);
  block::TaskGroup watch;
  watch.spawn(end_when_silent(connection.channel, connection.last_heard_ns, connection.hello, connection.ended));
  block::TaskGroup writer;

  UniqueFd relayed;
  while (!closed_ && !connection.channel.is_shut_down()) {
    auto frame = co_await connection.channel.receive();
    if (!frame) {
      if (frame.error().code == ErrorCode::invalid) {
        log_warning("path {}: ended a connection: {}", options_.paths[path].name, frame.error().message);
      }
      break;
    }
    if (closed_) break;
    connection.last_heard_ns = boot_time_ns();

    if (!connection.hello) {
      if (frame->type == "relay") {
        auto hello = parse<RelayHello>(frame->body);
        if (!hello) break;
        // The socket leaves this process's hands, with nothing under way on it.
        connection.ended.set();
        co_await watch.close();
        std::unique_ptr<block::Stream> raw = connection.channel.release_stream();
        UniqueFd socket = raw->release();
        RelayAnswer answer = service_.on_relay(*hello, socket);
        if (!answer.accepted && socket) {
          std::string bytes = to_bytes(Frame{"answer", frame->id, to_json(answer)});
          block::Stream last(std::move(socket));
          auto written = co_await last.write_all(std::as_bytes(std::span(bytes)));
          (void)written;
        }
        std::erase(connections_, &connection);
        co_return;
      }
      auto hello = frame->type == "hello" ? parse<Hello>(frame->body)
                                          : Result<Hello>(fail(ErrorCode::invalid, "no hello but '{}'", frame->type));
      if (!hello || hello->node != partner_of(options_.node)) {
        log_warning("path {}: ended a connection: {}", options_.paths[path].name,
                    hello ? "it does not come from the partner" : hello.error().message);
        break;
      }
      connection.hello = *hello;
      writer.spawn(connection.channel.run_writer());
      Hello own{protocol_version, options_.node, Role::zpaird, options_.start, options_.paths[path].name};
      connection.channel.send(Frame{"hello", frame->id, to_json(own)});
      service_.on_hello(path, *hello);
      continue;
    }
    if (connection.hello->role == Role::zpaird) last_heard_ns_[path] = connection.last_heard_ns;
    connection.tasks.spawn(answer(path, connection, std::move(*frame)));
  }

  connection.channel.shutdown();
  connection.ended.set();
  co_await writer.close();
  co_await watch.close();
  co_await connection.tasks.close();
  std::erase(connections_, &connection);
}

template <class Answer>
static Frame answer_frame(std::uint64_t id, const Result<Answer>& answer) {
  if (!answer) return Frame{"error", id, to_json(answer.error())};
  return Frame{"answer", id, to_json(*answer)};
}

// Bytes that do not parse end the connection.
template <class Message>
static std::optional<Message> parse_or_end(Channel& channel, const Frame& frame) {
  auto message = parse<Message>(frame.body);
  if (message) return std::move(*message);
  log_warning("ended a connection of the partner: {}", message.error().message);
  channel.shutdown();
  return std::nullopt;
}

block::Task<void> AgentServer::answer(std::size_t path, Connection& connection, Frame frame) {
  Channel& channel = connection.channel;
  if (frame.type == "promise") {
    auto request = parse_or_end<PromiseRequest>(channel, frame);
    if (!request) co_return;
    channel.send(Frame{"answer", frame.id, to_json(service_.on_promise(path, *request))});
  } else if (frame.type == "heartbeat") {
    auto request = parse_or_end<Heartbeat>(channel, frame);
    if (!request) co_return;
    channel.send(Frame{"answer", frame.id, to_json(service_.on_heartbeat(path, *request))});
  } else if (frame.type == "can_serve") {
    auto request = parse_or_end<CanServeRequest>(channel, frame);
    if (!request) co_return;
    channel.send(Frame{"answer", frame.id, to_json(service_.on_can_serve(*request))});
  } else if (frame.type == "survey") {
    auto request = parse_or_end<SurveyRequest>(channel, frame);
    if (!request) co_return;
    auto result = co_await service_.on_survey(std::move(*request));
    channel.send(answer_frame(frame.id, result));
  } else if (frame.type == "handover") {
    auto request = parse_or_end<HandoverRequest>(channel, frame);
    if (!request) co_return;
    auto result = co_await service_.on_handover(std::move(*request));
    channel.send(answer_frame(frame.id, result));
  } else if (frame.type == "yield") {
    auto request = parse_or_end<YieldRequest>(channel, frame);
    if (!request) co_return;
    auto result = co_await service_.on_yield(std::move(*request));
    channel.send(answer_frame(frame.id, result));
  } else if (frame.type == "call") {
    auto request = parse_or_end<CallRequest>(channel, frame);
    if (!request) co_return;
    CallAnswer result = co_await service_.on_call(std::move(*request));
    channel.send(Frame{"answer", frame.id, to_json(result)});
  } else {
    log_warning("ended a connection of the partner: unknown message '{}'", frame.type);
    channel.shutdown();
  }
}

std::string relay_accepted_bytes() { return to_bytes(Frame{"answer", 1, to_json(RelayAnswer{true, ""})}); }

}  // namespace zpair::agent
