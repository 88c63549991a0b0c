#include "pool/driver.h"

#include <gtest/gtest.h>

namespace zpair::pool {
namespace {

namespace owner = brain::owner;

record::Stored two_leg_record() {
  record::Record record;
  record.name = "tank";
  record.epoch = Epoch{3};
  record.rev = Revision{5};
  record.owner = NodeId::a;
  record.mirrors = {{MirrorId{1},
                     "normal",
                     {{LegId{11}, NodeId::a, "d-a", true, false, Txg{0}, false},
                      {LegId{12}, NodeId::b, "d-b", true, false, Txg{0}, false}}}};
  return {record, 7};
}

// Answers what a healthy pool answers, at once, and keeps the list of what was ordered.
class HealthyHands : public Hands {
 public:
  void order(const owner::Action& action) override {
    orders.push_back(action);
    const Nanoseconds now_ns = boot_time_ns();
    if (auto* fence = std::get_if<owner::FenceLeg>(&action)) driver->feed(owner::LegFenced{now_ns, fence->leg});
    if (std::holds_alternative<owner::ImportPool>(action)) driver->feed(owner::Imported{now_ns, Txg{100}, {}});
    if (std::holds_alternative<owner::ReplayLogs>(action)) driver->feed(owner::Replayed{now_ns});
    if (auto* set = std::get_if<owner::SetAckSet>(&action)) driver->feed(owner::AckSetStands{now_ns, set->generation});
    if (auto* keep = std::get_if<brain::KeepCopy>(&action)) {
      driver->feed(brain::RecordKept{now_ns, keep->stored.record.epoch, keep->stored.record.rev});
    }
    if (auto* swap = std::get_if<brain::SwapRecord>(&action)) {
      driver->feed(brain::SwapApplied{now_ns, swap->record.op, {swap->record, swap->expected_mod_revision + 1}});
    }
    if (auto* fail = std::get_if<owner::FailLegs>(&action)) driver->feed(owner::LegsFailed{now_ns, fail->legs});
    if (std::holds_alternative<owner::Serve>(action) || std::holds_alternative<owner::FailLegs>(action)) changed.set();
  }

  template <class Order>
  int first() const {
    for (std::size_t index = 0; index < orders.size(); ++index) {
      if (std::holds_alternative<Order>(orders[index])) return static_cast<int>(index);
    }
    return -1;
  }

  Driver* driver = nullptr;
  std::vector<owner::Action> orders;
  block::Signal changed;
};

struct Fixture {
  HealthyHands hands;
  block::Signal stepped;
  bool b_answers = true;
  Driver driver;

  explicit Fixture(block::Reactor& reactor)
      : driver(reactor, hands,
               {.limits = {},
                .pulses =
                    [this](Nanoseconds now_ns) {
                      std::vector<owner::LegPulse> pulses;
                      pulses.push_back({.leg = LegId{11},
                                        .reachable = true,
                                        .last_progress_ns = now_ns,
                                        .oldest_write_ns = {},
                                        .oldest_trim_ns = {},
                                        .flushed_txg = Txg{101}});
                      if (b_answers)
                        pulses.push_back({.leg = LegId{12},
                                          .reachable = true,
                                          .last_progress_ns = now_ns,
                                          .oldest_write_ns = {},
                                          .oldest_trim_ns = {},
                                          .flushed_txg = Txg{101}});
                      return pulses;
                    },
                .after_step = [this] { stepped.set(); }}) {
    hands.driver = &driver;
  }

