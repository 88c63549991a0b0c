// Shrink, import without a side, return, attach, replace, add: and what was acknowledged is on the leg that came back, alone.
#include "scenario.h"

namespace zpair::zfs::test {
namespace {

const std::vector<std::string> side_a = {"a0", "a1", "a2"};
const std::vector<std::string> side_b = {"b0", "b1", "b2"};
const std::vector<std::string> both = {"a0", "a1", "a2", "b0", "b1", "b2"};
constexpr int volume_count = 4;
constexpr std::uint64_t writes_each = 60;

std::string volume_name(int index) { return "vm" + std::to_string(index); }

void remember_since(const World& world, Txg since) { std::ofstream(world.folder + "/since") << since.value; }
Txg remembered_since(const World& world) {
  Txg since;
  std::ifstream(world.folder + "/since") >> since.value;
  return since;
}

Task<void> shrink_then_write_and_die(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  std::vector<std::unique_ptr<Volume>> volumes;
  for (int i = 0; i < volume_count; ++i) {
    auto made =
        co_await world.pool->create_volume({.name = volume_name(i), .size_bytes = 16 << 20, .block_size_bytes = 4096});
    REQUIRE_OK(made);
    auto volume = co_await world.pool->open_volume(volume_name(i));
    REQUIRE_OK(volume);
    auto status = co_await write_blocks(**volume, 0, 100, 1);
    REQUIRE(status == block::IoStatus::ok);
    volumes.push_back(std::move(*volume));
  }
  // Side b stops answering; its since is the smallest of its legs'.
  for (const std::string& name : side_b) REQUIRE_OK(world.drive(name).apply("hang on"));
  Txg since{UINT64_MAX};
  for (LegId leg : world.legs_of(side_b))
    since = std::min(since, world.pool->leg_health(leg).newest_flushed_txg.next());
  REQUIRE(since.value > 1 && since.value <= world.pool->last_synced_txg().value + 1);
  remember_since(world, since);
  world.set_ack_set(side_a);
  auto failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  for (int i = 0; i < volume_count; ++i) {
    for (std::uint64_t k = 0; k < writes_each; ++k) {
      auto status = co_await write_blocks(*volumes[static_cast<std::size_t>(i)], 2048 + k, 1, 5);
      REQUIRE(status == block::IoStatus::ok);
    }
  }
  kill(getpid(), SIGKILL);
}

Task<void> import_a_and_return_b(World& world) {
  co_await world.open_drives(both);
  auto spec = co_await world.import_spec(side_a);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  REQUIRE(report->absent_legs.size() == 3);
  REQUIRE(report->replayed_record_count > 0);
  auto status = co_await world.pool->status();
  REQUIRE_OK(status);
  for (auto& leg : status->legs) REQUIRE(leg.state == (leg.name[0] == 'a' ? LegState::healthy : LegState::offline));
  std::vector<LegSpec> returning;
  for (const std::string& name : side_b) returning.push_back(world.leg(name, world.leg_of(name)));
  auto outcome = co_await world.pool->bring_back(returning, remembered_since(world));
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "%s, scan (%llu, %llu)\n", outcome->why_not.c_str(),
               static_cast<unsigned long long>(outcome->scan_min_txg.value),
               static_cast<unsigned long long>(outcome->scan_max_txg.value));
  REQUIRE(outcome->accepted);
  REQUIRE(outcome->scan_min_txg < remembered_since(world));
  world.set_ack_set(both);
  kill(getpid(), SIGKILL);  // right after the record would have named b again
}

Task<void> count_lost_on_b_alone(World& world) {
  co_await world.open_drives(side_b);
  auto spec = co_await world.import_spec(side_b);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  std::size_t lost = 0;
  for (int i = 0; i < volume_count; ++i) {
    auto volume = co_await world.pool->open_volume(volume_name(i));
    REQUIRE_OK(volume);
    auto wrong_old = co_await wrong_blocks(**volume, 0, 100, 1);
    auto wrong_new = co_await wrong_blocks(**volume, 2048, writes_each, 5);
    lost += wrong_old + wrong_new;
    co_await (*volume)->close();
  }
  std::fprintf(stderr, "lost %zu\n", lost);
  REQUIRE(lost == 0);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}

// Design, section 7: "never enters failed log writes into the DTL; resilver skips live logs; quiet mirrors keep no DTL".
// Without the return's six steps 240 of 240 were lost.
TEST(Return, a_side_that_came_back_holds_every_write_acknowledged_without_it) {
  for (int round = 0; round < 3; ++round) {
    Folder folder;
    make_files(folder.path, both);
    End first = in_child(folder, shrink_then_write_and_die);
    ASSERT_TRUE(first.killed()) << first.said;
    End second = in_child(folder, import_a_and_return_b, {.zfs_host_id = 0x5a7a0002});
    ASSERT_TRUE(second.killed()) << second.said;
    End third = in_child(folder, count_lost_on_b_alone);
    EXPECT_WELL(third);
  }
}

// The same under load, and without an import in between: writers go on while the side leaves and returns.
struct Load {
  bool stop = false;
  std::uint64_t acknowledged = 0;
};
Task<void> write_on(Volume& volume, Load& load) {
  while (!load.stop) {
    auto status = co_await write_blocks(volume, 1024 + load.acknowledged % 1024, 1, 100 + load.acknowledged / 1024);
    REQUIRE(status == block::IoStatus::ok);
    ++load.acknowledged;
  }
}
Task<void> leave_and_return_under_load(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm0", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  Load load;
  block::TaskGroup group;
  group.spawn(write_on(**volume, load));
  while (load.acknowledged < 100) co_await world.reactor->after_ms(1);
  for (const std::string& name : side_b) REQUIRE_OK(world.drive(name).apply("hang on"));
  Txg since{UINT64_MAX};
  for (LegId leg : world.legs_of(side_b))
    since = std::min(since, world.pool->leg_health(leg).newest_flushed_txg.next());
  world.set_ack_set(side_a);
  auto failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  std::uint64_t before = load.acknowledged;
  while (load.acknowledged < before + 300) co_await world.reactor->after_ms(1);
  for (const std::string& name : side_b) REQUIRE_OK(world.drive(name).apply("clear"));
  for (LegId leg : world.legs_of(side_b)) {
    while (world.pool->in_flight_count(leg) != 0) co_await world.reactor->after_ms(1);
  }
  std::vector<LegSpec> returning;
  for (const std::string& name : side_b) returning.push_back(world.leg(name, world.leg_of(name)));
  before = load.acknowledged;
  auto outcome = co_await world.pool->bring_back(returning, since);
  REQUIRE_OK(outcome);
  REQUIRE(outcome->accepted);
  std::fprintf(stderr, "%llu writes meanwhile\n", static_cast<unsigned long long>(load.acknowledged - before));
  world.set_ack_set(both);
  before = load.acknowledged;
  while (load.acknowledged < before + 50) co_await world.reactor->after_ms(1);
  std::ofstream(world.folder + "/acknowledged") << load.acknowledged;
  kill(getpid(), SIGKILL);
}
Task<void> check_load_on_b_alone(World& world) {
  std::uint64_t acknowledged = 0;
  std::ifstream(world.folder + "/acknowledged") >> acknowledged;
  co_await world.open_drives(side_b);
  auto spec = co_await world.import_spec(side_b);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  REQUIRE(acknowledged > 0);
  std::size_t lost = 0;
  for (std::uint64_t i = acknowledged > 1024 ? acknowledged - 1024 : 0; i < acknowledged; ++i) {
    // The write in flight at the kill may have overwritten the oldest one of the ring.
    if (i + 1024 == acknowledged) continue;
    lost += co_await wrong_blocks(**volume, 1024 + i % 1024, 1, 100 + i / 1024);
  }
  std::fprintf(stderr, "lost %zu of %llu\n", lost, static_cast<unsigned long long>(acknowledged));
  REQUIRE(lost == 0);
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Return, a_side_leaves_and_returns_under_load_and_then_serves_alone) {
  Folder folder;
  make_files(folder.path, both);
  End first = in_child(folder, leave_and_return_under_load);
  ASSERT_TRUE(first.killed()) << first.said;
  End second = in_child(folder, check_load_on_b_alone, {.zfs_host_id = 0x5a7a0002});
  EXPECT_WELL(second);
  EXPECT_EQ(zdb(folder, "-bc"), 0) << zdb_said(folder);
}

// Nothing is written or read while a leg is opened: a mirror that was opened as a whole would look at the labels of the leg
// that serves, under the lock that clients wait for. Here those labels cannot be read.
Task<void> leave_and_return_beside_unreadable_labels(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  for (const std::string& name : side_a) REQUIRE_OK(world.drive(name).apply("read-errors 0+524288"));
  world.set_ack_set(side_a);
  auto failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  std::vector<LegSpec> returning;
  for (const std::string& name : side_b) returning.push_back(world.leg(name, world.leg_of(name)));
  auto outcome = co_await world.pool->bring_back(returning, Txg{1});
  REQUIRE_OK(outcome);
  REQUIRE(outcome->accepted);
  for (const LegEvent& event : world.events) std::fprintf(stderr, "%s\n", event.text.c_str());
  REQUIRE(world.events.empty());
  for (const std::string& name : side_a) REQUIRE_OK(world.drive(name).apply("clear"));
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Return, legs_that_leave_and_return_do_not_open_the_legs_beside_them) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, leave_and_return_beside_unreadable_labels));
}

