#include "cli/sandbox_commands.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "cli/answers.h"
#include "cli/sandbox_start.h"
#include "cli/sizes.h"
#include "cli/status_view.h"

namespace zpair::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::int64_t store_timeout_ms = 30000;
constexpr std::int64_t serve_timeout_ms = 60000;
constexpr std::int64_t end_grace_ms = 15000;

bool on_terminal() { return ::isatty(STDERR_FILENO) == 1; }

// One line that is written over, only where somebody watches.
void progress(const std::string& text) {
  if (on_terminal()) std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

Result<json> picture_of(const std::string& dir) {
  ZP_TRY(nodes, Nodes::of_sandbox(dir));
  return merge_status(nodes.get_all("/v1/status"));
}

const json* find_pool(const json& status, const std::string& name) {
  const auto pools = status.find("pools");
  if (pools == status.end()) return nullptr;
  for (const json& pool : *pools) {
    if (text_of(pool, "name") == name) return &pool;
  }
  return nullptr;
}

bool is_served(const json& pool) { return text_of(pool, "state") == "online" || text_of(pool, "state") == "degraded"; }

Result<void> wait_store(const std::string& dir) {
  std::string last = "no node answers";
  const bool there = wait_until(store_timeout_ms, [&] {
    auto nodes = Nodes::of_sandbox(dir);
    if (!nodes) return false;
    std::size_t available = 0;
    for (const auto& place : nodes->places()) {
      auto store = nodes->only(place.name).get("/v1/store");
      if (store && text_of(*store, "state") == "available") ++available;
      last = store ? "it is " + text_of(*store, "state") : store.error().message;
    }
    return available == node_names.size();
  });
  if (!there)
    return fail(ErrorCode::timed_out, "the store of {} did not become available ({}): see {}/log", dir, last, dir);
  return {};
}

Result<void> make_pool(const SandboxLayout& layout, const Nodes& nodes, std::uint32_t index) {
  const std::string name = layout.pool_name(index);
  json mirrors = json::array();
  for (std::uint32_t mirror = 0; mirror < layout.options.mirrors; ++mirror) {
    json legs = json::array();
    for (std::string_view node : node_names)
      legs.push_back({{"node", node}, {"path", layout.drive_file(node, name, mirror)}});
    mirrors.push_back(std::move(legs));
  }
  const json body = {
      {"name", name}, {"owner", layout.pool_home(index)}, {"mirrors", mirrors}, {"dry_run", false}, {"force", false}};
  ZP_CHECK(nodes.only(layout.pool_home(index)).post("/v1/pool/create", body));
  return {};
}

Result<void> make_volume(const SandboxLayout& layout, const Nodes& nodes, std::uint32_t pool, std::uint32_t volume) {
  const json body = {{"pool", layout.pool_name(pool)},
                     {"name", fmt::format("vm{}", volume + 1)},
                     {"size_bytes", layout.options.volume_size_bytes},
                     {"thin", false},
                     {"block_size_bytes", nullptr},
                     {"compression", nullptr}};
  ZP_CHECK(nodes.only(layout.pool_home(pool)).post("/v1/volume/create", body));
  return {};
}

bool exists_already(const Result<void>& made) { return !made && made.error().code == ErrorCode::exists; }

// Goes on where an `up` that failed had stopped: what exists is left as it is.
Result<void> make_pools(SandboxLayout& layout) {
  ZP_CHECK(wait_store(layout.dir));
  ZP_TRY(nodes, Nodes::of_sandbox(layout.dir));
  for (std::uint32_t pool = 0; pool < layout.options.pools; ++pool) {
    progress(fmt::format("making {} with {} mirrors", layout.pool_name(pool), layout.options.mirrors));
    auto made = make_pool(layout, nodes, pool);
    if (!made && !exists_already(made)) return made;
    for (std::uint32_t volume = 0; volume < layout.options.volumes; ++volume) {
      auto volume_made = make_volume(layout, nodes, pool, volume);
      if (!volume_made && !exists_already(volume_made)) return volume_made;
    }
  }
  layout.complete = true;
  return save_layout(layout);
}

Result<void> import_again(SandboxLayout& layout) {
  if (layout.exported_by_down.empty()) return {};
  ZP_CHECK(wait_store(layout.dir));
  ZP_TRY(nodes, Nodes::of_sandbox(layout.dir));
  ZP_TRY(picture, picture_of(layout.dir));
  for (const std::string& name : layout.exported_by_down) {
    progress("importing " + name);
    const json* pool = find_pool(picture, name);
    const std::string home = pool == nullptr ? "a" : text_of(*pool, "home");
    auto imported = nodes.only(home).post("/v1/pool/import",
                                          {{"name", name}, {"accept_data_loss", false}, {"accept_corruption", false}});
    if (imported) continue;
    // Its node may import it by itself: where the export had not got so far, or an earlier order of ours is on its way.
    ZP_TRY(now, picture_of(layout.dir));
    const json* there = find_pool(now, name);
    if (there == nullptr || text_of(*there, "wanted") != "serving")
      return fail(imported.error(), "cannot import {} again", name);
  }
  layout.exported_by_down.clear();
  return save_layout(layout);
}

// The names of pools that are not served, or not wholly in sync, with why; empty when there are none.
std::string what_lacks(const json& picture, WaitFor what) {
  std::string lacks;
  const auto pools = picture.find("pools");
  if (pools == picture.end() || pools->empty()) return "no node answers";
  for (const json& pool : *pools) {
    if (text_of(pool, "state") == "exported") continue;
    std::size_t legs = 0;
    std::size_t in_sync = 0;
    for (const json& mirror : pool.value("mirrors", json::array())) {
      for (const json& leg : mirror.value("legs", json::array())) {
        ++legs;
        in_sync += leg.value("in_sync", false);
      }
    }
    if (!is_served(pool)) {
      lacks += fmt::format("{}{} is {}", lacks.empty() ? "" : "; ", text_of(pool, "name"), text_of(pool, "state"));
    } else if (what == WaitFor::in_sync && (in_sync < legs || legs == 0)) {
      lacks += fmt::format("{}{} has {} of {} legs in sync", lacks.empty() ? "" : "; ", text_of(pool, "name"), in_sync,
                           legs);
    }
  }
  return lacks;
}

Result<void> start_all(SandboxLayout& layout) {
  progress("starting the switch, three etcd members, two nodes");
  // A run folder under /tmp may have been cleaned away.
  for (std::string_view node : node_names) {
    std::error_code error;
    fs::create_directories(layout.run_dir(node), error);
  }
  ZP_CHECK(start_target(layout, "all"));
  if (!layout.complete) {
    ZP_CHECK(make_pools(layout));
  } else {
    ZP_CHECK(import_again(layout));
  }
  return sandbox_wait(layout.dir, WaitFor::served, serve_timeout_ms / 1000);
}

void print_up(const SandboxLayout& layout) {
  progress("");
  std::printf("sandbox %s is up: %s of %s\n", layout.dir.c_str(), count_of(layout.options.pools, "pool").c_str(),
              count_of(layout.options.mirrors, "mirror").c_str());
  if (auto nodes = Nodes::of_sandbox(layout.dir)) {
    for (const json& volume : merged_volumes(*nodes)["volumes"]) {
      std::printf("  %s/%s\n", text_of(volume, "pool").c_str(), text_of(volume, "name").c_str());
      const json addresses = volume.value("nbd", json::object());
      for (const auto& [node, uri] : addresses.items()) {
        if (uri.is_string()) std::printf("    at %s: %s\n", node.c_str(), uri.get<std::string>().c_str());
      }
    }
  }
  std::printf("see it: %s --sandbox %s status\n", own_name().c_str(), quoted(layout.dir).c_str());
}

std::vector<std::string> links_named(const std::string& text) {
  if (text == "paths" || text.starts_with("paths:")) return {"path1" + text.substr(5), "path2" + text.substr(5)};
  return {text};
}

json nodes_of(const std::vector<SandboxProcess>& processes) {
  json nodes = json::array();
  for (std::string_view name : member_names) {
    json list = json::array();
    bool running = false;
    bool paused = false;
    for (const auto& process : processes) {
      if (process.node != name) continue;
      list.push_back({{"name", process.name}, {"pid", process.pid}, {"state", process.state}});
      const bool counts = name == "witness" ? process.name == "etcd" : process.name == "zpaird";
      running = running || (counts && process.state == "running");
      paused = paused || process.state == "paused";
    }
    nodes.push_back({{"name", name}, {"state", running ? "up" : paused ? "paused" : "down"}, {"processes", list}});
  }
  return nodes;
}

}  // namespace

