// Orders about pools: each goes to the node that can carry it out.
#include <algorithm>
#include <set>

#include "base/log.h"
#include "block/drive_identity.h"
#include "node/api_internal.h"

namespace zpair::node {

namespace {

constexpr std::int64_t serve_limit_ms = 60'000;
constexpr std::int64_t settle_limit_ms = 10'000;
constexpr std::int64_t volume_known_ms = 2000;  // the partner hears of a new volume with the next heartbeat

Result<void> check_name(const std::string& name) {
  auto allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
  bool good = !name.empty() && name.size() <= 60 && std::isalpha(static_cast<unsigned char>(name[0])) != 0 &&
              std::all_of(name.begin(), name.end(), allowed) && name != "mirror" && name != "log";
  if (!good)
    return fail(ErrorCode::invalid,
                "'{}' is no name for a pool: begin with a letter, then letters, digits, - _ and . (60 at most)", name);
  return {};
}

// A drive that a body asks for, looked at where it is.
struct WantedDrive {
  NodeId node = NodeId::a;
  std::string path;
  std::string durable_id;
  std::uint64_t size_bytes = 0;
  control::DrivePlace place;  // after its registration
};
using WantedMirrors = std::vector<std::vector<WantedDrive>>;

Result<WantedMirrors> mirrors_in(const json& body) {
  if (!body.contains("mirrors") || !body["mirrors"].is_array() || body["mirrors"].empty()) {
    return fail(ErrorCode::invalid, "`mirrors` is missing: give at least one pair of drives");
  }
  WantedMirrors mirrors;
  std::set<std::pair<NodeId, std::string>> seen;
  for (const json& mirror : body["mirrors"]) {
    std::vector<WantedDrive> legs;
    if (!mirror.is_array())
      return fail(ErrorCode::invalid, "a mirror is a list of drives: [{{\"node\", \"path\"}}, ...]");
    for (const json& leg : mirror) {
      if (!leg.is_object()) return fail(ErrorCode::invalid, "a drive is {{\"node\": \"a\", \"path\": \"/...\"}}");
      ZP_TRY(node_name, (leg.contains("node") && leg["node"].is_string())
                            ? Result<std::string>(leg["node"].get<std::string>())
                            : Result<std::string>(fail(ErrorCode::invalid, "a drive has no `node`")));
      ZP_TRY(path, (leg.contains("path") && leg["path"].is_string())
                       ? Result<std::string>(leg["path"].get<std::string>())
                       : Result<std::string>(fail(ErrorCode::invalid, "a drive has no `path`")));
      ZP_TRY(node, parse_node(node_name));
      if (!path.starts_with('/'))
        return fail(ErrorCode::invalid, "drive {}:{}: give its whole path, from /", node, path);
      if (!seen.insert({node, path}).second) return fail(ErrorCode::invalid, "drive {}:{} is named twice", node, path);
      legs.push_back({node, path, "", 0, {}});
    }
    auto on = [&](NodeId node) {
      return std::count_if(legs.begin(), legs.end(), [&](const auto& leg) { return leg.node == node; });
    };
    if (on(NodeId::a) == 0 || on(NodeId::b) == 0 || on(NodeId::a) != on(NodeId::b)) {
      return fail(ErrorCode::invalid, "a mirror pairs drives of both nodes: one of a and one of b (or two of each)");
    }
    mirrors.push_back(std::move(legs));
  }
  return mirrors;
}

json mirrors_answer(const WantedMirrors& mirrors, std::size_t first) {
  json list = json::array();
  for (std::size_t i = 0; i < mirrors.size(); ++i) {
    json legs = json::array();
    std::uint64_t size_bytes = UINT64_MAX;
    for (const WantedDrive& leg : mirrors[i]) {
      size_bytes = std::min(size_bytes, leg.size_bytes);
      legs.push_back({{"node", name_of(leg.node)},
                      {"drive", leg.path.substr(leg.path.rfind('/') + 1)},
                      {"file", leg.path},
                      {"size_bytes", leg.size_bytes}});
    }
    list.push_back({{"name", fmt::format("mirror-{}", first + i)}, {"size_bytes", size_bytes}, {"legs", legs}});
  }
  return list;
}

}  // namespace

// Works on the drives of one request; registers them on both nodes, and takes that back when the request fails.
struct Api::DriveWork {
  Api& api;
  std::string pool;
  std::uint32_t partner_host_id = 0;
  std::vector<const WantedDrive*> registered;

