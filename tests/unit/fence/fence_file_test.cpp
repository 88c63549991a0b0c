#include "fence/fence_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

namespace zpair::fence {
namespace {

class FenceFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "zpair-fence-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<FenceFile> make() {
    auto file = FenceFile::create(folder_, "drive-1");
    EXPECT_TRUE(file.has_value());
    return std::move(*file);
  }
  std::string text_of_file() {
    std::ifstream in(FenceFile::path_of(folder_, "drive-1"));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void set_text_of_file(const std::string& text) { std::ofstream(FenceFile::path_of(folder_, "drive-1")) << text; }

  std::string folder_;
  Uuid host_7_ = Uuid::from_name("host at epoch 7");
  Uuid host_8_ = Uuid::from_name("host at epoch 8");
};

TEST_F(FenceFileTest, a_new_file_lets_nobody_in) {
  auto file = make();
  auto contents = file->contents();
  ASSERT_TRUE(contents.has_value());
  EXPECT_EQ(contents->type, ReservationType::none);
  EXPECT_FALSE(contents->held_by(Uuid{}));
  EXPECT_EQ(contents->epoch, Epoch{0});
}

// A takeover's two changes of a leg in one write: both are there, or neither.
TEST_F(FenceFileTest, fence_and_record_go_in_together_or_not_at_all) {
  auto file = make();
  auto done = file->fence({Epoch{0}, Epoch{7}, host_7_}, {Epoch{7}, Revision{12}, 99});
  ASSERT_TRUE(done.has_value()) << done.error().message;
  EXPECT_TRUE(done->held_by(host_7_));
  EXPECT_EQ(file->contents()->stored, (StoredRecord{Epoch{7}, Revision{12}, 99}));
  auto again = file->fence({Epoch{7}, Epoch{7}, host_7_}, {Epoch{7}, Revision{12}, 99});
  EXPECT_TRUE(again.has_value()) << "its first answer may have been lost";
  auto older = file->fence({Epoch{7}, Epoch{8}, host_8_}, {Epoch{8}, Revision{11}, 1});
  ASSERT_FALSE(older.has_value());
  EXPECT_EQ(older.error().code, ErrorCode::stale_epoch);
  EXPECT_EQ(file->contents()->epoch, Epoch{7}) << "the fence did not go in without the record";
  EXPECT_FALSE(file->fence({Epoch{6}, Epoch{8}, host_8_}, {Epoch{8}, Revision{13}, 1}).has_value());
  EXPECT_EQ(file->contents()->stored.rev, Revision{12}) << "the record did not go in without the fence";
}

TEST_F(FenceFileTest, create_makes_missing_folders_and_refuses_an_existing_file) {
  auto deep = FenceFile::create(folder_ + "/state/fences", "drive-1");
  ASSERT_TRUE(deep.has_value());
  auto again = FenceFile::create(folder_ + "/state/fences", "drive-1");
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, ErrorCode::exists);
  EXPECT_EQ(FenceFile::create(folder_, "").error().code, ErrorCode::invalid);
}

TEST_F(FenceFileTest, a_missing_file_is_not_found_and_never_fresh) {
  auto file = FenceFile::open(folder_, "drive-1");
  ASSERT_FALSE(file.has_value());
  EXPECT_EQ(file.error().code, ErrorCode::not_found);
  auto made = make();
  ASSERT_TRUE(FenceFile::remove(folder_, "drive-1").has_value());
  EXPECT_EQ(made->fence({Epoch{0}, Epoch{1}, host_7_}).error().code, ErrorCode::not_found);
}

TEST_F(FenceFileTest, a_fence_survives_and_another_object_sees_it) {
  auto file = make();
  ASSERT_TRUE(file->fence({Epoch{0}, Epoch{7}, host_7_}).has_value());
  auto other = FenceFile::open(folder_, "drive-1");
  ASSERT_TRUE(other.has_value());
  auto contents = (*other)->contents();
  EXPECT_EQ(contents->epoch, Epoch{7});
  EXPECT_TRUE(contents->held_by(host_7_));
  EXPECT_FALSE(contents->held_by(host_8_));
}

