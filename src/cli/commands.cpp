#include "cli/commands.h"

#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <map>

#include "base/ids.h"
#include "cli/answers.h"
#include "cli/sizes.h"
#include "cli/status_view.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

constexpr std::int64_t follow_wait_ms = 10000;

std::string size_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || !found->is_number() ? "-" : format_size(found->get<std::uint64_t>());
}

// A change: POST, then one line for people, or the answer.
Result<void> change(const Context& context, const std::string& target, const json& body, const std::string& done) {
  ZP_TRY(answer, context.nodes.post(target, body));
  if (context.format == Format::json) {
    print_json(answer);
  } else if (!done.empty()) {
    print(done + "\n");
  }
  return {};
}

// What a move of a pool was refused for, with the pool's name and where to read on.
template <class T>
Result<T> told(Result<T> answer, std::string_view what, const std::string& pool) {
  if (answer || answer.error().code == ErrorCode::not_found) return answer;
  return fail(answer.error().code, "cannot {} {}: {} (zpair status {} says more)", what, pool, answer.error().message,
              pool);
}

Result<json> parse_mirrors(const std::vector<std::string>& texts) {
  json mirrors = json::array();
  for (const auto& text : texts) {
    ZP_TRY(mirror, parse_mirror(text));
    mirrors.push_back(std::move(mirror));
  }
  return mirrors;
}

// As it is written: a link stays a link, /dev/disk/by-id is what it was given for.
std::string place_of(const std::string& path) {
  std::error_code gone;
  const auto absolute = std::filesystem::absolute(path, gone);
  return gone ? path : absolute.lexically_normal().string();
}

std::string plan_of(const json& answer, const std::string& what) {
  std::string out = what + ":\n";
  if (!answer.contains("mirrors")) return out;
  for (const json& mirror : answer["mirrors"]) {
    out += fmt::format("  {} {}\n", text_of(mirror, "name"), size_of(mirror, "size_bytes"));
    if (!mirror.contains("legs")) continue;
    for (const json& leg : mirror["legs"])
      out += fmt::format("    {}:{} {}\n", text_of(leg, "node"), text_of(leg, "file"), size_of(leg, "size_bytes"));
  }
  return out;
}

Result<void> make_or_add(const Context& context, const std::string& target, const PoolCreate& options, json body,
                         const std::string& would, const std::string& done) {
  ZP_TRY(mirrors, parse_mirrors(options.mirrors));
  body["name"] = options.name;
  body["mirrors"] = mirrors;
  body["dry_run"] = options.dry_run;
  body["force"] = options.force;
  ZP_TRY(answer, context.nodes.post(target, body));
  if (context.format == Format::json) {
    print_json(answer);
  } else {
    print(options.dry_run ? plan_of(answer, would) : done + "\n");
  }
  return {};
}

Result<void> show_rows(const Context& context, const json& answer, const char* key,
                       const std::vector<std::string>& headings, std::vector<std::string> (*row_of)(const json&),
                       const std::string& nothing) {
  if (context.format == Format::json) {
    print_json(answer);
    return {};
  }
  std::vector<std::vector<std::string>> rows = {headings};
  if (answer.contains(key)) {
    for (const json& entry : answer[key]) rows.push_back(row_of(entry));
  }
  print(rows.size() == 1 ? nothing + "\n" : render_table(rows));
  return {};
}

json body_of(const SnapshotName& name) {
  return {{"pool", name.volume.pool}, {"name", name.volume.name}, {"snapshot", name.snapshot}};
}

std::string event_line(const json& event) {
  std::string when = "-";
  if (event.contains("time_ms") && event["time_ms"].is_number()) {
    const auto ms = event["time_ms"].get<std::int64_t>();
    const time_t seconds = ms / 1000;
    tm parts{};
    ::localtime_r(&seconds, &parts);
    char text[32];
    ::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    when = fmt::format("{}.{:03}", text, ms % 1000);
  }
  return fmt::format("{}  {}  {:<8}  {:<16}  {}\n", when, text_of(event, "node"), text_of(event, "pool"),
                     text_of(event, "kind"), text_of(event, "text"));
}

}  // namespace

