// Small writes to blocks that are not in memory: the rest is read while the log is written.
#include <algorithm>
#include <random>
#include <sstream>

#include "scenario.h"

namespace zpair::zfs::test {
namespace {

constexpr std::uint64_t blocks = 2048;  // of 4 KiB; four of them are a block of the volume
constexpr std::uint64_t writers = 16;
constexpr std::uint64_t writes_each = 150;

Task<void> fill_volume(World& world) {
  co_await make_pool(world);
  auto made =
      co_await world.pool->create_volume({.name = "vm1", .size_bytes = blocks * block_bytes, .compression = "off"});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  for (std::uint64_t first = 0; first < blocks; first += 256) {
    auto status = co_await write_blocks(*volume, first, 256, 1);
    REQUIRE(status == block::IoStatus::ok);
  }
  co_await volume->close();
  co_await export_and_close(world);
}

// What each writer does; the blocks congruent to it are its own, so that four writers meet in each block of the volume.
struct Step {
  std::uint64_t first, generation;
};
std::vector<Step> steps_of(std::uint64_t writer) {
  std::mt19937_64 random(100 + writer);
  std::vector<Step> steps;
  for (std::uint64_t i = 0; i < writes_each; ++i)
    steps.push_back({random() % (blocks / writers) * writers + writer, 1000 * (writer + 1) + i});
  return steps;
}

Task<void> write_and_read(Volume& volume, std::uint64_t writer) {
  for (const Step& step : steps_of(writer)) {
    auto status = co_await write_blocks(volume, step.first, 1, step.generation);
    REQUIRE(status == block::IoStatus::ok);
    auto wrong = co_await wrong_blocks(volume, step.first, 1, step.generation);
    REQUIRE(wrong == 0);
  }
}

Task<void> write_at_once_and_die(World& world) {
  co_await import_again(world, {.commands = "latency-us 2000 0 0"});
  auto volume = co_await open(world, "vm1");
  block::TaskGroup group;
  for (std::uint64_t writer = 0; writer < writers; ++writer) group.spawn(write_and_read(*volume, writer));
  co_await group.close();
  std::fprintf(stderr, "%llu writes\n", static_cast<unsigned long long>(volume->partial_writes()));
  REQUIRE(volume->partial_writes() >= blocks / 8);
  kill(getpid(), SIGKILL);
}

Task<void> check_all(World& world) {
  std::vector<std::uint64_t> generation(blocks, 1);
  for (std::uint64_t writer = 0; writer < writers; ++writer) {
    for (const Step& step : steps_of(writer)) generation[step.first] = step.generation;
  }
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  for (std::uint64_t i = 0; i < blocks; ++i) {
    auto wrong = co_await wrong_blocks(*volume, i, 1, generation[i]);
    REQUIRE(wrong == 0);
  }
  co_await volume->close();
  co_await export_and_close(world);
}

TEST(PartialWrite, of_blocks_that_others_change_too_is_durable_and_seen_at_once) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_volume));
  End end = in_child(folder, write_at_once_and_die);
  EXPECT_TRUE(end.killed()) << end.said;
  EXPECT_WELL(in_child(folder, check_all));
  EXPECT_EQ(zdb(folder, "-bcc -y"), 0) << zdb_said(folder);
}

// Over two blocks of the volume, in pieces, and of sectors.
Task<void> write_across(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  std::vector<Block> wanted(blocks), found(blocks);
  fill(wanted, 0, 1);
  auto* bytes = reinterpret_cast<std::byte*>(wanted.data());
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t size = 512 * (1 + random() % 31), offset = 512 * (random() % (blocks * 8 - size / 512));
    for (std::uint64_t at = 0; at < size; at += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes + offset + at, &word, 8);
    }
    auto written = co_await block::write(*volume, offset, std::span(bytes + offset, size));
    REQUIRE(written.ok());
  }
  REQUIRE(volume->partial_writes() > 150);
  auto outcome = co_await block::read(*volume, 0, std::as_writable_bytes(std::span(found)));
  REQUIRE(outcome.ok());
  REQUIRE(std::memcmp(found.data(), wanted.data(), blocks * block_bytes) == 0);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(PartialWrite, may_lie_across_two_blocks) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_volume));
  EXPECT_WELL(in_child(folder, write_across));
}

