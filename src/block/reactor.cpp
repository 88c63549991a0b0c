#include "block/reactor.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace zpair::block {

namespace {
thread_local Reactor* current_reactor = nullptr;
}

void make_ready(std::coroutine_handle<> waiter) { Reactor::current().make_ready(waiter); }

Reactor& Reactor::current() {
  ZP_ASSERT(current_reactor != nullptr, "called on a reactor's thread");
  return *current_reactor;
}

bool Reactor::has_current() { return current_reactor != nullptr; }

Result<std::unique_ptr<Reactor>> Reactor::create(unsigned queue_depth) {
  std::unique_ptr<Reactor> reactor(new Reactor);
  // Completions are worked off where we ask for them, all at once, instead of interrupting this thread one by one (Linux 6.1).
  // Such a ring belongs to the thread that enables it.
  constexpr unsigned bare = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
  int result = -EINVAL;
  constexpr unsigned deferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  for (unsigned flags : {bare | deferred | IORING_SETUP_R_DISABLED, bare}) {
    io_uring_params params{};
    params.flags = flags;
    params.cq_entries = queue_depth * 8;
    result = io_uring_queue_init_params(queue_depth, &reactor->ring_, &params);
    reactor->ring_enabled_ = (flags & IORING_SETUP_R_DISABLED) == 0;
    if (result != -EINVAL) break;
  }
  if (result < 0) {
    return fail(ErrorCode::unsupported,
                "io_uring is not available here ({}): allow it with `sysctl kernel.io_uring_disabled=0` "
                "(or outside the container that forbids it)",
                std::strerror(-result));
  }
  reactor->ring_open_ = true;
  reactor->wake_up_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!reactor->wake_up_) return fail_errno(errno, "cannot make an eventfd");
  reactor->wake_up_completion_.on_complete = [](Completion&, int) {};
  return reactor;
}

Reactor::~Reactor() {
  if (ring_open_) io_uring_queue_exit(&ring_);
}

io_uring_sqe& Reactor::next_entry(Completion& completion) {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    const int submitted = io_uring_submit(&ring_);
    ZP_ASSERT(submitted != -EBADFD && submitted != -EEXIST,
              "a full queue is submitted by the thread that runs the reactor");
    entry = io_uring_get_sqe(&ring_);
  }
  io_uring_sqe_set_data(entry, &completion);
  return *entry;
}

void Reactor::post(std::function<void()> call) {
  {
    std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(call));
  }
  if (!wake_up_sent_.exchange(true, std::memory_order_acq_rel)) {
    std::uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(wake_up_.get(), &one, sizeof one);
  }
}

void Reactor::stop() {
  stop_.store(true, std::memory_order_release);
  post([] {});
}

Reactor::TimerId Reactor::call_at(Nanoseconds at_ns, std::function<void()> call) {
  TimerId id = ++last_timer_id_;
  calls_.emplace(id, Timer{at_ns, std::move(call)});
  call_times_.emplace(at_ns, id);
  return id;
}

void Reactor::cancel_timer(TimerId id) {
  auto found = calls_.find(id);
  if (found == calls_.end()) return;
  auto [first, last] = call_times_.equal_range(found->second.at_ns);
  for (auto it = first; it != last; ++it) {
    if (it->second == id) {
      call_times_.erase(it);
      break;
    }
  }
  calls_.erase(found);
}

void Reactor::arm_wake_up() {
  io_uring_sqe& entry = next_entry(wake_up_completion_);
  io_uring_prep_read(&entry, wake_up_.get(), &wake_up_count_, sizeof wake_up_count_, 0);
  io_uring_sqe_set_data(&entry, &wake_up_completion_);
}

