// Target and initiator end to end over loopback.
#include "nvme/remote_drive.h"

#include "nvme/reservations.h"
#include "support.h"

namespace zpair::nvme {
namespace {

using block::IoStatus;
using block::Task;

struct Pair {
  std::unique_ptr<Target> target;
  std::vector<block::Endpoint> addresses;
  std::unique_ptr<RemoteNode> node;
  std::vector<PathEvent> events;
  block::Signal changed;

  static std::unique_ptr<Target> start_target(std::vector<block::Endpoint>& addresses, std::size_t path_count = 2,
                                              std::uint32_t in_capsule_bytes = 64 * 1024) {
    TargetOptions options;
    options.subsystem_nqn = node_nqn();
    options.in_capsule_bytes = in_capsule_bytes;
    auto target = std::make_unique<Target>(options);
    std::vector<block::Endpoint> wanted = addresses;
    if (wanted.empty()) wanted.assign(path_count, block::Endpoint{"tcp:127.0.0.1:0"});
    addresses.clear();
    for (const auto& address : wanted) {
      auto listening = target->listen(address);
      EXPECT_TRUE(listening.has_value()) << listening.error().message;
      addresses.push_back(*listening);
    }
    return target;
  }
  void start_node(Uuid host, std::vector<block::Endpoint> to, RemoteNodeOptions options = {}) {
    options.subsystem_nqn = node_nqn();
    options.host_id = host;
    for (std::size_t i = 0; i < to.size(); ++i) options.paths.push_back({fmt::format("path{}", i + 1), to[i], ""});
    options.on_path = [this](const PathEvent& event) {
      events.push_back(event);
      changed.set();
      changed.reset();
    };
    node = std::make_unique<RemoteNode>(options);
    node->start();
  }
};

class RemoteDriveTest : public NvmeTest {};

TEST_F(RemoteDriveTest, what_is_written_is_read_back_by_every_operation) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(64 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto opened = co_await pair.node->open_drive("memory-1", Deadline::in_ms(5000));
    EXPECT_TRUE(opened.has_value()) << opened.error().message;
    if (!opened) abort();
    auto drive = std::move(*opened);
    EXPECT_EQ(drive->geometry().size_bytes, 64u << 20);
    EXPECT_EQ(drive->geometry().block_size_bytes, 4096u);
    EXPECT_EQ(drive->durable_id(), "memory-1");
    auto fenced = co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    EXPECT_TRUE(fenced.has_value()) << fenced.error().message;
    EXPECT_EQ(fenced->value, 0x1111u);

    for (std::size_t size : {4096u, 8192u, 65536u, 131072u, 1048576u, 5u << 20}) {
      auto bytes = pattern(size, static_cast<unsigned>(size));
      auto written = co_await block::write(*drive, 8192, bytes);
      EXPECT_EQ(written.status, IoStatus::ok) << size;
      EXPECT_EQ(written.verifier, Verifier{0x1111});
      EXPECT_TRUE(device.holds(8192, bytes)) << size;
      std::vector<std::byte> back(size);
      auto read = co_await block::read(*drive, 8192, back);
      EXPECT_EQ(read.status, IoStatus::ok);
      EXPECT_EQ(back, bytes) << size;
    }
    auto durable = co_await block::write_durable(*drive, 0, pattern(4096, 3));
    EXPECT_TRUE(durable.ok());
    EXPECT_EQ(device.durable_count, 1u);
    auto flushed = co_await block::flush(*drive);
    EXPECT_TRUE(flushed.ok());
    EXPECT_EQ(device.count(block::Operation::flush), 1u);
    auto zeroed = co_await block::write_zeroes(*drive, 8192, 4096);
    EXPECT_TRUE(zeroed.ok());
    EXPECT_TRUE(device.holds(8192, std::vector<std::byte>(4096)));
    auto trimmed = co_await block::trim(*drive, 12288, 4096);
    EXPECT_TRUE(trimmed.ok());
    EXPECT_TRUE(device.holds(12288, std::vector<std::byte>(4096)));
    EXPECT_EQ(device.count(block::Operation::trim), 1u);

    auto out_of_range = co_await block::write(*drive, 64 << 20, pattern(4096, 1));
    EXPECT_EQ(out_of_range.status, IoStatus::invalid);
    auto crooked = co_await block::read(*drive, 100, std::span<std::byte>());
    EXPECT_EQ(crooked.status, IoStatus::invalid);
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, errors_and_a_changed_verifier_are_the_targets_words) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto opened = co_await pair.node->open_drive(1, Deadline::in_ms(5000));
    auto drive = std::move(*opened);
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    std::vector<std::byte> bytes(4096);

