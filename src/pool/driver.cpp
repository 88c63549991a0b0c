#include "pool/driver.h"

#include <utility>

#include "base/assert.h"

namespace zpair::pool {

namespace owner = brain::owner;

Driver::Driver(block::Reactor& reactor, Hands& hands, Options options)
    : reactor_(reactor), hands_(hands), options_(std::move(options)) {
  state_.limits = options_.limits;
}

Driver::~Driver() { ZP_ASSERT(stopped_ || !started_, "a driver is stopped before it ends"); }

void Driver::start(owner::Started started) {
  ZP_ASSERT(!started_, "a driver starts once");
  started_ = true;
  feed(std::move(started));
  timer_ = reactor_.call_at(boot_time_ns() + options_.limits.tick_ns, [this] { tick(); });
}

void Driver::feed(owner::Event event) {
  if (stopped_ || !started_) return;
  waiting_.push_back(std::move(event));
  digest();
}

void Driver::stop() {
  stopped_ = true;
  waiting_.clear();
  if (timer_ != 0) reactor_.cancel_timer(std::exchange(timer_, 0));
}

bool Driver::may_answer_reads() const {
  return started_ && !stopped_ && owner::may_answer_reads(state_, boot_time_ns());
}

void Driver::tick() {
  timer_ = 0;
  if (stopped_) return;
  // Armed first: what the brain orders now may stop the driver, and must find the timer.
  timer_ = reactor_.call_at(boot_time_ns() + options_.limits.tick_ns, [this] { tick(); });
  const Nanoseconds now_ns = boot_time_ns();
  feed(owner::Ticked{now_ns, options_.pulses ? options_.pulses(now_ns) : std::vector<owner::LegPulse>{}});
}

void Driver::digest() {
  if (std::exchange(digesting_, true)) return;  // the outer call goes on with the queue
  while (!waiting_.empty() && !stopped_) {
    owner::Event event = std::move(waiting_.front());
    waiting_.pop_front();
    const owner::Actions actions = owner::step(state_, event);
    for (const owner::Action& action : actions) {
      if (stopped_) break;
      hands_.order(action);
    }
  }
  digesting_ = false;
  if (!stopped_ && options_.after_step) options_.after_step();
}

}  // namespace zpair::pool