  NodeId here() const { return api.daemon_.config().node; }

  block::Task<Result<void>> inspect(WantedDrive& drive) {
    ZP_CO_TRY(answer, Impl::parsed(co_await api.inspect_at(drive.node, drive.path)));
    if (drive.node != here()) partner_host_id = static_cast<std::uint32_t>(Impl::number_or(answer, "zfs_host_id"));
    if (partner_host_id == api.daemon_.config().zfs_host_id) {
      co_return fail(ErrorCode::invalid,
                     "both nodes have the ZFS host id {:#x}: give each its own (zfs_host_id in its config)",
                     partner_host_id);
    }
    drive.durable_id = Impl::text_or(answer, "durable_id");
    drive.size_bytes = Impl::number_or(answer, "size_bytes");
    std::string used_by = Impl::text_or(answer, "pool");
    if (!used_by.empty())
      co_return fail(ErrorCode::exists, "drive {}:{} is a leg of pool {} already: name a drive that is free",
                     drive.node, drive.path, used_by);
    co_return Impl::check_size(drive.node, drive.path, drive.size_bytes);
  }

  block::Task<Result<void>> inspect_all(WantedMirrors& mirrors) {
    std::set<std::string> ids;
    for (auto& legs : mirrors) {
      for (WantedDrive& leg : legs) {
        ZP_CO_CHECK(co_await inspect(leg));
        if (!ids.insert(leg.durable_id).second)
          co_return fail(ErrorCode::invalid, "drive {}:{} is named twice, under two paths", leg.node, leg.path);
        const WantedDrive& first = legs.front();
        if (leg.size_bytes != first.size_bytes) {
          co_return fail(ErrorCode::invalid,
                         "the drives of a mirror must be of one size: {}:{} is {} bytes, {}:{} is {}", first.node,
                         first.path, first.size_bytes, leg.node, leg.path, leg.size_bytes);
        }
      }
    }
    co_return Result<void>{};
  }

  block::Task<Result<void>> register_one(WantedDrive& drive) {
    ZP_CO_TRY(answer, Impl::parsed(co_await api.register_at(drive.node, pool, drive.path)));
    registered.push_back(&drive);
    ZP_CO_TRY(place, Impl::place_of(answer));
    drive.place = place;
    co_return Result<void>{};
  }

  block::Task<void> unregister_all() {
    for (const WantedDrive* drive : registered) {
      auto text = co_await api.unregister_at(drive->node, pool, drive->durable_id);
      if (!text) log_warning("drive {}:{} stays registered: {}", drive->node, drive->path, text.error().message);
    }
  }