Task<void> return_with_a_failing_leg(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm0", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  world.set_ack_set(side_a);
  auto failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  auto status = co_await write_blocks(**volume, 0, 2000, 1);
  REQUIRE(status == block::IoStatus::ok);
  REQUIRE_OK(world.drive("b1").apply("write-errors 4194304+240000000"));
  std::vector<LegSpec> returning;
  for (const std::string& name : side_b) returning.push_back(world.leg(name, world.leg_of(name)));
  auto outcome = co_await world.pool->bring_back(returning, Txg{1});
  REQUIRE_OK(outcome);
  REQUIRE(!outcome->accepted);
  std::fprintf(stderr, "not accepted: %s\n", outcome->why_not.c_str());
  failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  REQUIRE_OK(world.drive("b1").apply("clear"));
  outcome = co_await world.pool->bring_back(returning, Txg{1});
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "then: %s\n", outcome->why_not.c_str());
  REQUIRE(outcome->accepted);
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Return, a_leg_that_errs_during_its_resync_is_not_accepted_and_may_try_again) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, return_with_a_failing_leg));
}

// A leg that stops answering in the middle of its resync holds the pool only until the owner fails it.
Task<void> hang_in_the_middle(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm0", .size_bytes = 32 << 20, .compression = "off"});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  world.set_ack_set(side_a);
  auto failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  auto status = co_await write_blocks(**volume, 0, 8000, 1);
  REQUIRE(status == block::IoStatus::ok);
  std::vector<LegSpec> returning;
  for (const std::string& name : side_b) returning.push_back(world.leg(name, world.leg_of(name)));
  struct Result {
    bool accepted = true;
    block::Signal done;
  } result;
  auto run = [](World& its_world, std::vector<LegSpec> legs, Result& out) -> Task<void> {
    auto outcome = co_await its_world.pool->bring_back(std::move(legs), Txg{1});
    REQUIRE_OK(outcome);
    out.accepted = outcome->accepted;
    out.done.set();
  };
  block::TaskGroup group;
  group.spawn(run(world, returning, result));
  while (world.pool->leg_health(world.leg_of("b1")).write_count < 3) co_await world.reactor->yield();
  REQUIRE_OK(world.drive("b1").apply("hang on"));
  for (;;) {  // its write or, while the leg is opened, OpenZFS's probe
    LegHealth health = world.pool->leg_health(world.leg_of("b1"));
    if (health.oldest_write_ns != 0 || health.oldest_read_ns != 0) break;
    co_await world.reactor->after_ms(1);
  }
  failed = co_await world.pool->fail_legs(world.legs_of(side_b));
  REQUIRE_OK(failed);
  co_await result.done.wait();
  REQUIRE(!result.accepted);
  status = co_await write_blocks(**volume, 0, 10, 2);
  REQUIRE(status == block::IoStatus::ok);
  REQUIRE_OK(world.drive("b1").apply("clear"));
  for (LegId leg : world.legs_of(side_b)) {
    while (world.pool->in_flight_count(leg) != 0) co_await world.reactor->after_ms(1);
  }
  auto outcome = co_await world.pool->bring_back(returning, Txg{1});
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "then: %s\n", outcome->why_not.c_str());
  REQUIRE(outcome->accepted);
  co_await group.close();
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Return, a_leg_that_hangs_during_its_resync_is_failed_and_may_try_again) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, hang_in_the_middle));
}

