// What the node hears from its partner and from the store, and passes on to the pools' agents.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "node/api.h"
#include "node/daemon.h"
#include "state/durable_file.h"

namespace zpair::node {

namespace {

constexpr std::int64_t beat_ms = 100;
constexpr std::int64_t beat_limit_ms = 300;
constexpr std::int64_t look_ms = 100;
constexpr Nanoseconds partner_silent_ns = 900 * ns_per_ms;
constexpr Nanoseconds path_silent_ns = 700 * ns_per_ms;
constexpr std::int64_t store_look_ms = 1000;
constexpr std::int64_t share_ms = 200;
constexpr std::int64_t store_limit_ms = 1500;
constexpr std::int64_t events_wait_ms = 1000;
constexpr std::int64_t call_limit_ms = 3000;

}  // namespace

// --- heartbeats ------------------------------------------------------------------------------------------------------

agent::Heartbeat Daemon::own_heartbeat() {
  agent::Heartbeat own;
  own.sequence = ++heartbeat_number_;
  for (const auto& [name, agent] : agents_) own.pools.push_back(agent->to_tell());
  return own;
}

void Daemon::heard(const agent::Heartbeat& partner) {
  for (auto& [name, agent] : agents_) {
    auto told =
        std::find_if(partner.pools.begin(), partner.pools.end(), [&](const auto& pool) { return pool.pool == name; });
    if (told != partner.pools.end()) {
      agent->heard(*told);
    } else {
      agent->heard_nothing_of_it();
    }
  }
}

block::Task<void> Daemon::beat(std::size_t path) {
  while (!closed_) {
    Nanoseconds next_ns = boot_time_ns() + beat_ms * ns_per_ms;
    auto answer = co_await client_->heartbeat(path, own_heartbeat(), Deadline::in_ms(beat_limit_ms));
    if (closed_) break;
    if (answer) heard(*answer);
    co_await block::wait_for(closing_, Deadline{next_ns});
  }
}

Nanoseconds Daemon::path_heard_ns(std::size_t path) const {
  return std::max(client_->last_heard_ns(path), server_->last_heard_ns(path));
}

Nanoseconds Daemon::partner_heard_ns() const {
  Nanoseconds newest = 0;
  for (std::size_t path = 0; path < client_->path_count(); ++path) newest = std::max(newest, path_heard_ns(path));
  return newest;
}

bool Daemon::partner_alive() const {
  const Nanoseconds heard = partner_heard_ns();
  return heard > 0 && boot_time_ns() - heard < partner_silent_ns;
}

block::Task<void> Daemon::watch_partner() {
  bool alive = false;
  std::vector<bool> up(client_->path_count(), false);
  NodeId partner = partner_of(options_.config.node);
  while (!closed_) {
    Nanoseconds now_ns = boot_time_ns();
    for (std::size_t path = 0; path < up.size(); ++path) {
      // A path carries bytes both ways or it is down: only answers count, not what arrives.
      bool is_up = client_->connected(path) && now_ns - client_->last_heard_ns(path) < path_silent_ns;
      if (is_up == up[path]) continue;
      up[path] = is_up;
      events_->add("", is_up ? "path-up" : "path-down",
                   fmt::format("{} to node {} is {}", client_->path_name(path), partner, is_up ? "up" : "down"));
    }
    bool is_alive = partner_alive();
    if (is_alive != alive) {
      alive = is_alive;
      events_->add("", alive ? "partner-alive" : "partner-silent",
                   fmt::format("node {} {}", partner, alive ? "answers" : "does not answer on any path"));
    }
    co_await block::wait_for(closing_, Deadline::in_ms(look_ms));
  }
}

// The limits of the configuration are for each pool that this node may run. Those of pools that the partner runs are lent to
// those that run here, and taken back when another one is about to run. The read cache only: dirty data cannot shrink under
// writers, and the log's length bounds the replay.
block::Task<void> Daemon::share_memory() {
  while (!closed_) {
    const std::size_t running =
        static_cast<std::size_t>(std::count_if(agents_.begin(), agents_.end(), [](const auto& one) {
          return one.second->has_process() || one.second->state().takeover;
        }));
    const LimitsConfig& limits = options_.config.limits;
    const std::uint64_t arc_bytes =
        (std::uint64_t{limits.arc_mb} << 20) * agents_.size() / std::max<std::size_t>(running, 1);
    const control::MemoryShare share{arc_bytes, std::uint64_t{limits.dirty_mb} << 20,
                                     std::uint64_t{limits.log_mb} << 20};
    for (const auto& [name, agent] : agents_) agent->tell_share(share);
    co_await block::wait_for(closing_, Deadline::in_ms(share_ms));
  }
}

block::Task<void> Daemon::follow_partner_events() {
  using nlohmann::json;
  std::uint64_t since = events_->last_of_partner();
  while (!closed_) {
    agent::CallRequest request{"GET", fmt::format("/v1/events?since={}&wait_ms={}", since, events_wait_ms), ""};
    auto answer = co_await client_->call(std::move(request), Deadline::in_ms(call_limit_ms));
    if (closed_) break;
    if (!answer || answer->http_status >= 400) {
      co_await block::wait_for(closing_, Deadline::in_ms(200));
      continue;
    }
    bool readable = true;
    try {
      json value = json::parse(answer->body);
      auto last = value.at("last").get<std::uint64_t>();
      if (last < since) events_->partner_starts_anew();
      since = last;
      for (const json& event : value.at("events")) {
        std::string pool = event.at("pool").is_null() ? "" : event.at("pool").get<std::string>();
        events_->add_of_partner({event.at("number"), event.at("time_ms"), event.at("node"), pool, event.at("kind"),
                                 event.at("text"), 0, event.value("parts", std::vector<TimePart>{})});
      }
    } catch (const std::exception& error) {
      log_warning("the partner's events cannot be read: {}", error.what());
      readable = false;
    }
    if (!readable) co_await block::wait_for(closing_, Deadline::in_ms(5000));
  }
}

// The list is kept in the state folder: a node that starts alone still knows its partner's drives by name.
block::Task<void> Daemon::refresh_partner_drives() {
  auto answer = co_await client_->call({"GET", "/v1/drives", ""}, Deadline::in_ms(call_limit_ms));
  if (closed_ || !answer || answer->http_status >= 400) co_return;
  auto drives = partner_drives_in(answer->body);
  if (!drives) {
    log_warning("the partner's drives cannot be read: {}", drives.error().message);
    co_return;
  }
  partner_drives_ = std::move(*drives);
  for (auto& [name, agent] : agents_) agent->tell_places();
  if (answer->body == partner_drives_text_) co_return;
  partner_drives_text_ = answer->body;
  auto stored = co_await state::store_file(partner_drives_file(), std::move(answer->body));
  if (!stored) log_warning("{}", stored.error().message);
}

void Daemon::load_partner_drives() {
  auto text = state::load_file(partner_drives_file());
  if (!text) return;
  auto drives = partner_drives_in(*text);
  if (drives) partner_drives_ = std::move(*drives);
}

Result<std::vector<Daemon::PartnerDrive>> Daemon::partner_drives_in(const std::string& text) const {
  using nlohmann::json;
  std::vector<PartnerDrive> drives;
  try {
    for (const json& drive : json::parse(text).at("drives")) {
      PartnerDrive one;
      one.place.node = partner_of(options_.config.node);
      one.place.durable_id = drive.at("drive_id");
      one.place.path = drive.at("file");
      one.place.nsid = drive.at("nsid");
      one.place.size_bytes = drive.at("size_bytes");
      one.pool = drive.at("registered_for");
      drives.push_back(std::move(one));
    }
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "{}", error.what());
  }
  return drives;
}

