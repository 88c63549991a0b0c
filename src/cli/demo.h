#pragma once
// `zpair sandbox demo`: a pair under a verified load, everything that may go wrong with it, and the count (README).
// The goals are those of the design's section 3; one is missed when the clients waited longer than it and, on top of it, longer
// than in five seconds without any event (ordinary_ms). A missed goal is printed and fails nothing; a loss does.
#include <string>

#include "base/error.h"

namespace zpair::cli {

struct DemoOptions {
  std::string json_file;  // {acknowledged, lost, corrupt, ordinary_ms, events: [{name, stall_ms, goal_ms}]}
  std::string dir;        // empty: a folder of its own under /tmp, removed at the end
  std::uint32_t mirrors = 12;
};

// 0: nothing lost, the refusal happened. 1: something was lost, or the demo could not be carried through.
int run_demo(const DemoOptions& options);

}  // namespace zpair::cli
