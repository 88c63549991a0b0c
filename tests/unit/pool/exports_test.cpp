// Changes of a volume against each other, its clients and the end of the exports, on a real engine.
#include "pool/exports.h"

#include <algorithm>

#include "../zfs/scenario.h"
#include "drill/nbd_client.h"
#include "nbd/socket_handover.h"

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

constexpr std::int64_t may_come_back_ms = 300;
constexpr std::uint64_t sync_always = 1, sync_disabled = 2;

std::vector<std::string> left_out;  // what make_exports() was told

std::unique_ptr<Exports> make_exports(World& world) {
  return std::make_unique<Exports>(
      *world.pool, Exports::Options{.pool_name = "tank",
                                    .may_come_back_ms = may_come_back_ms,
                                    .read_permitted = [] { return true; },
                                    .volumes_changed = [] {},
                                    .left_out = [](std::string why) { left_out.push_back(std::move(why)); }});
}

Task<std::unique_ptr<Exports>> serve_one_volume(World& world) {
  co_await world.open_drives(one_mirror);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
  auto exports = make_exports(world);
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

Task<void> set_sync(World& world, std::uint64_t value, const char* dataset = "tank/vm1") {
  constexpr int local_source = 8;
  auto set = [value, dataset] { return dsl_prop_set_int(dataset, "sync", local_source, value); };
  int error = co_await world.engine->blocking(set);
  REQUIRE(error == 0);
}
Task<void> change_what_does_not_open(World& world) {
  auto exports = co_await serve_one_volume(world);
  co_await set_sync(world, sync_disabled);  // a volume that would not write its log does not open
  auto rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE(!rolled);
  auto views = co_await exports->list();
  REQUIRE(views && views->size() == 1 && !views->front().open);
  co_await set_sync(world, sync_always);
  rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE_OK(rolled);
  views = co_await exports->list();
  REQUIRE(views && views->front().open);

  co_await set_sync(world, sync_disabled);
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
Task<void> create_what_does_not_open(World& world) {
  auto exports = co_await serve_one_volume(world);
  co_await set_sync(world, sync_disabled, "tank");
  auto created = co_await exports->create({.name = "vm2", .size_bytes = 16 << 20});
  REQUIRE(!created && created.error().message.find("volume tank/vm2 was made, but does not open") != std::string::npos);
  auto cloned = co_await exports->clone("vm1", "monday", "vm3", zfs::VolumeSpec::Space::thin);
  REQUIRE(!cloned && cloned.error().message.find("volume tank/vm3 was made, but does not open") != std::string::npos);
  REQUIRE(exports->known().size() == 3);
  for (const char* name : {"vm2", "vm3"}) {
    auto destroyed = co_await exports->destroy(name);
    REQUIRE_OK(destroyed);
  }
  REQUIRE(exports->known().size() == 1);
  co_await end(world, *exports);
}
TEST(Exports, a_volume_that_was_made_and_does_not_open_is_known_and_can_be_destroyed) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, create_what_does_not_open));
}

std::uint64_t guid_of(const Exports& exports, const std::string& name) {
  for (const Exports::Known& known : exports.known()) {
    if (known.name == name) return known.guid;
  }
  return 0;
}
std::vector<zfs::ImportedVolume> as_imported(const Exports& exports) {
  std::vector<zfs::ImportedVolume> volumes;
  for (const Exports::Known& known : exports.known()) volumes.push_back({.name = known.name, .guid = known.guid});
  return volumes;
}

