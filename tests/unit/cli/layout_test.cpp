#include "cli/sandbox_layout.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace zpair::cli {
namespace {

namespace fs = std::filesystem;

class Layout : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/zpair-layout-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    options_.mirrors = 2;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string folder_;
  SandboxOptions options_;
};

TEST_F(Layout, what_is_written_reads_back_and_the_nodes_accept_it) {
  auto layout = plan_sandbox(folder_ + "/s", options_);
  ASSERT_TRUE(layout) << layout.error().message;
  auto written = write_sandbox(*layout);
  ASSERT_TRUE(written) << written.error().message;
  auto again = load_layout(folder_ + "/s");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->net, layout->net);
  EXPECT_EQ(again->port, layout->port);
  EXPECT_EQ(again->options.mirrors, 2u);
  for (NodeId node : {NodeId::a, NodeId::b}) {
    auto config = load_config(again->config_file(name_of(node)));
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->node, node);
    EXPECT_EQ(config->api_socket(), again->api_socket(name_of(node)));
    EXPECT_EQ(config->paths.size(), 2u);
    EXPECT_EQ(config->etcd_endpoints.size(), 3u);
  }
  EXPECT_EQ(fs::file_size(again->drive_file("b", "tank-b", 1)), options_.drive_size_bytes);
}

TEST_F(Layout, a_node_sees_its_partner_where_the_switch_stands) {
  auto layout = plan_sandbox(folder_ + "/s", options_);
  ASSERT_TRUE(layout);
  const NodeConfig a = config_of(*layout, NodeId::a);
  const NodeConfig b = config_of(*layout, NodeId::b);
  std::set<std::string> served;
  for (const Forward& forward : switch_plan_of(*layout).forwards) {
    EXPECT_TRUE(served.insert(forward.listen).second) << forward.listen << " twice";
    if (forward.link != "path1" || forward.from != "a") continue;
    EXPECT_TRUE(forward.listen.starts_with("tcp:" + a.paths[0].partner + ":"));
    EXPECT_TRUE(forward.target.starts_with("tcp:" + b.paths[0].listen + ":"));
    EXPECT_EQ(forward.source, b.paths[0].partner);  // b accepts nobody else
  }
  EXPECT_EQ(served.size(), 2u * 2 * 2 + 3 * 2);
}

TEST_F(Layout, with_direct_paths_a_node_sees_its_partner_where_it_listens) {
  options_.direct_paths = true;
  auto planned = plan_sandbox(folder_ + "/s", options_);
  ASSERT_TRUE(planned);
  ASSERT_TRUE(write_sandbox(*planned));
  auto layout = load_layout(folder_ + "/s");
  ASSERT_TRUE(layout);
  EXPECT_EQ(config_of(*layout, NodeId::a).paths[1].partner, config_of(*layout, NodeId::b).paths[1].listen);
  for (const Forward& forward : switch_plan_of(*layout).forwards) EXPECT_EQ(forward.link, "store");
}

TEST_F(Layout, two_sandboxes_share_no_address) {
  auto one = plan_sandbox(folder_ + "/1", options_);
  auto two = plan_sandbox(folder_ + "/2", options_);
  ASSERT_TRUE(one && two);
  EXPECT_NE(one->net, two->net);
}

TEST_F(Layout, a_folder_that_holds_something_else_is_left_alone) {
  std::ofstream(folder_ + "/precious") << "data";
  auto layout = plan_sandbox(folder_, options_);
  ASSERT_FALSE(layout);
  EXPECT_EQ(layout.error().code, ErrorCode::exists);
  EXPECT_EQ(load_layout(folder_).error().code, ErrorCode::not_found);
}

TEST_F(Layout, a_moved_sandbox_is_refused) {
  auto layout = plan_sandbox(folder_ + "/s", options_);
  ASSERT_TRUE(layout && write_sandbox(*layout));
  fs::rename(folder_ + "/s", folder_ + "/t");
  auto moved = load_layout(folder_ + "/t");
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().code, ErrorCode::invalid);
}

TEST_F(Layout, a_long_folder_gets_its_sockets_elsewhere) {
  auto layout = plan_sandbox(folder_ + "/" + std::string(80, 'x'), options_);
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_LE((layout->run_dir("a") + "/pool-" + std::string(60, 'p') + ".control").size(), 107u);
}

// A full disk, or as here a limit of the process.
TEST_F(Layout, what_cannot_be_written_wholly_is_taken_back) {
  fs::create_directory(folder_ + "/empty");
  const auto former_handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit former{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &former), 0);
  for (const char* name : {"/new", "/empty"}) {
    auto layout = plan_sandbox(folder_ + name, options_);
    ASSERT_TRUE(layout) << layout.error().message;
    const rlimit small{1 << 20, former.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    auto written = write_sandbox(*layout);
    ::setrlimit(RLIMIT_FSIZE, &former);
    ASSERT_FALSE(written);
    EXPECT_NE(written.error().message.find(layout->drive_file("a", "tank-a", 0)), std::string::npos)
        << written.error().message;
  }
  ::signal(SIGXFSZ, former_handler);
  EXPECT_FALSE(fs::exists(folder_ + "/new"));
  EXPECT_TRUE(fs::is_empty(folder_ + "/empty"));
}

TEST_F(Layout, an_empty_name_and_a_current_folder_that_is_gone_are_errors) {
  EXPECT_EQ(plan_sandbox("", options_).error().code, ErrorCode::invalid);
  EXPECT_EQ(load_layout("").error().code, ErrorCode::invalid);
  const fs::path former = fs::current_path();
  fs::create_directory(folder_ + "/gone");
  fs::current_path(folder_ + "/gone");
  fs::remove(folder_ + "/gone");
  auto layout = plan_sandbox("s", options_);
  fs::current_path(former);
  ASSERT_FALSE(layout);
  EXPECT_NE(layout.error().message.find("where s is"), std::string::npos) << layout.error().message;
}

TEST_F(Layout, options_that_make_no_pair_are_refused) {
  for (auto change :
       {+[](SandboxOptions& o) { o.pools = 0; }, +[](SandboxOptions& o) { o.mirrors = 100; },
        +[](SandboxOptions& o) { o.drive_size_bytes = 1 << 20; },
        +[](SandboxOptions& o) { o.volume_size_bytes = 4097; },
        +[](SandboxOptions& o) { o.direct_paths = true, o.link_latency_ms = 5; },
        +[](SandboxOptions& o) { o.link_latency_ms = -5; }, +[](SandboxOptions& o) { o.partner_wait_s = 1u << 31; }}) {
    SandboxOptions options;
    change(options);
    auto layout = plan_sandbox(folder_ + "/s", options);
    ASSERT_FALSE(layout);
    EXPECT_EQ(layout.error().code, ErrorCode::invalid);
  }
}

}  // namespace
}  // namespace zpair::cli
