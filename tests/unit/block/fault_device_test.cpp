#include "block/fault_device.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "block/file_device.h"
#include "operations.h"
#include "scratch.h"

namespace zpair::block {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

Task<Result<std::unique_ptr<FileDevice>>> open_drive(std::string path) {
  FileDeviceOptions options{.path = path, .wait_for_lock = Deadline::in_ms(10'000)};
  auto device = co_await FileDevice::open(options);
  co_return device;
}

class FaultDeviceTest : public ::testing::Test {
 protected:
  std::unique_ptr<FaultDevice> open(FaultOptions options = {}) {
    auto inner = reactor->run_until_done(open_drive(path));
    EXPECT_TRUE(inner) << inner.error().message;
    auto device = FaultDevice::wrap(std::move(*inner), std::move(options));
    EXPECT_TRUE(device) << device.error().message;
    return std::move(*device);
  }
  void close(BlockDevice& device) { reactor->run_until_done(device.close()); }
  void apply(FaultDevice& device, std::string commands) {
    auto task = [](FaultDevice& to, std::string text) -> Task<Result<void>> { co_return to.apply(text); };
    auto applied = reactor->run_until_done(task(device, commands));
    EXPECT_TRUE(applied) << applied.error().message;
  }
  IoStatus write(BlockDevice& device, std::uint64_t at, const std::vector<std::byte>& bytes) {
    return reactor->run_until_done(do_write(device, at, bytes));
  }
  IoStatus flush(BlockDevice& device) { return reactor->run_until_done(do_flush(device)); }
  IoStatus read(BlockDevice& device, std::uint64_t at, std::size_t size = 4096) {
    last_read.assign(size, std::byte{0xee});
    return reactor->run_until_done(do_read(device, at, last_read));
  }

  Scratch scratch;
  std::unique_ptr<Reactor> reactor = std::move(*Reactor::create());
  std::string path = scratch.drive("d", 8 * mib);
  std::vector<std::byte> last_read;
  const std::vector<std::byte> a = pattern(8192, 3);
  const std::vector<std::byte> b = pattern(8192, 5);
  const std::vector<std::byte> zero = std::vector<std::byte>(8192);
};

TEST_F(FaultDeviceTest, without_a_fault_it_is_the_inner_device) {
  auto inner = std::move(*reactor->run_until_done(open_drive(path)));
  FileDevice& file = *inner;
  auto device = std::move(*FaultDevice::wrap(std::move(inner)));
  EXPECT_EQ(device->verifier(), file.verifier());
  EXPECT_EQ(device->durable_id(), file.durable_id());
  EXPECT_EQ(device->geometry().size_bytes, 8 * mib);
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  EXPECT_EQ(flush(*device), IoStatus::ok);
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a);
  EXPECT_EQ(device->faults(), "");
  close(*device);
}

TEST_F(FaultDeviceTest, errors_come_where_they_were_asked_for_and_end) {
  auto device = open();
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  apply(*device, "write-errors on");
  EXPECT_EQ(write(*device, 0, b), IoStatus::io_error);
  EXPECT_EQ(reactor->run_until_done(do_zero(*device, 0, 4096)), IoStatus::io_error);
  EXPECT_EQ(reactor->run_until_done(do_trim(*device, 0, 4096)), IoStatus::io_error);
  EXPECT_EQ(flush(*device), IoStatus::ok);
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a) << "a failed write stored nothing";
  apply(*device, "write-errors off; flush-errors on");
  EXPECT_EQ(write(*device, 0, b), IoStatus::ok);
  EXPECT_EQ(flush(*device), IoStatus::io_error);
  apply(*device, "clear");
  EXPECT_EQ(flush(*device), IoStatus::ok);
  EXPECT_EQ(device->error_count(), 4u);
  close(*device);
}

TEST_F(FaultDeviceTest, a_bad_sector_answers_media_error_until_it_is_written) {
  auto device = open();
  EXPECT_EQ(write(*device, mib, a), IoStatus::ok);
  apply(*device, "read-errors 1048576+16384");
  EXPECT_EQ(device->faults(), "read-errors 1048576+16384\n");
  EXPECT_EQ(read(*device, mib - 4096), IoStatus::ok);
  EXPECT_EQ(read(*device, mib), IoStatus::media_error);
  EXPECT_EQ(read(*device, mib - 4096, 8192), IoStatus::media_error);
  EXPECT_EQ(read(*device, mib + 16384), IoStatus::ok);
  EXPECT_EQ(write(*device, mib + 4096, b), IoStatus::ok);  // heals the middle two blocks
  EXPECT_EQ(device->faults(), "read-errors 1048576+4096\nread-errors 1060864+4096\n");
  EXPECT_EQ(read(*device, mib + 4096, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, b);
  EXPECT_EQ(read(*device, mib), IoStatus::media_error);
  EXPECT_EQ(read(*device, mib + 12288), IoStatus::media_error);
  close(*device);
}

TEST_F(FaultDeviceTest, a_probability_hits_some) {
  auto device = open({.seed = 1});
  apply(*device, "read-errors 0.5");
  int errors = 0;
  for (int i = 0; i < 200; ++i) errors += read(*device, 0) == IoStatus::media_error ? 1 : 0;
  EXPECT_GT(errors, 50);
  EXPECT_LT(errors, 150);
  close(*device);
}

TEST_F(FaultDeviceTest, wrong_data_changes_what_is_read_and_not_what_is_stored) {
  auto device = open();
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  apply(*device, "wrong-data on");
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_NE(last_read, a);
  apply(*device, "wrong-data off");
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a);
  close(*device);
}

TEST_F(FaultDeviceTest, a_torn_write_is_stored_in_part_and_fails) {
  for (bool volatile_cache : {false, true}) {
    auto device = open({.volatile_cache = volatile_cache, .seed = 7});
    std::vector<std::byte> ones(65536, std::byte{1}), twos(65536, std::byte{2});
    EXPECT_EQ(write(*device, 0, ones), IoStatus::ok);
    apply(*device, "torn-writes on");
    EXPECT_EQ(write(*device, 0, twos), IoStatus::io_error);
    EXPECT_EQ(read(*device, 0, 65536), IoStatus::ok);
    EXPECT_GT(std::ranges::count(last_read, std::byte{1}), 0);
    EXPECT_GT(std::ranges::count(last_read, std::byte{2}), 0);
    EXPECT_EQ(std::ranges::count(last_read, std::byte{1}) + std::ranges::count(last_read, std::byte{2}), 65536);
    for (std::size_t at = 0; at < last_read.size(); at += 512) {
      EXPECT_EQ(std::count(last_read.begin() + at, last_read.begin() + at + 512, last_read[at]), 512)
          << "torn at sectors";
    }
    close(*device);
  }
}

Task<Nanoseconds> time_of(Task<IoStatus> work) {
  Nanoseconds begin = boot_time_ns();
  (void)co_await work;
  co_return boot_time_ns() - begin;
}

TEST_F(FaultDeviceTest, slow_and_latency_delay_the_answer) {
  auto device = open();
  apply(*device, "slow 30");
  EXPECT_GE(reactor->run_until_done(time_of(do_write(*device, 0, a))), 30 * ns_per_ms);
  apply(*device, "slow off\nlatency-us 0 0 20000");
  EXPECT_GE(reactor->run_until_done(time_of(do_flush(*device))), 20 * ns_per_ms);
  EXPECT_EQ(device->faults(), "latency-us 0 0 20000\n");
  close(*device);
}

// Counts how many requests are inside at once; answers each in the next turn but one.
class CountingDevice final : public BlockDevice {
 public:
  Geometry geometry() const override { return {.size_bytes = mib}; }
  std::string durable_id() const override { return "counting"; }
  Verifier verifier() const override { return Verifier{1}; }
  void submit(Request& request) override {
    most = std::max(most, ++inside);
    tasks.spawn(answer(*this, request));
  }
  Task<void> close() override { co_await tasks.close(); }