Task<void> open_all_but_one(World& world) {
  auto exports = co_await serve_one_volume(world);
  auto created = co_await exports->create({.name = "vm2", .size_bytes = 16 << 20});
  REQUIRE_OK(created);
  const auto imported = as_imported(*exports);
  co_await exports->close();
  co_await set_sync(world, sync_disabled);
  exports = make_exports(world);
  auto opened = co_await exports->open_imported(imported);
  REQUIRE_OK(opened);
  REQUIRE(left_out.empty() && exports->known().size() == 2);  // neither has a log
  exports->serve();
  while (exports->known()[1].size_bytes == 0) co_await world.reactor->after_ms(1);
  while (left_out.empty()) co_await world.reactor->after_ms(1);
  REQUIRE(left_out.size() == 1 &&
          left_out.front().find("volume tank/vm1 does not open and is not served: rule 2") == 0);
  auto views = co_await exports->list();
  REQUIRE(views && views->size() == 2 && !(*views)[0].open && (*views)[1].open);
  REQUIRE((*views)[0].problem.find("rule 2") == 0 && (*views)[1].problem.empty());
  REQUIRE(exports->known().size() == 2 && exports->known()[0].problem == (*views)[0].problem);
  co_await set_sync(world, sync_always);
  auto waiting = co_await exports->roll_back("vm1", "monday");  // clients of the former process may be on their way
  REQUIRE(!waiting && waiting.error().code == ErrorCode::refused);
  co_await world.reactor->after_ms(may_come_back_ms);
  auto rolled = co_await exports->roll_back("vm1", "monday");
  REQUIRE_OK(rolled);
  co_await end(world, *exports);
}
TEST(Exports, a_volume_that_does_not_open_is_left_out_and_told) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, open_all_but_one));
}

// A client of a volume that is not opened yet is let in before all others have opened; a change waits for it.
Task<void> ask_for_the_last(World& world) {
  constexpr int others = 40;
  auto exports = co_await serve_one_volume(world);
  for (int i = 0; i < others; ++i) {
    auto created = co_await exports->create(
        {.name = fmt::format("other{:02}", i), .size_bytes = 1 << 20, .space = zfs::VolumeSpec::Space::thin});
    REQUIRE_OK(created);
  }
  auto created = co_await exports->create({.name = "vm2", .size_bytes = 16 << 20});
  REQUIRE_OK(created);
  const auto imported = as_imported(*exports);
  co_await exports->close();
  exports = make_exports(world);
  auto listener = block::Listener::listen(block::Endpoint{"unix:" + world.folder + "/socket"});
  REQUIRE_OK(listener);
  auto opened = co_await exports->open_imported(imported);
  REQUIRE_OK(opened);
  auto opened_count = [&exports] {
    return std::ranges::count_if(exports->known(), [](const auto& known) { return known.size_bytes != 0; });
  };
  REQUIRE(opened_count() == 0);
  const std::uint64_t guid = imported.back().guid;
  exports->take_socket("vm2", guid, std::move(*nbd::duplicate((*listener)->fd())));
  drill::NbdClient client(
      *drill::NbdTarget::parse(fmt::format("nbd+unix:///tank/vm2~{}?socket={}/socket", guid, world.folder)));
  auto connecting = client.open(Deadline::in_ms(5000));
  connecting.start();
  for (int i = 0; i < 20; ++i) co_await world.reactor->after_ms(1);  // it is in the socket's queue
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  exports->serve();
  exports->take_client("vm1", guid_of(*exports, "vm1"), UniqueFd(ends[0]));
  block::Stream handed_over{UniqueFd(ends[1])};
  std::byte greeting[18];
  auto read = co_await handed_over.read_exactly(greeting);
  REQUIRE_OK(read);
  REQUIRE(opened_count() < others);
  auto connected = co_await connecting;
  REQUIRE_OK(connected);
  REQUIRE(opened_count() < others);
  auto grown = co_await exports->resize("other39", 2 << 20);
  REQUIRE_OK(grown);
  co_await client.close();
  co_await end(world, *exports);  // while some are not opened yet
}
TEST(Exports, a_volume_that_a_client_waits_for_opens_before_the_others) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, ask_for_the_last));
}

std::string address_of(const Exports& exports, const World& world) {
  return fmt::format("nbd+unix:///tank/vm1~{}?socket={}/socket", guid_of(exports, "vm1"), world.folder);
}