Result<void> make_sandbox(const std::string& dir, const SandboxOptions& options) {
  if (is_sandbox(dir)) {
    ZP_TRY(layout, load_layout(dir));
    if (options != SandboxOptions{} && options != layout.options) {
      return fail(
          ErrorCode::exists,
          "{} is a sandbox that was made with other options: leave them out to resume it, or choose another folder",
          dir);
    }
    return start_all(layout);
  }
  ZP_TRY(layout, plan_sandbox(dir, options));
  ZP_CHECK(write_sandbox(layout));
  auto started = start_all(layout);
  if (!started)
    (void)end_target(layout, "all", end_grace_ms);  // nothing half made keeps running; the folder and its logs stay
  progress("");
  return started;
}

Result<void> sandbox_up(const std::string& dir, const SandboxOptions& options, Format format) {
  ZP_CHECK(make_sandbox(dir, options));
  if (format == Format::json) return sandbox_status(dir, format);
  ZP_TRY(layout, load_layout(dir));
  print_up(layout);
  return {};
}

Result<void> sandbox_down(const std::string& dir, Down how, Format format) {
  ZP_TRY(layout, load_layout(dir));
  (void)resume_target(layout, "all");
  if (how == Down::keep_folder) {
    for (const char* link : {"path1", "path2", "store:a", "store:b", "store:witness"}) {
      (void)ask_switch(layout.switch_socket(),
                       json{{"heal", link}}.dump());  // the switch may be gone: then so is the cut
    }
    ZP_TRY(nodes, Nodes::of_sandbox(dir));
    ZP_TRY(picture, picture_of(dir));
    for (const json& pool : picture.value("pools", json::array())) {
      if (!is_served(pool)) continue;
      const std::string name = text_of(pool, "name");
      layout.exported_by_down.push_back(name);
      ZP_CHECK(save_layout(layout));  // before: an export whose answer is lost is imported again all the same
      progress("exporting " + name);
      if (auto exported = nodes.post("/v1/pool/export", {{"name", name}}); !exported) {
        print_error({exported.error().code,
                     fmt::format("{} is stopped without an export: {}", name, exported.error().message)});
      }
    }
    progress("");
    ZP_CHECK(end_target(layout, "both", end_grace_ms));
    ZP_CHECK(end_target(layout, "all", end_grace_ms));
    if (format == Format::text)
      std::printf("sandbox %s is down: %s sandbox up %s resumes it\n", layout.dir.c_str(), own_name().c_str(),
                  quoted(dir).c_str());
    return {};
  }
  ZP_CHECK(kill_target(layout, "all"));
  std::error_code error;
  fs::remove_all(layout.dir, error);
  if (error) return fail(error_from_errno(error.value()), "cannot remove {}", layout.dir);
  fs::remove_all(layout.run_base, error);
  return {};
}

