#include "pool/legs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

#include "block/drive_identity.h"
#include "control/channel.h"

namespace zpair::pool {
namespace {

// One local leg of node a, without any path to a partner.
struct Fixture {
  std::string folder;
  control::DrivePlace place;
  Uuid host = Uuid::random();
  LegId leg{77};
  record::Record record;

  Fixture() {
    char name[] = "/var/tmp/zpair-legs-XXXXXX";
    folder = ::mkdtemp(name);
    const std::string path = folder + "/m00";
    const int fd = ::open(path.c_str(), O_CREAT | O_RDWR, 0600);
    EXPECT_EQ(::ftruncate(fd, 64 << 20), 0);
    ::close(fd);
    auto identity = block::identify_drive(path);
    EXPECT_TRUE(identity) << identity.error().message;
    place = {NodeId::a, identity->durable_id, path, 1, 64 << 20};
    record.epoch = Epoch{5};
    record.rev = Revision{9};
    record.mirrors = {{MirrorId{1}, "normal", {{leg, NodeId::a, place.durable_id, true, false, Txg{0}, false}}}};
  }
  ~Fixture() {
    const std::string command = "rm -rf " + folder;
    EXPECT_EQ(::system(command.c_str()), 0);
  }
  void register_drive() {
    auto file = fence::FenceFile::create(control::fence_folder(folder), place.durable_id);
    EXPECT_TRUE(file) << file.error().message;
  }
  Legs::Options options() const {
    NodeConfig config;
    config.node = NodeId::a;
    config.state_dir = folder;
    config.paths = {{.name = "path1", .listen = "127.0.0.1", .partner = "127.0.0.1"}};  // never started
    return {.config = config, .host_id = host, .on_path = {}};
  }
};

class LegsTest : public testing::Test {
 protected:
  std::unique_ptr<block::Reactor> reactor = *block::Reactor::create();
};

TEST_F(LegsTest, a_fence_is_stored_with_the_record_and_a_lower_epoch_is_fenced_out) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    fixture.register_drive();
    {
      Legs legs(fixture.options());
      legs.know(fixture.record, {&fixture.place, 1});
      FenceOutcome outcome = co_await legs.fence(fixture.leg, Epoch{5}, Revision{9}, 1234, Deadline::in_ms(2000));
      EXPECT_EQ(outcome.kind, FenceOutcome::Kind::done) << outcome.why;
      auto file = fence::FenceFile::open(control::fence_folder(fixture.folder), fixture.place.durable_id);
      auto contents = (*file)->contents();
      EXPECT_TRUE(contents && contents->held_by(fixture.host) && contents->epoch == Epoch{5});
      EXPECT_EQ(contents->stored, (fence::StoredRecord{Epoch{5}, Revision{9}, 1234}));
      co_await legs.close();
    }
    fixture.host = Uuid::random();  // an older process of this node comes late
    Legs older(fixture.options());
    older.know(fixture.record, {&fixture.place, 1});
    FenceOutcome outcome = co_await older.fence(fixture.leg, Epoch{4}, Revision{1}, 1, Deadline::in_ms(2000));
    EXPECT_EQ(outcome.kind, FenceOutcome::Kind::fenced_out);
    EXPECT_EQ(outcome.by, Epoch{5});
    EXPECT_EQ(older.fenced_by(fixture.leg), Epoch{5});
    co_await older.close();
  }());
}

TEST_F(LegsTest, two_hosts_of_one_epoch_do_not_both_get_the_leg) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    fixture.register_drive();
    auto file = fence::FenceFile::open(control::fence_folder(fixture.folder), fixture.place.durable_id);
    auto other = (*file)->fence({Epoch{0}, Epoch{5}, Uuid::random()});
    EXPECT_TRUE(other);
    Legs legs(fixture.options());
    legs.know(fixture.record, {&fixture.place, 1});
    FenceOutcome outcome = co_await legs.fence(fixture.leg, Epoch{5}, Revision{9}, 1, Deadline::in_ms(2000));
    EXPECT_EQ(outcome.kind, FenceOutcome::Kind::failed);
    co_await legs.close();
  }());
}

TEST_F(LegsTest, a_drive_without_a_fence_file_stays_closed) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    Legs legs(fixture.options());
    legs.know(fixture.record, {&fixture.place, 1});
    FenceOutcome outcome = co_await legs.fence(fixture.leg, Epoch{5}, Revision{9}, 1, Deadline::in_ms(2000));
    EXPECT_EQ(outcome.kind, FenceOutcome::Kind::failed);
    EXPECT_FALSE(legs.link(fixture.leg).open);
    co_await legs.close();
  }());
}

TEST_F(LegsTest, a_copy_at_the_drives_path_is_refused) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    fixture.place.durable_id += "-of-another";
    fixture.record.mirrors[0].legs[0].drive = fixture.place.durable_id;
    fixture.register_drive();
    Legs legs(fixture.options());
    legs.know(fixture.record, {&fixture.place, 1});
    auto opened = co_await legs.open(fixture.leg, Deadline::in_ms(2000));
    EXPECT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ErrorCode::refused);
    co_await legs.close();
  }());
}

