// Volumes: what they acknowledge, what they refuse, and that they never hang.
#include <algorithm>
#include <random>

#include "scenario.h"

extern "C" int dsl_prop_set_int(const char* dataset, const char* property, int source,
                                std::uint64_t value);  // libzpool's
extern "C" void zp_pipeline_counts(std::uint64_t* log_blocks, std::uint64_t* roots);

namespace zpair::zfs::test {
namespace {

struct Asked : block::Request {
  block::Signal done;
};

Task<std::vector<block::Extent>> extents_of(Volume& volume, std::uint64_t first, std::uint64_t count,
                                            std::uint32_t most) {
  Asked asked;
  std::vector<block::Extent> found;
  asked.operation = block::Operation::extents;
  asked.offset_bytes = first * block_bytes;
  asked.size_bytes = count * block_bytes;
  asked.extents = &found;
  asked.most_extents = most;
  asked.on_done = [](block::Request& request) { static_cast<Asked&>(request).done.set(); };
  volume.submit(asked);
  co_await asked.done.wait();
  REQUIRE(asked.status == block::IoStatus::ok);
  co_return found;
}

Task<void> life(World& world) {
  co_await make_pool(world);
  auto thick = co_await world.pool->create_volume({.name = "thick", .size_bytes = 20 << 20, .compression = "off"});
  REQUIRE_OK(thick);
  REQUIRE(thick->size_bytes == 20 << 20 && thick->block_size_bytes == 16384 && thick->reserved_bytes > 20 << 20);
  REQUIRE(thick->compression == "off" && thick->guid != 0);
  auto thin = co_await world.pool->create_volume(
      {.name = "thin", .size_bytes = 1ULL << 40, .block_size_bytes = 4096, .space = VolumeSpec::Space::thin});
  REQUIRE_OK(thin);
  REQUIRE(thin->reserved_bytes == 0 && thin->size_bytes == 1ULL << 40);
  auto too_large = co_await world.pool->create_volume({.name = "large", .size_bytes = 1ULL << 40});
  REQUIRE(!too_large && too_large.error().code == ErrorCode::no_space);
  auto twice = co_await world.pool->create_volume({.name = "thick", .size_bytes = 1 << 20});
  REQUIRE(!twice && twice.error().code == ErrorCode::exists);
  auto odd = co_await world.pool->create_volume({.name = "odd", .size_bytes = 1 << 20, .block_size_bytes = 5000});
  REQUIRE(!odd && odd.error().code == ErrorCode::invalid);
  auto part = co_await world.pool->create_volume({.name = "part", .size_bytes = 1000});  // refused, not rounded
  REQUIRE(!part && part.error().code == ErrorCode::refused);
  REQUIRE(part.error().message.find("a multiple of its block size, 16384 bytes (the next one is 16384)") !=
          std::string::npos);
  part = co_await world.pool->resize_volume("thick", (24 << 20) + 4096);
  REQUIRE(!part && part.error().code == ErrorCode::refused);
  REQUIRE(part.error().message.find("16384") != std::string::npos);
  part = co_await world.pool->resize_volume("thin", (1ULL << 40) + 4096);  // the volume's own block size counts
  REQUIRE_OK(part);
  auto named = co_await world.pool->create_volume({.name = "a/b@c", .size_bytes = 1 << 20});
  REQUIRE(!named && named.error().code == ErrorCode::invalid);

  auto volume = co_await open(world, "thick");
  auto again = co_await world.pool->open_volume("thick");
  REQUIRE(!again && again.error().code == ErrorCode::exists);
  auto in_use = co_await world.pool->destroy_volume("thick");
  REQUIRE(!in_use && in_use.error().code == ErrorCode::refused);
  auto busy = co_await world.pool->export_pool();
  REQUIRE(!busy && busy.error().code == ErrorCode::refused);
  auto status = co_await write_blocks(*volume, 0, 64, 1);
  REQUIRE(status == block::IoStatus::ok);

  auto snapshot = co_await world.pool->snapshot_volume("thick", "before");
  REQUIRE_OK(snapshot);
  auto grown = co_await world.pool->resize_volume("thick", 24 << 20);
  REQUIRE_OK(grown);
  REQUIRE(volume->geometry().size_bytes == 24 << 20 && grown->reserved_bytes > 24 << 20);
  status = co_await write_blocks(*volume, (23 << 20) / block_bytes, 16, 1);
  REQUIRE(status == block::IoStatus::ok);
  auto cut = co_await world.pool->resize_volume("thick", 8 << 20);
  REQUIRE(!cut && cut.error().code == ErrorCode::invalid);
  co_await volume->close();

  auto list = co_await world.pool->list_volumes();
  REQUIRE_OK(list);
  REQUIRE(list->size() == 2 && (*list)[0].name == "thick" && (*list)[1].name == "thin");
  REQUIRE((*list)[0].snapshots == std::vector<std::string>{"before"});
  auto kept = co_await world.pool->destroy_volume("thick");
  REQUIRE(!kept && kept.error().code == ErrorCode::refused);  // it has a snapshot
  auto dropped = co_await world.pool->destroy_snapshot("thick", "before");
  REQUIRE_OK(dropped);
  auto destroyed = co_await world.pool->destroy_volume("thick");
  REQUIRE_OK(destroyed);
  auto missing = co_await world.pool->open_volume("thick");
  REQUIRE(!missing && missing.error().code == ErrorCode::not_found);
  co_await export_and_close(world);
}
TEST(Volume, is_created_resized_snapshotted_listed_and_destroyed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, life));
}