void Reactor::run() {
  Reactor* outer = std::exchange(current_reactor, this);
  wake_up_completion_.on_complete = [](Completion&, int) {
    Reactor& self = Reactor::current();
    self.wake_up_sent_.store(false, std::memory_order_release);
    self.arm_wake_up();
  };
  if (!ring_enabled_) {
    // io_uring_enable_rings() is not exported by Debian's liburing 2.3.
    const long result = syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    ZP_ASSERT(result == 0, "a ring of ours can be enabled");
    ring_enabled_ = true;
  }
  if (wake_up_count_ == 0) {  // armed once in a reactor's life; the read stays pending between runs
    wake_up_count_ = 1;
    arm_wake_up();
  }
  while (!stop_.load(std::memory_order_acquire)) turn(true);
  turn(false);
  stop_.store(false, std::memory_order_release);
  current_reactor = outer;
}

Nanoseconds Reactor::next_timer_ns() const {
  Nanoseconds next = INT64_MAX;
  if (!timers_.empty()) next = timers_.begin()->first;
  if (!call_times_.empty()) next = std::min(next, call_times_.begin()->first);
  return next;
}

void Reactor::turn(bool may_wait) {
  run_posted();
  run_timers();
  run_ready();

  Nanoseconds next = next_timer_ns();
  bool idle = may_wait && ready_.empty() && !stop_.load(std::memory_order_acquire);
  const Nanoseconds wait_ns = next == INT64_MAX ? next : next - boot_time_ns();
  int result;
  if (!idle || wait_ns <= 0) {
    result = io_uring_submit(&ring_);
  } else if (next == INT64_MAX) {
    result = io_uring_submit_and_wait(&ring_, 1);
  } else {
    __kernel_timespec timeout{wait_ns / ns_per_s, wait_ns % ns_per_s};
    io_uring_cqe* first = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
  }
  ZP_ASSERT(result != -EEXIST, "a reactor always runs on the same thread");

  unsigned head = 0;
  unsigned seen = 0;
  io_uring_cqe* entry = nullptr;
  struct Done {
    Completion* completion;
    int result;
  };
  Done done[256];
  io_uring_for_each_cqe(&ring_, head, entry) {
    done[seen++] = Done{static_cast<Completion*>(io_uring_cqe_get_data(entry)), entry->res};
    if (seen == std::size(done)) break;
  }
  io_uring_cq_advance(&ring_, seen);
  for (unsigned i = 0; i < seen; ++i) {
    if (done[i].completion != nullptr) done[i].completion->on_complete(*done[i].completion, done[i].result);
  }
}

void Reactor::run_ready() {
  // Only what is ready now: what becomes ready meanwhile waits for the next turn, so that I/O is never starved.
  for (std::size_t count = ready_.size(); count > 0; --count) {
    auto waiter = ready_.front();
    ready_.pop_front();
    waiter.resume();
  }
}

void Reactor::run_timers() {
  if (timers_.empty() && call_times_.empty()) return;
  Nanoseconds now = boot_time_ns();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto waiter = timers_.begin()->second;
    timers_.erase(timers_.begin());
    make_ready(waiter);
  }
  while (!call_times_.empty() && call_times_.begin()->first <= now) {
    TimerId id = call_times_.begin()->second;
    call_times_.erase(call_times_.begin());
    auto node = calls_.extract(id);
    node.mapped().call();
  }
}

void Reactor::run_posted() {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(posted_mutex_);
    calls.swap(posted_);
  }
  for (auto& call : calls) call();
}

Task<bool> wait_for(Signal& signal, Deadline deadline) {
  if (signal.is_set()) co_return true;
  if (deadline.at_ns == INT64_MAX) {
    co_await signal.wait();
    co_return true;
  }
  bool expired = false;
  Reactor& reactor = Reactor::current();
  struct Either {
    Signal& signal;
    bool& expired;
    Reactor& reactor;
    Nanoseconds at_ns;
    Reactor::TimerId timer = 0;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      timer = reactor.call_at(at_ns, [this, waiter] {
        if (!signal.forget(waiter)) return;  // set in the same turn: it would be resumed twice
        expired = true;
        reactor.make_ready(waiter);
      });
      signal.add(waiter);
    }
    void await_resume() { reactor.cancel_timer(timer); }
  };
  Either either{signal, expired, reactor, deadline.at_ns};
  co_await either;
  co_return !expired;
}

}  // namespace zpair::block