    device.fail_next(IoStatus::io_error);
    auto failed = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(failed.status, IoStatus::io_error);
    device.fail_next(IoStatus::media_error);
    auto bad_place = co_await block::read(*drive, 0, bytes);
    EXPECT_EQ(bad_place.status, IoStatus::media_error);
    device.fail_next(IoStatus::no_space);
    auto full = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(full.status, IoStatus::no_space);
    device.fail_next(IoStatus::io_error);
    auto flushed = co_await block::flush(*drive);
    EXPECT_EQ(flushed.status, IoStatus::io_error);

    device.set_verifier(Verifier{0x2222});
    auto written = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(written.verifier, Verifier{0x2222});
    device.set_verifier(Verifier{0x3333});
    auto hello = co_await drive->hello(Deadline::in_ms(1000));
    EXPECT_EQ(hello->verifier, Verifier{0x3333});
    EXPECT_EQ(drive->verifier(), Verifier{0x3333});
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

// Rule 2: part of a long write completes before the drive is reset, part after: no flush may look as if it covered both.
TEST_F(RemoteDriveTest, a_split_write_over_a_change_of_the_verifier_matches_no_flush) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(8 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    auto bytes = pattern(3 << 20, 1);
    device.change_verifier_after(1, Verifier{0x2222});
    auto written = co_await block::write(*drive, 0, bytes);
    EXPECT_TRUE(written.ok());
    auto flushed = co_await block::flush(*drive);
    EXPECT_EQ(flushed.verifier, Verifier{0x2222});
    EXPECT_NE(written.verifier, flushed.verifier);
    auto whole = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(whole.verifier, Verifier{0x2222});
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, a_host_without_the_reservation_is_fenced_and_sees_the_epoch) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair old_owner;
    Pair new_owner;
    old_owner.target = Pair::start_target(old_owner.addresses);
    old_owner.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    old_owner.start_node(t.host_1, old_owner.addresses);
    auto opened = co_await old_owner.node->open_drive(1, Deadline::in_ms(5000));
    auto drive = std::move(*opened);
    std::vector<std::byte> bytes(4096);
    auto too_early = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(too_early.status, IoStatus::fenced) << "nobody writes before a fence";
    auto first = co_await drive->fence(Epoch{4}, Epoch{0}, Deadline::in_ms(5000));
    EXPECT_TRUE(first.has_value());
    auto written = co_await block::write(*drive, 0, bytes);
    EXPECT_TRUE(written.ok());

    new_owner.start_node(t.host_2, old_owner.addresses);
    auto opened_2 = co_await new_owner.node->open_drive(1, Deadline::in_ms(5000));
    auto drive_2 = std::move(*opened_2);
    auto wrong_key = co_await drive_2->fence(Epoch{5}, Epoch{3}, Deadline::in_ms(5000));
    EXPECT_FALSE(wrong_key.has_value());
    EXPECT_EQ(wrong_key.error().code, ErrorCode::fenced);
    EXPECT_EQ(drive_2->fenced_by(), Epoch{4});
    auto lower = co_await drive_2->fence(Epoch{3}, Epoch{4}, Deadline::in_ms(5000));
    EXPECT_EQ(lower.error().code, ErrorCode::stale_epoch);
    auto still_old = co_await block::write(*drive, 0, bytes);
    EXPECT_TRUE(still_old.ok()) << "a refused fence changes nothing";

    auto taken = co_await drive_2->fence(Epoch{5}, Epoch{4}, Deadline::in_ms(5000));
    EXPECT_TRUE(taken.has_value());
    for (auto operation :
         {block::Operation::write, block::Operation::flush, block::Operation::trim, block::Operation::write_zeroes}) {
      block::Op::Outcome outcome{};
      if (operation == block::Operation::write) outcome = co_await block::write(*drive, 0, bytes);
      if (operation == block::Operation::flush) outcome = co_await block::flush(*drive);
      if (operation == block::Operation::trim) outcome = co_await block::trim(*drive, 0, 4096);
      if (operation == block::Operation::write_zeroes) outcome = co_await block::write_zeroes(*drive, 0, 4096);
      EXPECT_EQ(outcome.status, IoStatus::fenced) << static_cast<int>(operation);
    }
    EXPECT_EQ(drive->fenced_by(), Epoch{5});
    auto stored = co_await drive_2->store_record(Epoch{5}, Revision{9}, 77, Deadline::in_ms(1000));
    EXPECT_TRUE(stored.has_value());
    auto older = co_await drive_2->store_record(Epoch{5}, Revision{8}, 77, Deadline::in_ms(1000));
    EXPECT_EQ(older.error().code, ErrorCode::stale_epoch);
    auto foreign = co_await drive->store_record(Epoch{5}, Revision{10}, 77, Deadline::in_ms(1000));
    EXPECT_EQ(foreign.error().code, ErrorCode::fenced);
    auto hello = co_await drive_2->hello(Deadline::in_ms(1000));
    EXPECT_EQ(hello->stored_rev, Revision{9});
    EXPECT_EQ(hello->stored_digest, 77u);
    EXPECT_EQ(hello->fence_epoch, Epoch{5});
    EXPECT_EQ(hello->fence_host, t.host_2);
    EXPECT_FALSE(hello->closed);

