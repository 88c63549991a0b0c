// GET requests: the pool as docs/api.md shows it.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "pool/process.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

using nlohmann::json;

std::string text_of(std::uint64_t id) { return std::to_string(id); }

json or_null(const std::string& text) { return text.empty() ? json(nullptr) : json(text); }

std::string last_part(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

bool all_in_sync(const record::Record& record) {
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (!leg.in_sync) return false;
    }
  }
  return true;
}

std::string pool_state(const owner::State& state) {
  if (state.holding || state.both_slow) return "holding";
  switch (state.phase) {
    case owner::Phase::starting:
    case owner::Phase::fencing:
    case owner::Phase::importing:
    case owner::Phase::replaying: return "starting";
    case owner::Phase::waiting_for_promise: return "waiting";
    case owner::Phase::serving: return all_in_sync(state.stored.record) ? "online" : "degraded";
    case owner::Phase::draining:
    case owner::Phase::exporting:
    case owner::Phase::exited: return "exported";
  }
  return "unknown";
}

std::string leg_state(const owner::LegView* view, const record::Leg& leg) {
  if (view == nullptr) return "absent";
  if (leg.full && view->standing != owner::Standing::resyncing) return "new";
  switch (view->standing) {
    case owner::Standing::named:
      if (!view->pulse.reachable) return "held";
      return view->fault ? "faulted" : "online";
    case owner::Standing::resyncing:
    case owner::Standing::joining: return "resyncing";
    case owner::Standing::off:
    case owner::Standing::fencing:
    case owner::Standing::quiescing:
    case owner::Standing::ready:
      if (!view->pulse.reachable) return "absent";
      return view->fault ? "faulted" : "waiting";
  }
  return "unknown";
}

std::string redundancy(const owner::State& state) {
  const record::Record& record = state.stored.record;
  int alone_on_a = 0;
  int alone_on_b = 0;
  for (const record::Mirror& mirror : record.mirrors) {
    if (in_sync_count(mirror, NodeId::b) == 0) ++alone_on_a;
    if (in_sync_count(mirror, NodeId::a) == 0) ++alone_on_b;
  }
  if (alone_on_a == 0 && alone_on_b == 0)
    return "one more failure of a node, or of a drive of each mirror, would stop nothing";
  if (alone_on_a > 0 && alone_on_b > 0) return "one more failure of either node would stop the pool";
  return fmt::format("one more failure of node {}, or of a drive of it, would stop the pool",
                     alone_on_a > 0 ? NodeId::a : NodeId::b);
}

// The legs that are not in sync, as the status line counts them.
struct Missing {
  std::vector<LegId> legs;
  std::optional<NodeId> whole_side;  // every leg of this node, none of which answers
  bool drives_at_fault = false;      // one erred or was slow, or does not answer where its node does
  Txg since;                         // the smallest
};

Missing missing(const owner::State& state) {
  Missing found;
  int of_node[2] = {0, 0};
  int of_side[2] = {0, 0};
  bool answers[2] = {false, false};  // some leg of the node does
  for (const auto& [leg, view] : state.legs) {
    if (view.pulse.reachable) answers[static_cast<int>(view.node)] = true;
  }
  bool any_answers = false;
  for (const record::Mirror& mirror : state.stored.record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      ++of_side[static_cast<int>(leg.node)];
      if (leg.in_sync) continue;
      ++of_node[static_cast<int>(leg.node)];
      found.since = found.legs.empty() ? leg.since : std::min(found.since, leg.since);
      found.legs.push_back(leg.guid);
      const auto view = state.legs.find(leg.guid);
      if (view == state.legs.end()) continue;
      any_answers = any_answers || view->second.pulse.reachable;
      const bool drive_silent = !view->second.pulse.reachable && answers[static_cast<int>(leg.node)];
      found.drives_at_fault = found.drives_at_fault || view->second.own_fault || drive_silent;
    }
  }
  for (NodeId node : {NodeId::a, NodeId::b}) {
    const int side = static_cast<int>(node);
    if (!any_answers && of_node[side] > 0 && of_node[side] == of_side[side] && of_node[1 - side] == 0)
      found.whole_side = node;
  }
  return found;
}

std::string action_for(const owner::State& state) {
  if (state.holding) return "Bring back the legs that are named; I/O goes on by itself.";
  if (state.returning) return "Wait: resync is under way.";
  const Missing away = missing(state);
  if (away.legs.empty()) return "";
  if (away.whole_side)
    return fmt::format("Start node {} or mend the paths to it; resync follows by itself.", *away.whole_side);
  if (!away.drives_at_fault) return "Wait: resync follows by itself.";
  return "Mend or replace the drives that are named (zpair drive replace); resync follows by itself.";
}

