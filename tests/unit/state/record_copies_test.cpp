#include "state/record_copies.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <fstream>

#include "base/unique_fd.h"
#include "block/reactor.h"
#include "scratch.h"

namespace zpair::state {
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

// Two objects stand for zpaird and the pool process: they share nothing but the folder.
class RecordCopiesTest : public testing::Test {
 protected:
  Scratch scratch;
  std::unique_ptr<Reactor> reactor = std::move(*Reactor::create());
  RecordCopies zpaird{scratch.path("")};
  RecordCopies pool_process{scratch.path("")};
  void SetUp() override { ASSERT_TRUE(zpaird.make_folder()); }
  Result<void> store(RecordCopies& by, record::Record record) {
    return reactor->run_until_done(by.store(std::move(record), Deadline::in_ms(5000)));
  }
};

// Rules 3 and 9: whoever writes, the node's copy never goes back.
TEST_F(RecordCopiesTest, neither_writer_puts_an_older_copy_over_a_newer_one) {
  ASSERT_TRUE(store(zpaird, record_at(3, 10)));
  ASSERT_TRUE(store(pool_process, record_at(3, 11)));
  auto older_rev = store(zpaird, record_at(3, 10));
  ASSERT_FALSE(older_rev);
  EXPECT_EQ(older_rev.error().code, ErrorCode::stale_epoch);
  auto older_epoch = store(zpaird, record_at(2, 12));
  ASSERT_FALSE(older_epoch);
  EXPECT_EQ(older_epoch.error().code, ErrorCode::stale_epoch);
  auto records = zpaird.load_all();
  ASSERT_TRUE(records);
  EXPECT_EQ(records->at("tank"), record_at(3, 11));
}

TEST_F(RecordCopiesTest, writers_side_by_side_leave_the_newest) {
  reactor->run_until_done([](RecordCopies& first, RecordCopies& second) -> Task<void> {
    block::TaskGroup group;
    for (std::uint64_t rev = 40; rev >= 1; --rev) {
      group.spawn([](RecordCopies& to, std::uint64_t number) -> Task<void> {
        auto stored = co_await to.store(record_at(1, number), Deadline::in_ms(20'000));
        EXPECT_TRUE(stored || stored.error().code == ErrorCode::stale_epoch) << stored.error().message;
      }(rev % 2 == 0 ? first : second, rev));
    }
    co_await group.close();
  }(zpaird, pool_process));
  EXPECT_EQ(zpaird.load_all()->at("tank").rev, Revision{40});
}

TEST_F(RecordCopiesTest, a_writer_waits_for_the_other_one_and_the_reactor_goes_on) {
  UniqueFd held(::open((scratch.path("records") + "/tank.json.lock").c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(::flock(held.get(), LOCK_EX), 0);
  auto refused = reactor->run_until_done(pool_process.store(record_at(1, 1), Deadline::in_ms(30)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::timed_out);
  EXPECT_TRUE(pool_process.load_all()->empty());
  reactor->call_at(boot_time_ns() + 30 * ns_per_ms, [&held] { held.reset(); });
  EXPECT_TRUE(store(pool_process, record_at(1, 1)));
}

TEST_F(RecordCopiesTest, another_pool_of_the_same_name_begins_anew) {
  ASSERT_TRUE(store(zpaird, record_at(30, 100, 1)));
  EXPECT_TRUE(store(pool_process, record_at(1, 1, 2)));
}

TEST_F(RecordCopiesTest, a_damaged_copy_is_never_overwritten) {
  std::ofstream(scratch.path("records") + "/tank.json") << "{";
  EXPECT_FALSE(store(pool_process, record_at(3, 10)));
  auto records = zpaird.load_all();
  ASSERT_FALSE(records);
  EXPECT_NE(records.error().message.find("tank.json"), std::string::npos);
}

TEST_F(RecordCopiesTest, a_removed_copy_is_gone) {
  ASSERT_TRUE(store(zpaird, record_at(3, 10)));
  ASSERT_TRUE(reactor->run_until_done(zpaird.remove("tank", Deadline::in_ms(1000))));
  EXPECT_TRUE(zpaird.load_all()->empty());
}

}  // namespace
}  // namespace zpair::state
