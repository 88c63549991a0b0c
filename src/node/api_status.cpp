// What the node answers to questions.
#include <algorithm>

#include <unistd.h>

#include "brain/agent.h"
#include "node/api_internal.h"
#include "node/usage.h"

namespace zpair::node {

namespace {

json milliseconds_since(Nanoseconds then_ns) {
  if (then_ns == 0) return nullptr;
  return (boot_time_ns() - then_ns) / ns_per_ms;
}

const control::DrivePlace* find_place(const std::vector<control::DrivePlace>& places, const std::string& drive) {
  auto found = std::find_if(places.begin(), places.end(), [&](const auto& place) { return place.durable_id == drive; });
  return found == places.end() ? nullptr : &*found;
}

// What the record alone says of a pool whose owner does not answer.
json mirrors_of(const record::Record& record) {
  json mirrors = json::array();
  for (std::size_t i = 0; i < record.mirrors.size(); ++i) {
    const record::Mirror& mirror = record.mirrors[i];
    json legs = json::array();
    for (const record::Leg& leg : mirror.legs) {
      legs.push_back({{"node", name_of(leg.node)},
                      {"drive", nullptr},
                      {"drive_id", leg.drive},
                      {"file", nullptr},
                      {"guid", std::to_string(leg.guid.value)},
                      {"in_sync", leg.in_sync},
                      {"state", leg.full        ? "new"
                                : leg.resyncing ? "resyncing"
                                : leg.in_sync   ? "absent"
                                                : "waiting"},
                      {"since_txg", leg.in_sync ? json(nullptr) : json(leg.since.value)},
                      {"resync_percent", nullptr},
                      {"resync_seconds_left", nullptr},
                      {"read_errors", nullptr},
                      {"write_errors", nullptr},
                      {"checksum_errors", nullptr}});
    }
    mirrors.push_back({{"name", fmt::format("mirror-{}", i)},
                       {"guid", std::to_string(mirror.guid.value)},
                       {"class", mirror.vdev_class},
                       {"legs", legs}});
  }
  return mirrors;
}

struct Judgement {
  std::string state;
  json status, action;
};

// Rule 11, before the agent has even tried: the partner is silent and this node's legs are not enough.
std::string lacking_here(const PoolAgent& agent, const record::Record& record, const Drives& drives) {
  std::vector<LegId> reached;
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.node == agent.state().node && drives.present(leg.drive)) reached.push_back(leg.guid);
    }
  }
  return brain::agent::lacking(record, reached);
}

Judgement judge(const PoolAgent& agent, const record::Record& record, const Drives& drives, bool store_available,
                bool partner_alive) {
  const brain::agent::State& state = agent.state();
  if (record.wanted == record::Wanted::exported) return {"exported", nullptr, nullptr};
  std::string refused = state.refused;
  if (refused.empty() && !agent.has_process() && !partner_alive) refused = lacking_here(agent, record, drives);
  if (!refused.empty()) {
    return {"down", refused,
            "Start the node, or bring back the drive, that it names. See zpair pool import --accept-data-loss."};
  }
  if (!state.went_back.empty()) return {"down", state.went_back, "The store lost its memory: see zpair store status."};
  if (agent.has_process()) return {"starting", brain::agent::why(state), nullptr};
  if (!store_available)
    return {"waiting", "the store does not answer", "Start one more etcd member: two of three are needed."};
  if (state.takeover) return {"starting", brain::agent::why(state), nullptr};
  if (record.owner != state.node)
    return {"unknown", fmt::format("its owner, node {}, does not answer", record.owner), nullptr};
  return {"waiting", brain::agent::why(state), nullptr};
}

