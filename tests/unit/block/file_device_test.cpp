#include "block/file_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "operations.h"
#include "scratch.h"

namespace zpair::block {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

using Opened = Result<std::unique_ptr<FileDevice>>;

Task<Opened> open_drive(std::string path, Deadline wait = Deadline{0}) {
  FileDeviceOptions options{.path = path, .wait_for_lock = wait};
  auto device = co_await FileDevice::open(options);
  co_return device;
}

class FileDeviceTest : public ::testing::Test {
 protected:
  std::unique_ptr<FileDevice> open(const std::string& path) {
    auto device = reactor->run_until_done(open_drive(path));
    EXPECT_TRUE(device) << device.error().message;
    return std::move(*device);
  }
  Error open_error(const std::string& path) {
    auto device = reactor->run_until_done(open_drive(path));
    if (device) {
      close(**device);
      return Error{ErrorCode::internal, "it opened"};
    }
    return device.error();
  }
  void close(BlockDevice& device) { reactor->run_until_done(device.close()); }

  Scratch scratch;
  std::unique_ptr<Reactor> reactor = std::move(*Reactor::create());
};

TEST_F(FileDeviceTest, what_was_written_is_read_and_lies_in_the_file) {
  std::string path = scratch.drive("d", 8 * mib);
  auto device = open(path);
  EXPECT_EQ(device->geometry().size_bytes, 8 * mib);
  auto sent = pattern(1 * mib);
  EXPECT_EQ(reactor->run_until_done(do_write(*device, 2 * mib, sent)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_flush(*device)), IoStatus::ok);
  std::vector<std::byte> back(1 * mib);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 2 * mib, back)), IoStatus::ok);
  EXPECT_EQ(back, sent);
  close(*device);
  auto file = bytes_of_file(path);
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), file.begin() + 2 * mib));
  EXPECT_EQ(std::count(file.begin(), file.begin() + 2 * mib, std::byte{0}), static_cast<long>(2 * mib));
}

TEST_F(FileDeviceTest, unaligned_buffers_are_bounced) {
  auto device = open(scratch.drive("d", 1 * mib));
  auto sent = pattern(64 * 1024 + 1);
  std::vector<std::byte> back(64 * 1024 + 3);
  std::span<const std::byte> odd_sent(sent.data() + 1, 64 * 1024);
  std::span<std::byte> odd_back(back.data() + 3, 64 * 1024);
  EXPECT_EQ(reactor->run_until_done(do_write_durable(*device, 4096, odd_sent)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 4096, odd_back)), IoStatus::ok);
  EXPECT_TRUE(std::ranges::equal(odd_sent, odd_back));
  close(*device);
}

TEST_F(FileDeviceTest, more_pieces_than_the_kernel_takes_at_once) {
  auto device = open(scratch.drive("d", 16 * mib));
  constexpr std::size_t count = 2500;
  auto sent = pattern(count * 4096 + 4096);
  auto* base = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(sent.data()) + 4095) / 4096 * 4096);
  std::vector<iovec> pieces;
  for (std::size_t i = 0; i < count; ++i) pieces.push_back({base + (count - 1 - i) * 4096, 4096});
  EXPECT_EQ(reactor->run_until_done(do_vector(*device, Operation::write, pieces)), IoStatus::ok);
  std::vector<std::byte> back(count * 4096);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 0, back)), IoStatus::ok);
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::memcmp(back.data() + i * 4096, base + (count - 1 - i) * 4096, 4096), 0) << i;
  }
  // Many pieces, none aligned: one bounce.
  for (iovec& piece : pieces) piece.iov_base = static_cast<std::byte*>(piece.iov_base) - 1;
  EXPECT_EQ(reactor->run_until_done(do_vector(*device, Operation::read, std::span(pieces).first(64))), IoStatus::ok);
  EXPECT_EQ(std::memcmp(pieces[0].iov_base, back.data(), 4096), 0);
  close(*device);
}

TEST_F(FileDeviceTest, trim_and_write_zeroes_leave_zeroes) {
  std::string path = scratch.drive("d", 4 * mib);
  auto device = open(path);
  auto sent = pattern(4 * mib);
  EXPECT_EQ(reactor->run_until_done(do_write(*device, 0, sent)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_zero(*device, 1 * mib, 64 * 1024)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_trim(*device, 2 * mib, 1 * mib)), IoStatus::ok);
  std::fill_n(sent.begin() + 1 * mib, 64 * 1024, std::byte{0});
  std::fill_n(sent.begin() + 2 * mib, 1 * mib, std::byte{0});
  std::vector<std::byte> back(4 * mib);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 0, back)), IoStatus::ok);
  EXPECT_EQ(back, sent);
  close(*device);
  EXPECT_EQ(std::filesystem::file_size(path), 4 * mib);
}