  std::size_t inside = 0;
  std::size_t most = 0;

 private:
  static Task<void> answer(CountingDevice& self, Request& request) {
    co_await Reactor::current().after_ms(1);
    --self.inside;
    request.status = IoStatus::ok;
    request.verifier = Verifier{1};
    request.on_done(request);
  }
  TaskGroup tasks;
};

Task<void> many_writes(BlockDevice& device, std::span<const std::byte> bytes) {
  TaskGroup group;
  auto one = [](BlockDevice& to, std::span<const std::byte> from) -> Task<void> {
    (void)co_await do_write(to, 0, from);
  };
  for (int i = 0; i < 20; ++i) group.spawn(one(device, bytes));
  co_await group.close();
}

TEST_F(FaultDeviceTest, parallel_limits_what_is_under_way) {
  auto inner = std::make_unique<CountingDevice>();
  CountingDevice& counter = *inner;
  auto device = std::move(*FaultDevice::wrap(std::move(inner), {.commands = "parallel 3"}));
  reactor->run_until_done(many_writes(*device, a));
  EXPECT_EQ(counter.most, 3u);
  apply(*device, "parallel off");
  reactor->run_until_done(many_writes(*device, a));
  EXPECT_EQ(counter.most, 20u);
  close(*device);
}

Task<std::pair<bool, IoStatus>> write_while_hanging(FaultDevice& device, std::span<const std::byte> bytes,
                                                    bool close_it) {
  struct Shared {
    bool done = false;
    IoStatus status = IoStatus::ok;
  } shared;
  TaskGroup group;
  auto one = [](BlockDevice& to, std::span<const std::byte> from, Shared& out) -> Task<void> {
    out.status = co_await do_write(to, 0, from);
    out.done = true;
  };
  (void)device.apply("hang on");
  group.spawn(one(device, bytes, shared));
  co_await Reactor::current().after_ms(20);
  bool answered_early = shared.done;
  if (close_it) {
    co_await device.close();
  } else {
    (void)device.apply("hang off");
  }
  co_await group.close();
  co_return std::pair(answered_early, shared.status);
}

TEST_F(FaultDeviceTest, hang_answers_nothing_until_it_ends) {
  auto device = open();
  EXPECT_EQ(reactor->run_until_done(write_while_hanging(*device, a, false)), std::pair(false, IoStatus::ok));
  EXPECT_EQ(reactor->run_until_done(write_while_hanging(*device, a, true)), std::pair(false, IoStatus::cancelled));
}

TEST_F(FaultDeviceTest, a_power_cut_loses_what_was_not_flushed_and_changes_the_verifier) {
  auto device = open({.volatile_cache = true});
  Verifier before = device->verifier();
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  EXPECT_EQ(flush(*device), IoStatus::ok);
  EXPECT_EQ(device->unflushed_blocks(), 0u);
  EXPECT_EQ(write(*device, 4096, b), IoStatus::ok);
  EXPECT_EQ(device->unflushed_blocks(), 2u);
  EXPECT_EQ(read(*device, 0, 16384), IoStatus::ok);
  EXPECT_TRUE(std::equal(last_read.begin(), last_read.begin() + 4096, a.begin()));
  EXPECT_TRUE(std::equal(last_read.begin() + 4096, last_read.begin() + 12288, b.begin())) << "a read sees the cache";
  EXPECT_EQ(device->verifier(), before);

  apply(*device, "lose-cache");
  EXPECT_NE(device->verifier(), before);
  EXPECT_EQ(read(*device, 0, 12288), IoStatus::ok);
  EXPECT_TRUE(std::equal(last_read.begin(), last_read.begin() + 8192, a.begin()));
  EXPECT_TRUE(std::equal(last_read.begin() + 8192, last_read.end(), zero.begin()));
  close(*device);
}

// A model of a drive whose cache outlives a power cut: what lies below is written, and never asked to flush.
TEST_F(FaultDeviceTest, a_protected_cache_flushes_nothing_below) {
  auto below = open({.commands = "flush-errors on"});
  auto device = std::move(*FaultDevice::wrap(std::move(below), {.commands = "latency-us 1 1 1; protected-cache on"}));
  EXPECT_EQ(device->faults(), "latency-us 1 1 1\nprotected-cache on\n");
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  EXPECT_EQ(flush(*device), IoStatus::ok);
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a);
  apply(*device, "protected-cache off");
  EXPECT_EQ(flush(*device), IoStatus::io_error);
  close(*device);
}

