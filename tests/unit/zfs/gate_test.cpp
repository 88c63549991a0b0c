// Rule 2 against the real engine: nothing is acknowledged short of the ack set, whatever OpenZFS makes of a leg.
#include <algorithm>

#include "scenario.h"

// libzpool's
extern "C" int spa_open(const char* pool, void** spa, const void* tag);
extern "C" int spa_scan(void* spa, int function);
extern "C" void spa_close(void* spa, const void* tag);

namespace zpair::zfs::test {
namespace {

Task<std::unique_ptr<Volume>> pool_with_volume(World& world, block::FaultOptions options = {}) {
  co_await world.open_drives(one_mirror, options);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 32 << 20});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE_OK(volume);
  auto status = co_await write_blocks(**volume, 0, 16, 1);
  REQUIRE(status == block::IoStatus::ok);
  co_return std::move(*volume);
}

Task<void> end_well(World& world, std::unique_ptr<Volume> volume) {
  co_await volume->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}

// Scrubs to the end; how many checksum errors the legs count then.
Task<std::uint64_t> scrub(World& world) {
  auto begun = co_await world.pool->start_scrub();
  REQUIRE_OK(begun);
  for (;;) {
    co_await world.reactor->after_ms(5);
    auto status = co_await world.pool->status();
    REQUIRE_OK(status);
    if (status->scan.kind != ScanStatus::Kind::scrub || status->scan.state != ScanStatus::State::finished) continue;
    std::uint64_t errors = 0;
    for (auto& leg : status->legs) errors += leg.checksum_error_count;
    co_return errors;
  }
}

// A write that somebody waits for in the background.
struct PendingWrite {
  bool answered = false;
  block::IoStatus status = block::IoStatus::io_error;
  block::Signal done;
};
Task<void> write_in_background(Volume& volume, std::uint64_t first, std::uint64_t generation, PendingWrite& pending) {
  pending.status = co_await write_blocks(volume, first, 1, generation);
  pending.answered = true;
  pending.done.set();
}

TEST(Gate, its_self_test_passes_on_this_library) {
  Folder folder;
  auto wait = [](World& world) -> Task<void> { co_await world.engine->ready(); };
  EXPECT_WELL(in_child(folder, +wait, {.self_test = EngineOptions::SelfTest::run}));
}

// A commit is a write of the log and a flush behind it. Where nothing else is unflushed on the leg the write may be durable by
// itself, and the flush has nothing to do.
struct Counts {
  std::uint64_t durable_write_count, flush_count;
};
Task<Counts> of_writes(World& world, Volume& volume, std::uint64_t write_count, std::size_t blocks_each) {
  LegHealth before = world.pool->leg_health(world.leg_of("b0"));
  for (std::uint64_t i = 0; i < write_count; ++i) {
    auto status = co_await write_blocks(volume, i * blocks_each, blocks_each, 3);
    REQUIRE(status == block::IoStatus::ok);
  }
  LegHealth after = world.pool->leg_health(world.leg_of("b0"));
  co_return Counts{after.durable_write_count - before.durable_write_count, after.flush_count - before.flush_count};
}
Task<void> durable_log_writes(World& world) {
  auto volume = co_await pool_with_volume(world);
  REQUIRE_OK(set_tunable("zfs_txg_timeout", 60));  // txgs and uberblocks are written plainly
  REQUIRE_OK(set_tunable("zfs_multihost_interval", 1'000'000));
  constexpr std::uint64_t count = 100;
  Counts small = co_await of_writes(world, *volume, count, 1);
  REQUIRE(small.durable_write_count > count * 3 / 4 && small.flush_count < count / 4);
  Counts large = co_await of_writes(world, *volume, count, 32);  // the data is written plainly before
  REQUIRE(large.flush_count >= count);
  REQUIRE_OK(set_tunable("zp_durable_log_writes", 0));
  Counts plain = co_await of_writes(world, *volume, count, 1);
  REQUIRE(plain.durable_write_count == 0 && plain.flush_count >= count);
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_log_write_that_is_durable_spares_a_flush_only_where_nothing_else_is_unflushed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, durable_log_writes));
}

