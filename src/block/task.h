#pragma once
// Coroutines on one reactor. A Task<T> starts when it is awaited (or by start()), runs on the reactor of its thread and
// hands its value to its one waiter through the reactor's ready list, so that no chain of tasks recurses.
// Ownership: the Task owns its frame. A started task runs to its end: destroying it while suspended is an assertion,
//            because the kernel may still own its buffers. To stop it, close what it waits for.
// Threading: one reactor; other threads come in through Reactor::post.
// Errors:    in T (Result<...>); an exception that reaches a Task aborts.
#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "base/assert.h"

namespace zpair::block {

// Puts a suspended coroutine on the ready list of this thread's reactor.
void make_ready(std::coroutine_handle<> waiter);

template <class T>
class Task;

namespace detail {

struct FinalAwaiter {
  bool await_ready() noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> self) noexcept {
    if (self.promise().waiter) make_ready(self.promise().waiter);
  }
  void await_resume() noexcept {}
};

struct PromiseBase {
  std::coroutine_handle<> waiter;
  std::suspend_always initial_suspend() noexcept { return {}; }
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
  void take() {}
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle frame) : frame_(frame) {}
  Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, {})), started_(other.started_) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (!frame_) return;
    ZP_ASSERT(frame_.done() || !started_, "a started task runs to its end");
    frame_.destroy();
  }

  // Runs until its first wait. The reactor must be this thread's.
  void start() {
    ZP_ASSERT(!started_, "a task starts once");
    started_ = true;
    frame_.resume();
  }
  bool done() const { return frame_.done(); }

  bool await_ready() noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) {
    if (!started_) start();
    if (frame_.done()) return false;
    frame_.promise().waiter = waiter;
    return true;
  }
  T await_resume() { return frame_.promise().take(); }

 private:
  Handle frame_;
  bool started_ = false;
};

template <class T>
Task<T> detail::Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}

inline Task<void> detail::Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// Side by side work that somebody owns. spawn() starts a Task<void>; close() waits until all of it has ended; the
// destructor asserts that nothing runs. Nothing is ever detached. Reactor thread only.
class TaskGroup {
 public:
  TaskGroup() = default;
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup() { ZP_ASSERT(running_ == 0, "a task group is closed before it ends"); }

  void spawn(Task<void> task) { run(std::move(task), *this); }
  std::size_t running() const { return running_; }

  // At most one closer at a time. What the tasks wait for must have been closed before.
  Task<void> close() {
    while (running_ > 0) co_await Closed{*this};
  }

 private:
  // A frame that owns the task and destroys itself at its end.
  struct Detached {
    struct promise_type {
      Detached get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() noexcept { std::terminate(); }
    };
  };
  struct Closed {
    TaskGroup& group;
    bool await_ready() noexcept { return group.running_ == 0; }
    void await_suspend(std::coroutine_handle<> waiter) {
      ZP_ASSERT(!group.closer_, "one closer at a time");
      group.closer_ = waiter;
    }
    void await_resume() noexcept {}
  };

  static Detached run(Task<void> task, TaskGroup& group) {
    ++group.running_;
    co_await task;
    if (--group.running_ == 0 && group.closer_) make_ready(std::exchange(group.closer_, {}));
  }

  std::size_t running_ = 0;
  std::coroutine_handle<> closer_;
};

}  // namespace zpair::block