TEST_F(FenceFileTest, fence_is_a_compare_and_swap_on_the_former_key) {
  auto file = make();
  ASSERT_TRUE(file->fence({Epoch{0}, Epoch{7}, host_7_}).has_value());
  struct Case {
    const char* name;
    FenceRequest request;
    ErrorCode expected;
  };
  const Case cases[] = {
      {"wrong former key", {Epoch{6}, Epoch{8}, host_8_}, ErrorCode::fenced},
      {"never fenced expected", {Epoch{0}, Epoch{8}, host_8_}, ErrorCode::fenced},
      {"lower epoch", {Epoch{7}, Epoch{6}, host_8_}, ErrorCode::stale_epoch},
      {"another host at the same epoch", {Epoch{7}, Epoch{7}, host_8_}, ErrorCode::fenced},
      {"epoch 0", {Epoch{7}, Epoch{0}, host_8_}, ErrorCode::invalid},
  };
  for (const Case& row : cases) {
    auto result = file->fence(row.request);
    ASSERT_FALSE(result.has_value()) << row.name;
    EXPECT_EQ(result.error().code, row.expected) << row.name;
    EXPECT_TRUE(file->contents()->held_by(host_7_)) << row.name;
  }
  EXPECT_TRUE(file->fence({Epoch{0}, Epoch{7}, host_7_}).has_value()) << "the same request again succeeds";
  EXPECT_TRUE(file->fence({Epoch{7}, Epoch{8}, host_8_}).has_value());
  EXPECT_EQ(file->fence({Epoch{0}, Epoch{7}, host_7_}).error().code, ErrorCode::stale_epoch);
}

TEST_F(FenceFileTest, an_epoch_below_the_stored_record_is_refused) {
  auto file = make();
  ASSERT_TRUE(file->store_record({Epoch{9}, Revision{40}, 1}).has_value());
  EXPECT_EQ(file->fence({Epoch{0}, Epoch{8}, host_8_}).error().code, ErrorCode::stale_epoch);
  EXPECT_TRUE(file->fence({Epoch{0}, Epoch{9}, host_8_}).has_value());
}

TEST_F(FenceFileTest, the_stored_record_never_goes_back) {
  auto file = make();
  ASSERT_TRUE(file->store_record({Epoch{7}, Revision{12}, 0xabc}).has_value());
  EXPECT_TRUE(file->store_record({Epoch{7}, Revision{12}, 0xabc}).has_value());
  EXPECT_EQ(file->store_record({Epoch{7}, Revision{12}, 0xdef}).error().code, ErrorCode::invalid);
  EXPECT_EQ(file->store_record({Epoch{7}, Revision{11}, 1}).error().code, ErrorCode::stale_epoch);
  EXPECT_EQ(file->store_record({Epoch{6}, Revision{13}, 1}).error().code, ErrorCode::stale_epoch);
  EXPECT_EQ(file->store_record({Epoch{8}, Revision{11}, 1}).error().code, ErrorCode::stale_epoch);
  EXPECT_TRUE(file->store_record({Epoch{8}, Revision{13}, 1}).has_value());
  EXPECT_EQ(file->contents()->stored, (StoredRecord{Epoch{8}, Revision{13}, 1}));
}

TEST_F(FenceFileTest, a_release_keeps_the_epoch_and_lets_nobody_in) {
  auto file = make();
  ASSERT_TRUE(file->fence({Epoch{0}, Epoch{7}, host_7_}).has_value());
  EXPECT_EQ(file->release(host_8_).error().code, ErrorCode::fenced);
  ASSERT_TRUE(file->release(host_7_).has_value());
  EXPECT_FALSE(file->contents()->held_by(host_7_));
  EXPECT_EQ(file->contents()->epoch, Epoch{7});
  EXPECT_EQ(file->fence({Epoch{7}, Epoch{6}, host_8_}).error().code, ErrorCode::stale_epoch);
}