// Design, section 7: "counts a partial mirror write as success", "drops a leg by itself".
Task<void> zfs_drops_a_leg(World& world) {
  auto volume = co_await pool_with_volume(world);
  std::fprintf(stderr, "before\n");
  world.set_ack_set({"a0"});  // so that the errors of b0 reach OpenZFS, which gives it up
  REQUIRE_OK(world.drive("b0").apply("write-errors on"));
  for (std::uint64_t i = 0; i < 20; ++i) {
    auto status = co_await write_blocks(*volume, i, 1, 2);
    REQUIRE(status == block::IoStatus::ok);  // degraded, allowed
  }
  REQUIRE_OK(world.drive("b0").apply("clear"));
  std::fprintf(stderr, "degraded writes went on\n");
  world.set_ack_set({"a0", "b0"});
  for (std::vector<LegId> given_up; given_up != world.legs_of({"b0"});) {
    auto dropped = co_await world.pool->legs_that_zfs_dropped();
    REQUIRE_OK(dropped);
    given_up = *dropped;
  }
  for (std::uint64_t i = 0; i < 20; ++i) co_await write_blocks(*volume, i, 1, 3);
  std::fprintf(stderr, "acknowledged short\n");
}
TEST(Gate, a_leg_that_zfs_gave_up_ends_the_process_before_an_acknowledgement) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End end = in_child(folder, zfs_drops_a_leg);
  EXPECT_TRUE(end.aborted()) << end.status << end.said;
  EXPECT_NE(end.said.find("degraded writes went on"), std::string::npos) << end.said;
  EXPECT_NE(end.said.find("rule 2: a write of txg"), std::string::npos) << end.said;
  EXPECT_EQ(end.said.find("acknowledged short"), std::string::npos) << end.said;
}

// "drops a leg by itself", "throws flush errors away": the gate sees mirror writes only. A flush of a leg that OpenZFS has closed
// would be dropped with a word to nobody, between a write and its acknowledgement, or before an uberblock.
Task<void> zfs_closes_a_leg_of_a_quiet_pool(World& world) {
  auto volume = co_await pool_with_volume(world);
  world.set_ack_set({"a0"});
  REQUIRE_OK(world.drive("b0").apply("write-errors on"));
  for (bool dropped = false; !dropped;) {
    auto written = co_await write_blocks(*volume, 0, 1, 2);
    REQUIRE(written == block::IoStatus::ok);
    auto status = co_await world.pool->status();
    REQUIRE_OK(status);
    for (auto& leg : status->legs) dropped = dropped || leg.state == LegState::faulted;
  }
  REQUIRE_OK(world.drive("b0").apply("clear"));
  auto wait_for_txgs = [](World& its_world, std::uint64_t count) -> Task<void> {
    Txg wanted{its_world.pool->last_synced_txg().value + count};
    while (its_world.pool->last_synced_txg() < wanted) co_await its_world.reactor->after_ms(10);
  };
  co_await wait_for_txgs(world, 3);  // nothing is left to write but uberblocks: none goes to a mirror
  std::fprintf(stderr, "quiet\n");
  world.set_ack_set({"a0", "b0"});
  co_await wait_for_txgs(world, 3);
  std::fprintf(stderr, "synced without a flush\n");
}
TEST(Gate, a_flush_of_a_leg_that_zfs_closed_ends_the_process) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End end = in_child(folder, zfs_closes_a_leg_of_a_quiet_pool);
  EXPECT_TRUE(end.aborted()) << end.status << end.said;
  EXPECT_NE(end.said.find("quiet"), std::string::npos) << end.said;
  EXPECT_NE(end.said.find("its flush cannot be done"), std::string::npos) << end.said;
  EXPECT_EQ(end.said.find("synced without a flush"), std::string::npos) << end.said;
}