TEST_F(FaultDeviceTest, durable_writes_and_zeroes_survive_a_power_cut) {
  auto device = open({.volatile_cache = true});
  EXPECT_EQ(reactor->run_until_done(do_write_durable(*device, 0, a)), IoStatus::ok);
  EXPECT_EQ(write(*device, mib, a), IoStatus::ok);
  EXPECT_EQ(reactor->run_until_done(do_zero(*device, mib, 4096)), IoStatus::ok);
  EXPECT_EQ(read(*device, mib, 8192), IoStatus::ok);
  EXPECT_TRUE(std::equal(last_read.begin(), last_read.begin() + 4096, zero.begin())) << "zeroes go over the cache";
  EXPECT_TRUE(std::equal(last_read.begin() + 4096, last_read.end(), a.begin() + 4096));
  apply(*device, "lose-cache");
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a);
  close(*device);
}

TEST_F(FaultDeviceTest, a_torn_power_cut_keeps_a_random_part) {
  auto device = open({.volatile_cache = true, .seed = 11});
  std::vector<std::byte> ones(mib, std::byte{1}), twos(mib, std::byte{2});
  EXPECT_EQ(write(*device, 0, ones), IoStatus::ok);
  EXPECT_EQ(flush(*device), IoStatus::ok);
  Verifier before = device->verifier();
  EXPECT_EQ(write(*device, 0, twos), IoStatus::ok);
  apply(*device, "tear-cache");
  EXPECT_NE(device->verifier(), before);
  EXPECT_EQ(read(*device, 0, mib), IoStatus::ok);
  auto twos_count = std::ranges::count(last_read, std::byte{2});
  EXPECT_GT(twos_count, 0);
  EXPECT_LT(twos_count, static_cast<long>(mib));
  EXPECT_EQ(std::ranges::count(last_read, std::byte{1}) + twos_count, static_cast<long>(mib));
  close(*device);
}

