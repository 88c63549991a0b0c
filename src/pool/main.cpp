// zpair-pool: one imported pool. zpaird starts it; it has nothing to do without the start document.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "base/config.h"
#include "base/log.h"
#include "block/reactor.h"
#include "control/channel.h"
#include "control/message.h"
#include "pool/process.h"
#include "quorum/etcd_store.h"
#include "zfs/engine.h"

namespace {

using namespace zpair;

struct Arguments {
  std::string config;
  std::string pool;
  int control_fd = -1;
};

// Held until the process is gone: by it zpaird finds a process that outlived its own restart.
Result<UniqueFd> lock_pidfile(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return fail_errno(errno, "cannot open {}", path);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::exists, "another process of this pool lives: it holds {}", path);
  }
  const std::string text = std::to_string(::getpid()) + "\n";
  if (::ftruncate(file.get(), 0) != 0 ||
      ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return fail_errno(errno, "cannot write {}", path);
  }
  return file;
}

Result<void> run(const Arguments& arguments) {
  ZP_TRY(config, load_config(arguments.config));
  ZP_TRY(pidfile, lock_pidfile(control::pid_path(config.run_dir, arguments.pool)));
  static_cast<void>(pidfile);  // held as long as the process lives
  ZP_TRY(reactor, block::Reactor::create());

  const std::string engine_folder = fmt::format("{}/engine-{}", config.state_dir, arguments.pool);
  ::mkdir(engine_folder.c_str(), 0700);
  zfs::EngineOptions engine_options;
  engine_options.config_folder = engine_folder;
  engine_options.zfs_host_id = config.zfs_host_id;
  engine_options.arc_bytes = static_cast<std::uint64_t>(config.limits.arc_mb) << 20;
  engine_options.dirty_bytes = static_cast<std::uint64_t>(config.limits.dirty_mb) << 20;
  engine_options.log_bytes = static_cast<std::uint64_t>(config.limits.log_mb) << 20;

  std::optional<Error> failed;
  std::unique_ptr<zfs::Engine> engine;
  quorum::EtcdStore store(*reactor, quorum::EtcdOptions{.endpoints = config.etcd_endpoints});
  std::unique_ptr<pool::Process> process;
  reactor->post([&] {
    auto started = zfs::Engine::start(*reactor, engine_options);
    if (!started) {
      failed = started.error();
      return reactor->stop();
    }
    engine = std::move(*started);
    process = std::make_unique<pool::Process>(
        *reactor, *engine, store,
        pool::Process::Options{
            .config = config, .pool = arguments.pool, .control_fd = arguments.control_fd, .limits = {}, .exit = {}});
    auto running = process->start();
    if (!running) {
      failed = running.error();
      return reactor->stop();
    }
  });
  reactor->run();  // the process ends inside (Process::finish)
  log_error("{}", failed ? failed->message : "the reactor stopped");
  std::fflush(nullptr);
  ::_exit(control::exit_failed);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{"One imported pool of a zpair node. zpaird starts it."};
  app.add_option("--config", arguments.config, "the node's configuration file")->required();
  app.add_option("--pool", arguments.pool, "the pool's name")->required();
  app.add_option("--control-fd", arguments.control_fd, "the inherited control connection");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : control::exit_usage;
  }
  ::signal(SIGPIPE, SIG_IGN);
  start_log("zpair-pool " + arguments.pool, LogLevel::info);
  auto result = run(arguments);
  if (!result) {
    log_error("{}", result.error().message);
    return result.error().code == ErrorCode::invalid ? control::exit_usage : control::exit_failed;
  }
  return 0;
}
