// Paths that die, with what is in them: quiesce before re-send.
#include "nvme/remote_drive.h"
#include "support.h"

namespace zpair::nvme {
namespace {

using block::IoStatus;
using block::Task;

// A target behind two switches, a drive fenced at epoch 1 over both.
struct Bench {
  MemoryDevice device{4 << 20};
  std::unique_ptr<fence::FenceFile> fence;
  std::unique_ptr<Target> target;
  std::vector<std::unique_ptr<HoldingSwitch>> switches;
  std::unique_ptr<RemoteNode> node;
  std::unique_ptr<RemoteDrive> drive;
  std::vector<PathEvent> events;

  Task<void> start(NvmeTest& test, std::size_t path_count, RemoteNodeOptions options = {}) {
    fence = test.fence_file();
    TargetOptions target_options;
    target_options.subsystem_nqn = node_nqn();
    target = std::make_unique<Target>(target_options);
    target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    options.subsystem_nqn = node_nqn();
    options.host_id = test.host_1;
    for (std::size_t i = 0; i < path_count; ++i) {
      auto address = target->listen(block::Endpoint{"tcp:127.0.0.1:0"});
      switches.push_back(HoldingSwitch::start(*address));
      options.paths.push_back({fmt::format("path{}", i + 1), switches.back()->endpoint(), ""});
    }
    options.on_path = [this](const PathEvent& event) { events.push_back(event); };
    node = std::make_unique<RemoteNode>(options);
    node->start();
    auto opened = co_await node->open_drive(1, Deadline::in_ms(20000));
    if (!opened) std::abort();
    drive = std::move(*opened);
    auto fenced = co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(20000));
    EXPECT_TRUE(fenced.has_value());
    co_await until_up(path_count);
  }
  Task<void> until_up(std::size_t count) {
    while (node->up_count() != count) co_await block::Reactor::current().after_ms(1);
  }
  Task<void> stop() {
    for (auto& each : switches) each->let_go();
    co_await drive->close();
    co_await node->close();
    co_await target->close();
    for (auto& each : switches) co_await each->close();
  }
};

Task<void> write_and_expect(RemoteDrive& drive, std::uint64_t offset, unsigned seed, IoStatus expected = IoStatus::ok) {
  auto bytes = pattern(4096, seed);
  auto outcome = co_await block::write(drive, offset, bytes);
  EXPECT_EQ(outcome.status, expected);
}

class PathTest : public NvmeTest {};

// The heart: writes go into a switch that dies with them; they are sent again over the other path and acknowledged; their
// successors are acknowledged; the switch comes back and delivers the old ones.
Task<void> late_delivery(PathTest& test, bool quiesce, std::size_t& overwritten) {
  Bench bench;
  RemoteNodeOptions options;
#ifdef ZPAIR_MUTATIONS
  options.mutations.resend_without_quiesce = !quiesce;
#endif
  (void)quiesce;
  co_await bench.start(test, 2, options);
  bench.switches[0]->hold();
  Nanoseconds begin = boot_time_ns();
  block::TaskGroup first;
  for (unsigned i = 0; i < 16; ++i) first.spawn(write_and_expect(*bench.drive, i * 4096, i));
  co_await first.close();
  Nanoseconds stall = boot_time_ns() - begin;
  EXPECT_GT(bench.switches[0]->held_bytes(), 4096u) << "some of them went into the dead switch";
  ::testing::Test::RecordProperty("stall_ms", static_cast<int>(stall / ns_per_ms));
  EXPECT_EQ(bench.node->up_count(), 1u);
  block::TaskGroup second;
  for (unsigned i = 0; i < 16; ++i) second.spawn(write_and_expect(*bench.drive, i * 4096, 1000 + i));
  co_await second.close();
  for (unsigned i = 0; i < 16; ++i) EXPECT_TRUE(bench.device.holds(i * 4096, pattern(4096, 1000 + i)));

  bench.switches[0]->let_go();
  co_await bench.switches[0]->delivered.wait();
  co_await bench.until_up(2);  // a later connection through the same switch is up: what was held before it is out
  for (unsigned i = 0; i < 50; ++i) co_await write_and_expect(*bench.drive, 1 << 20, i);
  overwritten = 0;
  for (unsigned i = 0; i < 16; ++i) overwritten += bench.device.holds(i * 4096, pattern(4096, 1000 + i)) ? 0 : 1;
  co_await bench.stop();
}

TEST_F(PathTest, a_write_held_in_a_dead_switch_never_lands_after_its_successor) {
  std::size_t overwritten = 99;
  run(late_delivery(*this, true, overwritten));
  EXPECT_EQ(overwritten, 0u);
}

#ifdef ZPAIR_MUTATIONS
TEST_F(PathTest, without_quiesce_it_does_land) {
  std::size_t overwritten = 0;
  run(late_delivery(*this, false, overwritten));
  EXPECT_GT(overwritten, 0u) << "the mutation must lose data, or the test above proves nothing";
}
#endif

TEST_F(PathTest, a_command_at_the_device_is_not_sent_again_before_it_is_done_there) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    bench.device.hold();
    block::TaskGroup tasks;
    for (unsigned i = 0; i < 4; ++i) tasks.spawn(write_and_expect(*bench.drive, i * 4096, i));
    while (bench.device.held_count() < 4) co_await block::Reactor::current().after_ms(1);
    bench.switches[0]->hold();
    while (bench.target->counts().resets == 0) co_await block::Reactor::current().after_ms(1);
    EXPECT_FALSE(bench.drive->quiesced());
    co_await write_and_expect(*bench.drive, 8 << 20, 1, IoStatus::invalid);
    EXPECT_EQ(bench.device.count(block::Operation::write), 4u)
        << "nothing is sent twice while it may still be carried out";
    bench.device.let_go();
    co_await tasks.close();
    EXPECT_GT(bench.device.count(block::Operation::write), 4u) << "those whose answers were lost went again";
    bool quiesced = co_await bench.drive->wait_quiesced(Deadline::in_ms(20000));
    EXPECT_TRUE(quiesced);
    for (unsigned i = 0; i < 4; ++i) EXPECT_TRUE(bench.device.holds(i * 4096, pattern(4096, i)));
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, a_hanging_drive_does_not_hold_the_commands_of_others) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    MemoryDevice other_device{4 << 20, "memory-2"};
    auto other_fence = test.fence_file("memory-2");
    co_await bench.start(test, 2);
    bench.target->add_namespace(2, Uuid::from_name("memory-2"), other_device, *other_fence);
    auto opened = co_await bench.node->open_drive(2, Deadline::in_ms(20000));
    if (!opened) std::abort();
    std::unique_ptr<RemoteDrive> other = std::move(*opened);
    auto fenced = co_await other->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(20000));
    EXPECT_TRUE(fenced.has_value());

    bench.device.hold();
    block::TaskGroup hanging;
    for (unsigned i = 0; i < 4; ++i) hanging.spawn(write_and_expect(*bench.drive, i * 4096, i));
    while (bench.device.held_count() < 4) co_await block::Reactor::current().after_ms(1);
    bench.switches[0]->hold();
    block::TaskGroup others;
    for (unsigned i = 0; i < 16; ++i) others.spawn(write_and_expect(*other, i * 4096, i));
    co_await others.close();
    EXPECT_GT(bench.target->counts().resets, 0u) << "some of them were in the dead switch";
    EXPECT_TRUE(other->quiesced());
    EXPECT_FALSE(bench.drive->quiesced());
    for (unsigned i = 0; i < 16; ++i) co_await write_and_expect(*other, i * 4096, 1000 + i);

    other->fail_all();
    auto back = co_await other->rejoin(Deadline::in_ms(20000));
    EXPECT_TRUE(back.has_value());
    auto early = co_await bench.drive->wait_quiesced(Deadline::in_ms(300));
    EXPECT_FALSE(early) << "its own commands are at the device still";
    EXPECT_EQ(bench.device.count(block::Operation::write), 4u)
        << "nothing is sent twice while it may still be carried out";
    bench.device.let_go();
    co_await hanging.close();
    auto quiet = co_await bench.drive->wait_quiesced(Deadline::in_ms(20000));
    EXPECT_TRUE(quiet);
    bench.switches[0]->let_go();
    co_await bench.until_up(2);
    for (unsigned i = 0; i < 16; ++i) EXPECT_TRUE(other_device.holds(i * 4096, pattern(4096, 1000 + i)));
    co_await other->close();
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, with_all_paths_cut_commands_are_held_and_go_on_when_one_returns) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    bench.switches[0]->hold();
    bench.switches[1]->hold();
    int done = 0;
    block::TaskGroup tasks;
    for (unsigned i = 0; i < 32; ++i) {
      tasks.spawn([](RemoteDrive& drive, unsigned i, int& done) -> Task<void> {
        co_await write_and_expect(drive, i * 4096, i);
        ++done;
      }(*bench.drive, i, done));
    }
    co_await bench.until_up(0);
    EXPECT_GT(bench.node->all_down_since_ns(), 0);
    EXPECT_GT(bench.node->last_progress_ns(), 0);
    EXPECT_EQ(done, 0);
    bench.switches[1]->let_go();
    co_await tasks.close();
    EXPECT_EQ(done, 32);
    EXPECT_EQ(bench.node->all_down_since_ns(), 0);
    for (unsigned i = 0; i < 32; ++i) EXPECT_TRUE(bench.device.holds(i * 4096, pattern(4096, i)));
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, one_path_alone_quiesces_its_former_connection_through_its_next) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 1);
    for (unsigned round = 0; round < 3; ++round) {
      bench.switches[0]->hold();
      block::TaskGroup tasks;
      for (unsigned i = 0; i < 8; ++i) tasks.spawn(write_and_expect(*bench.drive, i * 4096, round * 100 + i));
      co_await bench.until_up(0);
      bench.switches[0]->let_go();
      co_await tasks.close();
      for (unsigned i = 0; i < 8; ++i) EXPECT_TRUE(bench.device.holds(i * 4096, pattern(4096, round * 100 + i)));
    }
    bool quiesced = co_await bench.drive->wait_quiesced(Deadline::in_ms(20000));
    EXPECT_TRUE(quiesced);
    EXPECT_GE(bench.target->counts().resets, 3u);
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, a_slow_drive_is_no_dead_path) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    bench.events.clear();
    bench.device.hold();
    block::TaskGroup tasks;
    for (unsigned i = 0; i < 4; ++i) tasks.spawn(write_and_expect(*bench.drive, i * 4096, i));
    Nanoseconds begin = boot_time_ns();
    // Much longer than a path may be silent, counted by what was heard from the target.
    while (bench.node->last_progress_ns() < begin + 600 * ns_per_ms) co_await block::Reactor::current().after_ms(5);
    EXPECT_EQ(bench.target->counts().resets, 0u);
    EXPECT_TRUE(bench.events.empty());
    bench.device.let_go();
    co_await tasks.close();
    EXPECT_EQ(bench.device.count(block::Operation::write), 4u);
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, a_flipped_bit_is_seen_by_its_digest_and_nothing_wrong_is_stored_or_read) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    std::mt19937 random(3);
    for (unsigned round = 0; round < 40; ++round) {
      auto& chosen = *bench.switches[round % 2];
      if (round % 4 < 2) {
        chosen.corrupt_to_target(1 + random() % 6000);
      } else {
        chosen.corrupt_to_host(1 + random() % 6000);
      }
      auto bytes = pattern(16384, round);
      block::TaskGroup tasks;
      for (unsigned i = 0; i < 4; ++i) tasks.spawn(write_and_expect(*bench.drive, (1 << 20) + i * 4096, round + i));
      auto written = co_await block::write(*bench.drive, 0, bytes);
      EXPECT_TRUE(written.ok());
      EXPECT_TRUE(bench.device.holds(0, bytes)) << round;
      std::vector<std::byte> back(16384);
      auto read = co_await block::read(*bench.drive, 0, back);
      EXPECT_TRUE(read.ok());
      EXPECT_EQ(back, bytes) << round;
      co_await tasks.close();
      for (unsigned i = 0; i < 4; ++i) EXPECT_TRUE(bench.device.holds((1 << 20) + i * 4096, pattern(4096, round + i)));
    }
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, large_writes_and_reads_survive_a_dying_path) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    for (unsigned round = 0; round < 6; ++round) {
      block::TaskGroup tasks;
      for (unsigned i = 0; i < 3; ++i) {
        tasks.spawn([](RemoteDrive& drive, MemoryDevice& device, unsigned i, unsigned seed) -> Task<void> {
          auto bytes = pattern(1 << 20, seed);
          auto written = co_await block::write(drive, i << 20, bytes);
          EXPECT_TRUE(written.ok());
          EXPECT_TRUE(device.holds(i << 20, bytes));
          std::vector<std::byte> back(bytes.size());
          auto read = co_await block::read(drive, i << 20, back);
          EXPECT_TRUE(read.ok());
          EXPECT_TRUE(back == bytes);
        }(*bench.drive, bench.device, i, round * 10 + i));
      }
      bench.switches[round % 2]->hold();
      co_await tasks.close();
      bench.switches[round % 2]->let_go();
      co_await bench.until_up(2);
    }
    co_await bench.stop();
  }(*this));
}

