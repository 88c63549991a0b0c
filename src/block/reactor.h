#pragma once
// The one event loop: io_uring completions, timers, a ready list of coroutines and calls posted by other threads.
// Threading: a reactor belongs to the thread that calls run(); only post() and stop() may come from other threads.
// Errors:    create() fails with `unsupported` and names the sysctl when io_uring is not allowed.
// Source:    io_uring(7).
#include <liburing.h>

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "block/task.h"

namespace zpair::block {

class Reactor {
 public:
  // What an io_uring request reports to; must live until on_complete ran. `result` is the kernel's (negative errno).
  struct Completion {
    void (*on_complete)(Completion& self, int result);
  };

  static Result<std::unique_ptr<Reactor>> create(unsigned queue_depth = 1024);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  static Reactor& current();  // the reactor whose run() is on this thread's stack (asserts that there is one)
  static bool has_current();

  void run();   // until stop(); handles everything that is ready before it returns
  void stop();  // any thread
  // Runs `task` to its end, then returns its value: the main function's way in.
  template <class T>
  T run_until_done(Task<T> task);

  void post(std::function<void()> call);  // any thread: runs on the reactor, in order
  void make_ready(std::coroutine_handle<> waiter) { ready_.push_back(waiter); }

  // An entry to fill with io_uring_prep_*; submitted in a batch at the end of this turn of the loop.
  io_uring_sqe& next_entry(Completion& completion);

  // co_await reactor.until(at_ns): sleeps. Timers are exact to about 1 ms under load.
  struct Sleep {
    Reactor& reactor;
    Nanoseconds at_ns;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) { reactor.timers_.emplace(at_ns, waiter); }
    void await_resume() const noexcept {}
  };
  Sleep until(Nanoseconds at_ns) { return Sleep{*this, at_ns}; }
  Sleep after_ms(std::int64_t ms) { return Sleep{*this, boot_time_ns() + ms * ns_per_ms}; }

  // A call at an instant, which can be taken back; at_ns ≤ now runs in the next turn.
  using TimerId = std::uint64_t;
  TimerId call_at(Nanoseconds at_ns, std::function<void()> call);
  void cancel_timer(TimerId id);  // no effect when it already ran

  // co_await reactor.yield(): lets everything else that is ready run first.
  struct Yield {
    Reactor& reactor;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) { reactor.make_ready(waiter); }
    void await_resume() const noexcept {}
  };
  Yield yield() { return Yield{*this}; }

 private:
  Reactor() = default;
  void turn(bool may_wait);
  void run_ready();
  void run_timers();
  void run_posted();
  void arm_wake_up();
  Nanoseconds next_timer_ns() const;

  struct Timer {
    Nanoseconds at_ns;
    std::function<void()> call;
  };

  io_uring ring_{};
  bool ring_open_ = false, ring_enabled_ = false;
  std::deque<std::coroutine_handle<>> ready_;
  std::multimap<Nanoseconds, std::coroutine_handle<>> timers_;
  std::map<TimerId, Timer> calls_;
  std::multimap<Nanoseconds, TimerId> call_times_;
  TimerId last_timer_id_ = 0;

  UniqueFd wake_up_;
  std::uint64_t wake_up_count_ = 0;
  Completion wake_up_completion_{};
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> wake_up_sent_{false};
  std::atomic<bool> stop_{false};
};

template <class T>
T Reactor::run_until_done(Task<T> task) {
  std::optional<T> value;
  auto waiter = [](Task<T> inner, std::optional<T>& out, Reactor& reactor) -> Task<void> {
    out.emplace(co_await inner);
    reactor.stop();
  }(std::move(task), value, *this);
  post([&waiter] { waiter.start(); });
  run();
  return std::move(*value);
}
template <>
inline void Reactor::run_until_done(Task<void> task) {
  auto waiter = [](Task<void> inner, Reactor& reactor) -> Task<void> {
    co_await inner;
    reactor.stop();
  }(std::move(task), *this);
  post([&waiter] { waiter.start(); });
  run();
}

// A one-shot or repeated signal between tasks of one reactor: wait() suspends until set() is called; stays set until
// reset(). Several may wait.
class Signal {
 public:
  struct Wait {
    Signal& signal;
    bool await_ready() const noexcept { return signal.is_set_; }
    void await_suspend(std::coroutine_handle<> waiter) { signal.waiters_.push_back(waiter); }
    void await_resume() const noexcept {}
  };
  Wait wait() { return Wait{*this}; }
  void set() {
    is_set_ = true;
    for (auto waiter : std::exchange(waiters_, {})) Reactor::current().make_ready(waiter);
  }
  void reset() { is_set_ = false; }
  bool is_set() const { return is_set_; }

  void add(std::coroutine_handle<> waiter) { waiters_.push_back(waiter); }
  // false: it was set meanwhile, and the waiter is ready already.
  bool forget(std::coroutine_handle<> waiter) { return std::erase(waiters_, waiter) > 0; }

 private:
  bool is_set_ = false;
  std::vector<std::coroutine_handle<>> waiters_;
};

// Waits for the signal or the deadline, whichever comes first.
Task<bool> wait_for(Signal& signal, Deadline deadline);  // true: the signal was set

}  // namespace zpair::block