json pool_from_record(const PoolAgent& agent, const record::Record& record, const Drives& drives, bool store_available,
                      bool partner_alive) {
  Judgement judgement = judge(agent, record, drives, store_available, partner_alive);
  json volumes = json::array();
  for (const auto& volume : agent.volumes())
    volumes.push_back({{"name", volume.name}, {"size_bytes", volume.size_bytes}, {"clients", nullptr}});
  json process = nullptr;
  if (agent.has_process()) process = {{"node", name_of(agent.state().node)}, {"pid", agent.process_pid()}};
  return {{"name", record.name},
          {"guid", std::to_string(record.pool_guid.value)},
          {"home", name_of(record.home)},
          {"owner", name_of(record.owner)},
          {"epoch", record.epoch.value},
          {"rev", record.rev.value},
          {"wanted", record.wanted == record::Wanted::serving ? "serving" : "exported"},
          {"state", judgement.state},
          {"status", judgement.status},
          {"action", judgement.action},
          {"redundancy", nullptr},
          {"size_bytes", nullptr},
          {"allocated_bytes", nullptr},
          {"free_bytes", nullptr},
          {"process", process},
          {"scan", nullptr},
          {"mirrors", mirrors_of(record)},
          {"volumes", volumes}};
}

// The pool's own answer knows drives by their ids; both nodes' lists know their places.
void fill_places(json& pool, const std::vector<control::DrivePlace>& places) {
  if (!pool.contains("mirrors") || !pool["mirrors"].is_array()) return;
  for (json& mirror : pool["mirrors"]) {
    if (!mirror.is_object() || !mirror.contains("legs") || !mirror["legs"].is_array()) continue;
    for (json& leg : mirror["legs"]) {
      if (!leg.is_object() || !leg.contains("drive_id") || !leg["drive_id"].is_string()) continue;
      const control::DrivePlace* place = find_place(places, leg["drive_id"].get<std::string>());
      if (place == nullptr || place->path.empty()) continue;
      leg["file"] = place->path;
      leg["drive"] = place->path.substr(place->path.rfind('/') + 1);
    }
  }
}

std::string state_of_member(bool answers) { return answers ? "available" : "unavailable"; }

}  // namespace

Api::Answer Api::pools(Asked asked) {
  json list = json::array();
  json from_partner = json::array();
  bool partner_asked = false;
  for (const std::string& name : daemon_.pools()) {
    PoolAgent* agent = daemon_.find_pool(name);
    if (agent == nullptr) continue;
    json pool;
    if (agent->has_process()) {
      auto answer = co_await call_pool(name, "GET", "/v1/pools", "", Impl::quick_ms);
      auto value = Impl::parsed(answer);
      if (value && Impl::text_or(*value, "name") == name) pool = *value;
      if (value && !Impl::list_in(*value, "pools").empty()) pool = Impl::list_in(*value, "pools")[0];
    } else if (asked.from == From::operator_here) {
      if (!partner_asked) {
        partner_asked = true;
        auto answer = co_await call_partner("GET", "/v1/pools", "", Impl::quick_ms);
        auto value = Impl::parsed(answer);
        if (value) from_partner = Impl::list_in(*value, "pools");
      }
      for (const json& one : from_partner) {
        // The partner knows more only where its process answers, or where it says why it does not serve its own pool.
        bool served_there = one.is_object() && one.contains("process") && !one["process"].is_null();
        if (Impl::text_or(one, "name") == name &&
            (served_there || Impl::text_or(one, "owner") != name_of(daemon_.config().node)))
          pool = one;
      }
    }
    agent = daemon_.find_pool(name);
    if (agent == nullptr) continue;
    if (!pool.is_object()) {
      auto record = agent->newest_record();
      if (!record) continue;
      Nanoseconds heard_ns = daemon_.partner_heard_ns();
      bool partner_alive = heard_ns > 0 && boot_time_ns() - heard_ns < 900 * ns_per_ms;
      pool = pool_from_record(*agent, *record, daemon_.drives(), daemon_.store_available(), partner_alive);
    }
    std::vector<control::DrivePlace> places = daemon_.drives().places(name);
    for (const control::DrivePlace& place : daemon_.parts().partner_places(name)) places.push_back(place);
    fill_places(pool, places);
    if (pool.contains("status") && pool["status"].is_string())
      pool["status"] = daemon_.with_names(pool["status"].get<std::string>());
    if (agent->has_process() && (!pool.contains("process") || pool["process"].is_null())) {
      pool["process"] = {{"node", name_of(daemon_.config().node)}, {"pid", agent->process_pid()}};
    }
    auto drilled_ms = daemon_.events().last_good_drill_ms(name);
    pool["last_good_drill_ms"] = drilled_ms ? json(*drilled_ms) : json(nullptr);
    list.push_back(std::move(pool));
  }
  co_return Impl::dump({{"pools", list}});
}