int exit_code_of(const Error& error) { return error.code == ErrorCode::refused ? 3 : 1; }

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_json(const json& value) { print(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n"); }

void print_error(const Error& error) {
  std::string line = error.message;
  for (char& c : line) {
    if (c == '\n') c = ' ';  // one error, one line
  }
  std::fflush(stdout);
  std::fprintf(stderr, "zpair: %s\n", line.c_str());
}

Result<std::pair<std::string, std::string>> parse_drive(const std::string& text) {
  const auto colon = text.find(':');
  if (colon == std::string::npos || colon + 1 == text.size() || !parse_node(text.substr(0, colon))) {
    return fail(ErrorCode::invalid, "'{}' names no drive: write NODE:DRIVE, as in a:/dev/disk/by-id/nvme-…", text);
  }
  return std::pair{text.substr(0, colon), text.substr(colon + 1)};
}

Result<json> parse_mirror(const std::string& text) {
  json legs = json::array();
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    auto drive = parse_drive(text.substr(begin, end - begin));
    if (!drive) return fail(ErrorCode::invalid, "{}; a mirror is written a:DRIVE,b:DRIVE", drive.error().message);
    legs.push_back({{"node", drive->first}, {"path", place_of(drive->second)}});
    begin = end + 1;
  }
  return legs;
}

Result<VolumeName> parse_volume_name(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == text.size() ||
      text.find('/', slash + 1) != std::string::npos) {
    return fail(ErrorCode::invalid, "'{}' names no volume: write POOL/NAME, as in tank-a/vm1", text);
  }
  return VolumeName{text.substr(0, slash), text.substr(slash + 1)};
}

Result<SnapshotName> parse_snapshot_name(const std::string& text) {
  const auto at = text.find('@');
  if (at == std::string::npos || at + 1 == text.size()) {
    return fail(ErrorCode::invalid, "'{}' names no snapshot: write POOL/NAME@SNAPSHOT, as in tank-a/vm1@monday", text);
  }
  ZP_TRY(volume, parse_volume_name(text.substr(0, at)));
  return SnapshotName{volume, text.substr(at + 1)};
}

Result<void> show_status(const Context& context, const std::string& pool) {
  const auto answers = context.nodes.get_all("/v1/status");
  json status = merge_status(answers);
  if (answers.empty()) {
    ZP_TRY(only, context.nodes.get("/v1/status"));  // for its error
    status = only;
  }
  if (!pool.empty()) {
    json kept = json::array();
    for (const json& entry : status["pools"]) {
      if (text_of(entry, "name") == pool) kept.push_back(entry);
    }
    if (kept.empty()) return fail(ErrorCode::not_found, "there is no pool {}: zpair pool list shows them", pool);
    status["pools"] = kept;
  }
  if (context.format == Format::json) {
    print_json(status);
  } else if (pool.empty()) {
    print(render_status(status, terminal_width()));
  } else {
    print(render_pool(status["pools"][0], terminal_width()));
  }
  return {};
}

Result<void> pool_create(const Context& context, const PoolCreate& options) {
  return make_or_add(
      context, "/v1/pool/create", options, {{"owner", options.owner}}, fmt::format("would make {} with", options.name),
      fmt::format("{} serves on node {}: {}", options.name, options.owner, count_of(options.mirrors.size(), "mirror")));
}

Result<void> pool_add(const Context& context, const PoolCreate& options) {
  return make_or_add(context, "/v1/pool/add", options, json::object(), fmt::format("would add to {}", options.name),
                     fmt::format("{} has {} more", options.name, count_of(options.mirrors.size(), "mirror")));
}

Result<void> pool_list(const Context& context) {
  const auto answers = context.nodes.get_all("/v1/status");
  json merged = merge_status(answers);
  if (answers.empty()) {
    ZP_TRY(only, context.nodes.get("/v1/status"));
    merged = only;
  }
  const json answer = {{"pools", merged.value("pools", json::array())}};
  return show_rows(
      context, answer, "pools", {"NAME", "STATE", "OWNER", "HOME", "EPOCH", "SIZE", "USED", "MIRRORS"},
      [](const json& pool) -> std::vector<std::string> {
        const std::size_t mirrors = pool.contains("mirrors") ? pool["mirrors"].size() : 0;
        return {text_of(pool, "name"),
                text_of(pool, "state"),
                text_of(pool, "owner"),
                text_of(pool, "home"),
                text_of(pool, "epoch"),
                size_of(pool, "size_bytes"),
                size_of(pool, "allocated_bytes"),
                std::to_string(mirrors)};
      },
      "no pools");
}

Result<void> pool_destroy(const Context& context, const std::string& name) {
  return change(context, "/v1/pool/destroy", {{"name", name}}, name + " is destroyed");
}

