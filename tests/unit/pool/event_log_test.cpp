#include "pool/event_log.h"

#include <gtest/gtest.h>

namespace zpair::pool {
namespace {

TEST(EventLog, numbers_grow_by_one_and_since_gives_only_newer_ones) {
  EventLog log;
  log.add("leg-off", "one");
  log.add("leg-back", "two");
  const auto newer = log.since(1);
  ASSERT_EQ(newer.size(), 1u);
  EXPECT_EQ(newer[0].number, 2u);
  EXPECT_EQ(newer[0].kind, "leg-back");
  EXPECT_TRUE(log.since(2).empty());
}

TEST(EventLog, keeps_the_newest_when_there_are_too_many) {
  EventLog log;
  for (std::size_t index = 0; index < EventLog::capacity + 10; ++index) log.add("note", "x");
  const auto all = log.since(0);
  ASSERT_EQ(all.size(), EventLog::capacity);
  EXPECT_EQ(all.front().number, 11u);
  EXPECT_EQ(all.back().number, log.last());
}

TEST(EventLog, a_wait_ends_with_the_first_new_event_and_with_the_end) {
  auto reactor = *block::Reactor::create();
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    EventLog log;
    on.post([&log] { log.add("note", "here"); });
    auto entries = co_await log.wait_since(0, Deadline::in_ms(5000));
    EXPECT_EQ(entries.size(), 1u);
    on.post([&log] { log.close(); });
    auto none = co_await log.wait_since(1, Deadline::never());
    EXPECT_TRUE(none.empty());
  }(*reactor));
}

}  // namespace
}  // namespace zpair::pool
