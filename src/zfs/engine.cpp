#include "zfs/engine.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "zfs/engine_internal.h"
#include "zfs/tunables.h"
#include "zfs/worker_threads_internal.h"

// jemalloc's options, which it finds by this name. OpenZFS's blocks are made by one thread and freed by another: few arenas, else each keeps
// its own spare ones. Spare memory goes back to the system after seconds, since blocks in flight come and go all the time.
extern "C" {
const char* malloc_conf = "narenas:2,dirty_decay_ms:2000,muzzy_decay_ms:0";
}

namespace zpair::zfs {

Engine::Engine(block::Reactor& reactor, const EngineOptions& options)
    : reactor_(reactor),
      options_(options),
      volume_threads_(
          std::make_unique<WorkerThreads>("zfs-volume", options.volume_threads, WorkerThreads::Growth::fixed)),
      control_threads_(std::make_unique<WorkerThreads>("zfs-control", 2, WorkerThreads::Growth::one_per_waiting_job)) {}

Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::start(block::Reactor& reactor, const EngineOptions& options) {
  if (::mkdir(options.config_folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(errno, "cannot make the engine's folder {}", options.config_folder);
  }
  BatchScheduling batch;  // for OpenZFS's own threads
  zp_why why{};
  zp_engine_options plain{options.config_folder.c_str(), options.zfs_host_id, options.arc_bytes, options.dirty_bytes,
                          options.log_bytes};
  if (int error = zp_engine_start(&plain, &why); error != 0) {
    ErrorCode code = error == EINVAL   ? ErrorCode::invalid
                     : error == EEXIST ? ErrorCode::exists
                                       : ErrorCode::unsupported;
    return fail(code, "{}", why.text);
  }
  auto engine = std::unique_ptr<Engine>(new Engine(reactor, options));
  if (options.self_test == EngineOptions::SelfTest::run) {
    engine->self_test_ = std::async(std::launch::async, [] {
      zp_why failure{};
      if (zp_gate_self_test(&failure) != 0) zp_die("%s", failure.text);
    });
  }
  return engine;
}

block::Task<void> Engine::ready() {
  if (!self_test_.valid()) co_return;
  auto wait = [this] {
    self_test_.wait();
    return true;
  };
  co_await blocking(wait);
}

void Engine::run_control(std::function<void()> job) {
  control_threads_->run(
      [](void* argument) {
        std::unique_ptr<std::function<void()>> call(static_cast<std::function<void()>*>(argument));
        (*call)();
      },
      new std::function<void()>(std::move(job)));
}

void Engine::set_limits(std::uint64_t arc_bytes, std::uint64_t dirty_bytes, std::uint64_t log_bytes) {
  zp_engine_limit(arc_bytes, dirty_bytes, log_bytes);
}

// ---- tunables

std::vector<Tunable> tunables() {
  std::vector<Tunable> all;
  for (int i = 0; i < zp_tunable_count(); ++i) {
    const zp_tunable* about = zp_tunable_at(i);
    all.push_back(Tunable{about->name, about->unit, about->meaning, zp_tunable_get(i), about->least, about->most});
  }
  return all;
}

namespace {
int index_of(std::string_view name) {
  for (int i = 0; i < zp_tunable_count(); ++i) {
    if (name == zp_tunable_at(i)->name) return i;
  }
  return -1;
}
}  // namespace

Result<std::uint64_t> tunable(std::string_view name) {
  int index = index_of(name);
  if (index < 0) return fail(ErrorCode::not_found, "OpenZFS has no tunable {} that can be reached here", name);
  return zp_tunable_get(index);
}

Result<void> set_tunable(std::string_view name, std::uint64_t value) {
  int index = index_of(name);
  if (index < 0) return fail(ErrorCode::not_found, "OpenZFS has no tunable {} that can be reached here", name);
  const zp_tunable* about = zp_tunable_at(index);
  if (value < about->least || value > about->most) {
    return fail(ErrorCode::invalid, "tunable {} takes {} to {} {}, not {}", name, about->least, about->most,
                about->unit, value);
  }
  zp_tunable_set(index, value);
  return {};
}

}  // namespace zpair::zfs