// "throws flush errors away": for each command that a leg of the ack set fails, nothing is answered until the leg is failed.
Task<void> erring_leg_is_held(World& world, const char* fault, block::Operation operation) {
  auto volume = co_await pool_with_volume(world);
  REQUIRE_OK(world.drive("b0").apply(fault));
  PendingWrite write;
  block::TaskGroup group;
  group.spawn(write_in_background(*volume, 5, 2, write));
  while (world.events.empty() || world.events.back().operation != operation) co_await world.wait_for_event();
  LegEvent event = world.events.back();
  REQUIRE(event.leg == world.leg_of("b0") && event.held && event.kind == LegEvent::Kind::error);
  for (int i = 0; i < 200; ++i) co_await world.reactor->yield();
  REQUIRE(!write.answered);
  LegHealth health = world.pool->leg_health(world.leg_of("b0"));
  REQUIRE(health.held_count > 0 && health.oldest_write_ns != 0 && health.in_ack_set);

  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs(world.legs_of({"b0"}));
  REQUIRE_OK(failed);
  co_await write.done.wait();
  REQUIRE(write.status == block::IoStatus::ok);
  auto status = co_await world.pool->status();
  REQUIRE_OK(status);
  for (auto& leg : status->legs) REQUIRE(leg.state == (leg.name == "b0" ? LegState::offline : LegState::healthy));
  co_await group.close();
  co_await end_well(world, std::move(volume));
}
Task<void> erring_write(World& world) {
  co_await erring_leg_is_held(world, "write-errors on", block::Operation::write);
}
Task<void> erring_flush(World& world) {
  REQUIRE_OK(set_tunable("zp_durable_log_writes", 0));  // else the write needs no flush
  co_await erring_leg_is_held(world, "flush-errors on", block::Operation::flush);
}
TEST(Driver, a_write_that_a_leg_of_the_ack_set_fails_is_held_until_the_leg_is_failed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, erring_write));
}
TEST(Driver, a_flush_that_a_leg_of_the_ack_set_fails_is_held_until_the_leg_is_failed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, erring_flush));
}

// "one ENOTSUP stops flushing that leg for good": whatever a flush ended with while nobody needed it, the next ones are done.
Task<void> flush_after_an_error(World& world) {
  auto volume = co_await pool_with_volume(world);
  REQUIRE_OK(set_tunable("zp_durable_log_writes", 0));
  world.set_ack_set({"a0"});
  REQUIRE_OK(world.drive("b0").apply("flush-errors on"));
  auto status = co_await write_blocks(*volume, 5, 1, 2);
  REQUIRE(status == block::IoStatus::ok);
  auto told = [](const LegEvent& event) { return event.operation == block::Operation::flush && !event.held; };
  REQUIRE(std::ranges::any_of(world.events, told));
  REQUIRE_OK(world.drive("b0").apply("clear"));
  world.set_ack_set({"a0", "b0"});
  for (std::uint64_t i = 0; i < 10; ++i) {
    const std::uint64_t before = world.pool->leg_health(world.leg_of("b0")).flush_count;
    status = co_await write_blocks(*volume, i, 1, 3);
    REQUIRE(status == block::IoStatus::ok);
    REQUIRE(world.pool->leg_health(world.leg_of("b0")).flush_count > before);
  }
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_leg_whose_flush_failed_outside_the_ack_set_is_flushed_at_every_write_within_it) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, flush_after_an_error));
}