TEST_F(FaultDeviceTest, a_new_instance_over_a_volatile_cache_has_a_new_verifier_and_lost_the_unflushed) {
  auto device = open({.volatile_cache = true, .seed = 42});
  Verifier before = device->verifier();
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  close(*device);
  device = open({.volatile_cache = true, .seed = 42});
  EXPECT_NE(device->verifier(), before);
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, zero);
  close(*device);
}

TEST_F(FaultDeviceTest, a_kill_of_the_process_is_a_power_cut) {
  int told[2];
  ASSERT_EQ(pipe(told), 0);
  pid_t child = fork();
  if (child == 0) {
    auto own = std::move(*Reactor::create());
    auto inner = own->run_until_done(open_drive(path));
    auto device = std::move(*FaultDevice::wrap(std::move(*inner), {.volatile_cache = true}));
    bool good = own->run_until_done(do_write(*device, 0, a)) == IoStatus::ok;
    good = good && own->run_until_done(do_flush(*device)) == IoStatus::ok;
    good = good && own->run_until_done(do_write(*device, 0, b)) == IoStatus::ok;
    [[maybe_unused]] ssize_t sent = ::write(told[1], &good, 1);
    for (;;) pause();
  }
  char good = 0;
  ASSERT_EQ(::read(told[0], &good, 1), 1);
  EXPECT_TRUE(good);
  kill(child, SIGKILL);
  auto device = open({.volatile_cache = true});
  waitpid(child, nullptr, 0);
  EXPECT_EQ(read(*device, 0, 8192), IoStatus::ok);
  EXPECT_EQ(last_read, a) << "flushed, so kept; the second write was not, so lost";
  close(*device);
  ::close(told[0]);
  ::close(told[1]);
}

