#include "cli/demo.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>

#include <nlohmann/json.hpp>

#include "cli/answers.h"
#include "cli/demo_view.h"
#include "cli/sandbox_commands.h"
#include "cli/sandbox_start.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

constexpr unsigned look_every_us =
    300'000;  // a look costs both nodes work: as often while it waits as while the load is undisturbed
constexpr std::int64_t calm_ms = 2500;  // undisturbed load between the events
constexpr std::int64_t wait_ms = 45000;

std::atomic<bool> interrupted{false};

std::int64_t wall_clock_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

struct PoolNow {
  std::string owner;
  std::string state;
  std::uint64_t epoch = 0;
  std::size_t legs_a = 0, legs_b = 0, in_sync_a = 0, in_sync_b = 0;
  std::string drive_on_b;  // its first leg there
  bool first_leg_on_b_in_sync = false;

  bool served_by(const std::string& node) const { return owner == node && (state == "online" || state == "degraded"); }
  bool all_in_sync() const { return legs_a > 0 && legs_b > 0 && in_sync_a == legs_a && in_sync_b == legs_b; }
};

PoolNow pool_of(const json& state, const std::string& name) {
  PoolNow now;
  for (const json& pool : state.value("pools", json::array())) {
    if (text_of(pool, "name") != name) continue;
    now.owner = text_of(pool, "owner");
    now.state = text_of(pool, "state");
    now.epoch = pool.contains("epoch") && pool["epoch"].is_number() ? pool["epoch"].get<std::uint64_t>() : 0;
    for (const json& mirror : pool.value("mirrors", json::array())) {
      for (const json& leg : mirror.value("legs", json::array())) {
        const bool in_sync = leg.value("in_sync", false);
        const bool on_a = text_of(leg, "node") == "a";
        if (!on_a && now.legs_b == 0) {
          now.drive_on_b = text_of(leg, "drive");
          now.first_leg_on_b_in_sync = in_sync;
        }
        (on_a ? now.legs_a : now.legs_b) += 1;
        (on_a ? now.in_sync_a : now.in_sync_b) += in_sync;
      }
    }
  }
  return now;
}

class Demo {
 public:
  Demo(std::string dir, DemoOptions options) : dir_(std::move(dir)), options_(std::move(options)) {}

  Result<void> run();
  int verdict(const Result<void>& carried_through);
  const std::vector<DemoEvent>& events() const { return events_; }

 private:
  using Fact = std::function<bool(const json&)>;
  using Act = std::function<Result<void>()>;

  Result<void> start();
  Result<void> scenario();
  Result<void> lone_owner();
  Result<void> measure(const std::string& name, const std::string& what, const std::string& pool, std::uint64_t goal_ms,
                       const Act& act, const Fact& until);
  Result<void> wait_for(const std::string& what, const Fact& fact);
  Result<void> calm(std::int64_t ms);
  Result<void> ask_node(const std::string& target, const json& body);
  Result<std::vector<DemoLoad::Volume>> volumes();
  json look();
  std::vector<TimePart> parts_of_import(const std::string& pool, std::int64_t since_ms, Nanoseconds stall_ended_ns);

  std::string dir_;
  DemoOptions options_;
  DemoView view_;
  std::unique_ptr<DemoLoad> load_;
  std::vector<DemoEvent> events_;
  std::uint64_t ordinary_ms_ = 0;
  std::uint64_t acknowledged_ = 0, lost_ = 0, corrupt_ = 0, failed_ = 0;
  std::vector<std::string> findings_;
  bool verified_ = false;
};

json Demo::look() {
  auto state = sandbox_state(dir_);
  json seen = state ? *state : json::object();
  if (load_) view_.draw(seen, load_->now());
  return seen;
}

Result<void> Demo::wait_for(const std::string& what, const Fact& fact) {
  const Nanoseconds end = boot_time_ns() + wait_ms * ns_per_ms;
  while (!interrupted) {
    if (fact(look())) return {};
    if (boot_time_ns() >= end)
      return fail(ErrorCode::timed_out, "waited {} s for {}, which did not come", wait_ms / 1000, what);
    ::usleep(look_every_us);
  }
  return fail(ErrorCode::cancelled, "interrupted");
}

Result<void> Demo::calm(std::int64_t ms) {
  const Nanoseconds end = boot_time_ns() + ms * ns_per_ms;
  while (!interrupted && boot_time_ns() < end) {
    (void)look();
    ::usleep(look_every_us);
  }
  return interrupted ? Result<void>(fail(ErrorCode::cancelled, "interrupted")) : Result<void>{};
}