Task<void> held_and_tried_again(World& world) {
  auto volume = co_await pool_with_volume(world);
  REQUIRE_OK(world.drive("b0").apply("write-errors on"));
  PendingWrite write;
  block::TaskGroup group;
  group.spawn(write_in_background(*volume, 5, 2, write));
  co_await world.wait_for_event();
  REQUIRE_OK(world.drive("b0").apply("clear"));
  world.pool->retry_held(world.leg_of("b0"));
  while (!write.answered) {  // others may have been held meanwhile
    world.pool->retry_held(world.leg_of("b0"));
    co_await world.reactor->after_ms(1);
  }
  REQUIRE(write.status == block::IoStatus::ok);
  co_await group.close();
  co_await end_well(world, std::move(volume));
}
TEST(Driver, held_commands_go_on_when_the_leg_answers_again) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, held_and_tried_again));
}

// "forgets nothing about a lost drive cache, because it never knew": the verifier.
Task<void> lost_cache(World& world) {
  auto volume = co_await pool_with_volume(world, {.volatile_cache = true, .seed = 7, .commands = {}});
  REQUIRE_OK(set_tunable("zp_durable_log_writes", 0));
  REQUIRE_OK(world.drive("b0").apply("flush-errors on"));  // writes complete, the flush does not
  PendingWrite write;
  block::TaskGroup group;
  group.spawn(write_in_background(*volume, 5, 2, write));
  while (world.events.empty() || world.events.back().operation != block::Operation::flush)
    co_await world.wait_for_event();
  REQUIRE_OK(world.drive("b0").apply("clear"));
  world.drive("b0").power_cut();  // the write is gone, and the drive answers again
  world.pool->retry_held(world.leg_of("b0"));
  while (world.events.back().kind != LegEvent::Kind::verifier_changed) co_await world.wait_for_event();
  for (int i = 0; i < 200; ++i) co_await world.reactor->yield();
  REQUIRE(!write.answered);
  REQUIRE(world.pool->leg_health(world.leg_of("b0")).stuck);
  Txg since = world.pool->leg_health(world.leg_of("b0")).newest_flushed_txg.next();
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs(world.legs_of({"b0"}));
  REQUIRE_OK(failed);
  co_await write.done.wait();
  REQUIRE(write.status == block::IoStatus::ok);
  while (world.pool->in_flight_count(world.leg_of("b0")) != 0) co_await world.reactor->after_ms(1);
  auto outcome = co_await world.pool->bring_back({world.leg("b0", world.leg_of("b0"))}, since);
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "since %llu: %s\n", static_cast<unsigned long long>(since.value), outcome->why_not.c_str());
  REQUIRE(outcome->accepted);
  world.set_ack_set({"a0", "b0"});
  const std::uint64_t errors = co_await scrub(world);
  REQUIRE(errors == 0);
  co_await group.close();
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_drive_that_lost_completed_writes_does_not_answer_its_flush_and_comes_back_whole) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, lost_cache));
}

// A whole txg reached the drive's cache and completed, its flush did not, and the cache is gone. No write of it failed, so
// OpenZFS does not know that it is missing: only the seed from `since` brings it back.
Task<void> lost_txg(World& world) {
  auto volume = co_await pool_with_volume(world, {.volatile_cache = true, .seed = 7, .commands = {}});
  LegId leg = world.leg_of("b0");
  REQUIRE_OK(world.drive("b0").apply("flush-errors on"));
  struct Maker {  // a change that only a txg carries: no log block, whose flush would hold the txg before its writes
    static Task<void> run(Pool& pool, block::Signal& done) {
      auto made = co_await pool.create_volume({.name = "vm2", .size_bytes = 8 << 20});
      REQUIRE_OK(made);
      done.set();
    }
  };
  block::Signal written;
  block::TaskGroup group;
  group.spawn(Maker::run(*world.pool, written));
  while (world.pool->leg_health(leg).held_count < 1) co_await world.wait_for_event();
  Txg since = world.pool->leg_health(leg).newest_flushed_txg.next();
  REQUIRE(since.value <= world.pool->last_synced_txg().value + 1);
  world.drive("b0").power_cut();
  REQUIRE_OK(world.drive("b0").apply("clear"));
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs({leg});
  REQUIRE_OK(failed);
  co_await written.wait();
  while (world.pool->in_flight_count(leg) != 0) co_await world.reactor->after_ms(1);
  auto outcome = co_await world.pool->bring_back({world.leg("b0", leg)}, since);
  REQUIRE_OK(outcome);
  REQUIRE(outcome->accepted);
  world.set_ack_set({"a0", "b0"});
  const std::uint64_t errors = co_await scrub(world);
  REQUIRE(errors == 0);
  co_await group.close();
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_txg_that_a_drive_lost_before_its_flush_is_copied_again) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, lost_txg));
}