// "sync=disabled can arrive by inheritance or receive": checked at open, and at every commit.
Task<void> sync_disabled_at_open(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 8 << 20});
  REQUIRE_OK(made);
  auto refused = co_await world.pool->set_property("vm1", "sync", "disabled");
  REQUIRE(!refused && refused.error().code == ErrorCode::refused);
  constexpr int local_source = 8;
  auto disable = [] { return dsl_prop_set_int("tank/vm1", "sync", local_source, 2); };
  int error = co_await world.engine->blocking(disable);
  REQUIRE(error == 0);
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE(!volume && volume.error().code == ErrorCode::refused);
  std::fprintf(stderr, "%s\n", volume.error().message.c_str());
  co_await export_and_close(world);
}
Task<void> sync_disabled_later(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 8 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  constexpr int local_source = 8;
  auto disable = [] { return dsl_prop_set_int("tank", "sync", local_source, 2); };  // inherited
  int error = co_await world.engine->blocking(disable);
  REQUIRE(error == 0);
  co_await write_blocks(*volume, 0, 1, 1);
  std::fprintf(stderr, "acknowledged\n");
}
TEST(Volume, serves_sync_always_only) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, sync_disabled_at_open));
  Folder other;
  make_files(other.path, one_mirror);
  End end = in_child(other, sync_disabled_later);
  EXPECT_TRUE(end.aborted()) << end.said;
  EXPECT_NE(end.said.find("rule 2"), std::string::npos) << end.said;
  EXPECT_EQ(end.said.find("acknowledged"), std::string::npos) << end.said;
}

// A full pool answers no_space, goes on serving, and can be freed.
Task<void> full_pool(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume(
      {.name = "thin", .size_bytes = 2ULL << 30, .space = VolumeSpec::Space::thin, .compression = "off"});
  REQUIRE_OK(made);
  auto small = co_await world.pool->create_volume({.name = "thick", .size_bytes = 8 << 20, .compression = "off"});
  REQUIRE_OK(small);
  auto volume = co_await open(world, "thin");
  auto thick = co_await open(world, "thick");
  std::uint64_t written = 0;
  block::IoStatus status = block::IoStatus::ok;
  while (status == block::IoStatus::ok) {
    status = co_await write_blocks(*volume, written, 256, 1);
    if (status == block::IoStatus::ok) written += 256;
    REQUIRE(written < (1ULL << 30) / block_bytes);
  }
  std::fprintf(stderr, "full after %llu MiB\n", static_cast<unsigned long long>(written * block_bytes >> 20));
  REQUIRE(status == block::IoStatus::no_space && written > 10000);
  for (std::uint64_t i = 0; i < 2048; i += 256) {  // its space is its own, to the last block
    status = co_await write_blocks(*thick, i, 256, 1);
    REQUIRE(status == block::IoStatus::ok);
  }
  auto wrong = co_await wrong_blocks(*volume, written - 256, 256, 1);
  REQUIRE(wrong == 0);
  auto trimmed = co_await block::trim(*volume, 0, written / 2 * block_bytes);
  REQUIRE(trimmed.status == block::IoStatus::ok);
  for (status = block::IoStatus::no_space; status == block::IoStatus::no_space;) {  // freed two txgs later
    status = co_await write_blocks(*volume, 0, 256, 2);
  }
  REQUIRE(status == block::IoStatus::ok);
  for (std::uint64_t i = 0; status == block::IoStatus::ok; i += 256) status = co_await write_blocks(*volume, i, 256, 3);
  REQUIRE(status == block::IoStatus::no_space);
  co_await volume->close();
  auto destroyed = co_await world.pool->destroy_volume("thin");  // the other way to free a full pool
  REQUIRE_OK(destroyed);
  Result<VolumeInfo> another = fail(ErrorCode::no_space, "");
  while (!another && another.error().code == ErrorCode::no_space) {
    another = co_await world.pool->create_volume({.name = "another", .size_bytes = 64 << 20});
  }
  REQUIRE_OK(another);
  co_await thick->close();
  co_await export_and_close(world);
}
TEST(Volume, a_full_pool_says_no_space_keeps_thick_volumes_going_and_can_be_freed) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, full_pool));
}

// Trim and write-zeroes, over a crash too.
Task<void> zero_and_die(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  auto status = co_await write_blocks(*volume, 0, 512, 1);
  REQUIRE(status == block::IoStatus::ok);
  auto zeroed = co_await block::write_zeroes(*volume, 5 * block_bytes, 100 * block_bytes);  // not on block borders
  REQUIRE(zeroed.status == block::IoStatus::ok);
  auto trimmed = co_await block::trim(*volume, 256 * block_bytes, 64 * block_bytes);
  REQUIRE(trimmed.status == block::IoStatus::ok);
  status = co_await write_blocks(*volume, 50, 3, 2);
  REQUIRE(status == block::IoStatus::ok);
  auto flushed = co_await block::flush(*volume);
  REQUIRE(flushed.status == block::IoStatus::ok);
  auto beyond = co_await block::write_zeroes(*volume, 16 << 20, 4096);
  REQUIRE(beyond.status == block::IoStatus::invalid);
  auto odd = co_await write_blocks(*volume, 4095, 2, 1);
  REQUIRE(odd == block::IoStatus::invalid);
  kill(getpid(), SIGKILL);
}
Task<void> check_zeroes(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  std::vector<Block> blocks(512), wanted(512);
  fill(wanted, 0, 1);
  for (std::size_t i = 5; i < 105; ++i) std::memset(&wanted[i], 0, block_bytes);
  for (std::size_t i = 256; i < 320; ++i) std::memset(&wanted[i], 0, block_bytes);
  fill(std::span(wanted).subspan(50, 3), 50, 2);
  auto outcome = co_await block::read(*volume, 0, std::as_writable_bytes(std::span(blocks)));
  REQUIRE(outcome.status == block::IoStatus::ok);
  REQUIRE(std::memcmp(blocks.data(), wanted.data(), 512 * block_bytes) == 0);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, zeroes_and_trims_are_replayed_in_their_order) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End first = in_child(folder, zero_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, check_zeroes));
}

