#include "cli/node_replace.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/answers.h"
#include "cli/sizes.h"
#include "cli/status_view.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

constexpr auto look_every = std::chrono::milliseconds(500);

struct LostLeg {
  Seating seat;  // without a drive yet
  std::uint64_t needed_bytes = 0;
  std::string taker;  // the drive that came to take its place in an earlier try, by durable id
};

// By durable id: the drives of the pair that answer.
std::map<std::string, std::uint64_t> sizes_of(const json& drives) {
  std::map<std::string, std::uint64_t> sizes;
  for (const json& drive : list_of(drives, "drives")) {
    if (text_of(drive, "state") == "online") sizes[text_of(drive, "drive_id")] = number_of(drive, "size_bytes");
  }
  return sizes;
}

std::vector<LostLeg> lost_legs(const std::string& node, const json& status,
                               const std::map<std::string, std::uint64_t>& sizes) {
  std::vector<LostLeg> lost;
  for (const json& pool : list_of(status, "pools")) {
    for (const json& mirror : list_of(pool, "mirrors")) {
      std::uint64_t needed_bytes = 0;
      std::vector<std::string> here;  // the node's drives in this mirror that answer
      for (const json& leg : list_of(mirror, "legs")) {
        const auto size = sizes.find(text_of(leg, "drive_id"));
        if (size == sizes.end()) continue;
        if (text_of(leg, "node") == node) here.push_back(size->first);
        if (text_of(leg, "node") != node)
          needed_bytes = needed_bytes == 0 ? size->second : std::min(needed_bytes, size->second);
      }
      for (const json& leg : list_of(mirror, "legs")) {
        if (text_of(leg, "node") != node || sizes.contains(text_of(leg, "drive_id"))) continue;
        LostLeg one;
        one.seat = {
            text_of(pool, "name"), text_of(mirror, "name"), text_of(leg, "drive"), text_of(leg, "drive_id"), "", ""};
        one.needed_bytes = needed_bytes;
        if (!here.empty()) one.taker = here.back();
        lost.push_back(std::move(one));
      }
    }
  }
  return lost;
}

std::string label_of(const std::string& node, const LostLeg& leg) {
  return fmt::format("{}:{} ({} {})", node, leg.seat.old_drive, leg.seat.pool, leg.seat.mirror);
}

const json* leg_with(const json& status, const Seating& seat, const std::string& drive_id) {
  for (const json& pool : list_of(status, "pools")) {
    if (text_of(pool, "name") != seat.pool) continue;
    for (const json& mirror : list_of(pool, "mirrors")) {
      for (const json& leg : list_of(mirror, "legs")) {
        if (text_of(leg, "drive_id") == drive_id) return &leg;
      }
    }
  }
  return nullptr;
}

Result<json> whole_status(const Nodes& nodes) {
  const auto answers = nodes.get_all("/v1/status");
  if (!answers.empty()) return merge_status(answers);
  return nodes.get("/v1/status");  // for its error
}

// One drive's way into its place: no drive is attached while another one is copied, so they go one after the other.
class Seater {
 public:
  Seater(const Context& context, const NodeReplace& options, const Seating& seat)
      : context_(context), options_(options), seat_(seat) {}

  Result<void> run() {
    while (true) {
      // Whoever answers: an owner may change meanwhile.
      if (auto status = whole_status(context_.nodes)) {
        const json* now = leg_with(*status, seat_, seat_.new_id);
        const bool in_sync = now != nullptr && now->value("in_sync", false);
        const bool own_place = seat_.new_id == seat_.old_id;
        if (in_sync && (own_place || leg_with(*status, seat_, seat_.old_id) == nullptr)) break;
        // A drive that came in an earlier try is copied by the pool itself; in sync, it waits for the same command again.
        const bool may_begin = now == nullptr || in_sync || (own_place && !begun_);
        if (may_begin) ZP_CHECK(begin());
        if (now != nullptr) show(*now);
      }
      std::this_thread::sleep_for(look_every);
    }
    line(fmt::format("{} is in sync", place()));
    return {};
  }

 private:
  std::string place() const { return fmt::format("{} {}: {}:{}", seat_.pool, seat_.mirror, options_.node, seat_.path); }

  Result<void> begin() {
    auto answer = context_.nodes.post("/v1/drive/replace", {{"pool", seat_.pool},
                                                            {"old", {{"node", options_.node}, {"drive", seat_.old_id}}},
                                                            {"new", {{"node", options_.node}, {"path", seat_.path}}},
                                                            {"force", options_.force}});
    if (answer) {
      if (!begun_) line(fmt::format("{} takes the place of {}", place(), seat_.old_drive));
      begun_ = true;
      return {};
    }
    // Somebody else's change runs; or the old leg left between the look and this: the next look tells.
    const bool later = answer.error().code == ErrorCode::refused &&
                       answer.error().message.find("another change of the pool") != std::string::npos;
    if (later || (begun_ && answer.error().code == ErrorCode::not_found)) return {};
    return fail(answer.error(), "{} does not take the place of {}, and what follows is not begun", place(),
                seat_.old_drive);
  }

  void line(const std::string& words) {
    if (context_.format == Format::json) return;
    print((shown_ ? "\r\x1b[K" : "") + words + "\n");
    shown_ = false;
  }
  // On a terminal: how far its copy is.
  void show(const json& leg) {
    if (context_.format == Format::json || terminal_width() == 0 || text_of(leg, "state") != "resyncing") return;
    const std::string words = fmt::format("{} resyncs, {} %, {} s left", place(), text_of(leg, "resync_percent"),
                                          text_of(leg, "resync_seconds_left"));
    print("\r\x1b[K" + words.substr(0, terminal_width() - 1));
    std::fflush(stdout);
    shown_ = true;
  }