Result<void> pool_scrub(const Context& context, const std::string& name, bool stop) {
  return change(context, "/v1/pool/scrub", {{"name", name}, {"stop", stop}},
                stop ? "" : fmt::format("scrub of {} began: zpair status {}", name, name));
}

Result<void> pool_export(const Context& context, const std::string& name) {
  return change(context, "/v1/pool/export", {{"name", name}},
                name + " is exported: neither node imports it until zpair pool import " + name);
}

Result<void> pool_import(const Context& context, const PoolImport& options) {
  const json order = {{"name", options.name},
                      {"accept_data_loss", options.accept_data_loss},
                      {"accept_corruption", options.accept_corruption}};
  ZP_TRY(answer, told(context.nodes.post("/v1/pool/import", order), "import", options.name));
  if (context.format == Format::json) {
    print_json(answer);
    return {};
  }
  print(options.name + " serves\n");
  if (answer.contains("sides")) print(fmt::format("with accepted data loss: {}\n", text_of(answer, "sides")));
  return {};
}

Result<void> volume_create(const Context& context, const VolumeCreate& options) {
  ZP_TRY(volume, parse_volume_name(options.name));
  json body = {{"pool", volume.pool},  {"name", volume.name},         {"size_bytes", options.size_bytes},
               {"thin", options.thin}, {"block_size_bytes", nullptr}, {"compression", nullptr}};
  if (options.block_size_bytes) body["block_size_bytes"] = *options.block_size_bytes;
  if (options.compression) body["compression"] = *options.compression;
  return change(
      context, "/v1/volume/create", body,
      fmt::format("{} serves, {}: zpair volume list shows its address", options.name, format_size(options.size_bytes)));
}

json merged_volumes(const Nodes& nodes) {
  std::map<std::string, json> volumes;
  for (const json& answer : nodes.get_all("/v1/volumes")) {
    if (!answer.contains("volumes")) continue;
    for (const json& volume : answer["volumes"]) {
      const std::string key = text_of(volume, "pool") + "/" + text_of(volume, "name");
      auto [known, fresh] = volumes.try_emplace(key, volume);
      if (fresh) continue;
      for (const auto& [name, value] : volume.items()) {
        if (name != "nbd" && known->second.value(name, json()).is_null()) known->second[name] = value;
      }
      if (!volume.contains("nbd") || !volume["nbd"].is_object()) continue;
      for (const auto& [node, uri] : volume["nbd"].items()) {
        if (!uri.is_null()) known->second["nbd"][node] = uri;
      }
    }
  }
  json list = json::array();
  for (auto& [key, volume] : volumes) list.push_back(std::move(volume));
  return {{"volumes", list}};
}

Result<void> volume_list(const Context& context) {
  const json volumes = merged_volumes(context.nodes);
  if (volumes["volumes"].empty()) ZP_CHECK(context.nodes.get("/v1/volumes"));  // nobody answered: say so
  return show_rows(
      context, volumes, "volumes", {"VOLUME", "SIZE", "USED", "CLIENTS", "ADDRESS"},
      [](const json& volume) -> std::vector<std::string> {
        std::string address;
        if (volume.contains("problem") && volume["problem"].is_string()) {
          address = "not served: " + volume["problem"].get<std::string>();
        } else if (volume.contains("nbd") && volume["nbd"].is_object()) {
          for (const auto& [node, uri] : volume["nbd"].items()) {
            if (uri.is_string()) address += (address.empty() ? "" : " ") + uri.get<std::string>();
          }
        }
        return {text_of(volume, "pool") + "/" + text_of(volume, "name"), size_of(volume, "size_bytes"),
                size_of(volume, "used_bytes"), text_of(volume, "clients"), address};
      },
      "no volumes. Make one: zpair volume create tank-a/vm1 10G");
}

Result<void> volume_resize(const Context& context, const std::string& name, std::uint64_t size_bytes) {
  ZP_TRY(volume, parse_volume_name(name));
  return change(context, "/v1/volume/resize",
                {{"pool", volume.pool}, {"name", volume.name}, {"size_bytes", size_bytes}},
                fmt::format("{} has {}", name, format_size(size_bytes)));
}

Result<void> volume_destroy(const Context& context, const std::string& text) {
  if (text.find('@') == std::string::npos) {
    ZP_TRY(volume, parse_volume_name(text));
    return change(context, "/v1/volume/destroy", {{"pool", volume.pool}, {"name", volume.name}},
                  text + " is destroyed");
  }
  ZP_TRY(named, parse_snapshot_name(text));
  return change(context, "/v1/volume/destroy_snapshot", body_of(named), text + " is destroyed");
}