// Rule 10.
struct Pending {
  bool answered = false;
  block::Signal done;
};
Task<void> write_pending(Volume& volume, std::uint64_t first, Pending& pending) {
  auto status = co_await write_blocks(volume, first, 1, 2);
  REQUIRE(status == block::IoStatus::ok);
  pending.answered = true;
  pending.done.set();
}
Task<void> read_pending(Volume& volume, std::uint64_t first, std::uint64_t generation, Pending& pending) {
  auto wrong = co_await wrong_blocks(volume, first, 1, generation);
  REQUIRE(wrong == 0);
  pending.answered = true;
  pending.done.set();
}
Task<void> look_pending(Volume& volume, std::uint64_t first, Pending& pending) {
  auto extents = co_await extents_of(volume, first, 1, 10);
  REQUIRE(extents.size() == 1 && !extents[0].is_hole);
  pending.answered = true;
  pending.done.set();
}
Task<void> read_of_uncommitted(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 8 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  auto status = co_await write_blocks(*volume, 0, 64, 1);
  REQUIRE(status == block::IoStatus::ok);
  REQUIRE_OK(world.drive("b0").apply("hang on"));
  Pending write, reader, other_reader, look;
  block::TaskGroup group;
  group.spawn(write_pending(*volume, 7, write));
  while (world.pool->leg_health(world.leg_of("b0")).oldest_write_ns == 0) co_await world.reactor->yield();
  group.spawn(read_pending(*volume, 7, 2, reader));  // sees the new data: it may not say so yet
  group.spawn(read_pending(*volume, 40, 1, other_reader));
  group.spawn(look_pending(*volume, 7, look));
  co_await other_reader.done.wait();
  for (int i = 0; i < 300; ++i) co_await world.reactor->after_ms(0);
  REQUIRE(!write.answered && !reader.answered && !look.answered);
  REQUIRE_OK(world.drive("b0").apply("clear"));
  co_await reader.done.wait();
  co_await look.done.wait();
  REQUIRE(write.answered);
  co_await group.close();
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, a_read_waits_for_the_uncommitted_writes_that_it_overlaps) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, read_of_uncommitted));
}

// ---- large reads past the cache

constexpr std::uint64_t read_blocks = 4096;  // 16 MiB

Task<block::IoStatus> read_parts(Volume& volume, std::uint64_t offset_bytes, std::span<const iovec> parts) {
  Asked asked;
  asked.operation = block::Operation::read;
  asked.offset_bytes = offset_bytes;
  for (const iovec& part : parts) asked.size_bytes += part.iov_len;
  asked.buffers = parts;
  asked.on_done = [](block::Request& request) { static_cast<Asked&>(request).done.set(); };
  volume.submit(asked);
  co_await asked.done.wait();
  co_return asked.status;
}

Task<void> read_large_under_load(World& world) {
  co_await make_pool(world);
  REQUIRE_OK(set_tunable("zfs_txg_timeout", 1));
  auto made = co_await world.pool->create_volume(
      {.name = "vm1", .size_bytes = read_blocks * block_bytes, .space = VolumeSpec::Space::thin});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  std::vector<std::uint64_t> generation(read_blocks);  // 0: zeroes
  std::mt19937_64 random(7);
  const Txg began = world.pool->last_synced_txg();
  for (std::uint64_t i = 1; i <= 1500 || world.pool->last_synced_txg().value < began.value + 8; ++i) {
    const std::size_t count = random() % 3 == 0 ? 16 + random() % 128 : 1 + random() % 6;
    const std::uint64_t first = random() % (read_blocks - count);
    if (random() % 5 == 0) {
      auto trimmed = co_await block::trim(*volume, first * block_bytes, count * block_bytes);
      REQUIRE(trimmed.ok());
      std::fill_n(generation.begin() + first, count, 0);
    } else {
      auto status = co_await write_blocks(*volume, first, count, i);
      REQUIRE(status == block::IoStatus::ok);
      std::fill_n(generation.begin() + first, count, i);
    }
    const std::size_t size = 32 + random() % 200;
    const std::uint64_t from = std::min<std::uint64_t>(first > 20 ? first - 20 : 0, read_blocks - size);
    std::vector<Block> found(size + 1), wanted(1);
    // In three pieces that do not end with a block.
    auto* bytes = reinterpret_cast<std::byte*>(found.data());
    const std::size_t whole = size * block_bytes, cut = 5 * block_bytes + 512;
    iovec parts[] = {{bytes, cut}, {bytes + cut, whole - 2 * cut}, {bytes + whole - cut, cut}};
    auto status = co_await read_parts(*volume, from * block_bytes, parts);
    REQUIRE(status == block::IoStatus::ok);
    for (std::size_t k = 0; k < size; ++k) {
      if (generation[from + k] == 0) {
        REQUIRE(std::ranges::all_of(found[k].words, [](std::uint64_t word) { return word == 0; }));
      } else {
        fill(wanted, from + k, generation[from + k]);
        REQUIRE(std::memcmp(&found[k], wanted.data(), block_bytes) == 0);
      }
    }
  }
  REQUIRE(volume->direct().read_bytes > 100 * read_blocks);
  std::uint64_t log_blocks = 0, roots = 0;
  zp_pipeline_counts(&log_blocks, &roots);
  REQUIRE(log_blocks >= 1500 && roots >= 1500);  // each commit was spared both hand-overs
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, large_reads_past_the_cache_see_every_write_and_trim) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, read_large_under_load));
}