  void start(Nanoseconds first_ack_at_ns) {
    owner::Started started;
    started.now_ns = boot_time_ns();
    started.node = NodeId::a;
    started.stored = two_leg_record();
    started.first_ack_at_ns = first_ack_at_ns;
    started.promise_released = first_ack_at_ns == 0;
    started.nonce = 42;
    driver.start(started);
  }
};

class DriverTest : public testing::Test {
 protected:
  std::unique_ptr<block::Reactor> reactor = *block::Reactor::create();
};

TEST_F(DriverTest, orders_come_in_the_order_of_the_rules_fence_import_replay_serve) {
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    Fixture fixture(on);
    fixture.start(0);
    const bool served = co_await block::wait_for(fixture.hands.changed, Deadline::in_ms(5000));
    EXPECT_TRUE(served);
    EXPECT_EQ(fixture.driver.state().phase, owner::Phase::serving);
    EXPECT_LT(fixture.hands.first<owner::FenceLeg>(), fixture.hands.first<owner::ImportPool>());
    EXPECT_LT(fixture.hands.first<owner::ImportPool>(), fixture.hands.first<owner::ReplayLogs>());
    EXPECT_LT(fixture.hands.first<owner::ReplayLogs>(), fixture.hands.first<owner::Serve>());
    fixture.driver.stop();
  }(*reactor));
}

TEST_F(DriverTest, ticks_alone_let_the_promise_run_out_and_then_clients_are_served) {
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    Fixture fixture(on);
    const Nanoseconds first_ack_at_ns = boot_time_ns() + 300 * ns_per_ms;
    fixture.start(first_ack_at_ns);
    EXPECT_EQ(fixture.hands.first<owner::Serve>(), -1);
    const bool served = co_await block::wait_for(fixture.hands.changed, Deadline::in_ms(5000));
    EXPECT_TRUE(served);
    EXPECT_GE(boot_time_ns(), first_ack_at_ns);
    fixture.driver.stop();
  }(*reactor));
}

TEST_F(DriverTest, a_leg_that_falls_silent_is_swapped_off_kept_and_only_then_failed) {
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    Fixture fixture(on);
    fixture.start(0);
    co_await block::wait_for(fixture.hands.changed, Deadline::in_ms(5000));
    while (fixture.driver.state().legs.at(LegId{12}).pulse.flushed_txg != Txg{101}) {
      fixture.stepped.reset();
      co_await fixture.stepped.wait();
    }
    fixture.hands.changed.reset();
    fixture.b_answers = false;
    const bool failed = co_await block::wait_for(fixture.hands.changed, Deadline::in_ms(5000));
    EXPECT_TRUE(failed);
    const int swap = fixture.hands.first<brain::SwapRecord>();
    const int fail = fixture.hands.first<owner::FailLegs>();
    EXPECT_GE(swap, 0);
    EXPECT_LT(swap, fail);
    const int keep = fixture.hands.first<brain::KeepCopy>();
    EXPECT_LT(swap, keep);
    EXPECT_LT(keep, fail);
    const record::Leg* leg = record::find_leg(fixture.driver.state().stored.record, LegId{12});
    EXPECT_FALSE(leg->in_sync);
    EXPECT_EQ(leg->since, Txg{102});
    fixture.driver.stop();
  }(*reactor));
}

TEST_F(DriverTest, a_fact_fed_from_inside_an_order_waits_until_the_step_is_over) {
  class Nesting : public Hands {
   public:
    void order(const owner::Action& action) override {
      ++depth;
      deepest = std::max(deepest, depth);
      if (auto* fence = std::get_if<owner::FenceLeg>(&action))
        driver->feed(owner::LegFenced{boot_time_ns(), fence->leg});
      --depth;
    }
    Driver* driver = nullptr;
    int depth = 0;
    int deepest = 0;
  };
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    Nesting hands;
    Driver driver(on, hands, {.limits = {}, .pulses = {}, .after_step = {}});
    hands.driver = &driver;
    owner::Started started;
    started.now_ns = boot_time_ns();
    started.node = NodeId::a;
    started.stored = two_leg_record();
    driver.start(started);
    EXPECT_EQ(hands.deepest, 1);
    driver.stop();
    co_return;
  }(*reactor));
}

TEST_F(DriverTest, reads_are_not_answered_before_the_start_and_after_the_stop) {
  reactor->run_until_done([](block::Reactor& on) -> block::Task<void> {
    Fixture fixture(on);
    EXPECT_FALSE(fixture.driver.may_answer_reads());
    fixture.start(0);
    co_await block::wait_for(fixture.hands.changed, Deadline::in_ms(5000));
    fixture.driver.stop();
    EXPECT_FALSE(fixture.driver.may_answer_reads());
  }(*reactor));
}

}  // namespace
}  // namespace zpair::pool