// What the node that imported the pool says of its time, and how much later the client went on.
std::vector<TimePart> Demo::parts_of_import(const std::string& pool, std::int64_t since_ms,
                                            Nanoseconds stall_ended_ns) {
  auto nodes = Nodes::of_sandbox(dir_);
  if (!nodes) return {};
  auto answer = nodes->get("/v1/events?since=0&wait_ms=0");
  if (!answer) return {};
  std::vector<TimePart> parts;
  for (const json& event : answer->value("events", json::array())) {
    const auto time_ms = event.value("time_ms", std::int64_t{0});
    if (text_of(event, "kind") != "serving" || text_of(event, "pool") != pool || time_ms < since_ms) continue;
    parts = event.value("parts", std::vector<TimePart>{});
    const Nanoseconds stall_ended_ms = wall_clock_ms() - (boot_time_ns() - stall_ended_ns) / ns_per_ms;
    if (stall_ended_ns != 0)
      parts.push_back({"reconnect", std::max<Nanoseconds>(0, stall_ended_ms - time_ms) * ns_per_ms});
  }
  return parts;
}

// Does something to the pair, waits until the fact holds and the pool's client goes on, and tells how long it had waited.
Result<void> Demo::measure(const std::string& name, const std::string& what, const std::string& pool,
                           std::uint64_t goal_ms, const Act& act, const Fact& until) {
  view_.step(what);
  DemoEvent event{name, what, std::nullopt, goal_ms, false};
  const std::int64_t began_ms = wall_clock_ms();
  load_->begin_event(pool, name);
  ZP_CHECK(act());
  ZP_CHECK(wait_for(what, until));
  ZP_CHECK(wait_for("the client of " + pool + " to go on", [&](const json&) {
    for (const auto& client : load_->now()) {
      if (client.pool == pool) return client.connected && client.stalled_ms < 500;
    }
    return false;
  }));
  const DemoLoad::Stall stall = load_->end_event(pool);
  event.stall_ms = stall.ms;
  event.parts = parts_of_import(pool, began_ms, stall.ended_ns);
  event.done = true;
  view_.show_event(event, ordinary_ms_);
  events_.push_back(std::move(event));
  return calm(calm_ms);
}

Result<void> Demo::ask_node(const std::string& target, const json& body) {
  ZP_TRY(nodes, Nodes::of_sandbox(dir_));
  ZP_CHECK(nodes.post(target, body));
  return {};
}

// Both addresses of each volume: the client's own node first, which is the partner of the pool's home.
Result<std::vector<DemoLoad::Volume>> Demo::volumes() {
  ZP_TRY(nodes, Nodes::of_sandbox(dir_));
  std::vector<DemoLoad::Volume> list;
  for (const json& volume : merged_volumes(nodes)["volumes"]) {
    const std::string pool = text_of(volume, "pool");
    const std::string name = pool + "/" + text_of(volume, "name");
    std::string uri;
    for (const char* node : {pool == "tank-a" ? "b" : "a", pool == "tank-a" ? "a" : "b"}) {
      std::string address = volume.contains("nbd") && volume["nbd"].is_object() ? text_of(volume["nbd"], node, "") : "";
      const auto export_end = address.find('?');
      if (export_end == std::string::npos) return fail(ErrorCode::internal, "{} has no address on node {}", name, node);
      address.insert(export_end, "@demo");  // rule 10: its client's name
      uri += (uri.empty() ? "" : ",") + address;
    }
    list.push_back({pool, uri});
  }
  if (list.size() != 2) return fail(ErrorCode::internal, "the demo wants two volumes, there are {}", list.size());
  return list;
}

Result<void> Demo::start() {
  view_.step(fmt::format("making a pair: two pools of {} mirrors, a store of three, two paths", options_.mirrors));
  SandboxOptions options;
  options.mirrors = options_.mirrors;
  options.partner_wait_s = 5;
  ZP_CHECK(make_sandbox(dir_, options));
  if (interrupted) return fail(ErrorCode::cancelled, "interrupted");
  ZP_TRY(list, volumes());
  ZP_TRY(load, DemoLoad::open(list));
  load_ = std::move(load);
  view_.step("a client writes to each volume and checks what it reads");
  load_->begin_event("tank-a", "ordinary");
  ZP_CHECK(calm(2 * calm_ms));
  ordinary_ms_ = load_->end_event("tank-a").ms;
  return {};
}