TEST_F(PathTest, a_failed_drive_lets_its_buffers_go_while_a_path_is_dying) {
  run([](PathTest& test) -> Task<void> {
    Bench bench;
    co_await bench.start(test, 2);
    bench.switches[0]->hold();
    bench.switches[1]->hold();
    block::TaskGroup tasks;
    int cancelled = 0;
    for (unsigned i = 0; i < 60; ++i) {
      tasks.spawn([](RemoteDrive& drive, unsigned i, int& cancelled) -> Task<void> {
        auto bytes = pattern((i % 3 == 0) ? 1 << 20 : 4096, i);
        auto outcome = co_await block::write(drive, 0, bytes);
        if (outcome.status == IoStatus::cancelled) ++cancelled;
      }(*bench.drive, i, cancelled));
    }
    bench.drive->fail_all();
    co_await tasks.close();
    EXPECT_EQ(cancelled, 60);
    bench.switches[0]->let_go();
    bench.switches[1]->let_go();
    auto joined = co_await bench.drive->rejoin(Deadline::in_ms(20000));
    EXPECT_TRUE(joined.has_value());
    co_await write_and_expect(*bench.drive, 0, 4242);
    co_await bench.until_up(2);
    EXPECT_TRUE(bench.device.holds(0, pattern(4096, 4242)));
    co_await bench.stop();
  }(*this));
}

}  // namespace
}  // namespace zpair::nvme
