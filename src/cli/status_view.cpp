#include "cli/status_view.h"

#include <algorithm>
#include <ctime>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/answers.h"
#include "cli/sizes.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

// "ok", or the counters that are not zero: errors stand out, a healthy tree stays quiet.
std::string errors_of(const json& leg) {
  std::string text;
  for (const auto& [key, word] :
       {std::pair{"read_errors", "read"}, {"write_errors", "write"}, {"checksum_errors", "checksum"}}) {
    if (const auto count = number_of(leg, key)) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, word);
  }
  return text;
}

std::string state_of_leg(const json& leg) {
  const std::string state = text_of(leg, "state");
  std::string text = state == "online" ? "in sync" : state;
  if (!leg.value("in_sync", false) && leg.contains("since_txg") && leg["since_txg"].is_number()) {
    text += fmt::format(", misses writes since txg {}", leg["since_txg"].get<std::uint64_t>());
  }
  if (leg.contains("resync_percent") && leg["resync_percent"].is_number()) {
    text += fmt::format(", {:.1f} % done", leg["resync_percent"].get<double>());
    if (leg.contains("resync_seconds_left") && leg["resync_seconds_left"].is_number()) {
      text += fmt::format(", {} left", format_duration(leg["resync_seconds_left"].get<std::int64_t>()));
    }
  }
  return text;
}

constexpr std::size_t value_column = 12;

// Broken between words, so that no line is longer than `width` columns where a word fits; what follows stands below the value.
std::string wrapped(std::string text, std::size_t width) {
  if (width <= 2 * value_column) return text;
  std::string out;
  for (std::size_t room = width - value_column; text.size() > room;) {
    auto end = text.rfind(' ', room);
    if (end == std::string::npos) end = text.find(' ');
    if (end == std::string::npos) break;
    out += text.substr(0, end) + "\n" + std::string(value_column, ' ');
    text.erase(0, end + 1);
  }
  return out + text;
}

void add_line(std::string& out, std::string_view key, const std::string& value, std::size_t width = 0) {
  if (!value.empty() && value != "-") out += fmt::format("{:>10}: {}\n", key, wrapped(value, width));
}

std::string drill_line(const json& pool) {
  const auto passed_ms = static_cast<std::int64_t>(number_of(pool, "last_good_drill_ms"));
  if (passed_ms == 0) return {};
  return fmt::format("passed {} ago",
                     format_duration(std::max<std::int64_t>(0, std::time(nullptr) - passed_ms / 1000)));
}

std::string scan_line(const json& pool) {
  const auto scan = pool.find("scan");
  if (scan == pool.end() || !scan->is_object()) return {};
  std::string text =
      fmt::format("{} in progress, {:.1f} % done", text_of(*scan, "kind"),
                  scan->contains("percent") && (*scan)["percent"].is_number() ? (*scan)["percent"].get<double>() : 0.0);
  if (scan->contains("seconds_left") && (*scan)["seconds_left"].is_number()) {
    text += fmt::format(", {} left", format_duration((*scan)["seconds_left"].get<std::int64_t>()));
  }
  if (number_of(*scan, "copied_bytes") > 0)
    text += fmt::format(", {} copied", format_size(number_of(*scan, "copied_bytes")));
  if (number_of(*scan, "errors") > 0) text += fmt::format(", {} errors", number_of(*scan, "errors"));
  return text;
}

std::string tree_of(const json& pool) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "NODE", "STATE", "ERRORS"}};
  rows.push_back({text_of(pool, "name"), "", upper(text_of(pool, "state")), ""});
  std::string vdev_class = "normal";
  for (const json& mirror : list_of(pool, "mirrors")) {
    const std::string its_class = text_of(mirror, "class", "normal");
    if (its_class != vdev_class) rows.push_back({its_class + "s", "", "", ""});
    vdev_class = its_class;
    const auto& legs = list_of(mirror, "legs");
    const auto in_sync =
        std::count_if(legs.begin(), legs.end(), [](const json& leg) { return leg.value("in_sync", false); });
    const std::string state = in_sync == static_cast<std::ptrdiff_t>(legs.size())
                                  ? "in sync"
                                  : fmt::format("{} of {} legs in sync", in_sync, legs.size());
    rows.push_back({"  " + text_of(mirror, "name"), "", state, ""});
    for (const json& leg : legs) {
      rows.push_back({"    " + text_of(leg, "drive"), text_of(leg, "node"), state_of_leg(leg), errors_of(leg)});
    }
  }
  return render_table(rows);
}

std::string indented(const std::string& text, std::string_view indent) {
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = text.find('\n', begin);
    out += std::string(indent) + text.substr(begin, end - begin) + "\n";
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return out;
}

