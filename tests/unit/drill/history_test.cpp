#include "drill/history.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "drill/nbd_client.h"
#include "drill/stall.h"

namespace zpair::drill {
namespace {

using Bytes = std::vector<std::byte>;
using Kind = Finding::Kind;

constexpr std::uint64_t blocks = 16;
const Uuid volume = Uuid::from_name("history test");

struct Volume {
  History history{volume, blocks, History::Before::zeroes};
  Bytes disk = Bytes(blocks * stamped_block_bytes);

  std::span<std::byte> at(std::uint64_t block, std::uint64_t count = 1) {
    return std::span(disk).subspan(block * stamped_block_bytes, count * stamped_block_bytes);
  }
  Bytes issue(std::uint64_t first, std::uint64_t count = 1) {
    Bytes bytes(count * stamped_block_bytes);
    EXPECT_TRUE(history.claim(first, count));
    history.issue_write(first, bytes);
    return bytes;
  }
  void land(std::uint64_t first, const Bytes& bytes) { std::memcpy(at(first).data(), bytes.data(), bytes.size()); }
  Bytes write(std::uint64_t first, std::uint64_t count = 1) {
    Bytes bytes = issue(first, count);
    land(first, bytes);
    history.acknowledged(first, count);
    return bytes;
  }
  void read(std::uint64_t first, std::uint64_t count = 1) {
    auto floor = history.read_floor(first, count);
    history.check_read(first, at(first, count), floor);
  }
  void verify() { history.check_final(0, disk); }
  std::vector<Kind> found() const {
    std::vector<Kind> kinds;
    for (const Finding& finding : history.findings()) kinds.push_back(finding.kind);
    return kinds;
  }
};

TEST(Stamp, tells_its_block_and_write_and_any_change) {
  Bytes block(stamped_block_bytes);
  stamp_block(block, volume, 7, 42);
  StampSeen seen = read_stamp(block, volume, 7);
  EXPECT_EQ(seen.kind, StampSeen::Kind::good);
  EXPECT_EQ(seen.sequence, 42u);
  EXPECT_EQ(read_stamp(block, volume, 8).kind, StampSeen::Kind::bad);
  EXPECT_EQ(read_stamp(block, Uuid::from_name("other"), 7).kind, StampSeen::Kind::bad);
  for (std::size_t at = 0; at < block.size(); ++at) {  // every byte counts
    block[at] ^= std::byte{1};
    EXPECT_EQ(read_stamp(block, volume, 7).kind, StampSeen::Kind::bad) << at;
    block[at] ^= std::byte{1};
  }
  EXPECT_EQ(read_stamp(Bytes(stamped_block_bytes), volume, 7).kind, StampSeen::Kind::zeroes);
}

TEST(Stamp, two_halves_of_two_writes_are_no_block) {
  Bytes older(stamped_block_bytes);
  Bytes newer(stamped_block_bytes);
  stamp_block(older, volume, 7, 1);
  stamp_block(newer, volume, 7, 2);
  std::memcpy(newer.data() + 2048, older.data() + 2048, 2048);
  EXPECT_EQ(read_stamp(newer, volume, 7).kind, StampSeen::Kind::bad);
}

TEST(History, what_was_acknowledged_or_issued_later_is_right) {
  Volume v;
  v.write(0, 4);
  v.write(0);
  v.land(1, v.issue(1));  // issued, there, not acknowledged
  v.history.outcome_unknown(1, 1);
  (void)v.issue(2);  // issued, not there
  v.history.outcome_unknown(2, 1);
  v.read(0, 4);
  v.verify();
  EXPECT_TRUE(v.found().empty());
  EXPECT_EQ(v.history.counts().verified_blocks, blocks);
  EXPECT_EQ(v.history.counts().acknowledged_blocks, 5u);
}

TEST(History, an_acknowledged_write_that_is_not_there_is_lost) {
  Volume v;
  Bytes first = v.write(3);
  v.write(3);
  v.land(3, first);
  v.write(5);
  std::ranges::fill(v.at(5), std::byte{0});
  v.verify();
  EXPECT_EQ(v.found(), (std::vector{Kind::lost, Kind::lost}));
  EXPECT_EQ(v.history.findings()[0].to_string(), "block 3: lost: holds write 1, must hold 2 to 2");
}

TEST(History, a_read_that_returns_less_than_acknowledged_or_read_before_goes_back) {
  Volume v;
  Bytes first = v.write(3);
  Bytes second = v.issue(3);
  v.land(3, second);
  v.read(3);  // sees the unacknowledged one
  v.land(3, first);
  v.read(3);
  EXPECT_EQ(v.found(), std::vector{Kind::went_back});
  v.history.acknowledged(3, 1);
  v.read(3);
  EXPECT_EQ(v.found(), (std::vector{Kind::went_back, Kind::went_back}));
}

TEST(History, a_read_needs_only_what_was_acknowledged_before_it_began) {
  Volume v;
  v.write(3);
  auto floor = v.history.read_floor(3, 1);
  Bytes returned(v.at(3).begin(), v.at(3).end());
  v.write(3);  // acknowledged while the read was under way
  v.history.check_read(3, returned, floor);
  EXPECT_TRUE(v.found().empty());
}

TEST(History, what_a_read_saw_must_stay) {
  Volume v;
  Bytes first = v.write(3);
  v.land(3, v.issue(3));
  v.read(3);
  v.history.outcome_unknown(3, 1);
  v.land(3, first);  // the unacknowledged write vanishes after somebody read it
  v.verify();
  EXPECT_EQ(v.found(), std::vector{Kind::lost});
}

TEST(History, changed_and_misplaced_bytes_are_corrupt_and_writes_never_issued_unborn) {
  Volume v;
  v.write(1);
  v.at(1)[100] ^= std::byte{1};
  v.land(2, v.write(3));                     // the content of another block
  std::ranges::fill(v.at(4), std::byte{9});  // never written by us
  stamp_block(v.at(5), volume, 5, 99);
  v.verify();
  EXPECT_EQ(v.found(), (std::vector{Kind::corrupt, Kind::corrupt, Kind::corrupt, Kind::unborn}));
}

TEST(History, unknown_bytes_from_before_are_no_corruption_until_a_write_is_acknowledged) {
  Volume v;
  v.history = History(volume, blocks, History::Before::unknown);
  std::ranges::fill(v.disk, std::byte{9});
  v.verify();
  EXPECT_TRUE(v.found().empty());
  v.write(1);
  std::ranges::fill(v.at(1), std::byte{9});
  v.verify();
  EXPECT_EQ(v.found(), std::vector{Kind::corrupt});
}

TEST(History, a_block_has_one_write_under_way) {
  Volume v;
  (void)v.issue(3, 2);
  EXPECT_FALSE(v.history.claim(4, 4));
  EXPECT_TRUE(v.history.claim(5, 4));  // nothing was taken by the claim that failed
  v.history.outcome_unknown(3, 2);
  EXPECT_TRUE(v.history.claim(3, 2));
}

struct StateFile {
  std::string path = "/tmp/zpair-history-" + std::to_string(::getpid());
  ~StateFile() { ::unlink(path.c_str()); }
};

TEST(History, survives_its_file) {
  StateFile file;
  Volume v;
  v.write(3);
  v.write(3);
  (void)v.issue(4);
  ASSERT_TRUE(v.history.save(file.path));
  auto loaded = History::load(file.path);
  ASSERT_TRUE(loaded) << loaded.error().message;
  loaded->check_final(0, v.disk);
  EXPECT_EQ(loaded->counts().bad(), 0u);
  std::ranges::fill(v.at(3), std::byte{0});
  loaded->check_final(0, v.disk);
  EXPECT_EQ(loaded->counts().lost, 1u);
}

TEST(History, a_file_that_is_none_is_an_error) {
  StateFile file;
  EXPECT_EQ(History::load(file.path).error().code, ErrorCode::not_found);
  Volume v;
  v.write(3);
  ASSERT_TRUE(v.history.save(file.path));
  std::fstream(file.path, std::ios::in | std::ios::out | std::ios::binary).seekp(60).put(7);
  EXPECT_EQ(History::load(file.path).error().code, ErrorCode::invalid);
  ASSERT_EQ(::truncate(file.path.c_str(), 60), 0);
  EXPECT_EQ(History::load(file.path).error().code, ErrorCode::invalid);
  std::ofstream(file.path) << "hello";
  EXPECT_EQ(History::load(file.path).error().code, ErrorCode::invalid);
}

TEST(StallMeter, a_stall_is_the_longest_time_with_something_outstanding_and_nothing_completed) {
  StallMeter meter;
  auto run = meter.begin("run", 0);
  meter.started(StallKind::write, 10);
  meter.completed(StallKind::write, 10, 20);
  meter.started(StallKind::write, 1000);  // idle before: no stall
  meter.started(StallKind::write, 1010);
  auto event = meter.begin("event", 1020);
  meter.started(StallKind::read, 1030);
  meter.completed(StallKind::read, 1030, 1040);
  EXPECT_EQ(meter.going_on(1100), 100);  // the write that is held, though reads go on
  meter.completed(StallKind::write, 1010, 1150);
  EXPECT_EQ(meter.stall_of(event, 1160), 150);
  EXPECT_EQ(meter.windows()[event].slowest_ns, 140);
  EXPECT_EQ(meter.windows()[event].stall_ended_ns, 1150);
  meter.end(event, 1160);
  meter.completed(StallKind::write, 1000, 2000);
  EXPECT_EQ(meter.stall_of(event, 3000), 150);
  EXPECT_EQ(meter.stall_of(run, 3000), 850);
  EXPECT_EQ(meter.windows()[run].slowest_ns, 1000);
  meter.restart(run, 4000);
  EXPECT_EQ(meter.stall_of(run, 4000), 0);
  EXPECT_EQ(meter.windows()[run].slowest_ns, 0);
  EXPECT_EQ(meter.windows()[run].name, "run");
}

TEST(StallMeter, a_stall_that_goes_on_when_its_event_ends_has_no_end) {
  StallMeter meter;
  auto event = meter.begin("event", 0);
  meter.started(StallKind::write, 0);
  meter.completed(StallKind::write, 0, 10);
  meter.started(StallKind::write, 10);
  meter.end(event, 500);
  EXPECT_EQ(meter.stall_of(event, 500), 490);
  EXPECT_EQ(meter.windows()[event].stall_ended_ns, 0);
}

TEST(NbdTarget, addresses_are_parsed) {
  auto unix_one = NbdTarget::parse("nbd+unix:///tank/vm1?socket=/run/a%20b.sock");
  ASSERT_TRUE(unix_one);
  EXPECT_EQ(unix_one->addresses[0].text, "unix:/run/a b.sock");
  EXPECT_EQ(unix_one->export_name, "tank/vm1");
  auto tcp = NbdTarget::parse("nbd://127.0.0.1:10810/tank/vm1@vm-1,nbd://127.0.0.2/tank/vm1@vm-1");
  ASSERT_TRUE(tcp);
  EXPECT_EQ(tcp->addresses[0].text, "tcp:127.0.0.1:10810");
  EXPECT_EQ(tcp->addresses[1].text, "tcp:127.0.0.2:10809");
}

TEST(NbdTarget, what_is_no_address_says_the_mend) {
  for (const char* uri : {"", "http://x", "nbd+unix:///tank/vm1", "nbd://localhost/x",
                          "nbd://127.0.0.1/a,nbd://127.0.0.2/a", "nbd://127.0.0.1/a@x,nbd://127.0.0.2/b@x"}) {
    auto target = NbdTarget::parse(uri);
    ASSERT_FALSE(target) << uri;
    EXPECT_EQ(target.error().code, ErrorCode::invalid) << uri;
  }
}

}  // namespace
}  // namespace zpair::drill
