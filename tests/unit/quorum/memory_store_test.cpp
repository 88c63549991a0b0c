#include "quorum/memory_store.h"

#include <gtest/gtest.h>

#include "block/reactor.h"

namespace zpair::quorum {
namespace {

using block::Reactor;
using block::Task;
using Outcome = SwapAnswer::Outcome;
using NextSwap = MemoryStore::NextSwap;

record::Record record_of(std::uint64_t rev) {
  record::Record record;
  record.name = "tank";
  record.rev = Revision{rev};
  record.op = Uuid::random().to_string();
  return record;
}

Task<void> scenario() {
  MemoryStore store;
  std::vector<record::Stored> seen;
  store.watch([&seen](record::Stored changed) { seen.push_back(std::move(changed)); });
  Deadline soon = Deadline::in_ms(10'000);

  SwapAnswer created = co_await store.swap(0, record_of(1), soon);
  EXPECT_EQ(created.outcome, Outcome::applied);
  SwapAnswer other = co_await store.swap(0, record_of(1), soon);
  EXPECT_EQ(other.outcome, Outcome::other);
  EXPECT_EQ(other.stored, created.stored);

  store.next_swap(NextSwap::applied_but_unknown);
  SwapAnswer unknown = co_await store.swap(created.stored.mod_revision, record_of(2), soon);
  EXPECT_EQ(unknown.outcome, Outcome::unknown);
  auto now = co_await store.read("tank", soon);
  EXPECT_EQ((*now)->record.rev, Revision{2});

  store.next_swap(NextSwap::lost_and_unknown);
  unknown = co_await store.swap((*now)->mod_revision, record_of(3), soon);
  EXPECT_EQ(unknown.outcome, Outcome::unknown);
  now = co_await store.read("tank", soon);
  EXPECT_EQ((*now)->record.rev, Revision{2});

  store.next_swap(NextSwap::late_and_unknown);
  unknown = co_await store.swap((*now)->mod_revision, record_of(4), soon);
  store.let_late_swaps_land();
  now = co_await store.read("tank", soon);
  EXPECT_EQ((*now)->record.rev, Revision{4}) << "it landed before anybody read";

  store.next_swap(NextSwap::late_and_unknown);
  unknown = co_await store.swap((*now)->mod_revision, record_of(5), soon);
  now = co_await store.read("tank", soon);
  store.let_late_swaps_land();
  now = co_await store.read("tank", soon);
  EXPECT_EQ((*now)->record.rev, Revision{4}) << "once read, it can never land";

  store.set_down(true);
  unknown = co_await store.swap((*now)->mod_revision, record_of(6), Deadline::in_ms(5));
  EXPECT_EQ(unknown.outcome, Outcome::unknown);
  auto failed = co_await store.read("tank", Deadline::in_ms(5));
  EXPECT_EQ(failed.error().code, ErrorCode::timed_out);
  store.set_down(false);

  SwapAnswer removed = co_await store.remove("tank", (*now)->mod_revision, soon);
  EXPECT_EQ(removed.outcome, Outcome::applied);
  auto all = co_await store.list(soon);
  EXPECT_TRUE(all->empty());
  co_await Reactor::current().yield();
  co_await Reactor::current().yield();
  EXPECT_EQ(seen.size(), 4u);
  if (!seen.empty()) EXPECT_EQ(seen.back().mod_revision, 0u);
  co_await store.close();
}

TEST(MemoryStore, answers_as_the_real_store_does) {
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done(scenario());
}

}  // namespace
}  // namespace zpair::quorum