TEST_F(FenceFileTest, every_flipped_byte_and_every_torn_length_is_damage) {
  auto file = make();
  ASSERT_TRUE(file->fence({Epoch{0}, Epoch{7}, host_7_}).has_value());
  const std::string good = text_of_file();
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    set_text_of_file(bad);
    EXPECT_FALSE(file->contents().has_value()) << "byte " << i;
    EXPECT_FALSE(file->fence({Epoch{7}, Epoch{8}, host_8_}).has_value()) << "byte " << i;
    set_text_of_file(good.substr(0, i));
    EXPECT_FALSE(file->contents().has_value()) << "length " << i;
  }
  set_text_of_file(good);
  EXPECT_TRUE(file->contents().has_value());
}

TEST_F(FenceFileTest, another_drives_file_is_damage) {
  make();
  auto other = FenceFile::create(folder_, "drive-2");
  ASSERT_TRUE(other.has_value());
  std::filesystem::copy_file(FenceFile::path_of(folder_, "drive-2"), FenceFile::path_of(folder_, "drive-1"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(FenceFile::open(folder_, "drive-1").error().code, ErrorCode::invalid);
}

// Two processes fence at once, again and again: each epoch has one winner, and no update is lost.
TEST_F(FenceFileTest, two_processes_never_both_win_an_epoch) {
  make();
  constexpr int rounds = 200;
  int won_pipe[2];
  ASSERT_EQ(::pipe(won_pipe), 0);
  for (int child = 0; child < 2; ++child) {
    if (::fork() != 0) continue;
    auto file = FenceFile::open(folder_, "drive-1");
    Uuid host = Uuid::from_name(child == 0 ? "one" : "two");
    std::uint32_t won = 0;
    for (int i = 0; i < rounds; ++i) {
      Epoch now = (*file)->contents()->epoch;
      if (now.value >= rounds) break;
      auto fenced = (*file)->fence({now, now.next(), host});
      if (fenced) ++won;
    }
    while ((*file)->contents()->epoch.value < rounds) {
      Epoch now = (*file)->contents()->epoch;
      if ((*file)->fence({now, now.next(), host})) ++won;
    }
    [[maybe_unused]] auto written = ::write(won_pipe[1], &won, sizeof won);
    ::_exit(0);
  }
  std::uint32_t total = 0;
  for (int child = 0; child < 2; ++child) {
    std::uint32_t won = 0;
    ASSERT_EQ(::read(won_pipe[0], &won, sizeof won), static_cast<ssize_t>(sizeof won));
    total += won;
    int status = 0;
    ::wait(&status);
    EXPECT_EQ(status, 0);
  }
  ::close(won_pipe[0]);
  ::close(won_pipe[1]);
  EXPECT_EQ(total, (*FenceFile::open(folder_, "drive-1"))->contents()->epoch.value);
}

// A writer is killed at random moments: what it had been told is stored stays stored, and the file stays whole.
TEST_F(FenceFileTest, a_kill_at_any_moment_leaves_a_whole_file_with_all_that_was_promised) {
  make();
  std::mt19937 random(1);
  for (int round = 0; round < 30; ++round) {
    int told[2];
    ASSERT_EQ(::pipe(told), 0);
    pid_t child = ::fork();
    if (child == 0) {
      auto file = FenceFile::open(folder_, "drive-1");
      while (true) {
        Epoch now = (*file)->contents()->epoch;
        auto fenced = (*file)->fence({now, now.next(), host_7_});
        if (fenced) [[maybe_unused]]
          auto written = ::write(told[1], &fenced->epoch.value, sizeof fenced->epoch.value);
      }
    }
    ::close(told[1]);
    std::uint64_t last = 0;
    std::uint64_t value = 0;
    int stop_after = static_cast<int>(1 + random() % 5);
    for (int i = 0; i < stop_after && ::read(told[0], &value, sizeof value) == sizeof value; ++i) last = value;
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    while (::read(told[0], &value, sizeof value) == sizeof value) last = value;
    ::close(told[0]);
    auto file = FenceFile::open(folder_, "drive-1");
    ASSERT_TRUE(file.has_value()) << file.error().message;
    EXPECT_GE((*file)->contents()->epoch.value, last);
  }
}

}  // namespace
}  // namespace zpair::fence