TEST_F(FileDeviceTest, requests_outside_or_off_the_block_grid_are_invalid) {
  auto device = open(scratch.drive("d", 1 * mib + 100));
  EXPECT_EQ(device->geometry().size_bytes, 1 * mib) << "whole blocks only";
  std::vector<std::byte> bytes(8192);
  struct Case {
    std::uint64_t at;
    std::size_t size;
  };
  for (Case c : {Case{1 * mib, 4096}, Case{1 * mib - 4096, 8192}, Case{512, 4096}, Case{0, 512}, Case{0, 0},
                 Case{UINT64_MAX - 4095, 8192}}) {
    EXPECT_EQ(reactor->run_until_done(do_read(*device, c.at, std::span(bytes).first(c.size))), IoStatus::invalid)
        << c.at;
    EXPECT_EQ(reactor->run_until_done(do_zero(*device, c.at, c.size)), IoStatus::invalid) << c.at;
  }
  close(*device);
}

TEST_F(FileDeviceTest, a_file_cut_short_under_us_is_an_io_error) {
  std::string path = scratch.drive("d", 1 * mib);
  auto device = open(path);
  std::filesystem::resize_file(path, 512 * 1024);
  std::vector<std::byte> bytes(8192);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 768 * 1024, bytes)), IoStatus::io_error);
  close(*device);
}

TEST_F(FileDeviceTest, one_opener_at_a_time_and_the_error_names_the_holder) {
  std::string path = scratch.drive("d", 1 * mib);
  auto device = open(path);
  Error error = open_error(path);
  EXPECT_EQ(error.code, ErrorCode::refused);
  EXPECT_NE(error.message.find(std::to_string(getpid())), std::string::npos) << error.message;
  close(*device);
  device = open(path);
  close(*device);
}

