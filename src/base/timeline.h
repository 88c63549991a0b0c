#pragma once
// Where the time of an import goes, from the last sign of the former owner to the first client answered: parts that follow each
// other, on the clock of one node. zpaird begins it, its pool process ends it (StartDocument::timeline, event `serving`). For
// people and reports: nothing is decided by it.
// Threading: plain values.
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/clock.h"

namespace zpair {

struct TimePart {
  std::string name;  // docs/architecture.md lists them
  Nanoseconds took_ns = 0;
  bool operator==(const TimePart&) const = default;
};
// {"part": "import", "ms": 83.1}. from_json throws what nlohmann throws.
void to_json(nlohmann::json& value, const TimePart& part);
void from_json(const nlohmann::json& value, TimePart& part);

struct Timeline {
  std::string since;         // what began it, for people: "node a was last heard"; empty: nothing is timed
  Nanoseconds began_ns = 0;  // CLOCK_BOOTTIME, as all below
  Nanoseconds ended_ns = 0;  // of the last part
  std::vector<TimePart> parts;

  // What passed since the last part's end. One of this name grows (a survey that began anew). Nothing while nothing is timed.
  void end_part(std::string_view name, Nanoseconds now_ns);
  bool operator==(const Timeline&) const = default;
};
// "1.38 s after node a was last heard: detect 812 ms, survey 4 ms, …"
std::string to_text(const Timeline& timeline);

}  // namespace zpair