// "MMP suspends the pool after a pause": a suspended pool, whatever suspended it, is a dead process.
Task<void> nothing_left(World& world) {
  auto volume = co_await pool_with_volume(world);
  world.set_ack_set({});
  REQUIRE_OK(world.drive("a0").apply("write-errors on"));
  REQUIRE_OK(world.drive("b0").apply("write-errors on"));
  co_await write_blocks(*volume, 5, 1, 2);
  std::fprintf(stderr, "acknowledged\n");
}
TEST(Gate, a_pool_that_openzfs_suspends_is_a_dead_process) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End end = in_child(folder, nothing_left);
  EXPECT_TRUE(end.aborted()) << end.status << end.said;
  EXPECT_EQ(end.said.find("acknowledged"), std::string::npos) << end.said;
}

// The same row: nothing completes for longer than OpenZFS's ten multihost intervals, as when the process is paused.
Task<void> long_pause(World& world) {
  REQUIRE_OK(set_tunable("zfs_multihost_interval", 100));
  auto volume = co_await pool_with_volume(world);
  for (const std::string& name : one_mirror) REQUIRE_OK(world.drive(name).apply("hang on"));
  co_await world.reactor->after_ms(2500);
  for (const std::string& name : one_mirror) REQUIRE_OK(world.drive(name).apply("clear"));
  auto status = co_await write_blocks(*volume, 5, 1, 2);
  REQUIRE(status == block::IoStatus::ok);
  co_await end_well(world, std::move(volume));
}
TEST(Gate, a_pause_longer_than_multihost_allows_suspends_nothing) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, long_pause));
}

// A leg that never answers is failed while its device still owns the buffers.
Task<void> hanging_leg(World& world) {
  auto volume = co_await pool_with_volume(world);
  REQUIRE_OK(world.drive("b0").apply("hang on"));
  PendingWrite write;
  block::TaskGroup group;
  group.spawn(write_in_background(*volume, 5, 2, write));
  while (world.pool->leg_health(world.leg_of("b0")).oldest_write_ns == 0) co_await world.reactor->yield();
  REQUIRE(!write.answered);
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs(world.legs_of({"b0"}));
  REQUIRE_OK(failed);
  co_await write.done.wait();
  REQUIRE(write.status == block::IoStatus::ok);
  REQUIRE(world.pool->in_flight_count(world.leg_of("b0")) > 0);
  REQUIRE_OK(world.drive("b0").apply("clear"));
  while (world.pool->in_flight_count(world.leg_of("b0")) != 0) co_await world.reactor->after_ms(1);
  co_await group.close();
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_leg_that_does_not_answer_is_failed_at_once_and_drains_later) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, hanging_leg));
}

Task<void> bad_places(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  REQUIRE_OK(world.drive("a0").apply("read-errors 4194304+200000000"));  // behind the first labels
  REQUIRE_OK(world.drive("b0").apply("read-errors 200000000+1000000"));
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE_OK(volume);
  for (std::uint64_t i = 0; i < 8; ++i) {
    auto wrong = co_await wrong_blocks(**volume, i * 2, 2, 1);
    REQUIRE(wrong == 0);
  }
  REQUIRE(world.pool->leg_health(world.leg_of("a0")).read_error_count > 0);
  for (const LegEvent& event : world.events) REQUIRE(event.kind == LegEvent::Kind::media_error && !event.held);
  co_await end_well(world, std::move(*volume));
}
Task<void> make_and_export(World& world) {
  auto volume = co_await pool_with_volume(world);
  co_await end_well(world, std::move(volume));
}
TEST(Driver, a_bad_place_on_one_leg_is_read_from_the_other_and_counted) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, make_and_export));
  EXPECT_WELL(in_child(folder, bad_places));
}