  const Context& context_;
  const NodeReplace& options_;
  const Seating& seat_;
  bool begun_ = false, shown_ = false;
};

// Its vote. A member that answers has its data, and its vote with it.
Result<void> replace_member(const Context& context, const NodeReplace& options) {
  auto answer = context.nodes.post("/v1/store/readmit", {{"member", options.node}, {"peer_url", options.peer_url}});
  const bool votes = !answer && answer.error().code == ErrorCode::refused;
  if (!answer && !votes) return std::unexpected(answer.error());
  if (context.format == Format::json) {
    print_json(votes ? json{{"member", options.node}, {"id", nullptr}} : *answer);
    return {};
  }
  print(votes ? fmt::format("the store's member {} answers: nothing to replace there", options.node)
              : fmt::format(
                    "the store's member {} is replaced: start its etcd (through etcd-start, with an empty data folder) "
                    "and zpaird on the new server",
                    options.node));
  print(fmt::format(".\nThen give the drives: zpair node replace {} PATH ...\n", options.node));
  return {};
}

}  // namespace

Result<std::vector<Seating>> plan_seating(const std::string& node, const json& status, const json& drives,
                                          const std::vector<LookedAt>& looked_at) {
  const std::map<std::string, std::uint64_t> sizes = sizes_of(drives);
  std::vector<LostLeg> lost = lost_legs(node, status, sizes);
  std::vector<Seating> plan;
  std::vector<const LookedAt*> free_drives;
  const auto take = [&](std::vector<LostLeg>::iterator leg, const LookedAt& drive) {
    leg->seat.path = drive.path;
    leg->seat.new_id = text_of(drive.answer, "durable_id");
    plan.push_back(std::move(leg->seat));
    lost.erase(leg);
  };
  std::map<std::string, std::string> seen;  // durable id -> path
  for (const LookedAt& drive : looked_at) {
    const std::string id = text_of(drive.answer, "durable_id");
    if (const auto [first, fresh] = seen.emplace(id, drive.path); !fresh)
      return fail(ErrorCode::invalid, "{}:{} and {}:{} are one drive", node, first->second, node, drive.path);
    const auto own = std::find_if(lost.begin(), lost.end(),
                                  [&](const LostLeg& leg) { return leg.seat.old_id == id || leg.taker == id; });
    if (own != lost.end()) {
      take(own, drive);
    } else if (const std::string used_by = text_of(drive.answer, "pool", ""); used_by.empty()) {
      free_drives.push_back(&drive);
    } else if (!sizes.contains(id)) {
      return fail(ErrorCode::exists, "drive {}:{} is a leg of pool {} already: name a drive that is free", node,
                  drive.path, used_by);
    }  // else: done by an earlier try
  }
  if (free_drives.size() > lost.size()) {
    return fail(ErrorCode::invalid, "node {} has lost {} drives, and {} free ones are given: leave out {}:{}", node,
                lost.size(), free_drives.size(), node, free_drives.back()->path);
  }
  if (free_drives.size() < lost.size()) {
    return fail(ErrorCode::invalid, "node {} has lost {} drives, and {} free ones are given: none would be left for {}",
                node, lost.size(), free_drives.size(), label_of(node, lost.back()));
  }
  std::stable_sort(lost.begin(), lost.end(),
                   [](const LostLeg& one, const LostLeg& other) { return one.needed_bytes > other.needed_bytes; });
  std::stable_sort(free_drives.begin(), free_drives.end(), [](const LookedAt* one, const LookedAt* other) {
    return number_of(one->answer, "size_bytes") > number_of(other->answer, "size_bytes");
  });
  for (std::size_t i = 0; i < free_drives.size(); ++i) {
    const std::uint64_t size_bytes = number_of(free_drives[i]->answer, "size_bytes");
    if (size_bytes < lost[i].needed_bytes) {
      return fail(ErrorCode::invalid, "drive {}:{} has {}, too little for {}, which needs {}", node,
                  free_drives[i]->path, format_size(size_bytes), label_of(node, lost[i]),
                  format_size(lost[i].needed_bytes));
    }
  }
  for (const LookedAt* drive : free_drives) take(lost.begin(), *drive);
  return plan;
}

Result<void> node_replace(const Context& context, const NodeReplace& options) {
  if (options.paths.empty()) return replace_member(context, options);
  ZP_TRY(status, whole_status(context.nodes));
  ZP_TRY(drives, context.nodes.get("/v1/drives"));
  std::vector<LookedAt> looked_at;
  for (const std::string& path : options.paths) {
    ZP_TRY(answer, context.nodes.post("/v1/drive/look", {{"node", options.node}, {"path", path}}));
    looked_at.push_back({path, std::move(answer)});
  }
  ZP_TRY(seats, plan_seating(options.node, status, drives, looked_at));
  for (const Seating& seat : seats) ZP_CHECK(Seater(context, options, seat).run());
  if (context.format == Format::json) {
    json legs = json::array();
    for (const Seating& seat : seats)
      legs.push_back({{"pool", seat.pool}, {"mirror", seat.mirror}, {"old", seat.old_drive}, {"new", seat.path}});
    print_json({{"node", options.node}, {"legs", legs}});
  } else {
    print(seats.empty() ? fmt::format("every drive of node {} is in its place\n", options.node)
                        : fmt::format("node {} has its {} drives\n", options.node, seats.size()));
  }
  return {};
}

}  // namespace zpair::cli