Result<void> Demo::scenario() {
  const auto served = [](const std::string& pool, const std::string& node) {
    return [pool, node](const json& state) { return pool_of(state, pool).served_by(node); };
  };
  const auto in_sync = [](const json& state) {
    return pool_of(state, "tank-a").all_in_sync() && pool_of(state, "tank-b").all_in_sync();
  };
  const auto any = [](const json&) { return true; };

  ZP_CHECK(measure(
      "path-cut", "path1 is cut", "tank-a", 300,
      [&]() -> Result<void> {
        ZP_CHECK(sandbox_cut(dir_, "path1"));
        return calm(calm_ms);
      },
      any));
  ZP_CHECK(sandbox_heal(dir_, "path1", Switch::Heal::deliver_late));
  ZP_CHECK(wait_for("all legs in sync", in_sync));

  ZP_CHECK(measure(
      "node-kill-takeover", "node a is killed: b takes tank-a over", "tank-a", 2000,
      [&] { return sandbox_kill(dir_, "a"); }, served("tank-a", "b")));
  ZP_CHECK(measure(
      "node-return-resync", "node a returns: its legs get what they missed", "tank-a", 0,
      [&] { return sandbox_start(dir_, "a"); }, in_sync));
  ZP_CHECK(measure(
      "failback", "tank-a goes home", "tank-a", 700, [&] { return ask_node("/v1/failback", {{"pool", "tank-a"}}); },
      served("tank-a", "a")));
  ZP_CHECK(measure(
      "switchover", "tank-b moves to a, planned", "tank-b", 700,
      [&] { return ask_node("/v1/switchover", {{"pool", "tank-b"}, {"to", "a"}}); }, served("tank-b", "a")));
  ZP_CHECK(ask_node("/v1/failback", {{"pool", "tank-b"}}));
  ZP_CHECK(wait_for("tank-b at home", served("tank-b", "b")));

  const std::uint64_t epoch = pool_of(look(), "tank-a").epoch;
  ZP_CHECK(measure(
      "process-kill-restart", "the pool process of tank-a is killed: restart in place", "tank-a", 1000,
      [&] { return sandbox_kill(dir_, "pool:tank-a"); },
      [&](const json& state) {
        return pool_of(state, "tank-a").epoch > epoch && pool_of(state, "tank-a").served_by("a");
      }));
  ZP_CHECK(wait_for("all legs in sync", in_sync));

  const std::string drive = "b:" + pool_of(look(), "tank-a").drive_on_b;
  ZP_CHECK(measure(
      "leg-error", "drive " + drive + " answers every write with an error", "tank-a", 2000,
      [&] { return sandbox_fault(dir_, drive, "write-errors on"); },
      [](const json& state) {
        return pool_of(state, "tank-a").legs_b > 0 && !pool_of(state, "tank-a").first_leg_on_b_in_sync;
      }));
  ZP_CHECK(sandbox_fault(dir_, drive, "clear"));
  ZP_CHECK(wait_for("the leg to come back", in_sync));
  return lone_owner();
}

// The hole that plain ZFS over a network has: the partner dies, the owner goes on alone and dies too, the partner returns.
Result<void> Demo::lone_owner() {
  ZP_CHECK(measure(
      "partner-loss", "node b is killed: a goes on alone", "tank-a", 2000, [&] { return sandbox_kill(dir_, "b"); },
      [](const json& state) {
        return pool_of(state, "tank-a").served_by("a") && pool_of(state, "tank-a").legs_b > 0 &&
               pool_of(state, "tank-a").in_sync_b == 0;
      }));
  view_.step("node a is killed too, b returns: it lacks writes and must refuse");
  DemoEvent event{"lone-owner-loss", "", std::nullopt, std::nullopt, false};
  ZP_CHECK(sandbox_kill(dir_, "a"));
  ZP_CHECK(sandbox_start(dir_, "b"));
  bool served_by_b = false;
  auto refused = wait_for("b to refuse", [&](const json& state) {
    served_by_b = served_by_b || pool_of(state, "tank-a").served_by("b");
    return pool_of(state, "tank-a").state == "down" || served_by_b;
  });
  if (refused && !served_by_b) {
    ZP_CHECK(calm(2 * calm_ms));  // it must go on refusing
    served_by_b = pool_of(look(), "tank-a").served_by("b");
  }
  event.done = refused.has_value() && !served_by_b;
  view_.show_event(event, ordinary_ms_);
  events_.push_back(event);
  view_.step("node a returns: its pools serve again");
  ZP_CHECK(sandbox_start(dir_, "a"));
  ZP_CHECK(wait_for("tank-a to serve", [](const json& state) {
    return pool_of(state, "tank-a").served_by("a") || pool_of(state, "tank-a").served_by("b");
  }));
  ZP_CHECK(wait_for("tank-b to serve", [](const json& state) {
    return pool_of(state, "tank-b").served_by("a") || pool_of(state, "tank-b").served_by("b");
  }));
  return wait_for("the resync", [](const json& state) {
    return pool_of(state, "tank-a").all_in_sync() && pool_of(state, "tank-b").all_in_sync();
  });
}