// ---- what an import refuses

Task<void> make_pool_and_export(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
Task<void> refused_imports(World& world) {
  co_await world.open_drives(both);
  auto good = co_await world.import_spec(both);
  auto expect_refusal = [](World& its_world, ImportSpec spec, std::string_view words) -> Task<void> {
    its_world.make_pool();
    auto report = co_await its_world.pool->import_pool(std::move(spec));
    REQUIRE(!report);
    std::fprintf(stderr, "%s\n", report.error().message.c_str());
    REQUIRE(report.error().code == ErrorCode::refused);
    REQUIRE(report.error().message.find(words) != std::string::npos);
  };
  auto survey = co_await survey_labels(world.drive("a0"));
  REQUIRE_OK(survey);
  REQUIRE((*survey)->pool_name == "tank" && (*survey)->zfs_host_id == 0x5a7a0001 && (*survey)->pool_state == 1);
  REQUIRE((*survey)->best_uberblock_txg == (*survey)->uberblock_txgs.back());
  REQUIRE((*survey)->uberblock_txgs.size() > 1);

  ImportSpec floor = good;
  floor.floor_txg = Txg{(*survey)->best_uberblock_txg.value + 5};
  co_await expect_refusal(world, floor, "is known to have synced");
  ImportSpec foreign = good;
  foreign.zfs_host_ids = {0x5a7a0002};
  co_await expect_refusal(world, foreign, "used outside zpair");
  ImportSpec missing = good;
  std::erase_if(missing.legs, [](const LegSpec& leg) { return leg.name == "a1" || leg.name == "b1"; });
  co_await expect_refusal(world, missing, "has no leg here");
  ImportSpec swapped = good;
  std::swap(swapped.legs[0].device, swapped.legs[1].device);
  co_await expect_refusal(world, swapped, "but its label says");

  world.make_pool();
  auto report = co_await world.pool->import_pool(good);
  REQUIRE_OK(report);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Import, refuses_what_is_below_the_floor_foreign_incomplete_or_not_what_it_is_called) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, make_pool_and_export));
  EXPECT_WELL(in_child(folder, refused_imports));
}

