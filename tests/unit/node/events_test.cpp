#include "node/events.h"

#include <gtest/gtest.h>

#include "scratch.h"

namespace zpair::node {
namespace {

using block::Reactor;
using block::Scratch;
using block::Task;

TEST(NodeEvents, numbers_go_on_after_a_restart) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string file) -> Task<void> {
    {
      Events events(NodeId::a, file);
      events.add("tank", "owner-changed", "one");
      events.add("", "path-down", "two");
      EXPECT_EQ(events.last(), 2U);
    }
    Events again(NodeId::a, file);
    EXPECT_EQ(again.last(), 2U);
    again.add("tank", "refused", "three");
    auto newer = again.since(1);
    EXPECT_EQ(newer.size(), 2U);
    if (newer.size() == 2) {
      EXPECT_EQ(newer[0].text, "two");
      EXPECT_EQ(newer[1].number, 3U);
    }
    co_return;
  }(scratch.path("events")));
}

TEST(NodeEvents, the_last_good_drill_is_known_after_a_restart_and_from_the_partner) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string file) -> Task<void> {
    {
      Events events(NodeId::a, file);
      EXPECT_EQ(events.last_good_drill_ms("tank"), std::nullopt);
      events.add("tank", "drill-failed", "lost 1");
      EXPECT_EQ(events.last_good_drill_ms("tank"), std::nullopt);
      events.add_of_partner({1, 5000, "b", "tank", "drill-passed", "lost 0", 0});
      events.add_of_partner({2, 4000, "b", "other", "drill-passed", "lost 0", 0});
      for (std::size_t i = 0; i < Events::capacity; ++i)
        events.add("", "path-up", "");  // out of memory, not of the file
    }
    Events again(NodeId::a, file);
    EXPECT_EQ(again.last_good_drill_ms("tank"), 5000);
    again.add_of_partner({3, 4500, "b", "tank", "drill-passed", "its clock went back", 0});
    EXPECT_EQ(again.last_good_drill_ms("tank"), 5000);
    co_return;
  }(scratch.path("events")));
}

TEST(NodeEvents, the_parts_of_an_import_are_kept) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string file) -> Task<void> {
    const std::vector<TimePart> parts = {{"detect", 900 * ns_per_ms}, {"import", 100 * ns_per_ms}};
    {
      Events events(NodeId::a, file);
      events.add("tank", "serving", "one", parts);
    }
    Events again(NodeId::a, file);
    EXPECT_EQ(again.since(0).at(0).parts, parts);
    co_return;
  }(scratch.path("events")));
}

TEST(NodeEvents, the_partners_are_taken_once_also_over_a_restart) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string file) -> Task<void> {
    {
      Events events(NodeId::a, file);
      events.add_of_partner({7, 1, "b", "tank", "leg-off", "seven", 0});
      events.add_of_partner({7, 1, "b", "tank", "leg-off", "seven", 0});
      EXPECT_EQ(events.last(), 1U);
    }
    Events again(NodeId::a, file);
    EXPECT_EQ(again.last_of_partner(), 7U);
    again.add_of_partner({6, 1, "b", "tank", "leg-off", "six", 0});
    EXPECT_EQ(again.last(), 1U);
    co_return;
  }(scratch.path("events")));
}

TEST(NodeEvents, a_waiter_gets_the_next_one) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string file) -> Task<void> {
    Events events(NodeId::a, file);
    block::TaskGroup group;
    bool got = false;
    group.spawn([](Events& from, bool& done) -> Task<void> {
      auto list = co_await from.wait_since(0, Deadline::in_ms(10'000));
      done = list.size() == 1 && list[0].kind == "leg-back";
    }(events, got));
    EXPECT_FALSE(got);
    events.add("tank", "leg-back", "there");
    co_await group.close();
    EXPECT_TRUE(got);
  }(scratch.path("events")));
}

}  // namespace
}  // namespace zpair::node
