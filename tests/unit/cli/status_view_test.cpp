#include "cli/status_view.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

namespace zpair::cli {
namespace {

using nlohmann::json;

std::string read(const std::string& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Compares with tests/golden/NAME.txt; ZPAIR_UPDATE_GOLDEN=1 (./dev test --update-golden) writes it anew.
void expect_golden(const std::string& name, const std::string& text) {
  const std::string file = std::string(GOLDEN_DIR) + "/" + name + ".txt";
  if (::getenv("ZPAIR_UPDATE_GOLDEN") != nullptr) std::ofstream(file) << text;
  EXPECT_EQ(text, read(file)) << "differs from " << file;
}

json leg(const char* node, bool in_sync) {
  return {{"node", node},
          {"drive", "m00"},
          {"file", "/dev/x"},
          {"in_sync", in_sync},
          {"state", in_sync ? "online" : "absent"},
          {"since_txg", nullptr},
          {"read_errors", 0},
          {"write_errors", 0},
          {"checksum_errors", 0},
          {"resync_percent", nullptr},
          {"resync_seconds_left", nullptr}};
}

json healthy() {
  return {{"node", {{"name", "a"}, {"version", "0.1.0"}}},
          {"partner", {{"name", "b"}, {"state", "alive"}, {"last_heard_ms", 41}}},
          {"paths",
           {{{"name", "path1"}, {"state", "up"}, {"last_heard_ms", 41}},
            {{"name", "path2"}, {"state", "up"}, {"last_heard_ms", 40}}}},
          {"store",
           {{"state", "available"}, {"leader", "witness"}, {"members", {{{"name", "a"}, {"state", "available"}}}}}},
          {"pools",
           {{{"name", "tank-a"},
             {"home", "a"},
             {"owner", "a"},
             {"epoch", 3},
             {"state", "online"},
             {"status", nullptr},
             {"action", nullptr},
             {"redundancy", "one more failure of a node or of a drive of each mirror would stop nothing"},
             {"size_bytes", 1u << 30},
             {"allocated_bytes", 100u << 20},
             {"scan", nullptr},
             {"mirrors", {{{"name", "mirror-0"}, {"class", "normal"}, {"legs", {leg("a", true), leg("b", true)}}}}},
             {"volumes", {{{"name", "vm1"}, {"size_bytes", 256u << 20}, {"clients", 1}}}}}}}};
}

json degraded() {
  json status = healthy();
  status["partner"] = {{"name", "b"}, {"state", "alive"}, {"last_heard_ms", 90}};
  status["paths"][1] = {{"name", "path2"}, {"state", "down"}, {"last_heard_ms", 65000}};
  status["store"]["members"].push_back({{"name", "b"}, {"state", "unavailable"}});
  json& pool = status["pools"][0];
  pool["state"] = "degraded";
  pool["owner"] = "a";
  pool["home"] = "b";
  pool["status"] = "node b was away: its leg lacks writes since txg 1042";
  pool["action"] = "Wait for the resync.";
  pool["redundancy"] = "one more failure of node a, or of a drive of it, would stop the pool";
  pool["scan"] = {
      {"kind", "resync"}, {"percent", 41.5}, {"seconds_left", 72}, {"copied_bytes", 5u << 20}, {"errors", 0}};
  json& bad = pool["mirrors"][0]["legs"][1];
  bad["in_sync"] = false;
  bad["state"] = "resyncing";
  bad["since_txg"] = 1042;
  bad["resync_percent"] = 41.5;
  bad["resync_seconds_left"] = 72;
  bad["checksum_errors"] = 3;
  return status;
}

TEST(StatusView, a_healthy_pair_reads_calm) { expect_golden("status_healthy", render_status(healthy())); }
TEST(StatusView, a_degraded_pool_says_what_lacks_since_when_and_what_to_do) {
  expect_golden("status_degraded", render_status(degraded()));
}
TEST(StatusView, without_pools_it_says_how_to_make_one) {
  json status = healthy();
  status["pools"] = json::array();
  expect_golden("status_empty", render_status(status));
}

TEST(StatusView, prose_is_broken_between_words_where_a_terminal_ends) {
  json status = degraded();
  status["pools"][0]["status"] =
      "mirror-0 has no in-sync leg in reach (tank-a-00@a is in sync, not in reach, tank-a-00@b is missing since txg "
      "364)";
  const std::string text = render_status(status, 60);
  EXPECT_NE(text.find("    status: mirror-0 has no in-sync leg in reach\n"
                      "            (tank-a-00@a is in sync, not in reach,\n"
                      "            tank-a-00@b is missing since txg 364)\n"),
            std::string::npos)
      << text;
  EXPECT_NE(render_status(status).find("in reach (tank-a-00@a is in sync, not in reach, tank-a-00@b"),
            std::string::npos);
}

TEST(StatusView, an_older_daemons_missing_keys_print_as_dashes) {
  const std::string text =
      render_status(json{{"pools", {{{"name", "tank-a"}, {"mirrors", {{{"legs", {json::object()}}}}}}}}});
  EXPECT_NE(text.find("pool: tank-a"), std::string::npos);
  EXPECT_NO_THROW(render_status(json::object()));
}

TEST(MergeStatus, the_owners_own_answer_counts) {
  json from_a = healthy();
  json from_b = healthy();
  from_b["node"]["name"] = "b";
  from_b["pools"][0]["state"] = "unknown";
  from_b["pools"].push_back({{"name", "tank-b"}, {"owner", "b"}, {"epoch", 5}, {"state", "online"}});
  from_a["pools"].push_back({{"name", "tank-b"}, {"owner", "b"}, {"epoch", 4}, {"state", "degraded"}});
  const json merged = merge_status({from_a, from_b});
  ASSERT_EQ(merged["pools"].size(), 2u);
  EXPECT_EQ(merged["pools"][0]["state"], "online");  // b does not know
  EXPECT_EQ(merged["pools"][1]["epoch"], 5);         // a is behind
  EXPECT_EQ(merge_status({}), json::object());
}

}  // namespace
}  // namespace zpair::cli