    co_await drive->close();
    co_await drive_2->close();
    co_await old_owner.node->close();
    co_await new_owner.node->close();
    co_await old_owner.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, a_fence_is_answered_after_the_drain_of_the_former_host) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair old_owner;
    Pair new_owner;
    old_owner.target = Pair::start_target(old_owner.addresses);
    old_owner.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    old_owner.start_node(t.host_1, old_owner.addresses);
    auto drive = std::move(*(co_await old_owner.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    new_owner.start_node(t.host_2, old_owner.addresses);
    auto drive_2 = std::move(*(co_await new_owner.node->open_drive(1, Deadline::in_ms(5000))));

    device.hold();
    bool write_done = false;
    bool fence_done = false;
    block::TaskGroup tasks;
    tasks.spawn([](RemoteDrive& drive, bool& done) -> Task<void> {
      auto bytes = pattern(4096, 1);
      auto outcome = co_await block::write(drive, 0, bytes);
      EXPECT_TRUE(outcome.ok()) << "it was at the device before the fence";
      done = true;
    }(*drive, write_done));
    while (device.held_count() == 0) co_await block::Reactor::current().after_ms(1);
    tasks.spawn([](RemoteDrive& drive, bool& done, bool& write_done) -> Task<void> {
      auto fenced = co_await drive.fence(Epoch{2}, Epoch{1}, Deadline::in_ms(5000));
      EXPECT_TRUE(fenced.has_value());
      (void)write_done;
      done = true;
    }(*drive_2, fence_done, write_done));
    while (fence->contents()->epoch != Epoch{2}) co_await block::Reactor::current().after_ms(1);
    auto late = co_await block::write(*drive, 8192, pattern(4096, 2));
    EXPECT_EQ(late.status, IoStatus::fenced) << "from the moment that the fence is stored";
    EXPECT_FALSE(fence_done) << "a former write is still at the device";
    device.let_go();
    co_await tasks.close();
    EXPECT_TRUE(write_done);
    EXPECT_TRUE(fence_done);

    co_await drive->close();
    co_await drive_2->close();
    co_await old_owner.node->close();
    co_await new_owner.node->close();
    co_await old_owner.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, a_restarted_target_is_closed_and_the_drive_fences_it_again) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{3}, Epoch{0}, Deadline::in_ms(5000));
    for (int round = 0; round < 3; ++round) {
      co_await pair.target->close();
      pair.target.reset();
      block::TaskGroup tasks;
      bool done = false;
      auto bytes = pattern(4096, static_cast<unsigned>(round) + 10);
      tasks.spawn([](RemoteDrive& drive, std::span<std::byte> bytes, bool& done) -> Task<void> {
        auto outcome = co_await block::write(drive, 4096, bytes);
        EXPECT_EQ(outcome.status, IoStatus::ok) << "held, not failed";
        done = true;
      }(*drive, bytes, done));
      pair.target = Pair::start_target(pair.addresses);
      while (pair.node->up_count() == 0) co_await block::Reactor::current().after_ms(1);
      EXPECT_FALSE(done) << "the namespace is not there yet";
      pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
      co_await tasks.close();
      EXPECT_TRUE(device.holds(4096, bytes));
    }
    // The epoch moved on while the target was away: now it is fenced.
    co_await pair.target->close();
    EXPECT_TRUE(fence->fence({Epoch{3}, Epoch{4}, t.host_2}).has_value());
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    auto bytes = pattern(4096, 99);
    auto outcome = co_await block::write(*drive, 4096, bytes);
    EXPECT_EQ(outcome.status, IoStatus::fenced);
    EXPECT_FALSE(device.holds(4096, bytes));
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, a_drive_fenced_elsewhere_answers_every_host_fenced) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{3}, Epoch{0}, Deadline::in_ms(5000));
    co_await pair.target->set_fenced_elsewhere(1, Epoch{4});
    std::vector<std::byte> bytes(4096);
    auto written = co_await block::write(*drive, 0, bytes);
    EXPECT_EQ(written.status, IoStatus::fenced);
    EXPECT_EQ(drive->fenced_by(), Epoch{4});
    auto read = co_await block::read(*drive, 0, bytes);
    EXPECT_EQ(read.status, IoStatus::fenced);
    auto hello = co_await drive->hello(Deadline::in_ms(1000));
    EXPECT_TRUE(hello->fenced_elsewhere);
    EXPECT_EQ(hello->fence_epoch, Epoch{4});
    auto again = co_await drive->fence(Epoch{5}, Epoch{4}, Deadline::in_ms(1000));
    EXPECT_EQ(again.error().code, ErrorCode::fenced);
    auto opened = co_await pair.node->open_drive(1, Deadline::in_ms(1000));
    EXPECT_EQ(opened.error().code, ErrorCode::fenced);
    EXPECT_EQ((co_await pair.node->open_drive(9, Deadline::in_ms(1000))).error().code, ErrorCode::not_found);
    auto by_name = co_await pair.node->open_drive("memory-1", Deadline::in_ms(1000));
    EXPECT_EQ(by_name.error().code, ErrorCode::fenced);
    auto not_there = co_await pair.node->open_drive("memory-9", Deadline::in_ms(1000));
    EXPECT_EQ(not_there.error().code, ErrorCode::not_found);
    co_await pair.target->set_fenced_elsewhere(7, Epoch{2}, "memory-7");
    auto never_added = co_await pair.node->open_drive("memory-7", Deadline::in_ms(1000));
    EXPECT_EQ(never_added.error().code, ErrorCode::fenced);
    // The pool process gave the drive back: closed, then served again.
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    auto fenced = co_await drive->fence(Epoch{5}, Epoch{3}, Deadline::in_ms(1000));
    EXPECT_TRUE(fenced.has_value());
    auto once_more = co_await block::write(*drive, 0, bytes);
    EXPECT_TRUE(once_more.ok());
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, remove_namespace_waits_for_the_device_and_holds_what_comes_after) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    device.hold();
    int done = 0;
    block::TaskGroup tasks;
    auto write = [](RemoteDrive& drive, std::uint64_t offset, int& done) -> Task<void> {
      auto bytes = pattern(4096, 5);
      auto outcome = co_await block::write(drive, offset, bytes);
      EXPECT_TRUE(outcome.ok());
      ++done;
    };
    tasks.spawn(write(*drive, 0, done));
    while (device.held_count() == 0) co_await block::Reactor::current().after_ms(1);
    bool removed = false;
    tasks.spawn([](Target& target, bool& removed) -> Task<void> {
      co_await target.remove_namespace(1);
      removed = true;
    }(*pair.target, removed));
    tasks.spawn(write(*drive, 8192, done));
    co_await block::Reactor::current().after_ms(20);
    EXPECT_FALSE(removed);
    EXPECT_EQ(device.held_count(), 1u) << "nothing new got in";
    device.let_go();
    while (!removed) co_await block::Reactor::current().after_ms(1);
    EXPECT_EQ(done, 1);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    co_await tasks.close();
    EXPECT_EQ(done, 2);
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, small_capsules_make_writes_go_by_r2t) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(8 << 20);
    auto fence = t.fence_file();
    for (bool digest : {false, true}) {
      Pair pair;
      pair.target = Pair::start_target(pair.addresses, 2, 4096);
      pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
      RemoteNodeOptions options;
      options.header_digest = options.data_digest = digest;
      options.io_queues = 3;
      pair.start_node(t.host_1, pair.addresses, options);
      auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
      co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
      block::TaskGroup tasks;
      for (unsigned i = 0; i < 40; ++i) {
        tasks.spawn([](RemoteDrive& drive, unsigned i) -> Task<void> {
          auto bytes = pattern((i % 5 + 1) * 8192, i);
          auto outcome = co_await block::write(drive, i * 65536, bytes);
          EXPECT_TRUE(outcome.ok());
          std::vector<std::byte> back(bytes.size());
          auto read = co_await block::read(drive, i * 65536, back);
          EXPECT_TRUE(read.ok());
          EXPECT_EQ(back, bytes);
        }(*drive, i));
      }
      co_await tasks.close();
      co_await drive->close();
      co_await pair.node->close();
      co_await pair.target->close();
    }
  }(*this));
}

