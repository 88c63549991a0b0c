// Changes of a volume against each other and against the end of the exports, on a real engine.
#include "pool/exports.h"

#include "../zfs/scenario.h"

extern "C" int dsl_prop_set_int(const char* dataset, const char* property, int source,
                                std::uint64_t value);  // libzpool's

namespace zpair::pool {
namespace {

using zfs::test::End;
using zfs::test::Folder;
using zfs::test::in_child;
using zfs::test::Task;
using zfs::test::World;

const std::vector<std::string> one_mirror = {"a0", "b0"};

Task<std::unique_ptr<Exports>> serve_one_volume(World& world) {
  co_await world.open_drives(one_mirror);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  auto exports = std::make_unique<Exports>(*world.pool, Exports::Options{"tank", [] { return true; }, [] {}});
  exports->serve();
  auto made = co_await exports->create({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(made);
  auto taken = co_await exports->snapshot("vm1", "monday");
  REQUIRE_OK(taken);
  co_return exports;
}
Task<void> end(World& world, Exports& exports) {
  co_await exports.close();
  auto exported = co_await world.pool->export_pool();  // refused while a volume is open
  REQUIRE_OK(exported);
  co_await world.close_drives();
}

Task<void> change_twice_at_once(World& world) {
  auto exports = co_await serve_one_volume(world);
  auto first = exports->roll_back("vm1", "monday");
  first.start();
  REQUIRE(!first.done());
  auto second = co_await exports->roll_back("vm1", "monday");
  REQUIRE(!second && second.error().code == ErrorCode::refused);
  REQUIRE(second.error().message.find("volume tank/vm1 is being changed") != std::string::npos);
  auto destroyed = co_await exports->destroy("vm1");
  REQUIRE(!destroyed && destroyed.error().code == ErrorCode::refused);
  auto grown = co_await exports->resize("vm1", 24 << 20);
  REQUIRE(!grown && grown.error().code == ErrorCode::refused);
  auto rolled = co_await first;
  REQUIRE_OK(rolled);
  grown = co_await exports->resize("vm1", 24 << 20);
  REQUIRE_OK(grown);
  co_await end(world, *exports);
}
TEST(Exports, a_second_change_of_a_volume_meanwhile_is_refused) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, change_twice_at_once));
}

Task<void> close_during_changes(World& world) {
  auto exports = co_await serve_one_volume(world);
  auto rollback = exports->roll_back("vm1", "monday");
  rollback.start();
  auto creation = exports->create({.name = "vm2", .size_bytes = 16 << 20});
  creation.start();
  REQUIRE(!rollback.done() && !creation.done());
  co_await exports->close();
  REQUIRE(rollback.done() && creation.done());
  auto late = co_await exports->create({.name = "vm3", .size_bytes = 16 << 20});
  REQUIRE(!late && late.error().code == ErrorCode::unreachable);
  auto rolled = co_await rollback;
  REQUIRE(!rolled && rolled.error().message.find("is rolled back to monday, but does not open") != std::string::npos);
  co_await end(world, *exports);
}
TEST(Exports, close_waits_for_changes_and_leaves_no_volume_open) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, close_during_changes));
}

Task<void> set_sync(World& world, std::uint64_t value) {
  constexpr int local_source = 8;
  auto set = [value] { return dsl_prop_set_int("tank/vm1", "sync", local_source, value); };
  int error = co_await world.engine->blocking(set);
  REQUIRE(error == 0);
}
Task<void> change_what_does_not_open(World& world) {
  auto exports = co_await serve_one_volume(world);
  constexpr std::uint64_t always = 1, disabled = 2;
  co_await set_sync(world, disabled);  // a volume that would not write its log does not open
  auto rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE(!rolled);
  auto views = co_await exports->list();
  REQUIRE(views && views->size() == 1 && !views->front().open);
  co_await set_sync(world, always);
  rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE_OK(rolled);
  views = co_await exports->list();
  REQUIRE(views && views->front().open);

  co_await set_sync(world, disabled);
  rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE(!rolled);
  auto dropped = co_await exports->destroy_snapshot("vm1", "monday");
  REQUIRE_OK(dropped);
  auto destroyed = co_await exports->destroy("vm1");
  REQUIRE_OK(destroyed);
  REQUIRE(exports->known().empty());
  destroyed = co_await exports->destroy("vm1");
  REQUIRE(!destroyed && destroyed.error().code == ErrorCode::not_found);
  co_await end(world, *exports);
}
TEST(Exports, a_volume_that_does_not_open_can_be_rolled_back_and_destroyed) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, change_what_does_not_open));
}

}  // namespace
}  // namespace zpair::pool
