#include "quorum/etcd_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "block/stream.h"
#include "etcd_cluster.h"

namespace zpair::quorum {
namespace {

using block::Reactor;
using block::Task;
using block::TaskGroup;
using Outcome = SwapAnswer::Outcome;

record::Record record_of(std::string pool, std::uint64_t rev) {
  record::Record record;
  record.name = std::move(pool);
  record.rev = Revision{rev};
  record.epoch = Epoch{1};
  record.op = Uuid::random().to_string();
  record.why = "test";
  return record;
}

class EtcdStoreTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cluster = new EtcdCluster; }
  static void TearDownTestSuite() {
    delete cluster;
    cluster = nullptr;
  }

  void SetUp() override {
    for (std::size_t i = 0; i < 3; ++i) {
      if (!cluster->runs(i)) cluster->start(i);
    }
    store = open(0);
    wait_until_all_answer();
  }
  void TearDown() override {
    for (auto& one : stores) run(one->close());
    stores.clear();
  }

  EtcdStore* open(std::size_t own_member) { return open(cluster->endpoints(own_member)); }
  EtcdStore* open(std::vector<std::string> endpoints) {
    stores.push_back(std::make_unique<EtcdStore>(*reactor, EtcdOptions{.endpoints = std::move(endpoints)}));
    return stores.back().get();
  }
  template <class T>
  T run(Task<T> task) {
    return reactor->run_until_done(std::move(task));
  }
  void wait_until_all_answer() {
    auto wait = [](EtcdStore& of) -> Task<bool> {
      Deadline deadline = Deadline::in_ms(30'000);
      while (!deadline.passed()) {
        auto all = co_await of.status(deadline);
        if (std::ranges::count_if(all, [](const MemberStatus& m) { return m.answers && m.leader_id != "0"; }) == 3)
          co_return true;
        co_await Reactor::current().after_ms(20);
      }
      co_return false;
    };
    ASSERT_TRUE(run(wait(*store))) << cluster->log(0);
  }
  std::size_t leader() {
    auto all = run(store->status(Deadline::in_ms(2000)));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].answers && all[i].id == all[i].leader_id) return i;
    }
    ADD_FAILURE() << "no leader";
    return 0;
  }
  void lead(std::size_t member) {
    auto until = [](EtcdStore& of, std::string name) -> Task<Result<void>> {
      Deadline deadline = Deadline::in_ms(10'000);
      while (true) {
        auto moved = co_await of.move_leader(name, deadline);
        if (moved || deadline.passed()) co_return moved;
        co_await Reactor::current().after_ms(20);
      }
    };
    auto moved = run(until(*store, EtcdCluster::names[member]));
    ASSERT_TRUE(moved) << moved.error().message;
  }
  // As the brain does it: swap; unknown is read; until the record is ours.
  static Task<record::Stored> insist(EtcdStore& of, record::Record wanted) {
    while (true) {
      auto now = co_await of.read(wanted.name, Deadline::in_ms(30'000));
      EXPECT_TRUE(now) << now.error().message;
      if (!now) co_return record::Stored{};
      if (*now && (**now).record.op == wanted.op) co_return **now;
      std::uint64_t revision = *now ? (**now).mod_revision : 0;
      auto answer = co_await of.swap(revision, wanted, Deadline::in_ms(1000));
      if (answer.outcome == Outcome::applied) co_return answer.stored;
    }
  }
  SwapAnswer swap(EtcdStore& of, std::uint64_t expected, record::Record record, std::int64_t ms = 5000) {
    return run(of.swap(expected, std::move(record), Deadline::in_ms(ms)));
  }
  std::optional<record::Stored> read(EtcdStore& of, std::string pool, std::int64_t ms = 30'000) {
    auto found = run(of.read(pool, Deadline::in_ms(ms)));
    EXPECT_TRUE(found) << found.error().message;
    return found ? *found : std::nullopt;
  }

  static EtcdCluster* cluster;
  std::unique_ptr<Reactor> reactor = std::move(*Reactor::create());
  std::vector<std::unique_ptr<EtcdStore>> stores;
  EtcdStore* store = nullptr;
};

EtcdCluster* EtcdStoreTest::cluster = nullptr;

TEST_F(EtcdStoreTest, a_swap_compares_the_revision) {
  EXPECT_EQ(read(*store, "swap"), std::nullopt);
  record::Record first = record_of("swap", 1);
  SwapAnswer created = swap(*store, 0, first);
  ASSERT_EQ(created.outcome, Outcome::applied);
  EXPECT_GT(created.stored.mod_revision, 0u);
  EXPECT_EQ(read(*store, "swap"), created.stored);

  SwapAnswer again = swap(*store, 0, record_of("swap", 1));
  EXPECT_EQ(again.outcome, Outcome::other);
  EXPECT_EQ(again.stored, created.stored);

  SwapAnswer next = swap(*store, created.stored.mod_revision, record_of("swap", 2));
  ASSERT_EQ(next.outcome, Outcome::applied);
  EXPECT_GT(next.stored.mod_revision, created.stored.mod_revision);
  EXPECT_EQ(swap(*store, created.stored.mod_revision, record_of("swap", 9)).stored, next.stored);
  EXPECT_EQ(read(*open(2), "swap"), next.stored) << "seen through another member at once";
}

TEST_F(EtcdStoreTest, a_swap_of_a_missing_key_says_so) {
  SwapAnswer answer = swap(*store, 12345, record_of("missing", 1));
  EXPECT_EQ(answer.outcome, Outcome::other);
  EXPECT_EQ(answer.stored.mod_revision, 0u);
}

TEST_F(EtcdStoreTest, an_own_operation_that_was_sent_twice_is_applied) {
  record::Record record = record_of("twice", 1);
  SwapAnswer first = swap(*store, 0, record);
  SwapAnswer repeated = swap(*store, 0, record);
  EXPECT_EQ(repeated.outcome, Outcome::applied);
  EXPECT_EQ(repeated.stored, first.stored);
}

Task<int> race(EtcdStore& one, EtcdStore& other, std::uint64_t revision) {
  int applied = 0;
  TaskGroup group;
  auto writer = [](EtcdStore& through, std::uint64_t expected, int& count) -> Task<void> {
    SwapAnswer answer = co_await through.swap(expected, record_of("race", 2), Deadline::in_ms(5000));
    if (answer.outcome == Outcome::applied) ++count;
  };
  for (int i = 0; i < 8; ++i) group.spawn(writer(i % 2 == 0 ? one : other, revision, applied));
  co_await group.close();
  co_return applied;
}

TEST_F(EtcdStoreTest, of_many_writers_exactly_one_wins) {
  SwapAnswer created = swap(*store, 0, record_of("race", 1));
  EXPECT_EQ(run(race(*store, *open(1), created.stored.mod_revision)), 1);
}

TEST_F(EtcdStoreTest, list_and_remove) {
  SwapAnswer one = swap(*store, 0, record_of("list-1", 1));
  SwapAnswer two = swap(*store, 0, record_of("list-2", 1));
  auto all = run(store->list(Deadline::in_ms(5000)));
  ASSERT_TRUE(all);
  EXPECT_TRUE(std::ranges::count(*all, one.stored) == 1 && std::ranges::count(*all, two.stored) == 1);
  auto wrong = run(store->remove("list-1", two.stored.mod_revision, Deadline::in_ms(5000)));
  EXPECT_EQ(wrong.outcome, Outcome::other);
  EXPECT_EQ(wrong.stored, one.stored);
  auto removed = run(store->remove("list-1", one.stored.mod_revision, Deadline::in_ms(5000)));
  EXPECT_EQ(removed.outcome, Outcome::applied);
  EXPECT_EQ(read(*store, "list-1"), std::nullopt);
  auto gone = run(store->remove("list-1", one.stored.mod_revision, Deadline::in_ms(5000)));
  EXPECT_EQ(gone.outcome, Outcome::other);
  EXPECT_EQ(gone.stored.mod_revision, 0u);

  auto destroyed = run(store->destroyed("list-1", Deadline::in_ms(5000)));
  ASSERT_TRUE(destroyed && *destroyed)
      << "a node that was away must be able to tell a destroyed pool from a lost record";
  EXPECT_EQ(**destroyed, one.stored.record);
  auto never = run(store->destroyed("list-2", Deadline::in_ms(5000)));
  ASSERT_TRUE(never);
  EXPECT_EQ(*never, std::nullopt);
  auto still = run(store->list(Deadline::in_ms(5000)));
  ASSERT_TRUE(still);
  EXPECT_EQ(std::ranges::count_if(*still, [](const auto& stored) { return stored.record.name == "list-1"; }), 0);
}

TEST_F(EtcdStoreTest, a_dead_own_member_costs_reads_and_swaps_nothing_but_the_next_try) {
  lead(2);
  cluster->kill(0);
  SwapAnswer created = swap(*store, 0, record_of("dead-own", 1));
  EXPECT_EQ(created.outcome, Outcome::applied) << "nothing was sent to the dead member, so the next is asked";
  EXPECT_EQ(read(*store, "dead-own"), created.stored);
}

TEST_F(EtcdStoreTest, a_paused_own_member_makes_a_swap_unknown_and_a_read_resolves_it) {
  lead(2);
  SwapAnswer created = swap(*store, 0, record_of("paused-own", 1));
  cluster->pause(0);
  record::Record second = record_of("paused-own", 2);
  SwapAnswer answer = swap(*store, created.stored.mod_revision, second, 400);
  EXPECT_EQ(answer.outcome, Outcome::unknown);
  auto now = read(*store, "paused-own");
  ASSERT_TRUE(now);
  EXPECT_EQ(now->record.rev, Revision{1});
  cluster->resume(0);  // it may now send on what it had read
  auto settled = run(insist(*store, second));
  EXPECT_EQ(settled.record, second);
  EXPECT_EQ(read(*open(1), "paused-own"), settled);
}

TEST_F(EtcdStoreTest, without_a_majority_swaps_are_unknown_and_reads_time_out) {
  SwapAnswer created = swap(*store, 0, record_of("minority", 1));
  cluster->kill(1);
  cluster->kill(2);
  SwapAnswer answer = swap(*store, created.stored.mod_revision, record_of("minority", 2), 700);
  EXPECT_EQ(answer.outcome, Outcome::unknown);
  auto found = run(store->read("minority", Deadline::in_ms(700)));
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::timed_out);
  auto all = run(store->list(Deadline::in_ms(300)));
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code, ErrorCode::timed_out);
}