TEST_F(RemoteDriveTest, more_requests_than_the_queues_hold_wait_their_turn) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(8 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    RemoteNodeOptions options;
    options.queue_entries = 8;
    pair.start_node(t.host_1, pair.addresses, options);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    block::TaskGroup tasks;
    for (unsigned i = 0; i < 500; ++i) {
      tasks.spawn([](RemoteDrive& drive, unsigned i) -> Task<void> {
        auto bytes = pattern(4096, i);
        auto outcome = co_await block::write(drive, i * 4096, bytes);
        EXPECT_TRUE(outcome.ok());
      }(*drive, i));
    }
    co_await tasks.close();
    for (unsigned i = 0; i < 500; ++i) EXPECT_TRUE(device.holds(i * 4096, pattern(4096, i)));
    EXPECT_EQ(drive->oldest_request_ns(), 0);
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, a_failed_drive_cancels_everything_and_rejoins_when_quiesced) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    device.hold();
    block::TaskGroup tasks;
    int cancelled = 0;
    for (unsigned i = 0; i < 10; ++i) {
      tasks.spawn([](RemoteDrive& drive, unsigned i, int& cancelled) -> Task<void> {
        std::vector<std::byte> bytes = pattern(4096, i);
        block::Op::Outcome outcome{};
        if (i % 2 == 0) outcome = co_await block::write(drive, i * 4096, bytes);
        if (i % 2 == 1) outcome = co_await block::read(drive, i * 4096, bytes);
        EXPECT_EQ(outcome.status, IoStatus::cancelled);
        ++cancelled;
      }(*drive, i, cancelled));
    }
    while (device.held_count() < 10) co_await block::Reactor::current().after_ms(1);
    EXPECT_GT(drive->oldest_request_ns(), 0);
    drive->fail_all();
    EXPECT_EQ(cancelled, 0) << "not inside the call";
    co_await tasks.close();
    EXPECT_EQ(cancelled, 10);
    auto more = co_await block::flush(*drive);
    EXPECT_EQ(more.status, IoStatus::cancelled);
    auto too_soon = co_await drive->rejoin(Deadline::in_ms(30));
    EXPECT_EQ(too_soon.error().code, ErrorCode::timed_out) << "the device still has the commands";
    device.let_go();
    auto joined = co_await drive->rejoin(Deadline::in_ms(5000));
    EXPECT_TRUE(joined.has_value());
    EXPECT_EQ(device.held_count(), 0u);
    auto bytes = pattern(4096, 77);
    auto written = co_await block::write(*drive, 0, bytes);
    EXPECT_TRUE(written.ok());
    EXPECT_TRUE(device.holds(0, bytes));
    co_await drive->close();
    co_await pair.node->close();
    co_await pair.target->close();
  }(*this));
}