Api::Answer Api::status(Asked asked) {
  const NodeConfig& config = daemon_.config();
  auto pools_text = co_await pools({asked.request, asked.from});
  auto pools_value = Impl::parsed(pools_text);
  auto store_text = co_await store({asked.request, asked.from});
  auto store_value = Impl::parsed(store_text);

  Nanoseconds heard_ns = daemon_.partner_heard_ns();
  std::string partner_state = heard_ns == 0                                 ? "unknown"
                              : boot_time_ns() - heard_ns < 900 * ns_per_ms ? "alive"
                                                                            : "silent";
  json paths = json::array();
  for (std::size_t i = 0; i < config.paths.size(); ++i) {
    const PathConfig& path = config.paths[i];
    Nanoseconds answered_ns = daemon_.partner().last_heard_ns(i);
    bool up = daemon_.partner().connected(i) && boot_time_ns() - answered_ns < 700 * ns_per_ms;
    paths.push_back({{"name", path.name},
                     {"state", up ? "up" : "down"},
                     {"address", path.listen},
                     {"partner_address", path.partner},
                     {"last_heard_ms", milliseconds_since(answered_ns)}});
  }
  json store_part = {{"state", "unknown"}, {"leader", nullptr}, {"members", json::array()}};
  if (store_value) {
    for (const char* key : {"state", "leader", "members"}) store_part[key] = (*store_value)[key];
  }
  co_return Impl::dump({{"node", {{"name", name_of(config.node)}, {"version", "0.1.0"}, {"pid", ::getpid()}}},
                        {"partner",
                         {{"name", name_of(partner_of(config.node))},
                          {"state", partner_state},
                          {"last_heard_ms", milliseconds_since(heard_ns)}}},
                        {"paths", paths},
                        {"store", store_part},
                        {"pools", pools_value ? (*pools_value)["pools"] : json::array()}});
}

Api::Answer Api::volumes(Asked asked) {
  json list = json::array();
  for (const std::string& name : daemon_.pools()) {
    PoolAgent* agent = daemon_.find_pool(name);
    if (agent == nullptr) continue;
    json of_pool = json::array();
    auto answer = co_await [](Api& self, Asked how, std::string pool) -> Answer {
      PoolAgent* owner = self.daemon_.find_pool(pool);
      if (owner != nullptr && owner->has_process())
        co_return co_await self.call_pool(pool, "GET", "/v1/volumes", "", Impl::quick_ms);
      if (how.from == From::partner) co_return fail(ErrorCode::unreachable, "not here");
      co_return co_await self.call_partner("GET", "/v1/volumes", "", Impl::quick_ms);
    }(*this, {asked.request, asked.from}, name);
    auto value = Impl::parsed(answer);
    if (value) {
      for (const json& volume : Impl::list_in(*value, "volumes")) {
        std::string pool = Impl::text_or(volume, "pool");
        if (volume.is_object() && (pool == name || pool.empty())) of_pool.push_back(volume);
      }
    }
    agent = daemon_.find_pool(name);
    if (agent == nullptr) continue;
    if (!value) {
      for (const auto& known : agent->volumes()) {
        of_pool.push_back({{"pool", name},
                           {"name", known.name},
                           {"guid", std::to_string(known.guid)},
                           {"size_bytes", known.size_bytes},
                           {"used_bytes", nullptr},
                           {"thin", nullptr},
                           {"block_size_bytes", nullptr},
                           {"compression", nullptr},
                           {"clients", nullptr},
                           {"nbd", json::object()}});
      }
    }
    for (json& volume : of_pool) {
      std::string volume_name = Impl::text_or(volume, "name");
      if (!volume.contains("nbd") || !volume["nbd"].is_object()) volume["nbd"] = json::object();
      volume["nbd"][std::string(name_of(daemon_.config().node))] = daemon_.config().volume_address(
          name, volume_name, std::strtoull(Impl::text_or(volume, "guid").c_str(), nullptr, 10));
      list.push_back(std::move(volume));
    }
  }
  co_return Impl::dump({{"volumes", list}});
}