Task<void> write_large(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20, .compression = "off"});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  for (std::uint64_t first = 0; first < read_blocks; first += 256) {
    auto status = co_await write_blocks(*volume, first, 256, 3);
    REQUIRE(status == block::IoStatus::ok);
  }
  co_await volume->close();
  co_await export_and_close(world);
}
constexpr std::uint64_t spoiled_places = 24;
Task<void> read_large_from_a_spoiled_leg(World& world) {
  co_await import_again(world);
  auto volume = co_await open(world, "vm1");
  // A mirror may read either leg, so a spoiled place is met in some pass; healed, it is met once at most.
  constexpr std::uint64_t passes = 12;
  std::uint64_t errors = 0;
  for (std::uint64_t pass = 0; pass < passes; ++pass) {
    for (std::uint64_t first = 0; first < read_blocks; first += 256) {
      auto wrong = co_await wrong_blocks(*volume, first, 256, 3);
      REQUIRE(wrong == 0);
    }
    auto status = co_await world.pool->status();
    REQUIRE_OK(status);
    errors = 0;
    for (const auto& leg : status->legs) errors += leg.checksum_error_count;
    std::fprintf(stderr, "checksum errors after pass %llu: %llu\n", static_cast<unsigned long long>(pass),
                 static_cast<unsigned long long>(errors));
    REQUIRE(errors <= spoiled_places);
  }
  REQUIRE(errors > 0);
  REQUIRE(volume->direct().read_bytes == passes * read_blocks * std::uint64_t{block_bytes});  // nor did a cache answer
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, large_reads_past_the_cache_are_verified_and_heal_a_leg) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, write_large));
  {
    std::fstream drive(folder.path + "/a0", std::ios::in | std::ios::out | std::ios::binary);
    const std::vector<char> garbage(4096, 'x');
    for (std::uint64_t place = 0; place < spoiled_places; ++place) {
      drive.seekp(static_cast<std::streamoff>((8 + place) << 20));
      drive.write(garbage.data(), static_cast<std::streamsize>(garbage.size()));
    }
  }
  EXPECT_WELL(in_child(folder, read_large_from_a_spoiled_leg));
}

// ---- which blocks are there

constexpr std::uint64_t map_blocks = 16384;  // 16 indirect blocks, and two levels of them

// Fails when a block that holds data lies in a hole; returns how many blocks are in holes.
Task<std::uint64_t> check_extents(Volume& volume, const std::vector<bool>& data, std::uint64_t first,
                                  std::uint64_t count) {
  auto extents = co_await extents_of(volume, first, count, 100'000);
  std::uint64_t at = first, holes = 0;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    REQUIRE(extents[i].size_bytes > 0 && extents[i].size_bytes % block_bytes == 0);
    REQUIRE(i == 0 || extents[i].is_hole != extents[i - 1].is_hole);
    const std::uint64_t end = at + extents[i].size_bytes / block_bytes;
    for (; at < end; ++at) {
      REQUIRE(!extents[i].is_hole || !data[at]);
      holes += extents[i].is_hole;
    }
  }
  REQUIRE(at == first + count);
  co_return holes;
}

Task<void> map_under_load(World& world) {
  co_await make_pool(world);
  REQUIRE_OK(set_tunable("zfs_txg_timeout", 1));
  auto made = co_await world.pool->create_volume({.name = "vm1",
                                                  .size_bytes = map_blocks * block_bytes,
                                                  .block_size_bytes = block_bytes,
                                                  .space = VolumeSpec::Space::thin});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  std::vector<bool> data(map_blocks);
  auto empty = co_await extents_of(*volume, 0, map_blocks, 100);
  REQUIRE(empty.back().is_hole && empty.back().size_bytes >= (map_blocks - 1) * block_bytes);
  std::mt19937_64 random(5);
  const Txg began = world.pool->last_synced_txg();
  for (int i = 0; i < 3000 || world.pool->last_synced_txg().value < began.value + 12; ++i) {
    const std::size_t count =
        random() % 8 == 0 ? 16 + random() % 64 : 1 + random() % 3;  // the large ones go past the cache
    // Mostly a few regions again and again, at times a new one: its indirect blocks are new too.
    const std::uint64_t first = (random() % 4 == 0 ? random() % (map_blocks / 256) * 256 : 512) + random() % 100;
    if (first + count > map_blocks) continue;
    if (random() % 4 == 0) {
      auto trimmed = co_await block::trim(*volume, first * block_bytes, count * block_bytes);
      REQUIRE(trimmed.ok());
      std::fill_n(data.begin() + first, count, false);
    } else {
      auto status = co_await write_blocks(*volume, first, count, i);
      REQUIRE(status == block::IoStatus::ok);
      std::fill_n(data.begin() + first, count, true);
    }
    co_await check_extents(*volume, data, first > 8 ? first - 8 : 0, std::min<std::uint64_t>(96, map_blocks - first));
    if (i % 50 == 0) co_await check_extents(*volume, data, 0, map_blocks);
  }
  auto synced = co_await world.pool->snapshot_volume("vm1", "now");
  REQUIRE_OK(synced);
  const auto holes = static_cast<std::uint64_t>(std::ranges::count(data, false));
  auto found = co_await check_extents(*volume, data, 0, map_blocks);
  REQUIRE(found == holes);
  auto one = co_await extents_of(*volume, 0, map_blocks, 1);
  auto all = co_await extents_of(*volume, 0, map_blocks, 100'000);
  REQUIRE(one.size() == 1 && one[0] == all[0]);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, no_block_with_data_is_ever_called_a_hole) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, map_under_load));
}