Task<std::pair<IoStatus, Verifier>> flush_with_power_cut(FaultDevice& device) {
  struct Shared {
    IoStatus status = IoStatus::ok;
    Verifier verifier;
  } shared;
  TaskGroup group;
  auto one = [](FaultDevice& to, Shared& out) -> Task<void> {
    Op::Outcome outcome = co_await block::flush(to);
    out = Shared{outcome.status, outcome.verifier};
  };
  (void)device.apply("latency-us 0 0 20000");
  group.spawn(one(device, shared));
  co_await Reactor::current().after_ms(5);
  device.power_cut();
  co_await group.close();
  co_return std::pair(shared.status, shared.verifier);
}

TEST_F(FaultDeviceTest, a_flush_across_a_power_cut_never_shows_the_old_verifier_as_done) {
  auto device = open({.volatile_cache = true});
  Verifier before = device->verifier();
  EXPECT_EQ(write(*device, 0, a), IoStatus::ok);
  auto [status, verifier] = reactor->run_until_done(flush_with_power_cut(*device));
  EXPECT_TRUE(status != IoStatus::ok || verifier != before);
  close(*device);
}

// Random writes, flushes, reads and power cuts against a model: a read gives the newest completed write; after a power cut
// at least what was flushed. The same seed gives the same run.
Task<void> check_against_model(FaultDevice& device, std::uint64_t seed) {
  constexpr std::size_t block = 4096;
  constexpr std::uint64_t blocks = 24;
  std::mt19937_64 random(seed);
  std::vector<unsigned> now(blocks, 0), flushed(blocks, 0);
  std::vector<std::byte> buffer(block);
  for (unsigned step = 1; step <= 400; ++step) {
    std::uint64_t number = random() % blocks;
    switch (random() % 8) {
      case 0: {
        Op::Outcome outcome = co_await block::flush(device);
        EXPECT_TRUE(outcome.ok());
        flushed = now;
        break;
      }
      case 1:
        device.power_cut();
        now = flushed;
        break;
      case 2: {
        Op::Outcome outcome = co_await block::write_zeroes(device, number * block, block);
        EXPECT_TRUE(outcome.ok());
        now[number] = flushed[number] = 0;  // the model's zero; kept at once, which a drive may
        break;
      }
      case 3:
      case 4: {
        Op::Outcome outcome = co_await block::read(device, number * block, buffer);
        EXPECT_TRUE(outcome.ok());
        unsigned seen = 0;
        std::memcpy(&seen, buffer.data() + 64, sizeof seen);
        EXPECT_EQ(seen, now[number]) << "seed " << seed << " step " << step;
        break;
      }
      default: {
        std::ranges::fill(buffer, std::byte{0});
        std::memcpy(buffer.data() + 64, &step, sizeof step);
        bool durable = random() % 4 == 0;
        IoStatus status = IoStatus::ok;
        if (durable) {
          status = co_await do_write_durable(device, number * block, buffer);
        } else {
          status = co_await do_write(device, number * block, buffer);
        }
        EXPECT_EQ(status, IoStatus::ok);
        now[number] = step;
        if (durable) flushed[number] = step;  // itself, and nothing written before it
      }
    }
  }
}

TEST_F(FaultDeviceTest, the_cache_agrees_with_a_model_under_random_use) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    path = scratch.drive("model-" + std::to_string(seed), mib);
    auto device = open({.volatile_cache = true, .seed = seed});
    reactor->run_until_done(check_against_model(*device, seed));
    close(*device);
  }
}

TEST_F(FaultDeviceTest, an_unknown_command_is_refused_in_words) {
  auto device = open();
  for (const char* bad : {"explode", "slow fast", "read-errors", "read-errors 1+", "write-errors 1.5", "parallel 0",
                          "hang maybe", "latency-us 1 2", "lose-cache now"}) {
    auto applied = device->apply(bad);
    ASSERT_FALSE(applied) << bad;
    EXPECT_EQ(applied.error().code, ErrorCode::invalid) << bad;
  }
  EXPECT_EQ(device->faults(), "");
  EXPECT_TRUE(device->apply("  \n;; \n"));
  close(*device);
}

}  // namespace
}  // namespace zpair::block