Result<void> Demo::run() {
  ZP_CHECK(start());
  ZP_CHECK(scenario());
  view_.step("reading everything back");
  ZP_TRY(reports, load_->finish());
  for (const auto& report : reports) {
    acknowledged_ += report.counts.acknowledged_blocks;
    lost_ += report.counts.lost + report.counts.went_back;
    corrupt_ += report.counts.corrupt + report.counts.unborn;
    failed_ += report.failed_operations;
    findings_.insert(findings_.end(), report.findings.begin(), report.findings.end());
    if (!report.first_error.empty()) findings_.push_back(report.export_name + ": " + report.first_error);
  }
  verified_ = true;
  return {};
}

int Demo::verdict(const Result<void>& carried_through) {
  view_.clear();
  for (const auto& finding : findings_) std::printf("  %s\n", finding.c_str());
  const auto missed =
      std::count_if(events_.begin(), events_.end(), [&](const auto& event) { return event.missed(ordinary_ms_); });
  const bool refused = std::all_of(events_.begin(), events_.end(), [](const auto& event) { return event.done; });
  json list = json::array();
  json parts = json::object();  // of the events in which a pool was imported
  for (const auto& event : events_) {
    list.push_back({{"name", event.name},
                    {"stall_ms", event.stall_ms ? json(*event.stall_ms) : json()},
                    {"goal_ms", event.goal_ms ? json(*event.goal_ms) : json()}});
    if (!event.parts.empty()) parts[event.name] = event.parts;
  }
  bool written = true;
  if (!options_.json_file.empty()) {
    std::ofstream file(options_.json_file);
    file << json{{"acknowledged", acknowledged_}, {"lost", lost_},  {"corrupt", corrupt_},
                 {"ordinary_ms", ordinary_ms_},   {"events", list}, {"parts", parts}}
                .dump(2)
         << std::endl;
    written = file.good();
    if (!written) print_error({ErrorCode::io, fmt::format("cannot write {}", options_.json_file)});
  }
  std::printf("%td of %zu goals missed: by more than %llu ms, the longest that the clients waited without any event\n",
              missed, events_.size(), static_cast<unsigned long long>(ordinary_ms_));
  if (failed_ > 0)
    std::printf("%llu operations were answered with an error\n", static_cast<unsigned long long>(failed_));
  if (!carried_through) print_error(carried_through.error());
  if (!verified_) {
    std::printf("not verified: the demo ended early\n");
    return 1;
  }
  std::printf("acknowledged %llu, lost %llu, corrupt %llu\n", static_cast<unsigned long long>(acknowledged_),
              static_cast<unsigned long long>(lost_), static_cast<unsigned long long>(corrupt_));
  return lost_ == 0 && corrupt_ == 0 && refused && carried_through && acknowledged_ > 0 && written ? 0 : 1;
}

}  // namespace

int run_demo(const DemoOptions& options) {
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = true; };
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal_number, &action, nullptr);
  // Now, not after three minutes.
  if (!options.json_file.empty() && !std::ofstream(options.json_file, std::ios::app)) {
    print_error({ErrorCode::io, fmt::format("cannot write {}: {}", options.json_file, ::strerror(errno))});
    return 1;
  }
  std::string parent = options.dir;
  if (parent.empty()) {
    char folder[] = "/tmp/zpair-demo-XXXXXX";
    if (::mkdtemp(folder) == nullptr) {
      print_error({ErrorCode::io, fmt::format("cannot make a folder in /tmp: {}", ::strerror(errno))});
      return 1;
    }
    parent = folder;
  }
  const std::string dir = parent + "/s";
  if (is_sandbox(dir)) {
    print_error(
        {ErrorCode::exists,
         fmt::format("{} is a sandbox already, and the demo removes its own at the end: give another folder", dir)});
    return 1;
  }
  int code = 1;
  {
    Demo demo(dir, options);
    const auto done = demo.run();
    code = demo.verdict(done);
  }
  if (is_sandbox(dir)) {
    if (auto removed = sandbox_down(dir, Down::delete_folder, Format::text); !removed) print_error(removed.error());
  }
  std::error_code error;
  if (options.dir.empty()) std::filesystem::remove_all(parent, error);
  return code;
}

}  // namespace zpair::cli