// Volatile caches on both sides and a kill: only what was flushed on both is there. Large writes too (by reference, the data
// and its log record may lie on different mirrors).
const std::vector<std::string> three_mirrors = {"a0", "a1", "a2", "b0", "b1", "b2"};
Task<void> write_over_volatile_caches(World& world) {
  co_await world.open_drives(three_mirrors, {.volatile_cache = true, .seed = 3, .commands = {}});
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  for (std::uint32_t size : {4096U, 16384U, 131072U}) {
    std::string name = "vm" + std::to_string(size);
    auto made = co_await world.pool->create_volume(
        {.name = name, .size_bytes = 16 << 20, .block_size_bytes = size, .compression = "off"});
    REQUIRE_OK(made);
    auto volume = co_await open(world, name);
    for (std::uint64_t i = 0; i < 40; ++i) {
      auto status = co_await write_blocks(*volume, i * 64, 64, 1);  // 256 KiB each
      REQUIRE(status == block::IoStatus::ok);
      status = co_await write_blocks(*volume, 3000 + i, 1, 1);
      REQUIRE(status == block::IoStatus::ok);
    }
    volume.release();  // the kill takes it
  }
  kill(getpid(), SIGKILL);
}
Task<void> check_after_power_cut(World& world) {
  co_await world.open_drives(three_mirrors);
  auto spec = co_await world.import_spec(three_mirrors);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  for (std::uint32_t size : {4096U, 16384U, 131072U}) {
    auto volume = co_await open(world, "vm" + std::to_string(size));
    auto wrong_large = co_await wrong_blocks(*volume, 0, 40 * 64, 1);
    auto wrong_small = co_await wrong_blocks(*volume, 3000, 40, 1);
    REQUIRE(wrong_large == 0 && wrong_small == 0);
    co_await volume->close();
  }
  co_await export_and_close(world);
}
TEST(Volume, what_was_acknowledged_survives_a_power_cut_of_all_drives) {
  Folder folder;
  make_files(folder.path, three_mirrors);
  End first = in_child(folder, write_over_volatile_caches);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, check_after_power_cut));
}

// Large writes go past the cache. A part of such a block written after it, the block again, a write that begins and ends within
// blocks, zeroes: all in one txg, whose commits refer to blocks that later writes have freed. Then the power goes.
constexpr std::uint64_t region_blocks = 64, region_count = 24;
Task<void> write_past_the_cache(World& world) {
  co_await world.open_drives(three_mirrors, {.volatile_cache = true, .seed = 4, .commands = {}});
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(3));
  REQUIRE_OK(layout);
  REQUIRE_OK(set_tunable("zfs_txg_timeout", 60));
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  auto put = [&](std::uint64_t first, std::size_t count, std::uint64_t generation) -> Task<void> {
    auto status = co_await write_blocks(*volume, first, count, generation);
    REQUIRE(status == block::IoStatus::ok);
  };
  Txg txg = world.pool->last_synced_txg();
  for (std::uint64_t region = 0; region < region_count; ++region) {
    const std::uint64_t first = region * region_blocks;
    co_await put(first, 32, 1);
    co_await put(first + 5, 1, 2);  // a part of a block that is not in the cache
    auto wrong = co_await wrong_blocks(*volume, first, 5, 1);
    REQUIRE(wrong == 0);
    co_await put(first + 8, 16, 3);   // blocks again, one of them changed through the cache before
    co_await put(first + 33, 30, 4);  // begins and ends within blocks
    std::vector<Block> zeroes(16);
    auto zeroed = co_await block::write(*volume, (first + 16) * block_bytes, std::as_bytes(std::span(zeroes)));
    REQUIRE(zeroed.ok());
    co_await put(first + 20, 1, 5);
    wrong = co_await wrong_blocks(*volume, first + 20, 1, 5);
    REQUIRE(wrong == 0);
  }
  REQUIRE(world.pool->last_synced_txg().value <= txg.value + 3);  // else this tests something else
  REQUIRE(volume->direct().written_bytes >= region_count * (32 + 16 + 24 + 16) * block_bytes);
  volume.release();  // the kill takes it
  kill(getpid(), SIGKILL);
}
Task<void> check_what_went_past_the_cache(World& world) {
  co_await world.open_drives(three_mirrors);
  auto spec = co_await world.import_spec(three_mirrors);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  auto volume = co_await open(world, "vm1");
  auto check = [&](std::uint64_t first, std::size_t count, std::uint64_t generation) -> Task<void> {
    auto wrong = co_await wrong_blocks(*volume, first, count, generation);
    REQUIRE(wrong == 0);
  };
  for (std::uint64_t region = 0; region < region_count; ++region) {
    const std::uint64_t first = region * region_blocks;
    co_await check(first, 5, 1);
    co_await check(first + 5, 1, 2);
    co_await check(first + 6, 2, 1);
    co_await check(first + 8, 8, 3);
    co_await check(first + 20, 1, 5);
    co_await check(first + 33, 30, 4);
    std::vector<Block> read(4);
    auto outcome = co_await block::read(*volume, (first + 16) * block_bytes, std::as_writable_bytes(std::span(read)));
    REQUIRE(outcome.ok());
    for (const Block& block : read)
      REQUIRE(std::ranges::all_of(block.words, [](std::uint64_t word) { return word == 0; }));
  }
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, blocks_written_past_the_cache_and_changed_in_the_same_txg_survive_a_power_cut) {
  Folder folder;
  make_files(folder.path, three_mirrors);
  End first = in_child(folder, write_past_the_cache);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, check_what_went_past_the_cache));
  EXPECT_EQ(zdb(folder, "-bcc"), 0) << zdb_said(folder);
}