std::string volumes_of(const json& pool) {
  std::vector<std::vector<std::string>> rows = {{"VOLUME", "SIZE", "CLIENTS"}};
  for (const json& volume : list_of(pool, "volumes")) {
    rows.push_back({text_of(pool, "name") + "/" + text_of(volume, "name"), format_size(number_of(volume, "size_bytes")),
                    text_of(volume, "clients")});
  }
  std::string out = rows.size() == 1 ? "" : render_table(rows);
  for (const json& volume : list_of(pool, "volumes")) {
    const std::string problem = text_of(volume, "problem", "");
    if (!problem.empty()) out += fmt::format("{} is not served: {}\n", text_of(volume, "name"), problem);
  }
  return out;
}

std::string heard(const json& thing) {
  const auto found = thing.find("last_heard_ms");
  if (found == thing.end() || !found->is_number()) return "never heard";
  const auto ms = found->get<std::int64_t>();
  return ms < 1000 ? fmt::format("heard {} ms ago", ms) : fmt::format("heard {} ago", format_duration(ms / 1000));
}

std::string head_of(const json& status) {
  std::string out;
  if (status.contains("node") && status["node"].is_object()) add_line(out, "node", text_of(status["node"], "name"));
  if (status.contains("partner") && status["partner"].is_object()) {
    const json& partner = status["partner"];
    add_line(out, "partner",
             fmt::format("{} {}, {}", text_of(partner, "name"), text_of(partner, "state"), heard(partner)));
  }
  std::string paths;
  for (const json& path : list_of(status, "paths")) {
    paths += fmt::format("{}{} {}", paths.empty() ? "" : ", ", text_of(path, "name"), text_of(path, "state"));
    if (text_of(path, "state") != "up") paths += " (" + heard(path) + ")";
  }
  add_line(out, "paths", paths);
  if (status.contains("store") && status["store"].is_object()) {
    const json& store = status["store"];
    std::string text = text_of(store, "state");
    if (text_of(store, "leader") != "-") text += ", leader " + text_of(store, "leader");
    for (const json& member : list_of(store, "members")) {
      if (text_of(member, "state") != "available")
        text += fmt::format(", member {} {}", text_of(member, "name"), text_of(member, "state"));
    }
    add_line(out, "store", text);
  }
  return out;
}

}  // namespace

std::string render_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string render_pool(const json& pool, std::size_t width) {
  std::string out;
  add_line(out, "pool", text_of(pool, "name"));
  add_line(out, "state", upper(text_of(pool, "state")));
  add_line(out, "status", text_of(pool, "status"), width);
  add_line(out, "action", text_of(pool, "action"), width);
  std::string owner = text_of(pool, "owner", "nobody");
  if (text_of(pool, "home") != "-" && text_of(pool, "home") != owner)
    owner += fmt::format(" (home is {})", text_of(pool, "home"));
  add_line(out, "owner", fmt::format("{}, epoch {}", owner, text_of(pool, "epoch")));
  add_line(out, "redundancy", text_of(pool, "redundancy"), width);
  add_line(out, "scan", scan_line(pool));
  add_line(out, "drill", drill_line(pool));
  if (number_of(pool, "size_bytes") > 0) {
    add_line(out, "space",
             fmt::format("{} of {} used", format_size(number_of(pool, "allocated_bytes")),
                         format_size(number_of(pool, "size_bytes"))));
  }
  out += "    config:\n" + indented(tree_of(pool), "        ");
  const std::string volumes = volumes_of(pool);
  if (!volumes.empty()) out += "   volumes:\n" + indented(volumes, "        ");
  return out;
}

std::string render_status(const json& status, std::size_t width) {
  std::string out = head_of(status);
  const json& pools = list_of(status, "pools");
  for (const json& pool : pools) out += "\n" + render_pool(pool, width);
  if (pools.empty()) out += "\nno pools. Make one: zpair pool create tank-a --owner a --mirror a:DRIVE,b:DRIVE\n";
  return out;
}

json merge_status(const std::vector<json>& answers) {
  if (answers.empty()) return json::object();
  json merged = answers.front();
  std::map<std::string, json> pools;
  const auto better = [](const json& candidate, const std::string& candidate_node, const json& former) {
    const bool knows = text_of(candidate, "state") != "unknown";
    const bool former_knows = text_of(former, "state") != "unknown";
    if (knows != former_knows) return knows;
    if (number_of(candidate, "epoch") != number_of(former, "epoch"))
      return number_of(candidate, "epoch") > number_of(former, "epoch");
    return text_of(candidate, "owner") == candidate_node;
  };
  for (const json& answer : answers) {
    const std::string node =
        answer.contains("node") && answer["node"].is_object() ? text_of(answer["node"], "name") : "-";
    for (const json& pool : list_of(answer, "pools")) {
      const std::string name = text_of(pool, "name");
      auto former = pools.find(name);
      if (former == pools.end() || better(pool, node, former->second)) pools[name] = pool;
    }
  }
  merged["pools"] = json::array();
  for (auto& [name, pool] : pools) merged["pools"].push_back(std::move(pool));
  return merged;
}

}  // namespace zpair::cli