Result<void> volume_snapshot(const Context& context, const std::string& text) {
  ZP_TRY(named, parse_snapshot_name(text));
  return change(context, "/v1/volume/snapshot", body_of(named), text + " is taken");
}

Result<void> volume_clone(const Context& context, const VolumeClone& options) {
  ZP_TRY(named, parse_snapshot_name(options.snapshot));
  ZP_TRY(clone, parse_volume_name(options.name));
  if (clone.pool != named.volume.pool) {
    return fail(ErrorCode::invalid, "{} and {} are of different pools: a clone lives in the pool of its snapshot",
                options.snapshot, options.name);
  }
  json body = body_of(named);
  body["clone"] = clone.name;
  body["thin"] = options.thin;
  return change(
      context, "/v1/volume/clone", body,
      fmt::format("{} serves, a clone of {}: zpair volume list shows its address", options.name, options.snapshot));
}

Result<void> volume_rollback(const Context& context, const std::string& text) {
  ZP_TRY(named, parse_snapshot_name(text));
  return change(context, "/v1/volume/rollback", body_of(named),
                fmt::format("{}/{} is as {} again", named.volume.pool, named.volume.name, text));
}

Result<void> switchover(const Context& context, const std::string& pool, const std::string& to) {
  json body = {{"pool", pool}, {"to", nullptr}};
  if (!to.empty()) body["to"] = to;
  ZP_TRY(answer, told(context.nodes.post("/v1/switchover", body), "move", pool));
  if (context.format == Format::json) {
    print_json(answer);
  } else {
    print(fmt::format("{} serves on node {}, epoch {}\n", pool, text_of(answer, "owner"), text_of(answer, "epoch")));
  }
  return {};
}

// The node that is asked takes over: in a sandbox the one that does not own the pool, if it lives.
Result<void> takeover(const Context& context, const std::string& pool) {
  Nodes nodes = context.nodes;
  const json status = merge_status(context.nodes.get_all("/v1/status"));
  for (const json& entry : status.value("pools", json::array())) {
    if (text_of(entry, "name") != pool) continue;
    const std::string other = text_of(entry, "owner") == "a" ? "b" : "a";
    if (nodes.has(other)) nodes = nodes.only(other);
  }
  return told(change({nodes, context.format}, "/v1/takeover", {{"pool", pool}}, pool + " is taken over"), "take over",
              pool);
}

Result<void> failback(const Context& context, const std::string& pool) {
  json body = {{"pool", nullptr}};
  if (!pool.empty()) body["pool"] = pool;
  ZP_TRY(answer, context.nodes.post("/v1/failback", body));
  if (context.format == Format::json) {
    print_json(answer);
    return {};
  }
  const json& moved = answer.contains("pools") ? answer["pools"] : json::array();
  for (const json& entry : moved)
    print(fmt::format("{} serves on node {}, epoch {}\n", text_of(entry, "pool"), text_of(entry, "owner"),
                      text_of(entry, "epoch")));
  if (moved.empty()) print("every pool is at home\n");
  return {};
}

Result<void> drive_list(const Context& context) {
  ZP_TRY(answer, context.nodes.get("/v1/drives"));
  return show_rows(
      context, answer, "drives", {"NODE", "DRIVE", "SIZE", "POOL", "MIRROR", "STATE", "CLASS", "FILE"},
      [](const json& drive) -> std::vector<std::string> {
        return {text_of(drive, "node"),           text_of(drive, "drive"),  size_of(drive, "size_bytes"),
                text_of(drive, "pool"),           text_of(drive, "mirror"), text_of(drive, "state"),
                text_of(drive, "verifier_class"), text_of(drive, "file")};
      },
      "no drives: they are registered by zpair pool create");
}

Result<void> drive_replace(const Context& context, const std::string& pool, const std::string& old_text,
                           const std::string& new_text, bool force) {
  ZP_TRY(old_drive, parse_drive(old_text));
  ZP_TRY(new_drive, parse_drive(new_text));
  if (old_drive.first != new_drive.first) {
    return fail(ErrorCode::invalid, "{} and {} are on different nodes: a leg is replaced by a drive of its own node",
                old_text, new_text);
  }
  return change(context, "/v1/drive/replace",
                {{"pool", pool},
                 {"old", {{"node", old_drive.first}, {"drive", old_drive.second}}},
                 {"new", {{"node", new_drive.first}, {"path", place_of(new_drive.second)}}},
                 {"force", force}},
                fmt::format("{} resyncs: zpair status {}", new_text, pool));
}