// Design, section 7: "takes the best readable uberblock": the newest one leads to a block that no leg has whole. Going back to an
// older one would import, and lose what was acknowledged since.
Task<void> write_and_die(World& world) {
  co_await world.open_drives(both);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm0", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  kill(getpid(), SIGKILL);
}
Task<void> import_without_its_newest_root(World& world) {
  co_await world.open_drives(both);
  auto spec = co_await world.import_spec(both);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE(!report);
  std::fprintf(stderr, "%s\n", report.error().message.c_str());
  co_await world.close_drives();
}
TEST(Import, never_goes_back_to_an_older_uberblock) {
  Folder folder;
  make_files(folder.path, both);
  End first = in_child(folder, write_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  ASSERT_EQ(zdb(folder, "-u"), 0) << zdb_said(folder);
  const std::string said = zdb_said(folder);
  ASSERT_GE(spoil_blocks(folder, said.substr(said.find("bp = DVA"))), 2) << said;
  EXPECT_WELL(in_child(folder, import_without_its_newest_root));
}

// "MMP refuses the survivor's import, unless the absent legs are marked offline in the config": on the disk, not in memory only.
Task<void> import_a_and_export(World& world) {
  co_await world.open_drives(side_a);
  auto spec = co_await world.import_spec(side_a);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  REQUIRE(report->absent_legs.size() == 3);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Import, absent_legs_are_offline_in_the_config_on_every_leg) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, make_pool_and_export));
  EXPECT_WELL(in_child(folder, import_a_and_export));
  for (const std::string& name : side_a) {
    ASSERT_EQ(std::system(("zdb -l " + folder.path + "/" + name + " > " + folder.path + "/zdb.out 2>&1").c_str()), 0);
    const std::string label = zdb_said(folder);
    const std::size_t absent = label.find("children[1]");  // of its mirror: the leg of side b
    ASSERT_NE(absent, std::string::npos) << label;
    EXPECT_NE(label.find("offline: 1", absent), std::string::npos) << label;
  }
}