TEST_F(EtcdStoreTest, all_members_down_and_back_keep_every_record) {
  SwapAnswer created = swap(*store, 0, record_of("all-down", 1));
  for (std::size_t i = 0; i < 3; ++i) cluster->kill(i);
  EXPECT_EQ(swap(*store, created.stored.mod_revision, record_of("all-down", 2), 300).outcome, Outcome::unknown);
  for (std::size_t i = 0; i < 3; ++i) cluster->start(i);
  EXPECT_EQ(read(*store, "all-down"), created.stored) << "nobody had got the second";
  EXPECT_EQ(swap(*store, created.stored.mod_revision, record_of("all-down", 3)).outcome, Outcome::applied);
}

TEST_F(EtcdStoreTest, a_dead_leader_is_survived_whoever_led) {
  SwapAnswer last = swap(*store, 0, record_of("leader", 1));
  for (std::size_t victim = 0; victim < 3; ++victim) {
    lead(victim);
    EXPECT_EQ(leader(), victim);
    cluster->kill(victim);
    record::Record next = record_of("leader", 2 + victim);
    auto settled = run(insist(*store, next));
    EXPECT_EQ(settled.record, next);
    EXPECT_GT(settled.mod_revision, last.stored.mod_revision);
    cluster->start(victim);
    wait_until_all_answer();
  }
}

