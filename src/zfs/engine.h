#pragma once
// OpenZFS 2.3.2 inside this process (libzpool): start it once, then make Pools. Everything in libzpool that may wait for a
// transaction group runs on threads of this class; results come back to the reactor.
// Ownership: the Engine outlives its Pools, and the reactor outlives the Engine. The library itself lives until the process
//            ends: start() works once a process.
// Threading: reactor thread, where nothing else is said.
// Errors:    start() refuses (`unsupported`) any other version of the library and any other layout of its structures. A gate that does
//            not see a short write ends the process.
// Source:    design, section 7; OpenZFS 2.3.2, lib/libzpool.
#include <concepts>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "block/reactor.h"
#include "block/task.h"

namespace zpair::zfs {

struct EngineOptions {
  std::string config_folder;      // absolute, ours: libzpool would put a cache file here (we let it write none)
  std::uint32_t zfs_host_id = 0;  // this node's; never 0, never the partner's or the system's own
  std::uint64_t arc_bytes = 256ULL << 20;
  std::uint64_t dirty_bytes = 128ULL << 20;  // bounds memory and the length of a txg
  std::uint64_t log_bytes = 64ULL << 20;     // a txg is pushed when a pool's live log gets longer: bounds the replay
  unsigned volume_threads = 24;              // run reads, writes and commits of all volumes
  enum class SelfTest : std::uint8_t { run, skip } self_test = SelfTest::run;  // the gate's, on two legs in memory
};

class WorkerThreads;

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> start(block::Reactor& reactor, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Runs `call` on a thread that may wait, then resumes here with its value. For what waits for a txg or an I/O.
  template <std::invocable F>
  auto blocking(F call) {
    return Blocking<F>{*this, std::move(call), {}};
  }

  // Of the running engine: what it may use from now on.
  void set_limits(std::uint64_t arc_bytes, std::uint64_t dirty_bytes, std::uint64_t log_bytes);

  block::Reactor& reactor() { return reactor_; }
  const EngineOptions& options() const { return options_; }
  // Awaited before a pool is made or imported: the gate's self-test, which runs beside what comes before that. A gate that
  // fails it ends the process (rule 2).
  block::Task<void> ready();
  WorkerThreads& volume_threads() { return *volume_threads_; }

 private:
  template <class F>
  struct Blocking {
    Engine& engine;
    F call;
    std::optional<std::invoke_result_t<F>> value;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      engine.run_control([this, waiter] {
        value.emplace(call());
        engine.reactor().post([waiter] { waiter.resume(); });
      });
    }
    std::invoke_result_t<F> await_resume() { return std::move(*value); }
  };

  Engine(block::Reactor& reactor, const EngineOptions& options);
  void run_control(
      std::function<void()> job);  // a thread of its own as long as it runs: such jobs wait for one another

  block::Reactor& reactor_;
  EngineOptions options_;
  std::unique_ptr<WorkerThreads> volume_threads_;
  std::unique_ptr<WorkerThreads> control_threads_;
  std::future<void> self_test_;
};

}  // namespace zpair::zfs
