#include "node/drives.h"

#include <gtest/gtest.h>

#include "block/file_device.h"
#include "scratch.h"

namespace zpair::node {
namespace {

using block::FileDevice;
using block::Reactor;
using block::Scratch;
using block::Task;

constexpr std::uint64_t drive_bytes = 64 << 20;

Task<Result<std::unique_ptr<block::BlockDevice>>> open_file(RegisteredDrive drive, Deadline wait_for_lock) {
  auto device =
      co_await FileDevice::open({.path = drive.path, .block_size_bytes = 4096, .wait_for_lock = wait_for_lock});
  if (!device) co_return std::unexpected(device.error());
  co_return std::unique_ptr<block::BlockDevice>(std::move(*device));
}

struct Node {
  Scratch scratch;
  std::unique_ptr<StateFolder> folder = std::move(*StateFolder::open(scratch.path("state")));
  std::unique_ptr<Drives> drives = make();

  std::unique_ptr<Drives> make() {
    Drives::Options options;
    options.node = NodeId::a;
    options.listen = {{"tcp:127.0.0.1:0"}};
    options.open = open_file;
    auto made = std::make_unique<Drives>(std::move(options), *folder);
    return made;
  }
};

template <class Body>
void run(Body body) {
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done(body());
}

Task<bool> lock_is_free(std::string path) {
  auto device = co_await FileDevice::open({.path = path, .block_size_bytes = 4096, .wait_for_lock = Deadline{0}});
  if (device) co_await (*device)->close();
  co_return device.has_value();
}

TEST(Drives, a_registered_drive_is_exported_held_and_remembered) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto drive = co_await node.drives->add("tank", path);
    EXPECT_TRUE(drive.has_value()) << drive.error().message;
    if (drive) {
      EXPECT_EQ(drive->nsid, 1U);
      EXPECT_TRUE(node.drives->exported(drive->durable_id));
      bool free = co_await lock_is_free(path);
      EXPECT_FALSE(free);
    }
    co_await node.drives->close();
    node.drives = node.make();
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto missing = co_await node.drives->wait_exported("tank", Deadline::in_ms(10'000));
    EXPECT_TRUE(missing.empty());
    EXPECT_EQ(node.drives->places("tank").size(), 1U);
    co_await node.drives->close();
  });
}

TEST(Drives, a_drive_belongs_to_one_pool) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto first = co_await node.drives->add("tank", path);
    EXPECT_TRUE(first.has_value());
    auto again = co_await node.drives->add("tank", path);
    EXPECT_TRUE(again && first && again->nsid == first->nsid);
    auto other = co_await node.drives->add("other", path);
    EXPECT_FALSE(other.has_value());
    if (!other) EXPECT_EQ(other.error().code, ErrorCode::exists);
    auto nothing = co_await node.drives->add("tank", node.scratch.path("no-such-drive"));
    EXPECT_FALSE(nothing.has_value());
    if (!nothing) EXPECT_EQ(nothing.error().code, ErrorCode::not_found);
    co_await node.drives->close();
  });
}

TEST(Drives, a_drive_that_somebody_holds_is_not_registered) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto holder = co_await FileDevice::open({.path = path, .block_size_bytes = 4096, .wait_for_lock = Deadline{0}});
    EXPECT_TRUE(holder.has_value());
    auto refused = co_await node.drives->add("tank", path);
    EXPECT_FALSE(refused.has_value());
    if (!refused) EXPECT_EQ(refused.error().code, ErrorCode::refused);
    EXPECT_TRUE(node.drives->status().empty());
    auto empty = co_await node.drives->add("tank", node.scratch.drive("empty", 0));
    EXPECT_FALSE(empty.has_value());
    if (!empty) EXPECT_EQ(empty.error().code, ErrorCode::invalid) << "it cannot be used: no rule refuses it";
    if (holder) co_await (*holder)->close();
    auto taken = co_await node.drives->add("tank", path);
    EXPECT_TRUE(taken.has_value());
    co_await node.drives->close();
  });
}

// Rule 5: a drive has one opener. The process may lock it when give_to_process() returned, and the target takes it back
// only when the lock is free.
TEST(Drives, the_pool_process_and_the_target_take_turns) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto drive = co_await node.drives->add("tank", path);
    EXPECT_TRUE(drive.has_value());
    if (!drive) co_return;
    co_await node.drives->give_to_process("tank", Epoch{4});
    EXPECT_FALSE(node.drives->exported(drive->durable_id));
    EXPECT_TRUE(node.drives->present(drive->durable_id));
    co_await node.drives->wait_unlocked("tank");
    auto process = co_await FileDevice::open({.path = path, .block_size_bytes = 4096, .wait_for_lock = Deadline{0}});
    EXPECT_TRUE(process.has_value());

    node.drives->take_back("tank");
    auto missing = co_await node.drives->wait_exported("tank", Deadline::in_ms(50));
    EXPECT_EQ(missing, std::vector<std::string>{drive->durable_id});
    if (process) co_await (*process)->close();
    missing = co_await node.drives->wait_exported("tank", Deadline::in_ms(10'000));
    EXPECT_TRUE(missing.empty());
    co_await node.drives->close();
  });
}

// A zpaird that finds a living pool process leaves its drives alone.
TEST(Drives, drives_of_a_living_process_stay_closed_at_the_start) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto drive = co_await node.drives->add("tank", path);
    EXPECT_TRUE(drive.has_value());
    co_await node.drives->close();
    node.drives = node.make();
    EXPECT_TRUE(node.drives->start({{"tank", Epoch{9}}}).has_value());
    co_await node.drives->give_to_process("tank", Epoch{9});
    bool free = co_await lock_is_free(path);
    EXPECT_TRUE(free);
    co_await node.drives->close();
  });
}

TEST(Drives, a_removed_drive_leaves_no_fence_file) {
  run([]() -> Task<void> {
    Node node;
    std::string path = node.scratch.drive("d1", drive_bytes);
    EXPECT_TRUE(node.drives->start({}).has_value());
    auto drive = co_await node.drives->add("tank", path);
    EXPECT_TRUE(drive.has_value());
    if (!drive) co_return;
    auto removed = co_await node.drives->remove(drive->durable_id);
    EXPECT_TRUE(removed.has_value());
    EXPECT_FALSE(fence::FenceFile::open(node.folder->fence_folder(), drive->durable_id).has_value());
    auto again = co_await node.drives->add("other", path);
    EXPECT_TRUE(again.has_value());
    if (again) EXPECT_EQ(again->nsid, 2U);  // a number is given once
    auto unknown = co_await node.drives->remove("no such drive");
    EXPECT_FALSE(unknown.has_value());
    co_await node.drives->close();
  });
}

}  // namespace
}  // namespace zpair::node