std::string status_line(const owner::State& state, const Legs& legs) {
  if (state.phase != owner::Phase::serving || state.holding || state.both_slow) return owner::why(state);
  const Missing away = missing(state);
  if (away.legs.empty()) return "";
  const bool one = away.legs.size() == 1;
  if (state.returning) {
    const std::string from =
        away.since == Txg{} ? "" : fmt::format(", from txg {} on", away.since);  // a new leg gets everything
    return fmt::format("resync of {}{}", one ? "one leg" : fmt::format("{} legs", away.legs.size()), from);
  }
  if (away.whole_side) {
    return fmt::format("node {} is not in reach: its {} writes since txg {}", *away.whole_side,
                       one ? "leg lacks" : fmt::format("{} legs lack", away.legs.size()), away.since);
  }
  constexpr std::size_t most_named = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(away.legs.size(), most_named); ++i) {
    text += fmt::format("{}{}: {}", i == 0 ? "" : "; ", legs.name(away.legs[i]),
                        legs.readable(owner::why(state, away.legs[i])));
  }
  if (away.legs.size() > most_named) text += fmt::format("; and {} more", away.legs.size() - most_named);
  return text;
}

const zfs::PoolStatus::Leg* counters_of(const std::optional<zfs::PoolStatus>& status, LegId engine_guid) {
  if (!status) return nullptr;
  for (const zfs::PoolStatus::Leg& leg : status->legs) {
    if (leg.guid == engine_guid) return &leg;
  }
  return nullptr;
}

json leg_json(const owner::State& state, const record::Leg& leg, const Legs& legs,
              const std::optional<zfs::PoolStatus>& status) {
  const auto found = state.legs.find(leg.guid);
  const owner::LegView* view = found == state.legs.end() ? nullptr : &found->second;
  const control::DrivePlace* place = legs.place(leg.guid);
  const std::string file = place == nullptr ? std::string() : place->path;
  const zfs::PoolStatus::Leg* counters = counters_of(status, legs.engine_guid(leg.guid));
  const bool resyncing = view != nullptr && view->standing == owner::Standing::resyncing && state.returning.has_value();
  json value = {{"node", name_of(leg.node)},
                {"drive", file.empty() ? leg.drive : last_part(file)},
                {"drive_id", leg.drive},
                {"file", or_null(file)},
                {"guid", text_of(leg.guid.value)},
                {"in_sync", leg.in_sync},
                {"state", leg_state(view, leg)},
                {"why", view == nullptr ? json(nullptr) : json(legs.readable(owner::why(state, leg.guid)))},
                {"since_txg", leg.in_sync ? json(nullptr) : json(leg.since.value)},
                {"resync_percent", nullptr},
                {"resync_seconds_left", nullptr},
                {"read_errors", nullptr},
                {"write_errors", nullptr},
                {"checksum_errors", nullptr},
                {"repaired_bytes", nullptr}};
  if (resyncing) {
    value["resync_percent"] = state.returning->percent;
    if (state.returning->seconds_left >= 0) value["resync_seconds_left"] = state.returning->seconds_left;
  }
  if (counters != nullptr) {
    value["read_errors"] = counters->read_error_count;
    value["write_errors"] = counters->write_error_count;
    value["checksum_errors"] = counters->checksum_error_count;
    value["repaired_bytes"] = counters->repaired_bytes;
  }
  return value;
}

json scan_json(const owner::State& state, const std::optional<zfs::PoolStatus>& status, const zfs::ScanStatus& resync,
               bool resync_runs) {
  if (resync_runs && state.returning) {
    return {{"kind", "resync"},
            {"percent", state.returning->percent},
            {"seconds_left", state.returning->seconds_left < 0 ? json(nullptr) : json(state.returning->seconds_left)},
            {"copied_bytes", resync.repaired_bytes},
            {"errors", resync.error_count}};
  }
  if (!status || status->scan.kind != zfs::ScanStatus::Kind::scrub ||
      status->scan.state != zfs::ScanStatus::State::running)
    return nullptr;
  return {{"kind", "scrub"},
          {"percent", status->scan.percent},
          {"seconds_left", nullptr},
          {"copied_bytes", status->scan.repaired_bytes},
          {"errors", status->scan.error_count}};
}

}  // namespace