// Where zdb says that the volume's blocks lie.
struct VolumeBlock {
  std::uint64_t offset_bytes, leg_offset_bytes;
};
std::vector<VolumeBlock> volume_blocks(const Folder& folder) {
  constexpr std::uint64_t data_begins = 4 << 20;
  std::vector<VolumeBlock> found;
  EXPECT_EQ(zdb(folder, "-ddddd", "tank/vm1 1"), 0) << zdb_said(folder);
  std::istringstream said(zdb_said(folder));
  std::string line;
  while (std::getline(said, line)) {
    unsigned long long offset = 0, place = 0;
    unsigned mirror = 0;
    const std::size_t leaf = line.find(" L0 ");
    if (leaf == std::string::npos || std::sscanf(line.c_str(), "%llx", &offset) != 1) continue;
    if (std::sscanf(line.c_str() + leaf, " L0 %u:%llx", &mirror, &place) == 2)
      found.push_back({offset, data_begins + place});
  }
  return found;
}

void spoil(const Folder& folder, const VolumeBlock& block) {
  for (const std::string& name : one_mirror) {
    std::fstream drive(folder.path + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
    drive.seekp(static_cast<std::streamoff>(block.leg_offset_bytes));
    drive << std::string(16384, 'x');
  }
}

// The rest of a block cannot be read from either leg.
constexpr std::uint64_t spoiled_count = 8, spoiled_every = 20;

Task<void> write_one(Volume& volume, std::uint64_t first, block::IoStatus wanted) {
  auto status = co_await write_blocks(volume, first, 1, 2);
  REQUIRE(status == wanted);
}
Task<void> write_to_spoiled_and_die(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  block::TaskGroup group;
  for (std::uint64_t i = 0; i < spoiled_count; ++i) {
    group.spawn(write_one(*volume, i * spoiled_every, block::IoStatus::io_error));
    group.spawn(write_one(*volume, 1000 + i * spoiled_every, block::IoStatus::ok));
  }
  co_await group.close();
  REQUIRE(volume->partial_writes() > 0);  // most of them: a read may be over at once
  kill(getpid(), SIGKILL);                // nothing of what failed may be in the log now
}
Task<void> check_around_spoiled(World& world) {
  co_await import_again(world);  // what failed could not be replayed either: that would end the process
  auto volume = co_await open(world, "vm1");
  for (std::uint64_t i = 0; i < spoiled_count; ++i) {
    auto wrong = co_await wrong_blocks(*volume, i * spoiled_every + 4, spoiled_every - 4, 1);
    REQUIRE(wrong == 0);
    wrong = co_await wrong_blocks(*volume, i * spoiled_every, 4, 1);
    REQUIRE(wrong == 4);  // still unreadable
    auto status = co_await write_blocks(*volume, i * spoiled_every, 4, 3);
    REQUIRE(status == block::IoStatus::ok);  // all of it is known now
    wrong = co_await wrong_blocks(*volume, i * spoiled_every, 4, 3);
    REQUIRE(wrong == 0);
    wrong = co_await wrong_blocks(*volume, 1000 + i * spoiled_every, 1, 2);
    REQUIRE(wrong == 0);
  }
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(PartialWrite, fails_without_its_block_and_is_not_replayed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_volume));
  std::uint64_t spoiled = 0;
  for (const VolumeBlock& block : volume_blocks(folder)) {
    if (block.offset_bytes >= spoiled_count * spoiled_every * block_bytes ||
        block.offset_bytes % (spoiled_every * block_bytes) != 0)
      continue;
    spoil(folder, block);
    ++spoiled;
  }
  ASSERT_EQ(spoiled, spoiled_count);
  End end = in_child(folder, write_to_spoiled_and_die);
  EXPECT_TRUE(end.killed()) << end.said;
  EXPECT_WELL(in_child(folder, check_around_spoiled));
}

// The last leg has a bad place, whose read is held: nobody else waits for it. When it can be read after all,
// the txg of the record is long over.
std::string bad_place;  // of one block of the volume, on either leg

