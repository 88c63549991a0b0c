#pragma once
// Plants that a cut must find: each takes away what guards one line of the design's section 7, or one rule of the write path.
#include <span>
#include <string_view>

#include "life.h"
#include "plan.h"
#include "zfs/mutation.h"

namespace zpair::crash {

struct Mutation {
  std::string_view name;
  std::string_view line;  // what it breaks
  zp_mutation engine;
  Aim aim;            // brings it out
  bool rare = false;  // takes longer than a test run has
  Play play = Play::by_the_rules;
};

std::span<const Mutation> mutations();
const Mutation* find_mutation(std::string_view name);  // null: there is none

}  // namespace zpair::crash