// Many dirty volumes: replayed side by side by the import; and the floor of a volume's log.
constexpr int many = 16;
Task<void> dirty_many_and_die(World& world) {
  co_await make_pool(world);
  for (int i = 0; i < many; ++i) {
    std::string name = "vm" + std::to_string(i);
    auto made = co_await world.pool->create_volume({.name = name, .size_bytes = 4 << 20});
    REQUIRE_OK(made);
    auto volume = co_await open(world, name);
    for (std::uint64_t k = 0; k < 20; ++k) {
      auto status = co_await write_blocks(*volume, k, 1, 9);
      REQUIRE(status == block::IoStatus::ok);
    }
    volume.release();
  }
  std::ofstream floor(world.folder + "/floor");
  for (const VolumeLog& log : world.pool->volume_logs()) floor << log.volume_guid << ' ' << log.sequence << '\n';
  REQUIRE(world.pool->volume_logs().size() == many);
  floor.close();
  kill(getpid(), SIGKILL);
}
Task<ImportSpec> spec_with_floor(World& world, std::uint64_t add_txgs) {
  auto spec = co_await world.import_spec(one_mirror);
  std::ifstream floor(world.folder + "/floor");
  VolumeLog log;
  while (floor >> log.volume_guid >> log.sequence) {
    REQUIRE(log.sequence != 0);
    log.sequence += (add_txgs << 32) + (add_txgs != 0 ? 1000 : 0);
    spec.floor_logs.push_back(log);
  }
  REQUIRE(spec.floor_logs.size() == many);
  co_return spec;
}
Task<void> import_many(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await spec_with_floor(world, 0);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  REQUIRE(report->replayed_volume_count > 0);
  for (int i = 0; i < many; ++i) {
    auto volume = co_await open(world, "vm" + std::to_string(i));
    auto wrong = co_await wrong_blocks(*volume, 0, 20, 9);
    REQUIRE(wrong == 0);
    REQUIRE(volume->log().volume_guid != 0);
    co_await volume->close();
  }
  co_await export_and_close(world);
}
Task<void> import_below_a_log_floor(World& world, std::uint64_t add_txgs) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await spec_with_floor(world, add_txgs);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE(!report && report.error().code == ErrorCode::refused);
  std::fprintf(stderr, "%s\n", report.error().message.c_str());
  co_await world.close_drives();
}
Task<void> import_far_below_a_log_floor(World& world) { co_await import_below_a_log_floor(world, 1000); }
Task<void> import_just_below_a_log_floor(World& world) { co_await import_below_a_log_floor(world, 1); }
TEST(Volume, many_dirty_logs_are_replayed_by_the_import_down_to_their_floor) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End first = in_child(folder, dirty_many_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, import_far_below_a_log_floor));  // refused, and the log is kept
  // A refused import has written txgs, beyond the floor's: that makes the log no longer.
  for (int i = 0; i < 3; ++i) EXPECT_WELL(in_child(folder, import_just_below_a_log_floor));
  EXPECT_WELL(in_child(folder, import_many));
}

// ---- volumes that cannot be read

template <class T>
void require_error(const Result<T>& result, ErrorCode code, std::string_view words) {
  REQUIRE(!result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  REQUIRE(result.error().code == code && result.error().message.find(words) != std::string::npos);
}

Task<void> write_two_and_die(World& world) {
  co_await make_pool(world);
  for (const char* name : {"vm0", "vm1"}) {
    auto made = co_await world.pool->create_volume({.name = name, .size_bytes = 4 << 20});
    REQUIRE_OK(made);
  }
  auto volume = co_await open(world, "vm1");
  auto status = co_await write_blocks(*volume, 0, 20, 9);
  REQUIRE(status == block::IoStatus::ok);
  volume.release();
  kill(getpid(), SIGKILL);
}
// What zdb tells of vm0, from `begin` on, or of one object of it.
std::string told_of_vm0(const Folder& folder, const std::string& begin, const std::string& object = "") {
  EXPECT_EQ(zdb(folder, "-dddddd", "tank/vm0" + object), 0) << zdb_said(folder);
  const std::string said = zdb_said(folder);
  const std::size_t at = said.find(begin);
  EXPECT_NE(at, std::string::npos) << said;
  return at == std::string::npos ? "" : said.substr(at);
}
Task<void> refuse_to_drop_its_log(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  const Txg best = (co_await survey_labels(world.drive("a0"))).value()->best_uberblock_txg;
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE(!report && report.error().code == ErrorCode::refused);
  std::fprintf(stderr, "%s\n", report.error().message.c_str());
  REQUIRE(report.error().message.find("volume tank/vm0 cannot be read") != std::string::npos);
  const Txg now = (co_await survey_labels(world.drive("a0"))).value()->best_uberblock_txg;
  REQUIRE(now == best);  // nothing was written
  co_await world.close_drives();
}
Task<void> drop_it_at_an_operators_word(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  spec.floor = ImportSpec::Floor::skip_and_say_so;
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  auto list = co_await world.pool->list_volumes();
  REQUIRE(list && list->size() == 2 && !(*list)[0].unreadable.empty() && (*list)[1].unreadable.empty());
  auto volume = co_await open(world, "vm1");
  auto wrong = co_await wrong_blocks(*volume, 0, 20, 9);
  REQUIRE(wrong == 0);
  co_await volume->close();
  kill(getpid(), SIGKILL);
}
TEST(Unreadable, a_volume_that_cannot_be_read_does_not_lose_its_log_silently) {
  Folder folder;
  make_files(folder.path, one_mirror);
  ASSERT_TRUE(in_child(folder, write_two_and_die).killed());
  const std::string root = told_of_vm0(folder, "rootbp DVA");
  ASSERT_GE(spoil_blocks(folder, root.substr(0, root.find('\n'))), 4) << root;
  EXPECT_WELL(in_child(folder, refuse_to_drop_its_log));
  End end = in_child(folder, drop_it_at_an_operators_word);
  EXPECT_TRUE(end.killed()) << end.said;
  EXPECT_NE(end.said.find("volume tank/vm0 cannot be read: its log is lost without it, as an operator asked"),
            std::string::npos)
      << end.said;
}

Task<void> import_but_for_one_layout(World& world) {
  co_await import_again(world);
  auto list = co_await world.pool->list_volumes();
  REQUIRE(list && list->size() == 2);
  const VolumeInfo& spoiled = list->front();
  REQUIRE(spoiled.name == "vm0" && spoiled.guid != 0 && !spoiled.unreadable.empty());
  std::ofstream(world.folder + "/floor") << spoiled.guid;
  kill(getpid(), SIGKILL);
}
// Again and again: a try that is refused must not bring the pool past the floor.
Task<void> refuse_for_its_floor(World& world) {
  co_await world.open_drives(one_mirror);
  auto spec = co_await world.import_spec(one_mirror);
  const Txg best = (co_await survey_labels(world.drive("a0"))).value()->best_uberblock_txg;
  std::uint64_t guid = 0;
  std::ifstream(world.folder + "/floor") >> guid;
  for (int attempt = 0; attempt < 3; ++attempt) {
    spec.floor_logs = {{guid, (best.value + 1) << 32 | 1000}};
    world.make_pool();
    auto report = co_await world.pool->import_pool(spec);
    require_error(report, ErrorCode::refused, "volume tank/vm0 has no log");
    ++spec.floor_logs[0].volume_guid;
    world.make_pool();
    report = co_await world.pool->import_pool(spec);
    require_error(report, ErrorCode::refused, "which is not in the pool");
    REQUIRE((co_await survey_labels(world.drive("a0"))).value()->best_uberblock_txg == best);
  }
  spec.floor_logs[0].sequence = best.value << 32;  // of a volume that was destroyed since
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  co_await export_and_close(world);
}
TEST(Unreadable, a_volume_that_cannot_be_read_is_listed_and_keeps_its_floor) {
  Folder folder;
  make_files(folder.path, one_mirror);
  ASSERT_TRUE(in_child(folder, write_two_and_die).killed());
  const std::string layout = told_of_vm0(folder, "Indirect blocks:", " 0");
  const std::size_t leaf = layout.find(" L0 ");  // where the numbers of the objects lead, the lowest level alone
  ASSERT_NE(leaf, std::string::npos) << layout;
  ASSERT_GE(spoil_blocks(folder, layout.substr(leaf, layout.find('\n', leaf) - leaf)), 2) << layout;
  End first = in_child(folder, import_but_for_one_layout);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, refuse_for_its_floor));
}

