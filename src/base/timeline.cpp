#include "base/timeline.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace zpair {

namespace {

double ms_of(Nanoseconds ns) { return static_cast<double>(ns) / static_cast<double>(ns_per_ms); }

}  // namespace

void to_json(nlohmann::json& value, const TimePart& part) {
  value = {{"part", part.name}, {"ms", std::round(ms_of(part.took_ns) * 10) / 10}};
}

void from_json(const nlohmann::json& value, TimePart& part) {
  part.name = value.at("part").get<std::string>();
  part.took_ns = static_cast<Nanoseconds>(value.at("ms").get<double>() * static_cast<double>(ns_per_ms));
}

void Timeline::end_part(std::string_view name, Nanoseconds now_ns) {
  if (since.empty()) return;
  const Nanoseconds took_ns = std::max<Nanoseconds>(0, now_ns - std::max(began_ns, ended_ns));
  ended_ns = std::max({began_ns, ended_ns, now_ns});
  auto same = std::find_if(parts.begin(), parts.end(), [&](const TimePart& part) { return part.name == name; });
  if (same == parts.end()) {
    parts.push_back({std::string(name), took_ns});
  } else {
    same->took_ns += took_ns;
  }
}

std::string to_text(const Timeline& timeline) {
  std::string text =
      fmt::format("{:.2f} s after {}:", ms_of(timeline.ended_ns - timeline.began_ns) / 1000, timeline.since);
  for (std::size_t i = 0; i < timeline.parts.size(); ++i)
    text += fmt::format("{} {} {:.0f} ms", i == 0 ? "" : ",", timeline.parts[i].name, ms_of(timeline.parts[i].took_ns));
  return text;
}

}  // namespace zpair
