#include "pool/promises.h"

#include <utility>

namespace zpair::pool {

namespace {

constexpr std::int64_t promise_deadline_ms = 1000;  // later it is worth nothing: D has passed
constexpr std::int64_t can_serve_deadline_ms = 500;

agent::AgentClient::Options client_options(const NodeConfig& config) {
  agent::AgentClient::Options options;
  options.node = config.node;
  options.role = agent::Role::pool;
  for (const PathConfig& path : config.paths) {
    options.paths.push_back(
        {path.name, block::Endpoint{fmt::format("tcp:{}:{}", path.partner, path.partner_agent_port)}, path.listen});
  }
  return options;
}

}  // namespace

Promises::Promises(Options options) : options_(std::move(options)), client_(client_options(options_.config)) {}

void Promises::start() { client_.start(); }

block::Task<void> Promises::close() {
  co_await client_.close();
  co_await tasks_.close();
}

std::uint8_t Promises::path_count() const { return static_cast<std::uint8_t>(client_.path_count()); }

void Promises::ask(const brain::owner::AskPromise& order, record::Floor floor) {
  if (order.path >= client_.path_count() || !client_.connected(order.path)) return;  // no answer is an answer
  tasks_.spawn(run_ask(order.path, {options_.pool, order.epoch, order.nonce, std::move(floor)}));
}

block::Task<void> Promises::run_ask(std::size_t path, agent::PromiseRequest request) {
  const std::uint64_t nonce = request.nonce;
  const Deadline deadline = Deadline::in_ms(promise_deadline_ms);
  auto answer = co_await client_.promise(path, std::move(request), deadline);
  if (!answer || answer->nonce != nonce) co_return;
  if (answer->granted) {
    options_.feed(brain::owner::PromiseGranted{boot_time_ns(), nonce});
  } else {
    options_.feed(brain::owner::PromiseRefused{boot_time_ns(), nonce, answer->epoch});
  }
}

void Promises::ask_partner(Epoch epoch) { tasks_.spawn(run_ask_partner(epoch)); }

block::Task<void> Promises::run_ask_partner(Epoch epoch) {
  const Deadline deadline = Deadline::in_ms(can_serve_deadline_ms);
  auto answer = co_await client_.can_serve({options_.pool, epoch}, deadline);
  if (answer) options_.feed(brain::owner::PartnerAnswered{boot_time_ns(), answer->can_serve, answer->epoch});
}

}  // namespace zpair::pool