// ---- clone and rollback

Task<void> write_well(Volume& volume, std::uint64_t first, std::size_t count, std::uint64_t generation) {
  auto status = co_await write_blocks(volume, first, count, generation);
  REQUIRE(status == block::IoStatus::ok);
}
Task<void> holds(Volume& volume, std::uint64_t first, std::size_t count, std::uint64_t generation) {
  auto wrong = co_await wrong_blocks(volume, first, count, generation);
  REQUIRE(wrong == 0);
}
Task<void> import_all(World& world) { co_await import_again(world); }

Task<void> clone_and_die(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  co_await write_well(*volume, 0, 200, 1);
  auto snapshot = co_await world.pool->snapshot_volume("vm1", "monday");
  REQUIRE_OK(snapshot);
  co_await write_well(*volume, 0, 100, 2);

  auto cloned = co_await world.pool->clone_volume("vm1", "monday", "vm2", VolumeSpec::Space::thick);
  REQUIRE_OK(cloned);
  REQUIRE(cloned->name == "vm2" && cloned->size_bytes == 16 << 20 && cloned->reserved_bytes == made->reserved_bytes);
  REQUIRE(cloned->guid != made->guid && cloned->block_size_bytes == made->block_size_bytes);
  auto thin = co_await world.pool->clone_volume("vm1", "monday", "thin", VolumeSpec::Space::thin);
  REQUIRE_OK(thin);
  REQUIRE(thin->reserved_bytes == 0);
  auto taken = co_await world.pool->clone_volume("vm1", "monday", "vm2", VolumeSpec::Space::thick);
  require_error(taken, ErrorCode::exists, "there is a volume of that name");
  auto missing = co_await world.pool->clone_volume("vm1", "sunday", "vm3", VolumeSpec::Space::thick);
  require_error(missing, ErrorCode::not_found, "vm1@sunday");
  auto kept = co_await world.pool->destroy_snapshot("vm1", "monday");
  require_error(kept, ErrorCode::refused, "clones are made of it");

  auto clone = co_await open(world, "vm2");
  co_await holds(*clone, 0, 200, 1);  // as the snapshot is, not as the volume is now
  co_await write_well(*clone, 50, 100, 3);
  co_await holds(*volume, 0, 100, 2);
  co_await holds(*volume, 100, 100, 1);
  volume.release();
  clone.release();
  kill(getpid(), SIGKILL);
}
Task<void> check_clone(World& world) {
  co_await import_all(world);
  auto volume = co_await open(world, "vm1");
  co_await holds(*volume, 0, 100, 2);
  co_await holds(*volume, 100, 100, 1);
  auto clone = co_await open(world, "vm2");
  co_await holds(*clone, 0, 50, 1);
  co_await holds(*clone, 50, 100, 3);
  co_await holds(*clone, 150, 50, 1);
  co_await clone->close();
  co_await volume->close();
  for (const char* name : {"vm2", "thin"}) {
    auto destroyed = co_await world.pool->destroy_volume(name);
    REQUIRE_OK(destroyed);
  }
  auto dropped = co_await world.pool->destroy_snapshot("vm1", "monday");
  REQUIRE_OK(dropped);
  dropped = co_await world.pool->destroy_snapshot("vm1", "monday");
  require_error(dropped, ErrorCode::not_found, "vm1@monday");
  co_await export_and_close(world);
}
TEST(Volume, a_clone_begins_as_its_snapshot_and_has_a_log_and_space_of_its_own) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End first = in_child(folder, clone_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, check_clone));
}

