#include "block/reactor.h"

#include <gtest/gtest.h>

#include <thread>

namespace zpair::block {
namespace {

std::unique_ptr<Reactor> make_reactor() {
  auto reactor = Reactor::create();
  EXPECT_TRUE(reactor) << reactor.error().message;
  return std::move(*reactor);
}

Task<int> ready_value(int value) { co_return value; }

Task<std::int64_t> sum_of_ready_tasks(int count) {
  std::int64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await ready_value(1);
  co_return sum;
}

TEST(Task, three_million_ready_tasks_in_a_loop_do_not_recurse) {
  auto reactor = make_reactor();
  EXPECT_EQ(reactor->run_until_done(sum_of_ready_tasks(3'000'000)), 3'000'000);
}

Task<int> nested(Reactor& reactor, int depth) {
  if (depth == 0) {
    co_await reactor.yield();
    co_return 0;
  }
  int below = co_await nested(reactor, depth - 1);
  co_return below + 1;
}

TEST(Task, a_deep_chain_unwinds_through_the_ready_list) {
  auto reactor = make_reactor();
  EXPECT_EQ(reactor->run_until_done(nested(*reactor, 1000)), 1000);
}

TEST(Reactor, a_post_from_another_thread_runs_on_the_reactor) {
  auto reactor = make_reactor();
  std::thread::id ran_on;
  std::thread other([&] {
    reactor->post([&] {
      ran_on = std::this_thread::get_id();
      reactor->stop();
    });
  });
  reactor->run();
  other.join();
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(Reactor, a_run_can_follow_a_run) {
  auto reactor = make_reactor();
  EXPECT_EQ(reactor->run_until_done(ready_value(1)), 1);
  std::thread other([&] { reactor->post([&] { reactor->stop(); }); });
  reactor->run();
  other.join();
  EXPECT_EQ(reactor->run_until_done(ready_value(2)), 2);
}

Task<bool> signal_or_deadline(Signal& signal, std::int64_t ms) {
  co_return co_await wait_for(signal, Deadline::in_ms(ms));
}

Task<std::pair<bool, bool>> both_ways(Reactor& reactor) {
  Signal never;
  bool timed = co_await signal_or_deadline(never, 5);
  Signal soon;
  reactor.call_at(boot_time_ns() + 2 * ns_per_ms, [&soon] { soon.set(); });
  bool set = co_await signal_or_deadline(soon, 10'000);
  co_return std::pair(timed, set);
}

TEST(Signal, a_wait_ends_at_the_signal_or_the_deadline) {
  auto reactor = make_reactor();
  auto [timed, set] = reactor->run_until_done(both_ways(*reactor));
  EXPECT_FALSE(timed);
  EXPECT_TRUE(set);
}

Task<int> group_of(Reactor& reactor, int count) {
  TaskGroup group;
  int finished = 0;
  auto member = [](Reactor& on, int& done) -> Task<void> {
    co_await on.after_ms(1);
    ++done;
  };
  for (int i = 0; i < count; ++i) group.spawn(member(reactor, finished));
  co_await group.close();
  co_return finished;
}

TEST(TaskGroup, close_waits_for_every_task) {
  auto reactor = make_reactor();
  EXPECT_EQ(reactor->run_until_done(group_of(*reactor, 20)), 20);
}

TEST(Reactor, a_cancelled_timer_does_not_run) {
  auto reactor = make_reactor();
  bool ran = false;
  reactor->post([&] {
    auto id = reactor->call_at(boot_time_ns() + ns_per_ms, [&] { ran = true; });
    reactor->cancel_timer(id);
    reactor->call_at(boot_time_ns() + 5 * ns_per_ms, [&] { reactor->stop(); });
  });
  reactor->run();
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace zpair::block
