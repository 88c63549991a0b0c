#include "cli/node_replace.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace zpair::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t gib = 1ull << 30;

json leg(const char* node, const std::string& drive) {
  return {{"node", node}, {"drive", drive}, {"drive_id", "id-" + drive}};
}
json drive(const std::string& name, std::uint64_t size_bytes, const char* state = "online") {
  return {{"drive_id", "id-" + name}, {"size_bytes", size_bytes}, {"state", state}};
}
LookedAt free_drive(const std::string& name, std::uint64_t size_bytes) {
  return {"/dev/" + name, {{"durable_id", "id-" + name}, {"size_bytes", size_bytes}, {"pool", nullptr}}};
}
LookedAt leg_of(const std::string& name, const char* pool) {
  return {"/dev/" + name, {{"durable_id", "id-" + name}, {"size_bytes", gib}, {"pool", pool}}};
}

// tank-a has two mirrors, of 1 and of 2 GiB, tank-b one of 1 GiB; node b has lost all its drives.
struct Lost {
  json status = {
      {"pools",
       {{{"name", "tank-a"},
         {"mirrors",
          {{{"name", "mirror-0"}, {"legs", {leg("a", "A0"), leg("b", "B0")}}},
           {{"name", "mirror-1"}, {"legs", {leg("a", "A1"), leg("b", "B1")}}}}}},
        {{"name", "tank-b"}, {"mirrors", {{{"name", "mirror-0"}, {"legs", {leg("a", "A2"), leg("b", "B2")}}}}}}}}};
  json drives = {{"drives", {drive("A0", gib), drive("A1", 2 * gib), drive("A2", gib), drive("B2", gib, "absent")}}};
};

TEST(NodeReplace, the_larger_drives_go_where_more_is_needed) {
  Lost lost;
  auto plan = plan_seating("b", lost.status, lost.drives,
                           {free_drive("N0", gib), free_drive("N1", gib), free_drive("N2", 3 * gib)});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(*plan, (std::vector<Seating>{{"tank-a", "mirror-1", "B1", "id-B1", "/dev/N2", "id-N2"},
                                         {"tank-a", "mirror-0", "B0", "id-B0", "/dev/N0", "id-N0"},
                                         {"tank-b", "mirror-0", "B2", "id-B2", "/dev/N1", "id-N1"}}));
}

TEST(NodeReplace, a_drive_that_survived_takes_its_own_place) {
  Lost lost;
  auto plan = plan_seating("b", lost.status, lost.drives,
                           {free_drive("N0", 2 * gib), leg_of("B2", "tank-b"), leg_of("B0", "tank-a")});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(*plan, (std::vector<Seating>{{"tank-b", "mirror-0", "B2", "id-B2", "/dev/B2", "id-B2"},
                                         {"tank-a", "mirror-0", "B0", "id-B0", "/dev/B0", "id-B0"},
                                         {"tank-a", "mirror-1", "B1", "id-B1", "/dev/N0", "id-N0"}}));
}

// The same command again: N2 has taken B1's place, N0 is a leg beside B0 and not yet alone.
TEST(NodeReplace, what_an_earlier_try_did_is_left_alone) {
  Lost lost;
  lost.status["pools"][0]["mirrors"][1]["legs"][1] = leg("b", "N2");
  lost.status["pools"][0]["mirrors"][0]["legs"].push_back(leg("b", "N0"));
  lost.drives["drives"].push_back(drive("N2", 3 * gib));
  lost.drives["drives"].push_back(drive("N0", gib));
  auto plan = plan_seating("b", lost.status, lost.drives,
                           {leg_of("N0", "tank-a"), free_drive("N1", gib), leg_of("N2", "tank-a")});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(*plan, (std::vector<Seating>{{"tank-a", "mirror-0", "B0", "id-B0", "/dev/N0", "id-N0"},
                                         {"tank-b", "mirror-0", "B2", "id-B2", "/dev/N1", "id-N1"}}));
}

TEST(NodeReplace, drives_that_do_not_fit_are_refused_by_name) {
  Lost lost;
  struct Row {
    std::vector<LookedAt> drives;
    const char* says;
  };
  const LookedAt n0 = free_drive("N0", 2 * gib), n1 = free_drive("N1", gib), n2 = free_drive("N2", gib);
  for (const Row& row : {Row{{n0, n1}, "none would be left for b:B2 (tank-b mirror-0)"},
                         Row{{n0, n1, n2, free_drive("N3", gib)}, "leave out b:/dev/N3"},
                         Row{{n1, n2, free_drive("N3", gib)}, "too little for b:B1 (tank-a mirror-1), which needs 2G"},
                         Row{{n0, n1, n1}, "are one drive"},
                         Row{{n0, n1, leg_of("X", "other")}, "b:/dev/X is a leg of pool other already"}}) {
    auto plan = plan_seating("b", lost.status, lost.drives, row.drives);
    ASSERT_FALSE(plan) << row.says;
    EXPECT_NE(plan.error().message.find(row.says), std::string::npos) << plan.error().message;
  }
}

}  // namespace
}  // namespace zpair::cli