TEST_F(EtcdStoreTest, the_leader_is_kept_on_the_witness) {
  lead(0);
  store->keep_leader_on("witness", 50);
  auto until_witness_leads = [](EtcdStore& of) -> Task<bool> {
    Deadline deadline = Deadline::in_ms(10'000);
    while (!deadline.passed()) {
      auto all = co_await of.status(deadline);
      if (all[2].answers && all[2].id == all[2].leader_id) co_return true;
      co_await Reactor::current().after_ms(20);
    }
    co_return false;
  };
  EXPECT_TRUE(run(until_witness_leads(*store)));
}

TEST_F(EtcdStoreTest, a_leader_cannot_move_to_nobody) {
  auto moved = run(store->move_leader("nobody", Deadline::in_ms(2000)));
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().code, ErrorCode::not_found);
  lead(1);
  cluster->kill(2);
  moved = run(store->move_leader("witness", Deadline::in_ms(2000)));
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().code, ErrorCode::unreachable);
}

// What a watch told, and a wait for something in it.
struct Seen {
  std::vector<record::Stored> all;
  block::Signal more;

  bool has(const record::Stored& wanted) const { return std::ranges::count(all, wanted) > 0; }
  std::function<void(record::Stored)> callback() {
    return [this](record::Stored changed) {
      all.push_back(std::move(changed));
      more.set();
    };
  }
  static Task<bool> wait(Seen& seen, record::Stored wanted) {
    Deadline deadline = Deadline::in_ms(20'000);
    while (!seen.has(wanted)) {
      seen.more.reset();
      bool woken = co_await block::wait_for(seen.more, deadline);
      if (!woken) co_return false;
    }
    co_return true;
  }
};

TEST_F(EtcdStoreTest, a_watch_tells_of_old_new_changed_and_removed_records) {
  EtcdStore* writer = open(1);
  SwapAnswer old = swap(*writer, 0, record_of("watch-old", 1));
  Seen seen;
  store->watch(seen.callback());
  EXPECT_TRUE(run(Seen::wait(seen, old.stored)));
  SwapAnswer created = swap(*writer, 0, record_of("watch", 1));
  EXPECT_TRUE(run(Seen::wait(seen, created.stored)));
  SwapAnswer changed = swap(*writer, created.stored.mod_revision, record_of("watch", 2));
  EXPECT_TRUE(run(Seen::wait(seen, changed.stored)));
  (void)run(writer->remove("watch", changed.stored.mod_revision, Deadline::in_ms(5000)));
  record::Stored gone;
  gone.record.name = "watch";
  EXPECT_TRUE(run(Seen::wait(seen, gone)));
  run(store->close());  // before `seen` ends
}

TEST_F(EtcdStoreTest, a_watch_goes_on_when_its_member_dies_or_stands_still) {
  EtcdStore* writer = open(1);
  lead(2);
  for (bool dies : {true, false}) {
    std::string pool = dies ? "watch-dead" : "watch-paused";
    Seen seen;
    EtcdStore* watcher = open(0);  // a fresh one, which follows its own member
    watcher->watch(seen.callback());
    SwapAnswer created = swap(*writer, 0, record_of(pool, 1));
    EXPECT_TRUE(run(Seen::wait(seen, created.stored)));
    if (dies) {
      cluster->kill(0);
    } else {
      cluster->pause(0);
    }
    SwapAnswer second = swap(*writer, created.stored.mod_revision, record_of(pool, 2));
    EXPECT_TRUE(run(Seen::wait(seen, second.stored))) << pool;
    if (dies) {
      cluster->start(0);
    } else {
      cluster->resume(0);
    }
    wait_until_all_answer();
    run(watcher->close());  // before `seen` ends
  }
}

// Stands before a member. While `holding` it takes every request and keeps it; release() sends them on, whether or not
// the client still waits: as a dead switch does.
class HoldingProxy {
 public:
  HoldingProxy(int port) : to_{fmt::format("tcp:127.0.0.1:{}", port)} {
    listener_ = std::move(*block::Listener::listen(block::Endpoint{"tcp:127.0.0.1:0"}));
  }
  std::string url() const { return "http://" + listener_->local_endpoint().text.substr(4); }
  void start() { group_.spawn(serve(*this)); }
  void hold() {
    go_.reset();
    answered_.reset();
  }
  void release() { go_.set(); }
  bool holds() const { return held_ > 0; }
  Task<bool> member_answered() {  // since the last hold()
    co_return co_await block::wait_for(answered_, Deadline::in_ms(10'000));
  }
  Task<void> close() {
    go_.set();
    listener_->close();
    for (auto& stream : streams_) stream->shutdown();
    co_await group_.close();
  }

 private:
  static Task<void> serve(HoldingProxy& self) {
    self.go_.set();
    while (true) {
      auto client = co_await self.listener_->accept();
      if (!client) co_return;
      auto member = co_await block::Stream::connect(self.to_, Deadline::in_ms(5000));
      if (!member) continue;
      self.streams_.push_back(std::move(*client));
      block::Stream& from = *self.streams_.back();
      self.streams_.push_back(std::move(*member));
      block::Stream& to = *self.streams_.back();
      self.group_.spawn(pump(self, from, to, true));
      self.group_.spawn(pump(self, to, from, false));
    }
  }
  static Task<void> pump(HoldingProxy& self, block::Stream& from, block::Stream& to, bool is_request) {
    std::vector<std::byte> bytes(65536);
    while (true) {
      auto count = co_await from.read_some(bytes);
      if (!count || *count == 0) break;
      if (is_request && !self.go_.is_set()) {
        ++self.held_;
        co_await self.go_.wait();
        --self.held_;
      }
      if (!is_request) self.answered_.set();
      auto sent = co_await to.write_all(std::span<const std::byte>(bytes).first(*count));
      if (!sent) break;
    }
    if (!is_request) from.shutdown();  // the member's end; the client's end must not end the member's work
  }

  block::Endpoint to_;
  std::unique_ptr<block::Listener> listener_;
  std::deque<std::unique_ptr<block::Stream>> streams_;
  block::Signal go_;
  block::Signal answered_;
  int held_ = 0;
  TaskGroup group_;
};

class LateSwapTest : public EtcdStoreTest {
 protected:
  // A store whose own member is behind the proxy, and a swap held in it.
  void hold_a_swap(std::string pool) {
    proxy = std::make_unique<HoldingProxy>(cluster->client_port(0));
    auto start = [](HoldingProxy& of) -> Task<void> {
      of.start();
      co_return;
    };
    run(start(*proxy));
    behind = open({proxy->url(), cluster->endpoint(1), cluster->endpoint(2)});
    created = swap(*behind, 0, record_of(pool, 1));
    ASSERT_EQ(created.outcome, Outcome::applied);
    proxy->hold();
    late = record_of(pool, 2);
    EXPECT_EQ(swap(*behind, created.stored.mod_revision, late, 400).outcome, Outcome::unknown);
    ASSERT_TRUE(proxy->holds());
  }
  void release() {
    auto let_go = [](HoldingProxy& of) -> Task<void> {
      of.release();
      co_return;
    };
    run(let_go(*proxy));
  }
  void TearDown() override {
    if (proxy) run(proxy->close());
    EtcdStoreTest::TearDown();
  }

  std::unique_ptr<HoldingProxy> proxy;
  EtcdStore* behind = nullptr;
  SwapAnswer created{Outcome::unknown, {}};
  record::Record late;
};

TEST_F(LateSwapTest, a_held_swap_does_land_late_when_nobody_resolves_it) {  // the danger is real
  hold_a_swap("late-lands");
  release();
  auto until_landed = [](EtcdStore& of, record::Record wanted) -> Task<bool> {
    Deadline deadline = Deadline::in_ms(10'000);
    while (!deadline.passed()) {
      auto all = co_await of.list(deadline);
      if (all && std::ranges::any_of(*all, [&wanted](const record::Stored& s) { return s.record == wanted; }))
        co_return true;
      co_await Reactor::current().after_ms(10);
    }
    co_return false;
  };
  EXPECT_TRUE(run(until_landed(*store, late)));
}

TEST_F(LateSwapTest, after_a_read_a_held_swap_can_never_land) {
  hold_a_swap("late-fenced");
  auto resolved = read(*behind, "late-fenced");
  ASSERT_TRUE(resolved);
  EXPECT_EQ(resolved->record, created.stored.record);
  EXPECT_GT(resolved->mod_revision, created.stored.mod_revision)
      << "written back, so that the held swap compares with the past";
  release();
  ASSERT_TRUE(run(proxy->member_answered())) << "the held swap reached its member";
  EXPECT_EQ(read(*behind, "late-fenced"), resolved) << "and changed nothing";
  auto next = swap(*open(0), resolved->mod_revision, record_of("late-fenced", 3));
  EXPECT_EQ(next.outcome, Outcome::applied);
  EXPECT_EQ(read(*behind, "late-fenced"), next.stored);
}

TEST_F(EtcdStoreTest, a_closed_store_ends_what_waits) {
  for (std::size_t i = 1; i < 3; ++i) cluster->kill(i);
  auto close_while_reading = [](EtcdStore& of) -> Task<ErrorCode> {
    ErrorCode code = ErrorCode::internal;
    TaskGroup group;
    auto reader = [](EtcdStore& from, ErrorCode& out) -> Task<void> {
      auto found = co_await from.read("nothing", Deadline::in_ms(60'000));
      if (!found) out = found.error().code;
    };
    group.spawn(reader(of, code));
    co_await Reactor::current().after_ms(20);
    co_await of.close();
    co_await group.close();
    co_return code;
  };
  EXPECT_EQ(run(close_while_reading(*store)), ErrorCode::cancelled);
}

// What somebody compares with from a store that was lost must fit nothing in the one that took its place.
TEST_F(EtcdStoreTest, the_revision_is_raised_above_what_was_seen) {
  SwapAnswer before = swap(*store, 0, record_of("before", 1));
  const std::uint64_t seen = before.stored.mod_revision + 50;
  ASSERT_TRUE(run(store->raise_revision(seen, Deadline::in_ms(30'000))));
  SwapAnswer after = swap(*store, 0, record_of("after", 1));
  EXPECT_EQ(after.outcome, Outcome::applied);
  EXPECT_GT(after.stored.mod_revision, seen);
  ASSERT_TRUE(run(store->raise_revision(seen, Deadline::in_ms(30'000)))) << "nothing to do";
  EXPECT_EQ(swap(*store, after.stored.mod_revision, record_of("after", 2)).stored.mod_revision,
            after.stored.mod_revision + 1);
}

// ------------------------------------------------------------------------------------------------ etcd-start, readmit

// A cluster of its own for each: their members are not what they were.
class ReadmitTest : public EtcdStoreTest {
 protected:
  static void SetUpTestSuite() {}
  static void TearDownTestSuite() {}
  void SetUp() override {
    cluster = new EtcdCluster;
    store = open(0);
    wait_until_all_answer();
    wait_for_pins();
  }
  void TearDown() override {
    EtcdStoreTest::TearDown();
    delete cluster;
    cluster = nullptr;
  }
  void wait_for_pins() {  // the wrappers' helpers have registered all three
    auto wait = [](const EtcdCluster& of) -> Task<bool> {
      Deadline deadline = Deadline::in_ms(20'000);
      auto size = [](const std::filesystem::path& path) {
        std::ifstream file(path);
        std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        return std::ranges::count(text, ':');
      };
      while (!deadline.passed()) {
        if (size(of.pins(0)) == 2 && size(of.pins(1)) == 2 && size(of.pins(2)) == 2) co_return true;
        co_await Reactor::current().after_ms(20);
      }
      co_return false;
    };
    ASSERT_TRUE(run(wait(*cluster)));
  }
  void wipe(std::size_t member) {
    cluster->kill(member);
    std::filesystem::remove_all(cluster->data(member));
  }
  int start_and_fail(std::size_t member, std::vector<std::string> options = {}) {
    cluster->start(member, std::move(options));
    return cluster->exit_code(member);
  }
};

TEST_F(ReadmitTest, a_wiped_member_does_not_start_until_it_is_readmitted) {
  SwapAnswer created = swap(*store, 0, record_of("wiped", 1));
  auto before = run(store->members(Deadline::in_ms(5000)));
  wipe(1);
  EXPECT_EQ(start_and_fail(1), 3);
  EXPECT_EQ(start_and_fail(1, {"--bootstrap"}), 3) << "the mark says that it existed";
  EXPECT_NE(cluster->log(1).find("zpair store readmit b"), std::string::npos) << cluster->log(1);
  EXPECT_FALSE(std::filesystem::exists(cluster->data(1)));

  auto readmitted = run(store->readmit("b", "", Deadline::in_ms(30'000)));
  ASSERT_TRUE(readmitted) << readmitted.error().message;
  cluster->start(1);
  wait_until_all_answer();
  auto after = run(store->members(Deadline::in_ms(5000)));
  ASSERT_TRUE(before && after);
  ASSERT_EQ(after->size(), 3u);
  for (const Member& member : *after) {
    auto former = std::ranges::find(*before, member.name, &Member::name);
    ASSERT_NE(former, before->end());
    EXPECT_EQ(former->id == member.id, member.name != "b") << "only b came back under a new id";
  }
  EXPECT_EQ(read(*open(1), "wiped"), created.stored);

  // It is a full member again: it restarts as such, and its vote counts.
  cluster->kill(1);
  cluster->start(1);
  cluster->kill(2);
  EXPECT_EQ(run(insist(*store, record_of("wiped", 2))).record.rev, Revision{2});

  // The ticket was for once.
  cluster->start(2);
  wait_until_all_answer();
  wipe(1);
  EXPECT_EQ(start_and_fail(1), 3);
}

TEST_F(ReadmitTest, a_member_whose_mark_is_lost_too_is_known_by_the_others) {
  wipe(2);
  std::filesystem::remove(cluster->mark(2));
  std::filesystem::remove(cluster->pins(2));
  EXPECT_EQ(start_and_fail(2), 3);
  EXPECT_EQ(start_and_fail(2, {"--bootstrap"}), 3) << "the others hold its token";
  cluster->pause(0);  // no majority: the lone other still knows
  EXPECT_EQ(start_and_fail(2, {"--bootstrap"}), 3);
  cluster->resume(0);
  auto readmitted = run(store->readmit("witness", "", Deadline::in_ms(30'000)));
  ASSERT_TRUE(readmitted) << readmitted.error().message;
  cluster->start(2);
  wait_until_all_answer();
}

TEST_F(ReadmitTest, with_nobody_to_ask_a_wiped_member_stays_out) {
  for (std::size_t i = 0; i < 3; ++i) cluster->kill(i);
  std::filesystem::remove_all(cluster->data(0));
  EXPECT_EQ(start_and_fail(0), 3);
  std::filesystem::remove(cluster->mark(0));
  EXPECT_EQ(start_and_fail(0), 3);
  EXPECT_EQ(start_and_fail(0, {"--bootstrap"}), 3) << "its own pins say that the store existed";
}

TEST_F(ReadmitTest, a_lost_mark_over_whole_data_is_made_anew) {
  cluster->kill(1);
  std::filesystem::remove(cluster->mark(1));
  cluster->start(1);
  wait_until_all_answer();
  EXPECT_TRUE(std::filesystem::exists(cluster->mark(1)));
}

TEST_F(ReadmitTest, a_member_comes_back_at_another_address) {
  SwapAnswer created = swap(*store, 0, record_of("moved", 1));
  const std::string former = cluster->peer_url(2);
  wipe(2);
  std::filesystem::remove(cluster->mark(2));
  std::filesystem::remove(cluster->pins(2));
  auto taken = run(store->readmit("witness", cluster->peer_url(0), Deadline::in_ms(30'000)));
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::exists);
  // A first try named a wrong one.
  auto wrong = run(store->readmit("witness", "http://127.0.0.1:9", Deadline::in_ms(30'000)));
  ASSERT_TRUE(wrong) << wrong.error().message;
  cluster->move_peer(2);
  auto readmitted = run(store->readmit("witness", cluster->peer_url(2), Deadline::in_ms(30'000)));
  ASSERT_TRUE(readmitted) << readmitted.error().message;
  cluster->start(2);
  wait_until_all_answer();
  auto members = run(store->members(Deadline::in_ms(5000)));
  ASSERT_TRUE(members);
  ASSERT_EQ(members->size(), 3u);
  for (const Member& member : *members) EXPECT_NE(member.peer_urls, std::vector<std::string>{former}) << member.name;
  cluster->kill(1);
  EXPECT_EQ(read(*open(2), "moved"), created.stored) << "its vote counts";
}

TEST_F(ReadmitTest, a_living_member_is_not_readmitted) {
  auto readmitted = run(store->readmit("b", "", Deadline::in_ms(10'000)));
  ASSERT_FALSE(readmitted);
  EXPECT_EQ(readmitted.error().code, ErrorCode::refused);
  auto unknown = run(store->readmit("nobody", "", Deadline::in_ms(10'000)));
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace zpair::quorum
