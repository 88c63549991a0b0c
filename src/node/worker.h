#pragma once
// A thread for calls that block (fence files, whose every change is two fsyncs), so that the reactor never waits for them.
// Ownership: close() before the end. Threading: run() from the reactor thread.
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "block/reactor.h"
#include "block/task.h"

namespace zpair::node {

class Worker {
 public:
  explicit Worker(block::Reactor& reactor);
  ~Worker();

  block::Task<void> run(std::function<void()> call);  // in order of the calls; returns when it has run
  void close();                                       // what is queued still runs

 private:
  void loop();

  block::Reactor& reactor_;
  std::mutex mutex_;
  std::condition_variable wake_up_;
  std::deque<std::function<void()>> queue_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace zpair::node