bool Daemon::some_partner_drive_unknown() const {
  for (const auto& [name, agent] : agents_) {
    auto record = agent->newest_record();
    if (!record) continue;
    for (const record::Mirror& mirror : record->mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.node == options_.config.node) continue;
        bool known = std::any_of(partner_drives_.begin(), partner_drives_.end(),
                                 [&](const auto& drive) { return drive.place.durable_id == leg.drive; });
        if (!known) return true;
      }
    }
  }
  return false;
}

// --- the store -------------------------------------------------------------------------------------------------------

block::Task<void> Daemon::watch_store() {
  bool known = false;
  while (!closed_) {
    auto records = co_await store_->list(Deadline::in_ms(store_limit_ms));
    if (closed_) break;
    bool available = records.has_value();
    if (available != store_available_ || !known) {
      store_available_ = available;
      bool worth_telling = known || !available;
      known = true;
      if (worth_telling) {
        events_->add(
            "", available ? "store-available" : "store-unavailable",
            available ? std::string("the store answers") : "the store does not answer: " + records.error().message);
      }
    }
    if (available) {
      for (const std::string& pool : pools()) {
        const bool present = std::any_of(records->begin(), records->end(),
                                         [&](const record::Stored& stored) { return stored.record.name == pool; });
        if (!present) co_await forget_if_destroyed(pool);
      }
      for (record::Stored& stored : *records) on_record(std::move(stored));
    }
    if (some_partner_drive_unknown()) co_await refresh_partner_drives();
    co_await block::wait_for(closing_, Deadline::in_ms(store_look_ms));
  }
}