Api::Answer Api::drives(Asked asked) {
  json list = json::array();
  NodeId here = daemon_.config().node;
  for (const DriveStatus& status : daemon_.drives().status()) {
    json mirror = nullptr;
    json in_sync = nullptr;
    PoolAgent* agent = daemon_.find_pool(status.drive.pool);
    auto record = agent != nullptr ? agent->newest_record() : std::nullopt;
    bool used = false;
    for (std::size_t i = 0; record && i < record->mirrors.size(); ++i) {
      for (const record::Leg& leg : record->mirrors[i].legs) {
        if (leg.drive != status.drive.durable_id) continue;
        used = true;
        mirror = fmt::format("mirror-{}", i);
        in_sync = leg.in_sync;
      }
    }
    list.push_back({{"node", name_of(here)},
                    {"drive", Impl::short_name(status.drive.path)},
                    {"drive_id", status.drive.durable_id},
                    {"file", status.drive.path},
                    {"size_bytes", status.drive.size_bytes},
                    {"block_size_bytes", status.drive.block_size_bytes},
                    {"pool", used ? json(status.drive.pool) : json(nullptr)},
                    {"registered_for", status.drive.pool},
                    {"mirror", mirror},
                    {"in_sync", in_sync},
                    {"state", status.state == DriveState::absent ? "absent" : "online"},
                    {"opened_by", name_of(status.state)},
                    {"why", status.why.empty() ? json(nullptr) : json(status.why)},
                    {"fence_epoch", status.fence_epoch.value},
                    {"nsid", status.drive.nsid},
                    {"verifier_class", status.cache.empty() ? json(nullptr) : json(status.cache)}});
  }
  if (asked.from == From::operator_here) {
    auto answer = co_await call_partner("GET", "/v1/drives", "", Impl::quick_ms);
    auto value = Impl::parsed(answer);
    if (value) {
      for (const json& drive : Impl::list_in(*value, "drives")) list.push_back(drive);
    }
  }
  co_return Impl::dump({{"drives", list}});
}

// A member that does not answer tells no id, and its address here need not be the one that it announces: when it is the only
// one without a name, its name is the one that is left.
static void name_the_silent_member(json& list, const std::vector<quorum::Member>& members) {
  json* nameless = nullptr;
  for (json& entry : list) {
    if (!entry["name"].is_null()) continue;
    if (nameless != nullptr) return;
    nameless = &entry;
  }
  if (nameless == nullptr) return;
  for (const quorum::Member& member : members) {
    const bool taken =
        std::any_of(list.begin(), list.end(), [&](const json& entry) { return entry["name"] == member.name; });
    if (!taken && !member.name.empty()) (*nameless)["name"] = member.name;
  }
}