Task<Opened> open_while_held(FileDevice& holder, std::string path) {
  TaskGroup group;
  auto let_go = [](FileDevice& held) -> Task<void> {
    co_await Reactor::current().after_ms(20);
    co_await held.close();
  };
  group.spawn(let_go(holder));
  auto second = co_await open_drive(path, Deadline::in_ms(10'000));
  co_await group.close();
  co_return second;
}

TEST_F(FileDeviceTest, an_opener_can_wait_for_the_lock) {
  std::string path = scratch.drive("d", 1 * mib);
  auto device = open(path);
  auto second = reactor->run_until_done(open_while_held(*device, path));
  ASSERT_TRUE(second) << second.error().message;
  close(**second);
}

TEST_F(FileDeviceTest, a_wait_for_the_lock_ends_at_its_deadline) {
  std::string path = scratch.drive("d", 1 * mib);
  auto device = open(path);
  auto second = reactor->run_until_done(open_drive(path, Deadline::in_ms(30)));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::refused);
  close(*device);
}

TEST_F(FileDeviceTest, a_killed_opener_frees_the_lock) {
  std::string path = scratch.drive("d", 1 * mib);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    int fd = ::open(path.c_str(), O_RDWR);
    bool locked = ::flock(fd, LOCK_EX) == 0;
    [[maybe_unused]] ssize_t told = ::write(ready[1], &locked, 1);
    for (;;) pause();
  }
  char locked = 0;
  ASSERT_EQ(::read(ready[0], &locked, 1), 1);
  EXPECT_EQ(open_error(path).code, ErrorCode::refused);
  kill(child, SIGKILL);
  auto device = reactor->run_until_done(open_drive(path, Deadline::in_ms(10'000)));
  ASSERT_TRUE(device) << device.error().message;
  waitpid(child, nullptr, 0);
  close(**device);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(FileDeviceTest, what_cannot_be_a_drive_is_refused_in_words) {
  EXPECT_EQ(open_error(scratch.path("nothing")).code, ErrorCode::not_found);
  EXPECT_EQ(open_error("/dev/null").code, ErrorCode::invalid);
  EXPECT_EQ(open_error(scratch.drive("empty", 0)).code, ErrorCode::invalid);
  Error no_direct_io = open_error("/proc/version");
  EXPECT_NE(no_direct_io.code, ErrorCode::internal) << "a file that knows no O_DIRECT must not open";
  EXPECT_FALSE(no_direct_io.message.empty());
}

TEST_F(FileDeviceTest, the_durable_id_survives_a_rename_and_not_a_copy) {
  std::string path = scratch.drive("d", 1 * mib);
  auto before = identify_drive(path);
  ASSERT_TRUE(before) << before.error().message;
  std::filesystem::rename(path, scratch.path("renamed"));
  auto renamed = identify_drive(scratch.path("renamed"));
  std::filesystem::copy_file(scratch.path("renamed"), path);
  auto copied = identify_drive(path);
  ASSERT_TRUE(renamed && copied);
  EXPECT_EQ(renamed->durable_id, before->durable_id);
  EXPECT_NE(copied->durable_id, before->durable_id);
  EXPECT_EQ(before->durable_id.substr(0, 5), "file:");
}

TEST_F(FileDeviceTest, a_file_made_anew_in_the_same_place_is_another_drive) {
  std::string path = scratch.drive("d", 1 * mib);
  auto before = identify_drive(path);
  std::filesystem::remove(path);
  timespec made{}, now{};  // birth times have the grain of the kernel's coarse clock: let it tick
  clock_gettime(CLOCK_REALTIME_COARSE, &made);
  do {
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
  } while (now.tv_sec == made.tv_sec && now.tv_nsec == made.tv_nsec);
  scratch.drive("d", 1 * mib);  // may well get the same inode number
  auto after = identify_drive(path);
  ASSERT_TRUE(before && after);
  EXPECT_NE(before->durable_id, after->durable_id);
}

TEST_F(FileDeviceTest, a_mere_reopen_keeps_the_verifier_and_drives_differ) {
  std::string path = scratch.drive("d", 1 * mib);
  auto device = open(path);
  Verifier first = device->verifier();
  close(*device);
  device = open(path);
  EXPECT_EQ(device->verifier(), first);
  close(*device);
  auto other = open(scratch.drive("e", 1 * mib));
  EXPECT_NE(other->verifier(), first);
  close(*other);
}

Task<std::vector<IoStatus>> close_with_requests_in_flight(FileDevice& device, std::span<const std::byte> bytes) {
  std::vector<IoStatus> statuses;
  TaskGroup group;
  auto one = [](FileDevice& to, std::uint64_t at, std::span<const std::byte> from,
                std::vector<IoStatus>& out) -> Task<void> {
    auto outcome = co_await write(to, at, from);
    out.push_back(outcome.status);
  };
  for (std::uint64_t i = 0; i < 32; ++i) group.spawn(one(device, i * bytes.size(), bytes, statuses));
  co_await device.close();
  std::size_t done_at_close = statuses.size();
  group.spawn(one(device, 0, bytes, statuses));
  co_await group.close();
  EXPECT_EQ(done_at_close, 32u) << "close drains";
  co_return statuses;
}

TEST_F(FileDeviceTest, close_drains_and_then_answers_cancelled) {
  auto device = open(scratch.drive("d", 16 * mib));
  auto statuses = reactor->run_until_done(close_with_requests_in_flight(*device, pattern(256 * 1024)));
  ASSERT_EQ(statuses.size(), 33u);
  EXPECT_EQ(std::count(statuses.begin(), statuses.end(), IoStatus::ok), 32);
  EXPECT_EQ(statuses.back(), IoStatus::cancelled);
}

// A block device over a file, for as long as the object lives; only root may make one.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) {
    int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) return;
    int number = ::ioctl(control, LOOP_CTL_GET_FREE);
    ::close(control);
    if (number < 0) return;
    std::string path = "/dev/loop" + std::to_string(number);
    int loop = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    int backing = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
    if (loop >= 0 && backing >= 0 && ::ioctl(loop, LOOP_SET_FD, backing) == 0) {
      loop_info64 info{};
      file.copy(reinterpret_cast<char*>(info.lo_file_name), sizeof info.lo_file_name - 1);
      ::ioctl(loop, LOOP_SET_STATUS64, &info);
      path_ = path;
    }
    if (backing >= 0) ::close(backing);
    loop_ = loop;
  }
  ~LoopDevice() {
    if (!path_.empty()) ::ioctl(loop_, LOOP_CLR_FD, 0);
    if (loop_ >= 0) ::close(loop_);
  }
  const std::string& path() const { return path_; }

 private:
  int loop_ = -1;
  std::string path_;
};

TEST_F(FileDeviceTest, a_block_device_works_like_a_file_and_is_held_exclusively) {
  std::string file = scratch.drive("backing", 8 * mib);
  LoopDevice loop(file);
  if (loop.path().empty()) GTEST_SKIP() << "needs root and a loop device";
  auto device = open(loop.path());
  EXPECT_EQ(device->geometry().size_bytes, 8 * mib);
  EXPECT_EQ(device->durable_id().substr(0, 5), "loop:");
  EXPECT_EQ(device->identity().kind, DriveKind::block_device);
  auto sent = pattern(256 * 1024);
  EXPECT_EQ(reactor->run_until_done(do_write(*device, 1 * mib, sent)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_zero(*device, 1 * mib, 4096)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_trim(*device, 1 * mib + 8192, 4096)), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_flush(*device)), IoStatus::ok);
  std::vector<std::byte> back(256 * 1024);
  EXPECT_EQ(reactor->run_until_done(do_read(*device, 1 * mib, back)), IoStatus::ok);
  std::fill_n(sent.begin(), 4096, std::byte{0});
  EXPECT_TRUE(std::equal(sent.begin(), sent.begin() + 8192, back.begin()));
  EXPECT_TRUE(std::equal(sent.begin() + 12288, sent.end(), back.begin() + 12288));

  int stranger = ::open(loop.path().c_str(), O_RDWR | O_EXCL);  // as mkfs, mount and zpool do
  EXPECT_EQ(stranger, -1);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(open_error(loop.path()).code, ErrorCode::refused);
  close(*device);
}

}  // namespace
}  // namespace zpair::block
