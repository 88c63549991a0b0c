#include "quorum/etcd_store.h"

#include "base/log.h"
#include "quorum/etcd_state_internal.h"

namespace zpair::quorum {

using block::Task;
using nlohmann::json;

namespace {

constexpr std::string_view pools_prefix = "/zpair/pools/";

constexpr std::string_view destroyed_prefix = "/zpair/destroyed/";

std::string key_of(const std::string& pool) { return std::string(pools_prefix) + pool; }

Result<record::Stored> stored_of(const KeyValue& kv) {
  auto record = record::parse_record(kv.value);
  if (!record) return fail(record.error(), "the store's key {}", kv.key);
  return record::Stored{std::move(*record), kv.mod_revision};
}

}  // namespace

EtcdStore::EtcdStore(block::Reactor& reactor, EtcdOptions options)
    : state_(std::make_unique<State>(reactor, std::move(options))) {}

EtcdStore::~EtcdStore() { ZP_ASSERT(state_->closed, "a store is closed before it ends"); }

Task<Result<std::optional<record::Stored>>> EtcdStore::read(std::string pool, Deadline deadline) {
  State& state = *state_;
  while (true) {
    auto found = co_await state.range(key_of(pool), false, deadline);
    if (!found) co_return std::unexpected(found.error());
    std::uint64_t mod_revision = found->empty() ? 0 : found->front().mod_revision;
    auto open = state.unresolved.find(pool);
    if (open != state.unresolved.end()) {
      // A swap that compared with another revision than today's can never be applied any more.
      std::erase_if(open->second, [mod_revision](std::uint64_t expected) { return expected != mod_revision; });
      if (open->second.empty()) {
        state.unresolved.erase(open);
        open = state.unresolved.end();
      }
    }
    if (found->empty()) co_return std::optional<record::Stored>();
    auto stored = stored_of(found->front());
    if (!stored) co_return std::unexpected(stored.error());
    if (open == state.unresolved.end()) co_return std::optional(std::move(*stored));

    State::Transaction touch{key_of(pool), mod_revision, found->front().value, {}};
    State::TransactionAnswer touched = co_await state.transact(touch, deadline);
    if (touched.outcome == SwapAnswer::Outcome::applied) {
      state.unresolved[pool].erase(mod_revision);
      stored->mod_revision = touched.revision;
      co_return std::optional(std::move(*stored));
    }
    if (touched.outcome == SwapAnswer::Outcome::unknown && deadline.passed()) {
      co_return fail(ErrorCode::timed_out, "no majority of the store answered in time, and a swap of {} is still open",
                     pool);
    }
    if (touched.surely_not_sent) {
      bool go_on = co_await state.pause_ms(30);
      if (!go_on) co_return fail(ErrorCode::cancelled, "the store was closed");
    }
  }
}

Task<Result<std::vector<record::Stored>>> EtcdStore::list(Deadline deadline) {
  auto found = co_await state_->range(std::string(pools_prefix), true, deadline);
  if (!found) co_return std::unexpected(found.error());
  std::vector<record::Stored> all;
  for (const KeyValue& kv : *found) {
    auto stored = stored_of(kv);
    if (!stored) co_return std::unexpected(stored.error());
    all.push_back(std::move(*stored));
  }
  co_return all;
}

Task<SwapAnswer> EtcdStore::swap(std::uint64_t expected_mod_revision, record::Record record, Deadline deadline) {
  State::Transaction transaction{key_of(record.name), expected_mod_revision, record::to_json(record), {}};
  State::TransactionAnswer answer = co_await state_->transact(transaction, deadline);
  if (answer.outcome == SwapAnswer::Outcome::applied) {
    co_return SwapAnswer{SwapAnswer::Outcome::applied, record::Stored{std::move(record), answer.revision}};
  }
  if (answer.outcome == SwapAnswer::Outcome::other) {
    if (!answer.held) co_return SwapAnswer{SwapAnswer::Outcome::other, {}};
    auto held = stored_of(*answer.held);
    if (held) {
      // Our own operation: whoever sent it twice, it was applied once.
      bool own = !record.op.empty() && held->record.op == record.op;
      co_return SwapAnswer{own ? SwapAnswer::Outcome::applied : SwapAnswer::Outcome::other, std::move(*held)};
    }
    log_warning("a swap of {} met a record that cannot be read: {}", record.name, held.error().message);
  }
  if (!answer.surely_not_sent) state_->unresolved[record.name].insert(expected_mod_revision);
  co_return SwapAnswer{SwapAnswer::Outcome::unknown, {}};
}

Task<SwapAnswer> EtcdStore::remove(std::string pool, std::uint64_t expected_mod_revision, Deadline deadline) {
  State::Transaction transaction{key_of(pool), expected_mod_revision, std::nullopt, {}};
  auto last = co_await state_->range(key_of(pool), false, deadline);
  if (!last) co_return SwapAnswer{SwapAnswer::Outcome::unknown, {}};
  const bool as_expected = !last->empty() && last->front().mod_revision == expected_mod_revision;
  if (as_expected) transaction.beside = {std::string(destroyed_prefix) + pool, last->front().value};
  State::TransactionAnswer answer = co_await state_->transact(transaction, deadline);
  record::Stored gone;
  gone.record.name = pool;
  if (answer.outcome == SwapAnswer::Outcome::applied) co_return SwapAnswer{SwapAnswer::Outcome::applied, gone};
  if (answer.outcome == SwapAnswer::Outcome::other) {
    if (!answer.held) co_return SwapAnswer{SwapAnswer::Outcome::other, gone};
    auto held = stored_of(*answer.held);
    if (held) co_return SwapAnswer{SwapAnswer::Outcome::other, std::move(*held)};
    log_warning("the removal of {} met a record that cannot be read: {}", pool, held.error().message);
  }
  if (!answer.surely_not_sent) state_->unresolved[pool].insert(expected_mod_revision);
  co_return SwapAnswer{SwapAnswer::Outcome::unknown, {}};
}

Task<Result<std::optional<record::Record>>> EtcdStore::destroyed(std::string pool, Deadline deadline) {
  auto found = co_await state_->range(std::string(destroyed_prefix) + pool, false, deadline);
  if (!found) co_return std::unexpected(found.error());
  if (found->empty()) co_return std::optional<record::Record>();
  auto stored = stored_of(found->front());
  if (!stored) co_return std::unexpected(stored.error());
  co_return std::optional(std::move(stored->record));
}

void EtcdStore::watch(std::function<void(record::Stored)> changed) {
  state_->watchers.push_back(std::move(changed));
  if (state_->watching) return;
  state_->watching = true;
  state_->reactor.post([state = state_.get()] {
    if (!state->closing) state->tasks.spawn(state->watch_loop());
  });
}

Task<void> EtcdStore::close() {
  State& state = *state_;
  if (state.closed) co_return;
  state.closing = true;
  state.stop.set();
  if (state.watch_call) state.http.cancel(state.watch_call);
  state.http.close();
  co_await state.tasks.close();
  co_await state.reactor.yield();  // a watch() that was posted just now sees `closing`
  state.closed = true;
}

// --------------------------------------------------------------------------------------------------------------- watch

void EtcdStore::State::tell(record::Stored stored, std::uint64_t revision) {
  std::uint64_t& newest = told[stored.record.name];
  if (revision <= newest) return;
  newest = revision;
  for (auto& watcher : watchers) watcher(stored);
}

void EtcdStore::State::tell_all(const std::vector<KeyValue>& all) {
  std::set<std::string> present;
  for (const KeyValue& kv : all) {
    auto stored = stored_of(kv);
    present.insert(kv.key.substr(pools_prefix.size()));
    if (!stored) {
      log_warning("{}", stored.error().message);
      continue;
    }
    tell(std::move(*stored), kv.mod_revision);
  }
  std::vector<std::pair<std::string, std::uint64_t>> before(told.begin(), told.end());
  for (const auto& [pool, revision] : before) {
    if (present.contains(pool)) continue;
    record::Stored gone;
    gone.record.name = pool;
    tell(gone, revision + 1);
    told.erase(pool);
  }
}

Task<void> EtcdStore::State::watch_loop() {
  while (!closing) {
    std::uint64_t revision = 0;
    auto all = co_await range(std::string(pools_prefix), true, Deadline::in_ms(2000), &revision);
    if (all) {
      tell_all(*all);
      std::string endpoint = endpoints_by_preference().front();
      co_await follow(endpoint, revision + 1);
    }
    co_await pause_ms(50);
  }
}

// Until the stream ends, or its member does not answer or knows no leader: a member that is cut off keeps its streams open
// and says nothing.
Task<void> EtcdStore::State::follow(std::string endpoint, std::uint64_t from_revision) {
  std::string begin(pools_prefix);
  std::string end = begin;
  ++end.back();
  json body{
      {"create_request",
       {{"key", to_base64(begin)}, {"range_end", to_base64(end)}, {"start_revision", std::to_string(from_revision)}}}};
  HttpRequest request{.url = endpoint + "/v3/watch", .body = body.dump()};
  request.fresh_connection = true;
  request.on_line = [this](std::string line) { on_watch_line(line); };
  watch_call = http.start(std::move(request));
  while (!closing) {
    bool ended = co_await http.ended(watch_call, Deadline::in_ms(500));
    if (ended) break;
    auto status = co_await ask_one(endpoint, "/v3/maintenance/status", "{}", Deadline::in_ms(1000));
    if (status && status->value("leader", "0") != "0") continue;
    mark_silent(endpoint);
    break;
  }
  http.cancel(watch_call);
  HttpAnswer last = co_await http.finish(watch_call);
  if (last.outcome == HttpAnswer::Outcome::not_sent) mark_silent(endpoint);
  watch_call.reset();
}

void EtcdStore::State::on_watch_line(const std::string& line) {
  if (closing) return;
  try {
    json value = json::parse(line);
    auto result = value.find("result");
    bool over = result == value.end() || result->value("canceled", false);  // an error, or a compacted revision
    if (over) {
      if (watch_call) http.cancel(watch_call);
      return;
    }
    auto events = result->find("events");
    if (events == result->end()) return;
    for (const json& event : *events) {
      std::vector<KeyValue> changed = key_values_of(json{{"kvs", json::array({event.at("kv")})}});
      const KeyValue& kv = changed.front();
      if (event.value("type", "PUT") == "DELETE") {
        record::Stored gone;
        gone.record.name = kv.key.substr(pools_prefix.size());
        tell(gone, kv.mod_revision);
        continue;
      }
      auto stored = stored_of(kv);
      if (stored) {
        tell(std::move(*stored), kv.mod_revision);
      } else {
        log_warning("{}", stored.error().message);
      }
    }
  } catch (const std::exception& error) {
    log_warning("the store's watch said what cannot be read: {}", error.what());
    if (watch_call) http.cancel(watch_call);
  }
}

}  // namespace zpair::quorum