// "drops a leg by itself": OpenZFS probes a leg whose read failed by reading its labels, and closes it when they are bad too.
// The probe is held instead, the writes go on meanwhile with every flush on both legs, and the owner takes the leg off.
struct FlushedWriter {
  std::uint64_t written = 0;
  bool stop = false;
  bool both = true;  // legs in the ack set
};
Task<void> write_and_count_flushes(World& world, Volume& volume, FlushedWriter& writer) {
  auto flushes = [&world](const char* drive) {  // or durable writes, which need none
    LegHealth health = world.pool->leg_health(world.leg_of(drive));
    return health.flush_count + health.durable_write_count;
  };
  while (!writer.stop) {
    const bool both = writer.both;
    const std::uint64_t before_a = flushes("a0"), before_b = flushes("b0");
    auto status = co_await write_blocks(volume, 1024 + writer.written % 1024, 1, 2);
    REQUIRE(status == block::IoStatus::ok);
    REQUIRE(flushes("a0") > before_a);
    REQUIRE(!both || !writer.both || flushes("b0") > before_b);
    ++writer.written;
  }
}
Task<void> read_all(Volume& volume, bool& done) {
  auto wrong = co_await wrong_blocks(volume, 0, 16, 1);
  REQUIRE(wrong == 0);
  done = true;
}
Task<void> bad_labels(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE_OK(volume);
  LegId leg = world.leg_of("b0");
  REQUIRE_OK(world.drive("a0").apply("slow 5"));  // so that b0 is read
  REQUIRE_OK(world.drive("b0").apply("read-errors on"));
  FlushedWriter writer;
  block::TaskGroup group;
  group.spawn(write_and_count_flushes(world, **volume, writer));
  bool read = false;
  group.spawn(read_all(**volume, read));
  auto held_probe = [&world] {
    return std::ranges::any_of(world.events, [](const LegEvent& event) { return event.held; });
  };
  while (!held_probe()) co_await world.wait_for_event();
  for (const LegEvent& event : world.events) {  // the data is read from the other leg; held is the probe
    REQUIRE(event.leg == leg && event.operation == block::Operation::read);
    REQUIRE(event.held == (event.kind == LegEvent::Kind::error));
  }
  const std::uint64_t before = writer.written;
  while (writer.written < before + 50) co_await world.reactor->after_ms(1);
  auto dropped = co_await world.pool->legs_that_zfs_dropped();
  REQUIRE_OK(dropped);
  REQUIRE(dropped->empty());

  writer.both = false;
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs({leg});
  REQUIRE_OK(failed);
  while (!read) co_await world.reactor->after_ms(1);
  writer.stop = true;
  co_await group.close();
  co_await end_well(world, std::move(*volume));
}
// As OpenZFS itself begins a scrub.
bool open_every_leg_again() {
  constexpr int scrub = 1;  // POOL_SCAN_SCRUB
  void* spa = nullptr;
  REQUIRE(spa_open("tank", &spa, "test") == 0);
  REQUIRE(spa_scan(spa, scrub) == 0);
  spa_close(spa, "test");
  return true;
}
// The last leg of a mirror has one bad label of four: a bad place like any other, for the owner has nobody to go on with.
Task<void> a_bad_label_of_the_last_leg(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs({world.leg_of("b0")});
  REQUIRE_OK(failed);
  const std::uint64_t third_label = (world.drive("a0").geometry().size_bytes & ~((256ULL << 10) - 1)) - (512 << 10);
  REQUIRE_OK(world.drive("a0").apply(fmt::format("read-errors {}+{}", third_label, 256 << 10)));
  co_await world.engine->blocking(open_every_leg_again);
  REQUIRE(std::ranges::any_of(world.events,
                              [](const LegEvent& event) { return event.kind == LegEvent::Kind::media_error; }));
  for (const LegEvent& event : world.events) REQUIRE(event.kind == LegEvent::Kind::media_error && !event.held);
  REQUIRE_OK(world.drive("a0").apply("read-errors off"));
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Driver, a_bad_label_of_the_last_leg_is_a_bad_place) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, make_and_export));
  EXPECT_WELL(in_child(folder, a_bad_label_of_the_last_leg));
}