  block::Task<Result<void>> register_all(WantedMirrors& mirrors) {
    for (auto& legs : mirrors) {
      for (WantedDrive& leg : legs) {
        auto done = co_await register_one(leg);
        if (done) continue;
        co_await unregister_all();
        co_return done;
      }
    }
    co_await api.daemon_.refresh_partner_drives();
    co_return Result<void>{};
  }
};

// --- create, add -----------------------------------------------------------------------------------------------------

Api::Answer Api::pool_create(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  ZP_CO_CHECK(check_name(name));
  ZP_CO_CHECK(daemon_.config().check_pool_socket(name));
  ZP_CO_TRY(owner_name, Impl::text_in(body, "owner"));
  ZP_CO_TRY(owner, parse_node(owner_name));
  ZP_CO_TRY(mirrors, mirrors_in(body));
  NodeId here = daemon_.config().node;
  if (owner != here) {
    if (asked.from == From::partner)
      co_return fail(ErrorCode::internal, "pool {} is to be created by node {}, not here", name, owner);
    co_return co_await call_partner("POST", asked.request.path, asked.request.body, Impl::slow_ms);
  }
  if (daemon_.find_pool(name) != nullptr) co_return fail(ErrorCode::exists, "pool {} exists already", name);
  ZP_CO_TRY(stored, co_await daemon_.store().read(name, Deadline::in_ms(3000)));
  if (stored)
    co_return fail(ErrorCode::exists, "pool {} exists already, its owner is node {}", name, stored->record.owner);

  DriveWork work{*this, name, 0, {}};
  ZP_CO_CHECK(co_await work.inspect_all(mirrors));
  if (Impl::flag_in(body, "dry_run"))
    co_return Impl::dump({{"name", name}, {"epoch", 1}, {"mirrors", mirrors_answer(mirrors, 0)}});
  if (daemon_.find_pool(name) != nullptr) co_return fail(ErrorCode::exists, "pool {} is being created already", name);
  PoolAgent& agent = daemon_.new_pool(name);
  auto registered = co_await work.register_all(mirrors);
  if (!registered) {
    co_await daemon_.drop_pool(name);
    co_return std::unexpected(registered.error());
  }

  control::StartDocument document;
  record::Record& record = document.stored.record;
  record.name = name;
  record.home = record.owner = here;
  record.epoch = Epoch{1};
  record.why = "created";
  record.zfs_host_ids = {daemon_.config().zfs_host_id, work.partner_host_id};
  for (const auto& legs : mirrors) {
    record::Mirror& mirror = record.mirrors.emplace_back();
    for (const WantedDrive& leg : legs) {
      record::Leg& wanted = mirror.legs.emplace_back();
      wanted.node = leg.node;
      wanted.drive = leg.durable_id;
      wanted.in_sync = true;
    }
  }
  document.force = Impl::flag_in(body, "force");
  auto created = co_await agent.create(std::move(document));
  if (!created) {
    co_await work.unregister_all();
    co_await daemon_.drop_pool(name);
    co_return std::unexpected(created.error());
  }
  daemon_.events().add(name, "owner-changed", fmt::format("the pool was created, node {} owns it", here));
  co_return Impl::dump({{"name", name}, {"epoch", 1}, {"mirrors", mirrors_answer(mirrors, 0)}});
}

Api::Answer Api::pool_add(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  ZP_CO_TRY(mirrors, mirrors_in(body));
  PoolAgent* agent = daemon_.find_pool(name);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", name);
  if (!agent->has_process()) co_return co_await to_owner(std::move(asked), name, Impl::slow_ms);

  auto record = agent->newest_record();
  DriveWork work{*this, name, 0, {}};
  ZP_CO_CHECK(co_await work.inspect_all(mirrors));
  json answer = {{"name", name},
                 {"epoch", record ? record->epoch.value : 0},
                 {"mirrors", mirrors_answer(mirrors, record ? record->mirrors.size() : 0)}};
  if (Impl::flag_in(body, "dry_run")) co_return Impl::dump(answer);
  ZP_CO_CHECK(co_await work.register_all(mirrors));
  json places = json::array();
  for (const auto& legs : mirrors) {
    json list = json::array();
    for (const WantedDrive& leg : legs) list.push_back(Impl::place_json(leg.place));
    places.push_back(std::move(list));
  }
  co_await daemon_.drives().give_to_process(name, agent->process_epoch());
  std::string order = json{{"name", name}, {"mirrors", places}, {"force", Impl::flag_in(body, "force")}}.dump();
  auto added = co_await call_pool(name, "POST", "/v1/pool/add", order, Impl::slow_ms);
  if (!added) {
    // A time-out leaves the outcome open: the drives stay registered then.
    if (added.error().code != ErrorCode::timed_out && added.error().code != ErrorCode::io)
      co_await work.unregister_all();
    co_return std::unexpected(added.error());
  }
  co_return Impl::dump(answer);
}

// --- the owner's process does it -------------------------------------------------------------------------------------

Api::Answer Api::pool_scrub(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  co_return co_await to_owner(std::move(asked), name, Impl::slow_ms);
}

// A new volume's socket is there on either node before anybody is told of it; a partner that is away is not waited for.
block::Task<void> Api::wait_for_volume(std::string pool, std::string name, std::uint64_t guid, From from) {
  const Deadline deadline = Deadline::in_ms(volume_known_ms);
  const auto knows = [&](const auto& volumes) {
    return std::any_of(volumes.begin(), volumes.end(),
                       [&](const auto& volume) { return volume.name == name && volume.guid == guid; });
  };
  for (PoolAgent* agent = daemon_.find_pool(pool); agent != nullptr && !knows(agent->volumes()) && !deadline.passed();
       agent = daemon_.find_pool(pool)) {
    co_await block::Reactor::current().after_ms(5);
  }
  if (from == From::partner) co_return;
  while (!deadline.passed()) {
    auto answer = co_await call_partner("GET", "/v1/volumes", "", Impl::quick_ms);
    auto value = Impl::parsed(answer);
    if (!value) co_return;
    for (const json& volume : Impl::list_in(*value, "volumes")) {
      if (Impl::text_or(volume, "pool") == pool && Impl::text_or(volume, "name") == name &&
          Impl::text_or(volume, "guid") == std::to_string(guid)) {
        co_return;
      }
    }
    co_await block::Reactor::current().after_ms(20);
  }
}

Api::Answer Api::volume_change(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  const bool clones = asked.request.path == "/v1/volume/clone";
  if (clones) {
    ZP_CO_TRY(clone, Impl::text_in(body, "clone"));
    name = clone;  // the volume that is new
  }
  ZP_CO_TRY(text, co_await to_owner(asked, pool, Impl::slow_ms));
  json answer = json::parse(text.empty() ? "{}" : text, nullptr, false);
  const std::uint64_t guid = answer.is_object() ? std::strtoull(Impl::text_or(answer, "guid").c_str(), nullptr, 10) : 0;
  if (clones || asked.request.path == "/v1/volume/create") co_await wait_for_volume(pool, name, guid, asked.from);
  if (answer.is_object() && answer.contains("nbd") && answer["nbd"].is_object()) {
    answer["nbd"][std::string(name_of(daemon_.config().node))] = daemon_.config().volume_address(pool, name, guid);
    text = Impl::dump(answer);
  }
  co_return std::move(text);
}

Api::Answer Api::pool_export(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  ZP_CO_TRY(text, co_await to_owner(std::move(asked), name, Impl::slow_ms));
  // Its process says so right before it exits; what comes next (an import, say) finds it gone.
  const Deadline deadline = Deadline::in_ms(5000);
  for (PoolAgent* agent = daemon_.find_pool(name); agent != nullptr && agent->has_process() && !deadline.passed();
       agent = daemon_.find_pool(name)) {
    co_await block::Reactor::current().after_ms(5);
  }
  co_return std::move(text);
}

Api::Answer Api::pool_destroy(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  PoolAgent* agent = daemon_.find_pool(name);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", name);
  auto record = agent->newest_record();
  if (record && record->wanted == record::Wanted::exported) {
    co_return fail(ErrorCode::refused, "pool {} is exported: import it first (zpair pool import {})", name, name);
  }
  bool here = agent->has_process();
  ZP_CO_TRY(text, co_await to_owner(asked, name, Impl::slow_ms));
  if (!here) co_return std::move(text);
  // The process exits by itself when the pool and its record are gone.
  Deadline deadline = Deadline::in_ms(10'000);
  while (agent->has_process() && !deadline.passed()) {
    co_await block::Reactor::current().after_ms(10);
    agent = daemon_.find_pool(name);
    if (agent == nullptr) co_return std::move(text);
  }
  auto forgotten = co_await call_partner("POST", "/v1/node/forget", json{{"pool", name}}.dump(), Impl::quick_ms * 4);
  if (!forgotten)
    log_warning("pool {}: node {} keeps its drives registered: {}", name, partner_of(daemon_.config().node),
                forgotten.error().message);
  co_await daemon_.drop_pool(name);
  co_return std::move(text);
}

// --- who owns it -----------------------------------------------------------------------------------------------------

Api::Answer Api::owner_answer(std::string pool, Nanoseconds ordered_ns, bool with_stall) {
  Deadline deadline = Deadline::in_ms(serve_limit_ms);
  for (;;) {
    PoolAgent* agent = daemon_.find_pool(pool);
    if (agent == nullptr) co_return fail(ErrorCode::not_found, "pool {} is gone", pool);
    if (agent->process_serves()) {
      auto record = agent->newest_record();
      json answer = {{"pool", pool},
                     {"name", pool},
                     {"owner", name_of(daemon_.config().node)},
                     {"epoch", record ? record->epoch.value : 0}};
      if (with_stall) answer["stall_ms"] = (boot_time_ns() - ordered_ns) / ns_per_ms;
      co_return Impl::dump(answer);
    }
    if (deadline.passed())
      co_return fail(ErrorCode::timed_out, "pool {} does not serve yet: {}", pool, brain::agent::why(agent->state()));
    co_await block::Reactor::current().after_ms(5);
  }
}

Api::Answer Api::switchover(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", pool);
  auto record = agent->newest_record();
  if (!record) co_return fail(ErrorCode::unreachable, "pool {}: its record is not known yet, ask again", pool);
  NodeId to = partner_of(record->owner);
  if (body.contains("to") && body["to"].is_string()) {
    ZP_CO_TRY(named, parse_node(body["to"].get<std::string>()));
    to = named;
  }
  if (to != daemon_.config().node) {
    if (asked.from == From::partner)
      co_return fail(ErrorCode::internal, "pool {} is to go to node {}, not here", pool, to);
    std::string order = json{{"pool", pool}, {"to", name_of(to)}}.dump();
    co_return co_await call_partner("POST", "/v1/switchover", order, Impl::slow_ms);
  }
  Nanoseconds ordered_ns = boot_time_ns();
  // Right after another change of owner: that one ends first.
  const Deadline settles = Deadline::in_ms(settle_limit_ms);
  while (agent != nullptr && !agent->process_serves() && agent->changes_owner() && !settles.passed()) {
    co_await block::Reactor::current().after_ms(10);
    agent = daemon_.find_pool(pool);
  }
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "pool {} is gone", pool);
  if (!agent->process_serves()) {
    ZP_CO_TRY(done, co_await agent->switch_here(Deadline::in_ms(Impl::slow_ms)));
    (void)done;
  }
  co_return co_await owner_answer(pool, ordered_ns, true);
}

Api::Answer Api::takeover(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", pool);
  if (agent->process_serves())
    co_return fail(ErrorCode::refused, "node {} owns pool {} already", daemon_.config().node, pool);
  ZP_CO_TRY(done, co_await agent->take_over(Deadline::in_ms(Impl::slow_ms)));
  (void)done;
  co_return co_await owner_answer(pool, 0, false);
}

Api::Answer Api::tunables(Asked asked) {
  const auto pool = asked.request.query.find("pool");
  if (pool == asked.request.query.end())
    co_return fail(ErrorCode::invalid, "which pool? ask for /v1/tunables?pool=NAME");
  std::string name = pool->second;
  asked.request.path += "?pool=" + name;  // whoever it is passed on to asks the same
  co_return co_await to_owner(std::move(asked), std::move(name), Impl::quick_ms);
}

Api::Answer Api::tune(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  co_return co_await to_owner(std::move(asked), pool, Impl::slow_ms);
}

// What came of a rehearsal (zpair drill), for the events and the status of both nodes.
Api::Answer Api::drill(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  ZP_CO_TRY(text, Impl::text_in(body, "text"));
  if (!body.contains("passed") || !body["passed"].is_boolean())
    co_return fail(ErrorCode::invalid, "passed is true or false");
  if (daemon_.find_pool(pool) == nullptr) co_return fail(ErrorCode::not_found, "there is no pool {}", pool);
  daemon_.events().add(pool, body["passed"].get<bool>() ? "drill-passed" : "drill-failed", text);
  co_return "{}";
}

Api::Answer Api::failback(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  std::vector<std::string> names;
  if (body.contains("pool") && body["pool"].is_string()) {
    names.push_back(body["pool"].get<std::string>());
    if (daemon_.find_pool(names.front()) == nullptr)
      co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", names.front());
  } else {
    names = daemon_.pools();
  }
  json list = json::array();
  for (const std::string& name : names) {
    PoolAgent* agent = daemon_.find_pool(name);
    auto record = agent != nullptr ? agent->newest_record() : std::nullopt;
    // Right after a switchover this node's copy may still name the former owner.
    auto stored = co_await daemon_.store().read(name, Deadline::in_ms(Impl::quick_ms));
    if (stored && *stored) record = (*stored)->record;
    if (!record || record->wanted == record::Wanted::exported || record->owner == record->home) continue;
    api::Request order{"POST", "/v1/switchover", {}, json{{"pool", name}, {"to", name_of(record->home)}}.dump()};
    auto text = co_await switchover({std::move(order), asked.from});
    if (!text) co_return fail(text.error(), "cannot bring home {}", name);
    list.push_back(json::parse(*text, nullptr, false));
  }
  co_return Impl::dump({{"pools", list}});
}

Api::Answer Api::pool_import(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  PoolAgent* agent = daemon_.find_pool(name);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {} in the store: see zpair pool list", name);
  auto record = agent->newest_record();
  bool override_asked = Impl::flag_in(body, "accept_data_loss");
  bool here_by_right = !record || record->home == daemon_.config().node || override_asked;
  if (agent->has_process())
    co_return fail(ErrorCode::refused, "pool {} is imported already, by node {}", name, daemon_.config().node);
  if (!here_by_right && asked.from == From::operator_here) {
    auto answer = co_await call_partner("POST", asked.request.path, asked.request.body, Impl::slow_ms);
    bool away = !answer && answer.error().code == ErrorCode::unreachable;
    if (!away) co_return answer;
    agent = daemon_.find_pool(name);
    if (agent == nullptr) co_return fail(ErrorCode::not_found, "pool {} is gone", name);
  }
  PoolAgent::Override accepted{override_asked, Impl::flag_in(body, "accept_corruption"), ""};
  if (override_asked) accepted.sides = co_await sides_of(name);
  agent = daemon_.find_pool(name);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "pool {} is gone", name);
  auto done = co_await agent->import(accepted, Deadline::in_ms(Impl::slow_ms));
  if (!done) {
    agent = daemon_.find_pool(name);
    const bool lacks_legs = agent != nullptr && !agent->state().refused.empty();
    if (!lacks_legs) co_return std::unexpected(done.error());
    const std::string sides = co_await sides_of(name);
    co_return fail(done.error(), "pool {} stays down ({})", name, sides);
  }
  ZP_CO_TRY(text, co_await owner_answer(name, 0, false));
  json answer = json::parse(text, nullptr, false);
  if (override_asked && answer.is_object()) answer["sides"] = accepted.sides;
  co_return Impl::dump(answer);
}

Api::Answer Api::pool_side(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(name, Impl::text_in(body, "name"));
  PoolAgent* agent = daemon_.find_pool(name);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {} here", name);
  const std::string side = co_await agent->side();
  co_return Impl::dump({{"side", daemon_.with_names(side)}});
}

block::Task<std::string> Api::sides_of(std::string pool) {
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent == nullptr) co_return "";
  const std::string here = co_await agent->side();
  auto answer = co_await call_partner("POST", "/v1/node/side", json{{"name", pool}}.dump(), Impl::quick_ms);
  auto value = Impl::parsed(answer);
  std::string there = value ? Impl::text_or(*value, "side") : std::string();
  if (there.empty()) there = fmt::format("side {}: not in reach", partner_of(daemon_.config().node));
  co_return daemon_.with_names(here) + "; " + there;
}

}  // namespace zpair::node