Result<void> store_status(const Context& context) {
  ZP_TRY(answer, context.nodes.get("/v1/store"));
  if (context.format == Format::json) {
    print_json(answer);
    return {};
  }
  print(fmt::format("store: {}\n\n", text_of(answer, "state")));
  std::vector<std::vector<std::string>> rows = {{"MEMBER", "STATE", "LEADER", "URL"}};
  const std::string leader = text_of(answer, "leader");
  for (const json& member : answer.value("members", json::array())) {
    rows.push_back({text_of(member, "name"), text_of(member, "state"),
                    leader != "-" && text_of(member, "name") == leader ? "yes" : "", text_of(member, "url")});
  }
  print(render_table(rows));
  rows = {{"POOL", "EPOCH", "REV", "OWNER", "WHY"}};
  for (const json& record : answer.value("records", json::array())) {
    rows.push_back({text_of(record, "pool"), text_of(record, "epoch"), text_of(record, "rev"), text_of(record, "owner"),
                    text_of(record, "why")});
  }
  if (rows.size() > 1) print("\n" + render_table(rows));
  return {};
}

Result<void> store_readmit(const Context& context, const std::string& member, const std::string& peer_url) {
  return change(context, "/v1/store/readmit", {{"member", member}, {"peer_url", peer_url}},
                fmt::format("member {} is readmitted under a new id", member));
}

Result<void> witness_replace(const Context& context, const std::string& peer_url) {
  std::string done = "the witness is replaced: start etcd there through etcd-start, with an empty data folder";
  if (!peer_url.empty()) {
    done +=
        ".\nThen write its new address into [etcd] endpoints and the start scripts of both nodes, and start their "
        "zpaird again, one after the other (the pools are served meanwhile)";
  }
  return change(context, "/v1/store/readmit", {{"member", "witness"}, {"peer_url", peer_url}}, done);
}

Result<void> store_rebuild(const Context& context, const std::vector<std::string>& pools, bool accept_data_loss) {
  ZP_TRY(answer, context.nodes.post("/v1/store/rebuild", {{"pools", pools}, {"accept_data_loss", accept_data_loss}}));
  return show_rows(
      context, answer, "pools", {"POOL", "EPOCH", "REV", "FROM"},
      [](const json& pool) -> std::vector<std::string> {
        return {text_of(pool, "pool"), text_of(pool, "epoch"), text_of(pool, "rev"), "node " + text_of(pool, "from")};
      },
      "the store knows every pool: nothing to rebuild");
}

Result<void> drive_move(const Context& context, const std::string& pool, const std::string& drive, bool node_is_off) {
  ZP_TRY(to, parse_drive(drive));
  return change(context, "/v1/drive/move",
                {{"pool", pool}, {"node", to.first}, {"path", place_of(to.second)}, {"node_is_off", node_is_off}},
                fmt::format("{} is a leg of {} on node {} now", drive, pool, to.first));
}

Result<void> events(const Context& context, bool follow) {
  std::uint64_t since = 0;
  const auto show = [&](const json& answer, bool as_lines) {
    for (const json& event : answer.value("events", json::array()))
      print(as_lines ? event.dump() + "\n" : event_line(event));
    std::fflush(stdout);
  };
  ZP_TRY(first, context.nodes.get("/v1/events?since=0&wait_ms=0"));
  // Numbers are in the order in which the node heard of it; what the partner told may have happened before.
  if (first.contains("events")) {
    std::stable_sort(first["events"].begin(), first["events"].end(), [](const json& one, const json& other) {
      return one.value("time_ms", std::int64_t{0}) < other.value("time_ms", std::int64_t{0});
    });
  }
  if (!follow && context.format == Format::json) {
    print_json(first);
    return {};
  }
  show(first, context.format == Format::json);
  while (follow) {
    since = first.value("last", since);
    ZP_TRY(next, context.nodes.get(fmt::format("/v1/events?since={}&wait_ms={}", since, follow_wait_ms),
                                   follow_wait_ms + look_timeout_ms));
    show(next, context.format == Format::json);
    first = next;
  }
  return {};
}

}  // namespace zpair::cli
