#include "node/worker.h"

namespace zpair::node {

Worker::Worker(block::Reactor& reactor) : reactor_(reactor), thread_([this] { loop(); }) {}

Worker::~Worker() { close(); }

void Worker::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_up_.notify_one();
  if (thread_.joinable()) thread_.join();
}

block::Task<void> Worker::run(std::function<void()> call) {
  block::Signal done;
  {
    std::lock_guard lock(mutex_);
    ZP_ASSERT(!closed_, "no call to a closed worker");
    queue_.push_back([this, &done, &call] {
      call();
      reactor_.post([&done] { done.set(); });
    });
  }
  wake_up_.notify_one();
  co_await done.wait();
}

void Worker::loop() {
  for (;;) {
    std::function<void()> next;
    {
      std::unique_lock lock(mutex_);
      wake_up_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (queue_.empty()) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    next();
  }
}

}  // namespace zpair::node