TEST_F(RemoteDriveTest, with_no_path_commands_are_held_and_fail_all_lets_them_go) {
  run([](RemoteDriveTest& t) -> Task<void> {
    MemoryDevice device(1 << 20);
    auto fence = t.fence_file();
    Pair pair;
    pair.target = Pair::start_target(pair.addresses);
    pair.target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
    pair.start_node(t.host_1, pair.addresses);
    auto drive = std::move(*(co_await pair.node->open_drive(1, Deadline::in_ms(5000))));
    co_await drive->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
    EXPECT_EQ(pair.node->all_down_since_ns(), 0);
    co_await pair.target->close();
    while (pair.node->up_count() > 0) co_await block::Reactor::current().after_ms(1);
    EXPECT_GT(pair.node->all_down_since_ns(), 0);
    auto unreachable = co_await drive->hello(Deadline::in_ms(20));
    EXPECT_EQ(unreachable.error().code, ErrorCode::unreachable);
    bool done = false;
    block::TaskGroup tasks;
    tasks.spawn([](RemoteDrive& drive, bool& done) -> Task<void> {
      auto outcome = co_await block::flush(drive);
      EXPECT_EQ(outcome.status, IoStatus::cancelled);
      done = true;
    }(*drive, done));
    co_await block::Reactor::current().after_ms(30);
    EXPECT_FALSE(done);
    drive->fail_all();
    co_await tasks.close();
    co_await drive->close();
    co_await pair.node->close();
  }(*this));
}

}  // namespace
}  // namespace zpair::nvme
