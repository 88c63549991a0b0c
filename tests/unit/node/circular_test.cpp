#include "node/circular.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "scratch.h"

namespace zpair::node {
namespace {

namespace fs = std::filesystem;

// A sysfs of our own: devices are folders, dev/block/MAJOR:MINOR links to them.
struct Sysfs {
  block::Scratch scratch;
  std::string root = scratch.path("sys");
  fs::path add(const std::string& place, const std::string& device) {
    fs::path folder = fs::path(root) / "devices" / place;
    fs::create_directories(folder / "slaves");
    fs::create_directories(fs::path(root) / "dev/block");
    fs::create_directory_symlink(folder, fs::path(root) / "dev/block" / device);
    return folder;
  }
  Result<void> check(const std::string& device) {
    return check_not_on_pair("etcd's data", "/var/lib/etcd", root, device);
  }
};

TEST(Circular, a_drive_of_the_node_is_fine_and_so_is_what_has_no_device) {
  Sysfs sysfs;
  sysfs.add("sda", "8:0");
  std::ofstream(sysfs.add("sda/sda1", "8:1") / "partition") << "1";
  EXPECT_TRUE(sysfs.check("8:0"));
  EXPECT_TRUE(sysfs.check("8:1"));
  EXPECT_TRUE(sysfs.check("0:33")) << "tmpfs, ZFS";
  EXPECT_TRUE(check_not_on_pair("this test", sysfs.root));
}

TEST(Circular, a_network_block_device_is_refused_also_under_partitions_and_device_mapper) {
  Sysfs sysfs;
  fs::path nbd = sysfs.add("virtual/block/nbd3", "43:48");
  std::ofstream(sysfs.add("virtual/block/nbd3/nbd3p1", "43:49") / "partition") << "1";
  fs::path mapper = sysfs.add("virtual/block/dm-0", "254:0");
  fs::create_directory_symlink(nbd, mapper / "slaves" / "nbd3");
  for (const char* device : {"43:48", "43:49", "254:0"}) {
    auto refused = sysfs.check(device);
    ASSERT_FALSE(refused) << device;
    EXPECT_EQ(refused.error().code, ErrorCode::refused);
    EXPECT_NE(refused.error().message.find("etcd's data (/var/lib/etcd) lies on nbd3"), std::string::npos)
        << refused.error().message;
  }
}

TEST(Circular, a_namespace_of_zpair_is_refused_and_another_one_is_not) {
  Sysfs sysfs;
  std::ofstream(sysfs.add("nvme-subsystem/nvme-subsys0/nvme0n1", "259:0") / "../subsysnqn")
      << "nqn.2026-01.io.zpair:node-a\n";
  std::ofstream(sysfs.add("nvme-subsystem/nvme-subsys1/nvme1n1", "259:1") / "../subsysnqn")
      << "nqn.2014-08.org.example:disk\n";
  EXPECT_FALSE(sysfs.check("259:0"));
  EXPECT_TRUE(sysfs.check("259:1"));
}

}  // namespace
}  // namespace zpair::node
