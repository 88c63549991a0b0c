#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "zfs/worker_threads_internal.h"

namespace zpair::zfs {

BatchScheduling::BatchScheduling() {
  sched_param none{};
  changed_ = sched_getscheduler(0) == SCHED_OTHER && sched_setscheduler(0, SCHED_BATCH, &none) == 0;
}

BatchScheduling::~BatchScheduling() {
  sched_param none{};
  if (changed_) sched_setscheduler(0, SCHED_OTHER, &none);
}

WorkerThreads::WorkerThreads(const char* name, unsigned count, Growth growth) : name_(name), growth_(growth) {
  for (unsigned i = 0; i < count; ++i) add_thread();
}

WorkerThreads::~WorkerThreads() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_up_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void WorkerThreads::add_thread() {
  // Signals belong to the main thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  threads_.emplace_back([this] { work(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(threads_.back().native_handle(), name_);
}

void WorkerThreads::run(void (*job)(void*), void* argument) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(Job{job, argument});
    wake = idle_count_ > 0;
    if (growth_ == Growth::one_per_waiting_job && jobs_.size() > idle_count_) add_thread();
  }
  if (wake) wake_up_.notify_one();
}

void WorkerThreads::work() {
  BatchScheduling batch;
  std::unique_lock lock(mutex_);
  for (;;) {
    while (jobs_.empty()) {
      if (ending_) return;
      ++idle_count_;
      wake_up_.wait(lock);
      --idle_count_;
    }
    Job job = jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    job.job(job.argument);
    lock.lock();
  }
}

}  // namespace zpair::zfs