TEST_F(LegsTest, keep_stores_newer_revisions_and_refuses_older_ones) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    fixture.register_drive();
    Legs legs(fixture.options());
    legs.know(fixture.record, {&fixture.place, 1});
    co_await legs.fence(fixture.leg, Epoch{5}, Revision{9}, record::digest_of(fixture.record), Deadline::in_ms(2000));
    record::Record newer = fixture.record;
    newer.rev = Revision{10};
    auto kept = co_await legs.keep(newer, Deadline::in_ms(500));
    EXPECT_TRUE(kept);
    auto back = co_await legs.keep(fixture.record, Deadline::in_ms(500));
    EXPECT_FALSE(back);
    co_await legs.close();
  }());
}

// Twelve synced files at once stall the clients of a pool whose partner returns.
TEST_F(LegsTest, keep_stores_one_fence_file_a_turn) {
  reactor->run_until_done([]() -> block::Task<void> {
    constexpr int mirror_count = 6;
    Fixture fixture;
    std::vector<Fixture> others(mirror_count - 1);
    std::vector<control::DrivePlace> places = {fixture.place};
    fixture.register_drive();
    for (int index = 1; index < mirror_count; ++index) {
      Fixture& other = others[static_cast<std::size_t>(index - 1)];
      auto file = fence::FenceFile::create(control::fence_folder(fixture.folder), other.place.durable_id);
      EXPECT_TRUE(file) << file.error().message;
      places.push_back(other.place);
      record::Mirror mirror = other.record.mirrors[0];
      mirror.guid = MirrorId{static_cast<std::uint64_t>(index) + 1};
      mirror.legs[0].guid = LegId{static_cast<std::uint64_t>(index) + 100};
      fixture.record.mirrors.push_back(mirror);
    }
    Legs legs(fixture.options());
    legs.know(fixture.record, places);
    for (LegId leg : legs.all()) {
      FenceOutcome outcome = co_await legs.fence(leg, Epoch{5}, Revision{9}, 1, Deadline::in_ms(2000));
      EXPECT_EQ(outcome.kind, FenceOutcome::Kind::done) << outcome.why;
    }
    record::Record newer = fixture.record;
    newer.rev = Revision{10};
    auto keeping = legs.keep(newer, Deadline::in_ms(500));
    keeping.start();
    int stored_before = 0;
    for (int turn = 0; stored_before < mirror_count && turn < 100; ++turn) {
      int stored = 0;
      for (const control::DrivePlace& place : places) {
        auto file = fence::FenceFile::open(control::fence_folder(fixture.folder), place.durable_id);
        auto contents = (*file)->contents();
        stored += contents && contents->stored.rev == Revision{10};
      }
      EXPECT_LE(stored, stored_before + 1) << "turn " << turn;
      stored_before = stored;
      co_await block::Reactor::current().yield();
    }
    EXPECT_EQ(stored_before, mirror_count);
    auto kept = co_await keeping;
    EXPECT_TRUE(kept);
    co_await legs.close();
  }());
}

// Rule 9, hole 19: a node that was put back to an earlier day (a virtual machine's snapshot) knows less than it confirmed.
TEST_F(LegsTest, a_leg_whose_node_forgot_what_it_was_told_is_refused) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    fixture.register_drive();
    const std::string file = fence::FenceFile::path_of(control::fence_folder(fixture.folder), fixture.place.durable_id);
    Legs legs(fixture.options());
    legs.know(fixture.record, {&fixture.place, 1});
    co_await legs.fence(fixture.leg, Epoch{5}, Revision{9}, record::digest_of(fixture.record), Deadline::in_ms(2000));
    std::filesystem::copy_file(file, file + "-earlier");
    record::Record newer = fixture.record;
    newer.rev = Revision{10};
    EXPECT_TRUE(co_await legs.keep(newer, Deadline::in_ms(500)));
    auto again =
        co_await legs.fence(fixture.leg, Epoch{5}, Revision{10}, record::digest_of(newer), Deadline::in_ms(2000));
    EXPECT_EQ(again.kind, FenceOutcome::Kind::done) << again.why;
    std::filesystem::rename(file + "-earlier", file);
    auto refused =
        co_await legs.fence(fixture.leg, Epoch{5}, Revision{10}, record::digest_of(newer), Deadline::in_ms(2000));
    EXPECT_EQ(refused.kind, FenceOutcome::Kind::rolled_back);
    EXPECT_NE(refused.why.find("earlier state"), std::string::npos);

    const LegId new_leg = legs.add_new(fixture.place);  // as a new leg it begins anew
    auto fresh = co_await legs.fence(new_leg, Epoch{5}, Revision{10}, record::digest_of(newer), Deadline::in_ms(2000));
    EXPECT_EQ(fresh.kind, FenceOutcome::Kind::done) << fresh.why;
    co_await legs.close();
  }());
}

TEST_F(LegsTest, a_renamed_leg_is_found_under_both_guids_and_texts_are_readable) {
  reactor->run_until_done([]() -> block::Task<void> {
    Fixture fixture;
    Legs legs(fixture.options());
    const LegId provisional = legs.add_new(fixture.place);
    legs.rename(provisional, LegId{99});
    EXPECT_EQ(legs.engine_guid(provisional), LegId{99});
    EXPECT_EQ(legs.leg_of_engine(LegId{99}), LegId{99});
    EXPECT_EQ(legs.find_drive(NodeId::a, "m00"), LegId{99});
    EXPECT_EQ(legs.readable(fixture.place.durable_id + "@a is gone"), "m00@a is gone");
    co_await legs.close();
  }());
}

}  // namespace
}  // namespace zpair::pool
