#include "base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace zpair {
namespace {

using testing::HasSubstr;

constexpr std::string_view good = R"(
node = "b"
state_dir = "/var/lib/zpair"
run_dir = "/run/zpair"
zfs_host_id = 0x5a7a0002
[[path]]
name = "path1"
listen = "10.1.0.2"
partner = "10.1.0.1"
[[path]]
name = "path2"
listen = "10.2.0.2"
agent_port = 7500
partner = "10.2.0.1"
[etcd]
endpoints = ["http://10.0.0.2:2379", "http://10.0.0.1:2379", "http://10.0.0.3:2379"]
)";

std::string with(std::string_view from, std::string_view to) {
  std::string text(good);
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Config, the_documented_defaults_hold) {
  auto config = parse_config(good, "b.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->node, NodeId::b);
  EXPECT_EQ(config->zfs_host_id, 0x5a7a0002u);
  ASSERT_EQ(config->paths.size(), 2u);
  EXPECT_EQ(config->paths[0].agent_port, 7411);
  EXPECT_EQ(config->paths[0].nvme_port, 4420);
  EXPECT_EQ(config->paths[1].agent_port, 7500);
  EXPECT_EQ(config->partner_wait_s, 10u);
  EXPECT_EQ(config->limits.arc_mb, 512u);
  EXPECT_FALSE(config->fault.allowed);
  EXPECT_EQ(config->pool_socket("tank-a"), "/run/zpair/pool-tank-a.sock");
  EXPECT_EQ(config->volume_socket("tank-a", "vm1"), "/run/zpair/tank-a.vm1.nbd");
}

TEST(Config, what_is_written_reads_back_the_same) {
  auto config = parse_config(good, "b.toml");
  ASSERT_TRUE(config);
  config->fault = {true, true, "latency-us 92 21 5"};
  config->limits = {100, 50, 20};
  config->state_dir = "/tmp/a \"quoted\" folder";
  auto again = parse_config(write_config(*config), "again.toml");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(write_config(*again), write_config(*config));
  EXPECT_EQ(again->state_dir, config->state_dir);
  EXPECT_TRUE(again->fault.volatile_cache);
  EXPECT_EQ(again->limits.log_mb, 20u);
  EXPECT_EQ(again->etcd_endpoints, config->etcd_endpoints);
}

struct Bad {
  const char* name;
  std::string text;
  const char* says;
};

class Refused : public testing::TestWithParam<Bad> {};

TEST_P(Refused, with_one_line_that_names_file_and_key) {
  auto config = parse_config(GetParam().text, "node.toml");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, ErrorCode::invalid);
  EXPECT_THAT(config.error().message, HasSubstr("node.toml"));
  EXPECT_THAT(config.error().message, HasSubstr(GetParam().says));
  EXPECT_EQ(config.error().message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Config, Refused,
    testing::Values(Bad{"model_of_no_sandbox", std::string(good) + "[fault]\nmodel = \"protected-cache on\"\n",
                        "`fault.model` is for sandboxes"},
                    Bad{"unknown_key", with("node =", "nodes = 2\nnode ="), "unknown key `nodes` (line 2)"},
                    Bad{"unknown_limit", std::string(good) + "[limits]\narc_gb = 1\n", "unknown key `limits.arc_gb`"},
                    Bad{"unknown_path_key", with("agent_port", "agentport"), "unknown key `path.agentport`"},
                    Bad{"every_address", with("10.1.0.2", "0.0.0.0"), "which is every address"},
                    Bad{"every_v6_address", with("10.1.0.2", "::"), "which is every address"},
                    Bad{"a_host_name", with("10.1.0.2", "server-b"), "numeric"},
                    Bad{"zero_host_id", with("0x5a7a0002", "0"), "`zfs_host_id` is 0"},
                    Bad{"the_systems_host_id",
                        with("0x5a7a0002", std::to_string(static_cast<std::uint32_t>(gethostid()))),
                        "the system's own"},
                    Bad{"a_host_id_too_large", with("0x5a7a0002", "0x15a7a0002"), "whole number"},
                    Bad{"no_such_node", with("\"b\"", "\"c\""), "give \"a\" or \"b\""},
                    Bad{"node_missing", with("node = \"b\"", ""), "`node` is missing"},
                    Bad{"a_relative_folder", with("/run/zpair", "run"), "full path"},
                    Bad{"a_long_run_dir", with("/run/zpair", "/" + std::string(71, 'x')), "at most 70 bytes"},
                    Bad{"two_paths_of_one_name", with("path2", "path1"), "two paths are named path1"},
                    Bad{"one_address_twice", with("listen = \"10.2.0.2\"\nagent_port = 7500", "listen = \"10.1.0.2\""),
                        "port of another path"},
                    Bad{"one_port_twice", with("7500", "4420"), "both 4420"},
                    Bad{"no_path", "node=\"a\"\nstate_dir=\"/s\"\nrun_dir=\"/r\"\nzfs_host_id=7\n", "no [[path]]"},
                    Bad{"no_etcd", with("[etcd]\nendpoints", "[start]\npartner_wait_s = 3 #"), "[etcd] is missing"},
                    Bad{"an_endpoint_without_http", with("http://10.0.0.2", "10.0.0.2"), "give URLs"},
                    Bad{"not_toml", "node = ", "line 1"}),
    [](const auto& info) { return info.param.name; });

TEST(Config, a_name_that_no_socket_can_have_is_refused) {
  auto config = parse_config(with("/run/zpair", "/run/" + std::string(40, 'r')), "b.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->check_pool_socket(std::string(48, 'p')));  // /run/rrr…/pool-ppp….control: 107 bytes
  EXPECT_THAT(config->check_pool_socket(std::string(49, 'p')).error().message, HasSubstr("108 bytes"));
  EXPECT_TRUE(config->check_volume_socket("tank-a", std::string(50, 'v')));
  EXPECT_THAT(config->check_volume_socket("tank-a", std::string(51, 'v')).error().message, HasSubstr("108 bytes"));
}

TEST(Config, no_two_volumes_share_a_socket) {
  auto config = parse_config(with("/run/zpair", "/run/zpair"), "b.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->volume_socket("tank", "mail.example.org"), "/run/zpair/tank.mail.example.org.nbd");
  EXPECT_EQ(config->volume_socket("a.b", "c"), "/run/zpair/a~b.c.nbd");
  EXPECT_NE(config->volume_socket("a.b", "c"), config->volume_socket("a", "b.c"));
}

TEST(Config, an_address_is_one_that_others_can_read) {
  auto config = parse_config(with("/run/zpair", "/run/two words,&%"), "b.toml");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->volume_address("tank-a", "vm1", 7),
            "nbd+unix:///tank-a/vm1~7?socket=/run/two%20words%2C%26%25/tank-a.vm1.nbd");
}

TEST(Config, a_missing_file_is_named) {
  auto config = load_config("/nonexistent/zpair.toml");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, ErrorCode::not_found);
  EXPECT_THAT(config.error().message, HasSubstr("/nonexistent/zpair.toml"));
}

}  // namespace
}  // namespace zpair