void Daemon::on_record(record::Stored stored) {
  if (closed_) return;
  if (stored.mod_revision == 0) {
    tasks_.spawn(forget_if_destroyed(stored.record.name));
    return;
  }
  PoolAgent* agent = find_pool(stored.record.name);
  if (agent == nullptr) {
    log_info("pool {}: heard of it from the store, owner {}, epoch {}", stored.record.name, stored.record.owner,
             stored.record.epoch);
    agent = &new_pool(stored.record.name);
    agent->start(std::nullopt);
    tasks_.spawn(refresh_partner_drives());  // its drives' names, while the partner can tell them
  }
  agent->seen(std::move(stored));
}

// The store has no record of a pool that this node knows: was it destroyed, now or while this node was away? A store that
// lost its memory does not say so, and then nothing is forgotten.
block::Task<void> Daemon::forget_if_destroyed(std::string pool) {
  auto destroyed = co_await store_->destroyed(pool, Deadline::in_ms(store_limit_ms));
  if (closed_ || !destroyed || !*destroyed) co_return;
  auto stored = co_await store_->read(pool, Deadline::in_ms(store_limit_ms));
  if (closed_ || !stored || *stored) co_return;
  PoolAgent* agent = find_pool(pool);
  if (agent == nullptr || agent->has_process()) co_return;  // its own process destroys it, and the API cleans up
  auto known = agent->newest_record();
  if (!known || known->pool_guid != (*destroyed)->pool_guid || known->rev > (*destroyed)->rev) co_return;
  log_info("pool {} was destroyed", pool);
  events_->add(pool, "pool-destroyed", "the pool was destroyed; its drives are free");
  co_await drop_pool(pool);
}

// --- agent::AgentService ---------------------------------------------------------------------------------------------

void Daemon::on_hello(std::size_t, const agent::Hello&) {}

agent::Heartbeat Daemon::on_heartbeat(std::size_t, const agent::Heartbeat& partner) {
  heard(partner);
  return own_heartbeat();
}

agent::PromiseAnswer Daemon::on_promise(std::size_t path, const agent::PromiseRequest& request) {
  PoolAgent* agent = find_pool(request.pool);
  if (agent == nullptr) return {false, request.nonce, Epoch{}};
  return agent->promise(path, request);
}

agent::CanServeAnswer Daemon::on_can_serve(const agent::CanServeRequest& request) {
  PoolAgent* agent = find_pool(request.pool);
  if (agent == nullptr) return {false, Epoch{}};
  return agent->can_serve(request);
}

block::Task<Result<agent::SurveyAnswer>> Daemon::on_survey(agent::SurveyRequest request) {
  PoolAgent* agent = find_pool(request.pool);
  if (agent == nullptr)
    co_return fail(ErrorCode::not_found, "node {} does not know pool {}", options_.config.node, request.pool);
  co_return co_await agent->survey(std::move(request));
}

block::Task<Result<agent::HandoverAnswer>> Daemon::on_handover(agent::HandoverRequest request) {
  PoolAgent* agent = find_pool(request.stored.record.name);
  if (agent == nullptr) {
    co_return fail(ErrorCode::not_found, "node {} does not know pool {}", options_.config.node,
                   request.stored.record.name);
  }
  co_return co_await agent->handover(std::move(request));
}

block::Task<Result<agent::YieldAnswer>> Daemon::on_yield(agent::YieldRequest request) {
  PoolAgent* agent = find_pool(request.pool);
  if (agent == nullptr)
    co_return fail(ErrorCode::not_found, "node {} does not know pool {}", options_.config.node, request.pool);
  co_return co_await agent->yield(std::move(request));
}

block::Task<agent::CallAnswer> Daemon::on_call(agent::CallRequest request) {
  co_return co_await api_->answer_partner(std::move(request));
}

agent::RelayAnswer Daemon::on_relay(const agent::RelayHello& hello, UniqueFd& socket) {
  PoolAgent* agent = find_pool(hello.pool);
  if (agent == nullptr) return {false, fmt::format("node {} does not know pool {}", options_.config.node, hello.pool)};
  return agent->relay(hello, socket);
}

}  // namespace zpair::node