std::string Process::pool_json() const {
  const owner::State& state = driver_.state();
  const record::Record& record = driver_.started() ? state.stored.record : document_.stored.record;
  json mirrors = json::array();
  for (std::size_t index = 0; legs_ && index < record.mirrors.size(); ++index) {
    const record::Mirror& mirror = record.mirrors[index];
    json legs = json::array();
    for (const record::Leg& leg : mirror.legs) legs.push_back(leg_json(state, leg, *legs_, pool_status_));
    mirrors.push_back({{"name", fmt::format("mirror-{}", index)},
                       {"guid", text_of(mirror.guid.value)},
                       {"class", mirror.vdev_class},
                       {"legs", legs}});
  }
  json volumes = json::array();
  if (exports_) {
    for (const Exports::Known& volume : exports_->known()) {
      volumes.push_back({{"name", volume.name},
                         {"size_bytes", volume.size_bytes},
                         {"clients", exports_->client_count(volume.name)},
                         {"problem", or_null(volume.problem)}});
    }
  }
  json value = {
      {"name", options_.pool},
      {"guid", text_of(record.pool_guid.value)},
      {"home", name_of(record.home)},
      {"owner", name_of(record.owner)},
      {"epoch", record.epoch.value},
      {"rev", record.rev.value},
      {"wanted", record.wanted == record::Wanted::serving ? "serving" : "exported"},
      {"state", pool_state(state)},
      {"status", or_null(legs_ ? legs_->readable(status_line(state, *legs_)) : owner::why(state))},
      {"action", or_null(action_for(state))},
      {"redundancy", redundancy(state)},
      {"size_bytes", nullptr},
      {"allocated_bytes", nullptr},
      {"free_bytes", nullptr},
      {"process", {{"node", name_of(options_.config.node)}, {"pid", ::getpid()}}},
      {"scan", scan_json(state, pool_status_, pool_ ? pool_->resync_progress() : zfs::ScanStatus{}, resync_runs_)},
      {"mirrors", mirrors},
      {"volumes", volumes}};
  if (pool_status_) {
    value["size_bytes"] = pool_status_->size_bytes;
    value["allocated_bytes"] = pool_status_->allocated_bytes;
    value["free_bytes"] = pool_status_->free_bytes;
    value["data_errors"] = pool_status_->data_error_count;
  }
  return value.dump();
}

block::Task<Result<std::string>> Process::get_pools() {
  if (!begun_) co_return fail(ErrorCode::unreachable, "pool {} waits for its start", options_.pool);
  co_return "{\"pools\":[" + pool_json() + "]}";
}

block::Task<Result<std::string>> Process::get_volumes() {
  ZP_CO_CHECK(check_serving());
  ZP_CO_TRY(views, co_await exports_->list());
  json volumes = json::array();
  for (const VolumeView& view : views) {
    json nbd = {{"a", nullptr}, {"b", nullptr}};
    nbd[std::string(name_of(options_.config.node))] =
        options_.config.volume_address(options_.pool, view.info.name, view.info.guid);
    volumes.push_back({{"pool", options_.pool},
                       {"name", view.info.name},
                       {"guid", text_of(view.info.guid)},
                       {"size_bytes", view.info.size_bytes},
                       {"used_bytes", view.info.used_bytes},
                       {"thin", view.info.reserved_bytes == 0},
                       {"block_size_bytes", view.info.block_size_bytes},
                       {"compression", view.info.compression},
                       {"snapshots", view.info.snapshots},
                       {"clients", view.client_count},
                       {"problem", or_null(view.problem)},
                       {"nbd", nbd}});
  }
  co_return json{{"volumes", volumes}}.dump();
}

block::Task<Result<std::string>> Process::get_events(api::Request request) {
  std::uint64_t since = 0;
  std::int64_t wait_ms = 0;
  try {
    if (request.query.contains("since")) since = std::stoull(request.query.at("since"));
    if (request.query.contains("wait_ms")) wait_ms = std::stoll(request.query.at("wait_ms"));
  } catch (const std::exception&) {
    co_return fail(ErrorCode::invalid, "since and wait_ms are numbers");
  }
  const Deadline deadline = Deadline::in_ms(std::clamp<std::int64_t>(wait_ms, 0, 60'000));
  std::vector<EventEntry> entries = co_await events_.wait_since(since, deadline);
  json events = json::array();
  for (const EventEntry& entry : entries) {
    json event{{"number", entry.number}, {"time_ms", entry.time_ms}, {"node", name_of(options_.config.node)},
               {"pool", options_.pool},  {"kind", entry.kind},       {"text", entry.text}};
    if (!entry.parts.empty()) event["parts"] = entry.parts;
    events.push_back(std::move(event));
  }
  co_return json{{"events", events}, {"last", events_.last()}}.dump();
}

}  // namespace zpair::pool
