#pragma once
// A few threads that may wait inside OpenZFS, and their queue. Jobs are a function and its argument: nothing is allocated.
// Ownership: the destructor waits for all jobs. Threading: any.
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace zpair::zfs {

// While it lives, the calling thread, and threads that it starts then, take SCHED_BATCH: a wake-up does not interrupt whoever runs.
// OpenZFS hands a write from thread to thread, and the reactor does better when it finds a batch (docs/performance.md).
// Only threads of the ordinary class change; what the system refuses stays as it was.
class BatchScheduling {
 public:
  BatchScheduling();
  ~BatchScheduling();
  BatchScheduling(const BatchScheduling&) = delete;
  BatchScheduling& operator=(const BatchScheduling&) = delete;

 private:
  bool changed_ = false;
};

class WorkerThreads {
 public:
  enum class Growth { fixed, one_per_waiting_job };  // the latter: jobs may wait for one another
  WorkerThreads(const char* name, unsigned count, Growth growth);
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  void run(void (*job)(void*), void* argument);

 private:
  struct Job {
    void (*job)(void*);
    void* argument;
  };
  void add_thread();
  void work();

  const char* name_;
  Growth growth_;
  std::mutex mutex_;
  std::condition_variable wake_up_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  unsigned idle_count_ = 0;
  bool ending_ = false;
};

}  // namespace zpair::zfs