Task<void> clone_without_room(World& world) {
  co_await make_pool(world);
  auto made =
      co_await world.pool->create_volume({.name = "vm1", .size_bytes = 96 << 20, .space = VolumeSpec::Space::thin});
  REQUIRE_OK(made);
  auto snapshot = co_await world.pool->snapshot_volume("vm1", "monday");
  REQUIRE_OK(snapshot);
  auto first = co_await world.pool->clone_volume("vm1", "monday", "vm2", VolumeSpec::Space::thick);
  REQUIRE_OK(first);
  auto second = co_await world.pool->clone_volume("vm1", "monday", "vm3", VolumeSpec::Space::thick);
  require_error(second, ErrorCode::no_space, "cannot reserve");
  auto list = co_await world.pool->list_volumes();
  REQUIRE_OK(list);
  REQUIRE(list->size() == 2);
  co_await export_and_close(world);
}
TEST(Volume, a_thick_clone_without_room_is_refused_and_leaves_nothing) {
  Folder folder;
  make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, clone_without_room));
}

Task<void> roll_back_write_and_die(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  co_await write_well(*volume, 0, 200, 1);
  auto snapshot = co_await world.pool->snapshot_volume("vm1", "monday");
  REQUIRE_OK(snapshot);
  co_await write_well(*volume, 0, 100, 2);
  auto grown = co_await world.pool->resize_volume("vm1", 24 << 20);
  REQUIRE_OK(grown);
  auto newer = co_await world.pool->snapshot_volume("vm1", "tuesday");
  REQUIRE_OK(newer);
  co_await write_well(*volume, 100, 50, 3);

  auto served = co_await world.pool->roll_back_volume("vm1", "monday");
  require_error(served, ErrorCode::refused, "is open");
  co_await volume->close();
  auto in_the_way = co_await world.pool->roll_back_volume("vm1", "monday");
  require_error(in_the_way, ErrorCode::refused, "it has newer snapshots");
  auto missing = co_await world.pool->roll_back_volume("vm1", "sunday");
  require_error(missing, ErrorCode::not_found, "vm1@sunday");
  auto nothing = co_await world.pool->roll_back_volume("vm9", "monday");
  require_error(nothing, ErrorCode::not_found, "vm9");
  auto dropped = co_await world.pool->destroy_snapshot("vm1", "tuesday");
  REQUIRE_OK(dropped);

  auto rolled = co_await world.pool->roll_back_volume("vm1", "monday");
  REQUIRE_OK(rolled);
  REQUIRE(rolled->size_bytes == 16 << 20 && rolled->reserved_bytes == made->reserved_bytes &&
          rolled->guid == made->guid);
  volume = co_await open(world, "vm1");
  REQUIRE(volume->geometry().size_bytes == 16 << 20);
  co_await holds(*volume, 0, 200, 1);
  co_await write_well(*volume, 20, 10, 4);  // a log that lies upon the snapshot
  volume.release();
  kill(getpid(), SIGKILL);
}
Task<void> check_rolled_back(World& world) {
  co_await import_all(world);
  auto volume = co_await open(world, "vm1");
  co_await holds(*volume, 0, 20, 1);
  co_await holds(*volume, 20, 10, 4);
  co_await holds(*volume, 30, 170, 1);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, is_rolled_back_to_its_newest_snapshot_when_closed_and_logs_from_there) {
  Folder folder;
  make_files(folder.path, one_mirror);
  End first = in_child(folder, roll_back_write_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  EXPECT_WELL(in_child(folder, check_rolled_back));
}

// The log of what was rolled back is gone with it: nothing of it comes back at the next import.
Task<void> snapshot_write_and_die(World& world) {
  co_await make_pool(world);
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto volume = co_await open(world, "vm1");
  co_await write_well(*volume, 0, 100, 1);
  auto snapshot = co_await world.pool->snapshot_volume("vm1", "monday");
  REQUIRE_OK(snapshot);
  co_await write_well(*volume, 0, 100, 2);
  volume.release();
  kill(getpid(), SIGKILL);
}
Task<void> import_roll_back_and_die(World& world) {
  co_await import_all(world);
  auto rolled = co_await world.pool->roll_back_volume("vm1", "monday");  // replayed by the import, opened by nobody
  REQUIRE_OK(rolled);
  kill(getpid(), SIGKILL);
}
Task<void> check_nothing_came_back(World& world) {
  co_await import_all(world);
  auto volume = co_await open(world, "vm1");
  co_await holds(*volume, 0, 100, 1);
  co_await volume->close();
  co_await export_and_close(world);
}
TEST(Volume, a_log_of_before_a_rollback_is_not_replayed_after_it) {
  Folder folder;
  make_files(folder.path, one_mirror);
  for (auto step : {snapshot_write_and_die, import_roll_back_and_die}) {
    End end = in_child(folder, step);
    ASSERT_TRUE(end.killed()) << end.said;
  }
  EXPECT_WELL(in_child(folder, check_nothing_came_back));
}

Task<void> check_tunables(World&) {
  REQUIRE(tunables().size() > 10);
  for (const Tunable& each : tunables()) REQUIRE(!each.meaning.empty() && !each.unit.empty());
  auto value = tunable("zfs_txg_timeout");
  REQUIRE(value && *value == 1);
  auto set = set_tunable("zfs_txg_timeout", 3);
  REQUIRE_OK(set);
  value = tunable("zfs_txg_timeout");
  REQUIRE(value && *value == 3);
  REQUIRE(set_tunable("zfs_txg_timeout", 0).error().code == ErrorCode::invalid);
  REQUIRE(set_tunable("zfs_multihost_fail_intervals", 5).error().code == ErrorCode::invalid);
  REQUIRE(set_tunable("zfs_vdev_sync_write_max_active", 5).error().code == ErrorCode::not_found);
  co_return;
}
TEST(Tunables, are_read_and_set_within_their_bounds) {
  Folder folder;
  EXPECT_WELL(in_child(folder, check_tunables));
}

}  // namespace
}  // namespace zpair::zfs::test
