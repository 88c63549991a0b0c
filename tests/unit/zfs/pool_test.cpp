// A pool's life: create, crash, import, replay, export; and what an import refuses (rule 7).
#include "scenario.h"

namespace zpair::zfs::test {
namespace {

const std::vector<std::string> two_mirrors = {"a0", "a1", "b0", "b1"};

Task<void> create_write_and_die(World& world) {
  co_await world.open_drives(two_mirrors);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(2));
  REQUIRE_OK(layout);
  REQUIRE(layout->mirrors.size() == 2 && layout->mirrors[0].legs.size() == 2);
  REQUIRE(layout->mirrors[0].legs[0].name == "a0" && layout->mirrors[0].legs[1].name == "b0");
  auto made = co_await world.pool->create_volume({.name = "vm1", .size_bytes = 64 << 20});
  REQUIRE_OK(made);
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE_OK(volume);
  REQUIRE((*volume)->geometry().size_bytes == 64 << 20);
  for (std::uint64_t i = 0; i < 200; ++i) {
    auto status = co_await write_blocks(**volume, i, 1, 1);
    REQUIRE(status == block::IoStatus::ok);
  }
  auto status = co_await write_blocks(**volume, 1024, 256, 1);  // 1 MiB
  REQUIRE(status == block::IoStatus::ok);
  kill(getpid(), SIGKILL);
}

Task<void> import_and_check(World& world) {
  co_await world.open_drives(two_mirrors);
  auto spec = co_await world.import_spec(two_mirrors);
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  std::printf("replayed %llu records, labels %.3f import %.3f replay %.3f s\n",
              static_cast<unsigned long long>(report->replayed_record_count), report->label_seconds,
              report->import_seconds, report->replay_seconds);
  REQUIRE(report->absent_legs.empty());
  auto volume = co_await world.pool->open_volume("vm1");
  REQUIRE_OK(volume);
  auto wrong_small = co_await wrong_blocks(**volume, 0, 200, 1);
  auto wrong_large = co_await wrong_blocks(**volume, 1024, 256, 1);
  REQUIRE(wrong_small == 0);
  REQUIRE(wrong_large == 0);
  auto status = co_await world.pool->status();
  REQUIRE_OK(status);
  for (auto& leg : status->legs) REQUIRE(leg.state == LegState::healthy && leg.write_error_count == 0);
  co_await (*volume)->close();
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}

TEST(Pool, what_was_acknowledged_before_kill_9_is_there_after_the_import) {
  Folder folder;
  make_files(folder.path, two_mirrors);
  End first = in_child(folder, create_write_and_die);
  ASSERT_TRUE(first.killed()) << first.said;
  End second = in_child(folder, import_and_check);
  EXPECT_WELL(second);
  EXPECT_EQ(second.said.find("replayed 0 records"), std::string::npos) << second.said;
  std::cout << second.said;
  EXPECT_EQ(zdb(folder, "-bcc"), 0) << zdb_said(folder);  // every checksum, and no leak
  EXPECT_NE(zdb_said(folder).find("No leaks"), std::string::npos) << zdb_said(folder);
}

}  // namespace
}  // namespace zpair::zfs::test
