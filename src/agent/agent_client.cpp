#include "agent/agent_client.h"

#include <map>

#include "agent/channel.h"
#include "base/log.h"

namespace zpair::agent {

namespace {

constexpr std::int64_t connect_limit_ms = 1000;
constexpr std::int64_t retry_ms = 100;
constexpr Nanoseconds longest_silence_ns = 1500 * ns_per_ms;  // with a request under way: the connection is given up
constexpr std::int64_t look_ms = 250;

}  // namespace

struct AgentClient::Link {
  struct Pending {
    block::Signal done;
    Result<std::string> answer = fail(ErrorCode::cancelled, "not answered");
  };

  std::size_t index = 0;
  ClientPath path;
  Channel* channel = nullptr;       // while connected and greeted
  Channel* open_channel = nullptr;  // while connected
  Nanoseconds last_heard_ns = 0;
  Nanoseconds waiting_since_ns = 0;  // when the first request after the newest frame heard was sent
  std::map<std::uint64_t, Pending*> pending;
  bool failure_logged = false;
};

AgentClient::AgentClient(Options options) : options_(std::move(options)) {
  for (const ClientPath& path : options_.paths) {
    auto link = std::make_unique<Link>();
    link->index = links_.size();
    link->path = path;
    links_.push_back(std::move(link));
  }
}

AgentClient::~AgentClient() { ZP_ASSERT(tasks_.running() == 0, "the agent client was closed"); }

void AgentClient::start() {
  for (auto& link : links_) tasks_.spawn(keep_connected(*link));
}

block::Task<void> AgentClient::close() {
  closed_ = true;
  closing_.set();
  greeted_.set();
  for (auto& link : links_) break_link(*link);
  co_await tasks_.close();
}

std::size_t AgentClient::path_count() const { return links_.size(); }
const std::string& AgentClient::path_name(std::size_t path) const { return links_[path]->path.name; }
bool AgentClient::connected(std::size_t path) const { return links_[path]->channel != nullptr; }
block::Task<bool> AgentClient::wait_connected(Deadline deadline) {
  while (!connected(best_path()) && !deadline.passed() && !closed_) co_await block::wait_for(greeted_, deadline);
  co_return !closed_ && connected(best_path());
}

Nanoseconds AgentClient::last_heard_ns(std::size_t path) const { return links_[path]->last_heard_ns; }

Nanoseconds AgentClient::last_heard_ns() const {
  Nanoseconds newest = 0;
  for (const auto& link : links_) newest = std::max(newest, link->last_heard_ns);
  return newest;
}

std::optional<Hello> AgentClient::partner() const { return partner_; }
void AgentClient::on_hello(std::function<void(std::size_t, const Hello&)> heard) { on_hello_ = std::move(heard); }

// --- connections -----------------------------------------------------------------------------------------------------

block::Task<void> AgentClient::keep_connected(Link& link) {
  while (!closed_) {
    co_await run_connection(link);
    if (closed_) break;
    co_await block::wait_for(closing_, Deadline::in_ms(retry_ms));
  }
}

// The connection is given up when something was asked and nothing at all was heard for a while: a dead switch holds the
// bytes and says nothing.
block::Task<void> AgentClient::watch_silence(Link& link, block::Signal& ended) {
  while (!ended.is_set()) {
    bool over = co_await block::wait_for(ended, Deadline::in_ms(look_ms));
    if (over) break;
    bool waiting = link.waiting_since_ns > link.last_heard_ns;
    if (waiting && boot_time_ns() - link.waiting_since_ns > longest_silence_ns) link.open_channel->shutdown();
  }
}

block::Task<void> AgentClient::run_connection(Link& link) {
  auto stream = co_await block::Stream::connect(link.path.to, Deadline::in_ms(connect_limit_ms), link.path.from);
  if (!stream) {
    if (!link.failure_logged && !closed_) {
      log_info("path {}: the partner's agent does not answer: {}", link.path.name, stream.error().message);
      link.failure_logged = true;
    }
    co_return;
  }
  if (closed_) co_return;

  Channel channel(std::move(*stream));
  block::TaskGroup helpers;
  block::Signal ended;
  link.open_channel = &channel;
  link.waiting_since_ns = boot_time_ns();  // the hello is awaited
  helpers.spawn(channel.run_writer());
  helpers.spawn(watch_silence(link, ended));

  Hello own{protocol_version, options_.node, options_.role, options_.start, link.path.name};
  channel.send(Frame{"hello", 0, to_json(own)});
  Error why{ErrorCode::io, "the connection ended"};
  bool greeted = false;
  while (!channel.is_shut_down()) {
    auto frame = co_await channel.receive();
    if (closed_) break;
    if (!frame) {
      why = frame.error();
      break;
    }
    link.last_heard_ns = boot_time_ns();
    if (!greeted) {
      auto hello = frame->type == "hello" ? parse<Hello>(frame->body)
                                          : Result<Hello>(fail(ErrorCode::invalid, "no hello but '{}'", frame->type));
      if (hello && hello->node != partner_of(options_.node)) {
        hello =
            fail(ErrorCode::invalid, "path {} leads to node {}, not to the partner: see the config's partner address",
                 link.path.name, hello->node);
      }
      if (!hello) {
        why = hello.error();
        break;
      }
      greeted = true;
      link.channel = &channel;
      link.failure_logged = false;
      partner_ = *hello;
      greeted_.set();
      greeted_.reset();
      if (on_hello_) on_hello_(link.index, *hello);
      continue;
    }
    auto found = link.pending.find(frame->id);
    if (found == link.pending.end()) continue;  // its request's deadline has passed
    if (frame->type == "answer") {
      found->second->answer = std::move(frame->body);
    } else {
      found->second->answer = std::unexpected(parse_error(frame->body));
    }
    found->second->done.set();
    link.pending.erase(found);
  }

  link.channel = nullptr;
  channel.shutdown();
  ended.set();
  if (!link.failure_logged && !closed_) {
    log_info("path {}: the connection to the partner's agent ended: {}", link.path.name, why.message);
    link.failure_logged = true;
  }
  for (auto& [id, pending] : std::exchange(link.pending, {})) {
    pending->answer = fail(closed_ ? ErrorCode::cancelled : ErrorCode::io, "path {}: {}", link.path.name, why.message);
    pending->done.set();
  }
  co_await helpers.close();
  link.open_channel = nullptr;
}

void AgentClient::break_link(Link& link) {
  if (link.open_channel != nullptr) link.open_channel->shutdown();
}

// --- requests --------------------------------------------------------------------------------------------------------

block::Task<Result<std::string>> AgentClient::ask(std::size_t path, std::string type, std::string body,
                                                  Deadline deadline) {
  Link& link = *links_[path];
  if (link.channel == nullptr) {
    co_return fail(ErrorCode::unreachable, "path {}: no connection to the partner's agent", link.path.name);
  }
  Link::Pending pending;
  std::uint64_t id = ++last_id_;
  if (link.waiting_since_ns <= link.last_heard_ns) link.waiting_since_ns = boot_time_ns();
  link.pending.emplace(id, &pending);
  link.channel->send(Frame{std::move(type), id, std::move(body)});
  bool answered = co_await block::wait_for(pending.done, deadline);
  if (!answered) {
    link.pending.erase(id);
    co_return fail(ErrorCode::timed_out, "path {}: the partner's agent did not answer in time", link.path.name);
  }
  co_return std::move(pending.answer);
}

std::size_t AgentClient::best_path() const {
  std::size_t best = 0;
  for (std::size_t i = 1; i < links_.size(); ++i) {
    bool better_link = connected(i) && !connected(best);
    bool same_link = connected(i) == connected(best);
    if (better_link || (same_link && links_[i]->last_heard_ns > links_[best]->last_heard_ns)) best = i;
  }
  return best;
}

block::Task<Result<std::string>> AgentClient::ask_any(std::string type, std::string body, Deadline deadline) {
  if (links_.empty()) co_return fail(ErrorCode::unreachable, "no path to the partner is configured");
  std::size_t path = best_path();
  auto answer = co_await ask(path, type, body, deadline);
  for (std::size_t turn = 1; turn < links_.size(); ++turn) {
    bool broke = !answer && (answer.error().code == ErrorCode::io || answer.error().code == ErrorCode::unreachable);
    if (!broke || deadline.passed() || closed_) break;
    path = (path + 1) % links_.size();
    answer = co_await ask(path, type, body, deadline);
  }
  co_return answer;
}

template <class Answer>
static Result<Answer> parsed(const Result<std::string>& text) {
  if (!text) return std::unexpected(text.error());
  return parse<Answer>(*text);
}

block::Task<Result<PromiseAnswer>> AgentClient::promise(std::size_t path, PromiseRequest request, Deadline deadline) {
  auto answer = co_await ask(path, "promise", to_json(request), deadline);
  co_return parsed<PromiseAnswer>(answer);
}

block::Task<Result<Heartbeat>> AgentClient::heartbeat(std::size_t path, Heartbeat own, Deadline deadline) {
  auto answer = co_await ask(path, "heartbeat", to_json(own), deadline);
  co_return parsed<Heartbeat>(answer);
}

block::Task<Result<SurveyAnswer>> AgentClient::survey(SurveyRequest request, Deadline deadline) {
  auto answer = co_await ask_any("survey", to_json(request), deadline);
  co_return parsed<SurveyAnswer>(answer);
}

block::Task<Result<CanServeAnswer>> AgentClient::can_serve(CanServeRequest request, Deadline deadline) {
  auto answer = co_await ask_any("can_serve", to_json(request), deadline);
  co_return parsed<CanServeAnswer>(answer);
}

block::Task<Result<YieldAnswer>> AgentClient::yield(YieldRequest request, Deadline deadline) {
  auto answer = co_await ask_any("yield", to_json(request), deadline);
  co_return parsed<YieldAnswer>(answer);
}

block::Task<Result<HandoverAnswer>> AgentClient::handover(HandoverRequest request, Deadline deadline) {
  auto answer = co_await ask_any("handover", to_json(request), deadline);
  co_return parsed<HandoverAnswer>(answer);
}

block::Task<Result<CallAnswer>> AgentClient::call(CallRequest request, Deadline deadline) {
  if (links_.empty()) co_return fail(ErrorCode::unreachable, "no path to the partner is configured");
  std::size_t path = best_path();
  auto answer = co_await ask(path, "call", to_json(request), deadline);
  co_return parsed<CallAnswer>(answer);
}

// --- relay -----------------------------------------------------------------------------------------------------------

block::Task<Result<std::unique_ptr<block::Stream>>> connect_relay(ClientPath path, RelayHello hello,
                                                                  Deadline deadline) {
  ZP_CO_TRY(stream, co_await block::Stream::connect(path.to, deadline, path.from));
  Channel channel(std::move(stream));
  block::Reactor& reactor = block::Reactor::current();
  bool expired = false;
  block::Reactor::TimerId timer = 0;
  if (deadline.at_ns != INT64_MAX) {
    timer = reactor.call_at(deadline.at_ns, [&channel, &expired] {
      expired = true;
      channel.stream().shutdown();
    });
  }
  std::string bytes = to_bytes(Frame{"relay", 1, to_json(hello)});
  auto sent = co_await channel.stream().write_all(std::as_bytes(std::span(bytes)));
  Result<Frame> frame = fail(ErrorCode::io, "not sent");
  if (sent)
    frame = co_await channel.receive();
  else
    frame = std::unexpected(sent.error());
  reactor.cancel_timer(timer);
  if (expired) co_return fail(ErrorCode::timed_out, "path {}: no answer to a relay request", path.name);
  if (!frame) co_return std::unexpected(frame.error());
  auto answer = parse<RelayAnswer>(frame->body);
  if (!answer) co_return std::unexpected(answer.error());
  if (!answer->accepted) co_return fail(ErrorCode::unreachable, "the partner does not take the relay: {}", answer->why);
  co_return channel.release_stream();
}

}  // namespace zpair::agent