// An operator's override of a side whose legs were coming back one after the other: one is online in the pool's config, the next
// still offline. What is named is opened.
Task<void> import_legs_that_are_offline(World& world) {
  co_await world.open_drives({"a0", "b1", "b2"});
  auto spec = co_await world.import_spec({"a0", "b1", "b2"});
  spec.floor = ImportSpec::Floor::skip_and_say_so;
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  REQUIRE(report->absent_legs.size() == 3);
  REQUIRE(world.pool->leg_health(world.leg_of("b1")).write_bytes > 0);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Import, a_named_leg_that_the_config_calls_offline_is_opened) {
  Folder folder;
  make_files(folder.path, both);
  EXPECT_WELL(in_child(folder, make_pool_and_export));
  EXPECT_WELL(in_child(folder, import_a_and_export));
  EXPECT_WELL(in_child(folder, import_legs_that_are_offline));
}

// ---- attach, replace, add

Task<void> replace_attach_and_add(World& world) {
  co_await world.open_drives({"a0", "b0", "b9", "a1", "b1", "a7"});
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  auto made = co_await world.pool->create_volume({.name = "vm0", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  auto status = co_await write_blocks(**volume, 0, 1000, 1);
  REQUIRE(status == block::IoStatus::ok);

  // A drive in the place of another, which has been shrunk out.
  LegId old_leg = world.leg_of("b0");
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs({old_leg});
  REQUIRE_OK(failed);
  auto replaced = co_await world.pool->replace_leg(old_leg, world.leg("b9"));
  REQUIRE_OK(replaced);
  auto outcome = co_await world.pool->finish_attach(*replaced);
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "replace: %s\n", outcome->why_not.c_str());
  REQUIRE(outcome->accepted);
  REQUIRE(world.pool->layout().mirrors[0].legs.size() == 2);
  REQUIRE(world.leg_of("b9") == *replaced && world.leg_of("b0") == LegId{});
  world.set_ack_set({"a0", "b9"});

  // A third leg beside them, and away again.
  auto attached = co_await world.pool->attach_leg(world.pool->layout().mirrors[0].guid, world.leg("a7"));
  REQUIRE_OK(attached);
  outcome = co_await world.pool->finish_attach(*attached);
  REQUIRE_OK(outcome);
  std::fprintf(stderr, "attach: %s\n", outcome->why_not.c_str());
  REQUIRE(outcome->accepted);
  auto refused = co_await world.pool->detach_leg(world.leg_of("b9"));
  REQUIRE(!refused && refused.error().code == ErrorCode::refused);
  auto detached = co_await world.pool->detach_leg(*attached);
  REQUIRE_OK(detached);
  REQUIRE(world.pool->layout().mirrors[0].legs.size() == 2);

  // Another mirror.
  std::vector<MirrorSpec> more;
  more.push_back(MirrorSpec{{world.leg("a1"), world.leg("b1")}, "normal"});
  auto added = co_await world.pool->add_mirrors(more);
  REQUIRE_OK(added);
  REQUIRE(added->size() == 1 && world.pool->layout().mirrors.size() == 2);
  world.set_ack_set({"a0", "b9", "a1", "b1"});
  status = co_await write_blocks(**volume, 1000, 1000, 1);
  REQUIRE(status == block::IoStatus::ok);
  REQUIRE(world.pool->leg_health(world.leg_of("b1")).write_bytes > 0);
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
Task<void> new_drives_alone(World& world) {
  co_await world.open_drives({"b9", "b1"});
  auto spec = co_await world.import_spec({"b9", "b1"});
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  auto volume = co_await world.pool->open_volume("vm0");
  REQUIRE_OK(volume);
  auto wrong = co_await wrong_blocks(**volume, 0, 2000, 1);
  REQUIRE(wrong == 0);
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Attach, a_replaced_an_attached_and_an_added_drive_hold_everything) {
  Folder folder;
  make_files(folder.path, {"a0", "b0", "b9", "a1", "b1", "a7"});
  EXPECT_WELL(in_child(folder, replace_attach_and_add));
  EXPECT_WELL(in_child(folder, new_drives_alone));
}

Task<void> last_good_copy(World& world) {
  co_await world.open_drives({"a0", "b0"});
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs(world.legs_of({"b0"}));
  REQUIRE_OK(failed);
  auto detached = co_await world.pool->detach_leg(world.leg_of("b0"));
  REQUIRE_OK(detached);
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
TEST(Attach, a_shrunk_leg_can_be_detached) {
  Folder folder;
  make_files(folder.path, {"a0", "b0"});
  EXPECT_WELL(in_child(folder, last_good_copy));
}

Task<void> bad_creations(World& world) {
  co_await world.open_drives({"a0", "b0", "a1"});
  world.make_pool();
  CreateSpec small = world.mirrors(1);
  small.mirrors[0].legs[1] = world.leg("a1");
  auto layout = co_await world.pool->create_pool(small);  // a1 has 32 MiB
  REQUIRE(!layout && layout.error().code == ErrorCode::invalid);
  world.make_pool("no/name");
  layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE(!layout && layout.error().code == ErrorCode::invalid);
  world.make_pool();
  REQUIRE_OK(world.drive("b0").apply("write-errors on"));
  layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE(!layout);
  std::fprintf(stderr, "%s\n", layout.error().message.c_str());
  world.make_pool();
  REQUIRE_OK(world.drive("b0").apply("clear; write-errors 8192+1000000"));  // takes the first write, fails OpenZFS's
  layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE(!layout);
  std::fprintf(stderr, "%s\n", layout.error().message.c_str());
  REQUIRE_OK(world.drive("b0").apply("clear"));
  world.make_pool();
  layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  auto destroyed = co_await world.pool->destroy_pool();
  REQUIRE_OK(destroyed);
  auto survey = co_await survey_labels(world.drive("a0"));
  REQUIRE_OK(survey);
  REQUIRE(!survey->has_value() || (*survey)->pool_state == 2);
  co_await world.close_drives();
}
TEST(Create, bad_drives_and_names_end_it_and_leave_nothing) {
  Folder folder;
  make_files(folder.path, {"a0", "b0"});
  make_files(folder.path, {"a1"}, 32 << 20);
  EXPECT_WELL(in_child(folder, bad_creations));
}

}  // namespace
}  // namespace zpair::zfs::test