Task<void> write_to_a_bad_place(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  world.set_ack_set({"a0"});
  auto failed = co_await world.pool->fail_legs({world.leg_of("b0")});
  REQUIRE_OK(failed);
  REQUIRE_OK(world.drive("a0").apply("read-errors " + bad_place));
  block::TaskGroup group;
  group.spawn(write_one(*volume, 0, block::IoStatus::ok));
  while (world.drive("a0").error_count() == 0) co_await world.reactor->after_ms(1);
  const Txg began = world.pool->last_synced_txg();
  for (std::uint64_t i = 0; world.pool->last_synced_txg().value < began.value + 4; ++i) {
    auto status = co_await write_blocks(*volume, 4 + i % 1000, 1, 2);
    REQUIRE(status == block::IoStatus::ok);
  }
  REQUIRE_OK(world.drive("a0").apply("clear"));
  world.pool->retry_held(world.leg_of("a0"));
  co_await group.close();
  REQUIRE(volume->partial_writes() > 100);
  kill(getpid(), SIGKILL);
}
Task<void> check_what_a_held(World& world) {
  std::vector<std::string> a_alone = {"a0"};
  co_await import_again(world, {}, a_alone);
  auto volume = co_await open(world, "vm1");
  auto wrong = co_await wrong_blocks(*volume, 0, 1, 2);
  REQUIRE(wrong == 0);
  wrong = co_await wrong_blocks(*volume, 1, 3, 1);
  REQUIRE(wrong == 0);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(PartialWrite, that_a_bad_place_holds_up_holds_up_nobody_else_and_is_durable) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_volume));
  const std::vector<VolumeBlock> found = volume_blocks(folder);
  ASSERT_FALSE(found.empty() || found.front().offset_bytes != 0);
  bad_place = fmt::format("{}+{}", found.front().leg_offset_bytes, 16384);
  End end = in_child(folder, write_to_a_bad_place);
  EXPECT_TRUE(end.killed()) << end.said;
  EXPECT_WELL(in_child(folder, check_what_a_held));
}

// Acknowledged, and the rest of its block was lost before the replay.
Task<void> write_two_and_die(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  for (std::uint64_t first : {0, 20}) {
    auto wrong = co_await wrong_blocks(*volume, first, 4, 1);
    REQUIRE(wrong == 0);
  }
  REQUIRE_OK(set_tunable("zfs_txg_timeout", 60));  // they are in the log alone, but for the first, which begins it
  for (std::uint64_t first : {40, 0, 20}) {
    auto status = co_await write_blocks(*volume, first, 1, 2);
    REQUIRE(status == block::IoStatus::ok);
  }
  kill(getpid(), SIGKILL);
}
Task<void> import_with_accepted_loss(World& world) {
  co_await import_again(world, {}, one_mirror, ImportSpec::Floor::skip_and_say_so);
  auto volume = co_await open(world, "vm1");
  auto wrong = co_await wrong_blocks(*volume, 0, 4, 1);
  REQUIRE(wrong == 4);
  wrong = co_await wrong_blocks(*volume, 20, 1, 2);
  REQUIRE(wrong == 0);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(PartialWrite, that_cannot_be_replayed_is_given_up_at_an_operators_word_alone) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_volume));
  const std::vector<VolumeBlock> found = volume_blocks(folder);
  End end = in_child(folder, write_two_and_die);
  ASSERT_TRUE(end.killed()) << end.said;
  ASSERT_FALSE(found.empty() || found.front().offset_bytes != 0);
  spoil(folder, found.front());
  end = in_child(folder, check_all);
  EXPECT_TRUE(end.aborted()) << end.said;
  EXPECT_NE(end.said.find("rule 7: record"), std::string::npos) << end.said;
  end = in_child(folder, import_with_accepted_loss);
  EXPECT_WELL(end);
  EXPECT_NE(end.said.find("the write of 4096 bytes at 0 "), std::string::npos) << end.said;
}

// A full pool may have no room for a transaction of many writes.
Task<void> fill_pool(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 96 << 20, .compression = "off"});
  REQUIRE_OK(made);
  made = co_await world.pool->create_volume(
      {.name = "thin", .size_bytes = 1ULL << 30, .space = VolumeSpec::Space::thin, .compression = "off"});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  auto thin = co_await open(world, "thin");
  for (std::uint64_t first = 0; first < (96 << 20) / block_bytes; first += 256) {
    auto status = co_await write_blocks(*volume, first, 256, 1);
    REQUIRE(status == block::IoStatus::ok);
  }
  block::IoStatus status = block::IoStatus::ok;
  for (std::uint64_t first = 0; status == block::IoStatus::ok; first += 256)
    status = co_await write_blocks(*thin, first, 256, 1);
  REQUIRE(status == block::IoStatus::no_space);
  co_await volume->close();
  co_await thin->close();
  co_await export_and_close(world);
}
TEST(PartialWrite, of_a_thick_volume_goes_on_in_a_full_pool) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, fill_pool));
  End end = in_child(folder, write_at_once_and_die);
  EXPECT_TRUE(end.killed()) << end.said;
  EXPECT_WELL(in_child(folder, check_all));
}

}  // namespace
}  // namespace zpair::zfs::test