Result<json> sandbox_state(const std::string& dir) {
  ZP_TRY(layout, load_layout(dir));
  const auto processes = find_processes(layout.dir);
  ZP_TRY(picture, picture_of(dir));
  json links = json::array();
  if (auto said = ask_switch(layout.switch_socket(), R"({"status": true})"))
    links = json::parse(*said).value("links", json::array());
  return json{{"dir", layout.dir},
              {"nodes", nodes_of(processes)},
              {"links", links},
              {"pools", picture.value("pools", json::array())}};
}

Result<void> sandbox_status(const std::string& dir, Format format) {
  ZP_TRY(state, sandbox_state(dir));
  if (format == Format::json) {
    std::printf("%s\n", state.dump(2, ' ', false, json::error_handler_t::replace).c_str());
    return {};
  }
  std::vector<std::vector<std::string>> rows = {{"NODE", "STATE", "PROCESSES"}};
  for (const json& node : state["nodes"]) {
    std::string list;
    for (const json& process : node["processes"]) {
      list += fmt::format("{}{} ({}{})", list.empty() ? "" : ", ", text_of(process, "name"), process["pid"].dump(),
                          text_of(process, "state") == "paused" ? ", paused" : "");
    }
    rows.push_back({text_of(node, "name"), text_of(node, "state"), list.empty() ? "-" : list});
  }
  std::string text = render_table(rows) + "\n";
  rows = {{"LINK", "STATE", "CONNECTIONS", "HELD"}};
  for (const json& link : state["links"]) {
    rows.push_back({text_of(link, "name"), text_of(link, "state"), link["connections"].dump(),
                    format_size(link["held_bytes"].get<std::uint64_t>())});
  }
  text += rows.size() > 1 ? render_table(rows) : "the switch does not run\n";
  for (const json& pool : state["pools"]) text += "\n" + render_pool(pool, terminal_width());
  std::fputs(text.c_str(), stdout);
  return {};
}

