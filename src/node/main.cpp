// zpaird: the daemon of one node. SIGTERM ends it and leaves its pool processes serving (an upgrade: the next zpaird finds
// them); SIGINT, or POST /v1/shutdown, exports the node's pools first.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/config.h"
#include "base/log.h"
#include "block/reactor.h"
#include "block/uring_await.h"
#include "node/daemon.h"

namespace {

using namespace zpair;

std::string own_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

block::Task<void> wait_for_signal(int signals, node::Daemon& daemon) {
  signalfd_siginfo info{};
  auto prepare = [signals, &info](io_uring_sqe* entry) { io_uring_prep_read(entry, signals, &info, sizeof info, 0); };
  for (;;) {
    int result = co_await block::UringAwait(prepare);
    if (result != sizeof info || info.ssi_signo == SIGUSR1) co_return;  // SIGUSR1: our own, at the end
    if (info.ssi_signo == SIGHUP) continue;
    log_info("signal {}", info.ssi_signo);
    daemon.ask_to_stop(info.ssi_signo == SIGINT ? node::Daemon::StopPools::yes : node::Daemon::StopPools::no);
  }
}

block::Task<int> serve(node::Daemon& daemon, int signals) {
  block::TaskGroup watching;
  watching.spawn(wait_for_signal(signals, daemon));
  auto stop = node::Daemon::StopPools::no;
  auto started = co_await daemon.start();
  if (started) stop = co_await daemon.wait_for_stop();
  if (!started) log_error("{}", started.error().message);
  co_await daemon.close(stop);
  ::kill(::getpid(), SIGUSR1);
  co_await watching.close();
  co_return started ? EXIT_SUCCESS : EXIT_FAILURE;
}

Result<int> run(const std::string& config_file) {
  ZP_TRY(config, load_config(config_file));
  start_log(fmt::format("zpaird {}", config.node), LogLevel::info);
  sigset_t handled;
  sigemptyset(&handled);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&handled, signal);
  ::pthread_sigmask(SIG_BLOCK, &handled, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  UniqueFd signals(::signalfd(-1, &handled, SFD_CLOEXEC));
  if (!signals) return fail_errno(errno, "cannot watch for signals");

  ZP_TRY(reactor, block::Reactor::create());
  node::Daemon::Options options;
  options.config = std::move(config);
  options.config_file = std::filesystem::absolute(config_file);
  options.pool_program = own_folder() + "/zpair-pool";
  ZP_TRY(daemon, node::Daemon::create(std::move(options), *reactor));
  int code = reactor->run_until_done(serve(*daemon, signals.get()));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"zpaird, the daemon of one node of a pair: zpaird(8), docs/two-servers.md", "zpaird"};
  std::string config_file;
  app.add_option("--config", config_file, "the node's configuration (TOML)")->required()->check(CLI::ExistingFile);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "zpaird: %s (see zpaird --help)\n", error.what());
    return 2;
  }
  auto code = run(config_file);
  if (!code) {
    zpair::log_error("zpaird: {}", code.error().message);
    return EXIT_FAILURE;
  }
  return *code;
}