Task<void> recreate_under_clients(World& world) {
  auto exports = co_await serve_one_volume(world);
  auto dropped = co_await exports->destroy_snapshot("vm1", "monday");
  REQUIRE_OK(dropped);
  auto listener = block::Listener::listen(block::Endpoint{"unix:" + world.folder + "/socket"});
  REQUIRE_OK(listener);
  const auto give_socket = [&](std::uint64_t guid) {
    exports->take_socket("vm1", guid, std::move(*nbd::duplicate((*listener)->fd())));
  };
  const std::uint64_t former_guid = guid_of(*exports, "vm1");
  give_socket(former_guid);
  const std::string former_address = address_of(*exports, world);
  std::vector<std::byte> ones(4096, std::byte{1});

  drill::NbdClient client(*drill::NbdTarget::parse(former_address));
  auto opened = co_await client.open(Deadline::in_ms(5000));
  REQUIRE_OK(opened);
  for (auto change : {0, 1}) {
    auto refused = change == 0 ? co_await exports->destroy("vm1") : co_await exports->roll_back("vm1", "monday");
    REQUIRE(!refused && refused.error().message.find("volume tank/vm1 has 1 client(s)") == 0);
  }
  auto unanswered = client.write(0, ones);
  unanswered.start();
  co_await client.close();  // no goodbye: a client whose connection broke
  co_await unanswered;
  while (exports->client_count("vm1") > 0) co_await world.reactor->after_ms(1);
  for (auto change : {0, 1}) {
    auto refused = change == 0 ? co_await exports->destroy("vm1") : co_await exports->roll_back("vm1", "monday");
    REQUIRE(!refused && refused.error().message.find("volume tank/vm1 may have a client whose connection broke") == 0);
  }
  co_await world.reactor->after_ms(may_come_back_ms);
  auto destroyed = co_await exports->destroy("vm1");
  REQUIRE_OK(destroyed);
  auto created = co_await exports->create({.name = "vm1", .size_bytes = 16 << 20});
  REQUIRE_OK(created);

  // Its socket and a client, late from zpaird; then a client that names the former volume at the new one's socket.
  give_socket(former_guid);
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  exports->take_client("vm1", former_guid, UniqueFd(ends[0]));
  block::Stream turned_away{UniqueFd(ends[1])};
  std::byte greeting[18];
  auto read = co_await turned_away.read_exactly(greeting);
  REQUIRE(!read);
  drill::NbdClient back(*drill::NbdTarget::parse(former_address));
  auto late_write = back.write(0, ones);
  late_write.start();
  opened = co_await back.open(Deadline::in_ms(50));
  REQUIRE(!opened);  // nobody listens for the former one
  give_socket(guid_of(*exports, "vm1"));
  drill::NbdClient newer(*drill::NbdTarget::parse(address_of(*exports, world)));
  opened = co_await newer.open(Deadline::in_ms(5000));
  REQUIRE_OK(opened);
  opened = co_await back.open(Deadline::in_ms(100));
  REQUIRE(!opened &&
          back.last_failure().find("is no more: what has its name now is another volume") != std::string::npos);
  std::vector<std::byte> found(4096);
  auto got = co_await newer.read(0, found);
  REQUIRE_OK(got);
  REQUIRE(found == std::vector<std::byte>(4096));
  co_await back.close();
  co_await late_write;
  co_await newer.close();
  while (exports->client_count("vm1") > 0) co_await world.reactor->after_ms(1);
  destroyed = co_await exports->destroy("vm1");  // at once: its client said goodbye
  REQUIRE_OK(destroyed);
  co_await end(world, *exports);
}
TEST(Exports, no_client_of_a_destroyed_volume_reaches_the_next_one_of_its_name) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, recreate_under_clients));
}

TEST(Exports, a_volume_that_does_not_open_can_be_rolled_back_and_destroyed) {
  Folder folder;
  zfs::test::make_files(folder.path, one_mirror);
  EXPECT_WELL(in_child(folder, change_what_does_not_open));
}

}  // namespace
}  // namespace zpair::pool
