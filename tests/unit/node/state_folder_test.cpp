#include "node/state_folder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "scratch.h"
#include "state/durable_file.h"

namespace zpair::node {
namespace {

using block::Reactor;
using block::Scratch;
using block::Task;

record::Record record_at(std::uint64_t epoch, std::uint64_t rev, std::uint64_t guid = 9) {
  record::Record record;
  record.name = "tank";
  record.pool_guid = PoolGuid{guid};
  record.epoch = Epoch{epoch};
  record.rev = Revision{rev};
  return record;
}

class StateFolderTest : public testing::Test {
 protected:
  Scratch scratch;
  std::unique_ptr<Reactor> reactor = std::move(*Reactor::create());
  std::unique_ptr<StateFolder> open() {
    auto folder = StateFolder::open(scratch.path("state"));
    EXPECT_TRUE(folder) << folder.error().message;
    return std::move(*folder);
  }
};

TEST_F(StateFolderTest, one_zpaird_at_a_time) {
  auto first = open();
  auto second = StateFolder::open(scratch.path("state"));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::exists);
  first.reset();
  EXPECT_TRUE(StateFolder::open(scratch.path("state")));
}

TEST_F(StateFolderTest, drives_come_back_with_their_numbers) {
  auto folder = open();
  std::vector<RegisteredDrive> drives = {{"file:1", "/d/1", 4, "tank", 1 << 20, 4096}};
  ASSERT_TRUE(reactor->run_until_done(folder->store_drives(drives, 7)));
  std::uint32_t last = 0;
  auto back = folder->load_drives(last);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, drives);
  EXPECT_EQ(last, 7U);
}

// Rule 9: neither epoch nor revision goes back, not over a restart either.
TEST_F(StateFolderTest, a_record_never_goes_back) {
  auto folder = open();
  ASSERT_TRUE(reactor->run_until_done(folder->store_record(record_at(3, 10))));
  auto lower_rev = reactor->run_until_done(folder->store_record(record_at(3, 9)));
  ASSERT_FALSE(lower_rev);
  EXPECT_EQ(lower_rev.error().code, ErrorCode::stale_epoch);
  folder.reset();
  folder = open();
  auto lower_epoch = reactor->run_until_done(folder->store_record(record_at(2, 11)));
  ASSERT_FALSE(lower_epoch);
  EXPECT_EQ(lower_epoch.error().code, ErrorCode::stale_epoch);
  EXPECT_TRUE(reactor->run_until_done(folder->store_record(record_at(3, 10))));
  auto records = folder->load_records();
  ASSERT_TRUE(records);
  EXPECT_EQ(records->at("tank"), record_at(3, 10));
}

TEST_F(StateFolderTest, another_pool_of_the_same_name_begins_anew) {
  auto folder = open();
  ASSERT_TRUE(reactor->run_until_done(folder->store_record(record_at(30, 100, 1))));
  EXPECT_TRUE(reactor->run_until_done(folder->store_record(record_at(1, 1, 2))));
}

TEST_F(StateFolderTest, stores_side_by_side_leave_the_newest) {
  auto folder = open();
  reactor->run_until_done([](StateFolder& into) -> Task<void> {
    block::TaskGroup group;
    for (std::uint64_t rev = 1; rev <= 20; ++rev) {
      group.spawn([](StateFolder& to, std::uint64_t number) -> Task<void> {
        auto stored = co_await to.store_record(record_at(1, number));
        (void)stored;  // an older one that comes late is refused
      }(into, rev));
    }
    co_await group.close();
  }(*folder));
  auto records = folder->load_records();
  ASSERT_TRUE(records);
  EXPECT_EQ(records->at("tank").rev, Revision{20});
}

TEST_F(StateFolderTest, a_damaged_copy_is_an_error_that_names_its_file) {
  auto folder = open();
  std::ofstream(scratch.path("state") + "/records/tank.json") << "{";
  auto records = folder->load_records();
  ASSERT_FALSE(records);
  EXPECT_NE(records.error().message.find("tank.json"), std::string::npos);
  std::ofstream(scratch.path("state") + "/drives.json") << "nonsense";
  std::uint32_t last = 0;
  auto drives = folder->load_drives(last);
  ASSERT_FALSE(drives);
  EXPECT_EQ(drives.error().code, ErrorCode::invalid);
}

TEST_F(StateFolderTest, volumes_come_back) {
  auto folder = open();
  std::vector<agent::PoolState::Volume> volumes = {{"vm1", 1 << 20, 0xffff'ffff'ffff'ffff}};
  ASSERT_TRUE(reactor->run_until_done(folder->store_volumes("tank", volumes)));
  EXPECT_EQ(folder->load_volumes("tank"), volumes);
  EXPECT_TRUE(folder->load_volumes("other").empty());
}

}  // namespace
}  // namespace zpair::node