// OpenZFS's scan leaves out what its own first txg wrote, and large writes are on the legs before their txg ends.
Task<void> scrub_of_the_newest_writes(World& world) {
  auto volume = co_await pool_with_volume(world);
  constexpr std::uint64_t blocks_a_block = 16384 / block_bytes;  // of the volume's
  constexpr std::uint64_t count = 1024, at_once = 32;
  for (std::uint64_t first = 0; first < count; first += at_once) {
    auto status = co_await write_blocks(*volume, first, at_once, 2);
    REQUIRE(status == block::IoStatus::ok);
  }
  REQUIRE_OK(world.drive("b0").apply(
      fmt::format("wrong-data {}+{}", 4 << 20, world.drive("b0").geometry().size_bytes - (8 << 20))));
  const std::uint64_t errors = co_await scrub(world);
  std::fprintf(stderr, "%llu checksum errors\n", static_cast<unsigned long long>(errors));
  REQUIRE(errors >= count / blocks_a_block);
  REQUIRE_OK(world.drive("b0").apply("clear"));
  co_await end_well(world, std::move(volume));
}
TEST(Scrub, reads_all_that_was_written_before_it) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, scrub_of_the_newest_writes));
}

// No leg is opened again, which would read its labels: clients wait for it.
Task<void> scrub_without_opening(World& world) {
  auto volume = co_await pool_with_volume(world);
  for (const char* name : {"a0", "b0"}) REQUIRE_OK(world.drive(name).apply("read-errors 0+524288"));
  co_await scrub(world);
  REQUIRE(world.drive("a0").error_count() == 0 && world.drive("b0").error_count() == 0);
  for (const char* name : {"a0", "b0"}) REQUIRE_OK(world.drive(name).apply("clear"));
  co_await end_well(world, std::move(volume));
}
TEST(Scrub, begins_without_opening_the_legs_again) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, scrub_without_opening));
}

TEST(Driver, a_probe_that_would_close_a_leg_of_the_ack_set_is_held_and_every_write_is_flushed_on_both) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, make_and_export));
  EXPECT_WELL(in_child(folder, bad_labels));
}

// "reads held, not failed, during import".
Task<void> bad_place_at_import(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  world.make_pool();
  REQUIRE_OK(world.drive("a0").apply("read-errors 4194304+200000000"));
  block::TaskGroup group;
  bool imported = false;
  auto import = [](World& its_world, ImportSpec its_spec, bool& done) -> Task<void> {
    auto report = co_await its_world.pool->import_pool(std::move(its_spec));
    REQUIRE_OK(report);
    done = true;
  };
  group.spawn(import(world, spec, imported));
  while (world.events.empty()) co_await world.wait_for_event();
  REQUIRE(world.events[0].held && world.events[0].operation == block::Operation::read);
  REQUIRE(!imported);
  REQUIRE_OK(world.drive("a0").apply("clear"));
  while (!imported) {
    world.pool->retry_held(world.events[0].leg);
    co_await world.reactor->after_ms(1);
  }
  co_await group.close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Driver, a_read_error_during_an_import_is_held) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, make_and_export));
  EXPECT_WELL(in_child(folder, bad_place_at_import));
}

}  // namespace
}  // namespace zpair::zfs::test