Result<void> sandbox_kill(const std::string& dir, const std::string& target) {
  ZP_TRY(layout, load_layout(dir));
  return kill_target(layout, target);
}

Result<void> sandbox_start(const std::string& dir, const std::string& target) {
  ZP_TRY(layout, load_layout(dir));
  if (target.starts_with("pool:")) {
    ZP_TRY(picture, picture_of(dir));
    const std::string pool = target.substr(5);
    if (find_pool(picture, pool) == nullptr)
      return fail(ErrorCode::not_found,
                  "no node that runs knows a pool {}: zpairds start their pool processes themselves", pool);
  }
  return start_target(layout, target);
}

Result<void> sandbox_wipe(const std::string& dir, const std::string& target) {
  ZP_TRY(layout, load_layout(dir));
  return wipe_target(layout, target);
}

Result<void> sandbox_pause(const std::string& dir, const std::string& target) {
  ZP_TRY(layout, load_layout(dir));
  return pause_target(layout, target);
}

Result<void> sandbox_resume(const std::string& dir, const std::string& target) {
  ZP_TRY(layout, load_layout(dir));
  return resume_target(layout, target);
}

Result<void> sandbox_cut(const std::string& dir, const std::string& link) {
  ZP_TRY(layout, load_layout(dir));
  for (const auto& name : links_named(link)) ZP_CHECK(ask_switch(layout.switch_socket(), json{{"cut", name}}.dump()));
  return {};
}

Result<void> sandbox_heal(const std::string& dir, const std::string& link, Switch::Heal how) {
  ZP_TRY(layout, load_layout(dir));
  for (const auto& name : links_named(link)) {
    ZP_CHECK(ask_switch(layout.switch_socket(), json{{"heal", name}, {"reset", how == Switch::Heal::reset}}.dump()));
  }
  return {};
}

Result<void> sandbox_wait(const std::string& dir, WaitFor what, std::int64_t timeout_s) {
  ZP_CHECK(load_layout(dir));
  std::string lacks;
  const bool there = wait_until(timeout_s * 1000, [&] {
    auto picture = picture_of(dir);
    lacks = picture ? what_lacks(*picture, what) : picture.error().message;
    if (!lacks.empty()) progress(lacks);
    return lacks.empty();
  });
  progress("");
  if (!there)
    return fail(ErrorCode::timed_out, "after {} s {}: zpair --sandbox {} status says why", timeout_s, lacks,
                quoted(dir));
  return {};
}

Result<void> sandbox_fault(const std::string& dir, const std::string& drive, const std::string& command) {
  ZP_TRY(named, parse_drive(drive));
  const auto& [node, name] = named;
  ZP_TRY(nodes, Nodes::of_sandbox(dir));
  if (!nodes.has(node))
    return fail(ErrorCode::unreachable, "node {} does not run: its drives cannot be given a fault", node);
  ZP_CHECK(nodes.only(node).post("/v1/fault", {{"node", node}, {"drive", name}, {"command", command}}));
  return {};
}

}  // namespace zpair::cli