Api::Answer Api::store(Asked) {
  std::vector<quorum::MemberStatus> status = co_await daemon_.store().status(Deadline::in_ms(1000));
  auto members = co_await daemon_.store().members(Deadline::in_ms(1000));
  auto name_of_member = [&](const std::string& id) -> json {
    if (!members || id.empty() || id == "0") return nullptr;
    for (const quorum::Member& member : *members) {
      if (member.id == id && !member.name.empty()) return member.name;
    }
    return nullptr;
  };
  json list = json::array();
  json leader = nullptr;
  for (const quorum::MemberStatus& member : status) {
    json name = name_of_member(member.id);
    if (name.is_null() && members) {
      for (const quorum::Member& known : *members) {
        if (std::find(known.client_urls.begin(), known.client_urls.end(), member.endpoint) != known.client_urls.end())
          name = known.name;
      }
    }
    if (member.answers && leader.is_null()) leader = name_of_member(member.leader_id);
    list.push_back({{"name", name},
                    {"url", member.endpoint},
                    {"state", state_of_member(member.answers)},
                    {"id", member.id.empty() ? json(nullptr) : json(member.id)}});
  }
  name_the_silent_member(list, members ? *members : std::vector<quorum::Member>{});
  json records = json::array();
  for (const std::string& pool : daemon_.pools()) {
    PoolAgent* agent = daemon_.find_pool(pool);
    auto record = agent != nullptr ? agent->newest_record() : std::nullopt;
    if (!record) continue;
    records.push_back({{"pool", pool},
                       {"epoch", record->epoch.value},
                       {"rev", record->rev.value},
                       {"owner", name_of(record->owner)},
                       {"why", record->why}});
  }
  co_return Impl::dump({{"state", daemon_.store_available() ? "available" : "unavailable"},
                        {"leader", leader},
                        {"members", list},
                        {"records", records}});
}

Api::Answer Api::events(Asked asked) {
  auto number_in = [&](const char* key) -> std::uint64_t {
    auto found = asked.request.query.find(key);
    return found == asked.request.query.end() ? 0 : std::strtoull(found->second.c_str(), nullptr, 10);
  };
  std::uint64_t since = number_in("since");
  std::uint64_t wait_ms = std::min<std::uint64_t>(number_in("wait_ms"), 60'000);
  Deadline deadline = Deadline::in_ms(static_cast<std::int64_t>(wait_ms));
  std::vector<Event> events = co_await daemon_.events().wait_since(since, deadline);
  json list = json::array();
  for (const Event& event : events) {
    // The partner asks for what happened here; its own it knows.
    if (asked.from == From::partner && event.origin_number > 0) continue;
    json one{{"number", event.number}, {"time_ms", event.time_ms},
             {"node", event.node},     {"pool", event.pool.empty() ? json(nullptr) : json(event.pool)},
             {"kind", event.kind},     {"text", event.text}};
    if (!event.parts.empty()) one["parts"] = event.parts;
    list.push_back(std::move(one));
  }
  co_return Impl::dump({{"events", list}, {"last", daemon_.events().last()}});
}

Api::Answer Api::usage(Asked asked) {
  json list = json::array();
  const auto add = [&](const char* name, const json& pool, pid_t pid) {
    const auto used = usage_of(pid);
    if (!used) return;  // it ended meanwhile
    list.push_back({{"node", name_of(daemon_.config().node)},
                    {"name", name},
                    {"pool", pool},
                    {"pid", pid},
                    {"cpu_ms", used->cpu_ticks * 1000 / ticks_per_second()},
                    {"read_bytes", used->read_bytes},
                    {"written_bytes", used->written_bytes},
                    {"resident_bytes", used->resident_bytes}});
  };
  add("zpaird", nullptr, ::getpid());
  for (const std::string& name : daemon_.pools()) {
    PoolAgent* agent = daemon_.find_pool(name);
    if (agent != nullptr && agent->has_process()) add("zpair-pool", name, agent->process_pid());
  }
  if (asked.from == From::operator_here) {
    auto answer = co_await call_partner("GET", "/v1/usage", "", Impl::quick_ms);
    auto value = Impl::parsed(answer);
    if (value) {
      for (const json& process : Impl::list_in(*value, "processes")) list.push_back(process);
    }
  }
  co_return Impl::dump({{"processes", list}});
}

}  // namespace zpair::node
