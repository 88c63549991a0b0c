#pragma once
// Runs the owner's brain: feeds it facts one at a time, gives its orders to the Hands in their order, ticks. Nothing counts
// as done until the Hands feed the fact that says so. A late tick (the process was paused) is a fact like others: the
// brain sees it by its time.
// Ownership: the hands and the pulse source outlive the driver. stop() before the end.
// Threading: reactor thread. feed() may be called from inside an order: the fact waits until the step is over.
// Source:    style, section 7; rules 2 to 9.
#include <deque>
#include <functional>
#include <vector>

#include "block/reactor.h"
#include "brain/owner.h"

namespace zpair::pool {

// Carries out the brain's orders. order() only begins the work; outcomes come through Driver::feed.
class Hands {
 public:
  virtual ~Hands() = default;
  virtual void order(const brain::owner::Action& action) = 0;
};

class Driver {
 public:
  struct Options {
    brain::Limits limits;
    std::function<std::vector<brain::owner::LegPulse>(Nanoseconds now_ns)> pulses;
    std::function<void()> after_step;  // runs when all facts that waited are digested; may be empty
  };
  Driver(block::Reactor& reactor, Hands& hands, Options options);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  void start(brain::owner::Started started);
  void feed(brain::owner::Event event);
  void stop();  // no tick and no fact any more
  bool started() const { return started_; }

  const brain::owner::State& state() const { return state_; }
  // Rule 6, with a fresh time: ask after the data was taken.
  bool may_answer_reads() const;

 private:
  void tick();
  void digest();

  block::Reactor& reactor_;
  Hands& hands_;
  Options options_;
  brain::owner::State state_;
  std::deque<brain::owner::Event> waiting_;
  bool digesting_ = false;
  bool started_ = false;
  bool stopped_ = false;
  block::Reactor::TimerId timer_ = 0;
};

}  // namespace zpair::pool
