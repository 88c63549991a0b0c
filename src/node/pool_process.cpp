#include "node/pool_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "block/uring_await.h"
#include "state/durable_file.h"

extern char** environ;

namespace zpair::node {

namespace {

constexpr int child_control_fd = 3;

Result<UniqueFd> open_pidfd(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return fail_errno(errno, "cannot watch process {}", pid);
  ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  return fd;
}

// Held: somebody else has the flock on the file.
bool is_locked(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return false;
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

class SpawnSettings {
 public:
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  // A session of its own, so that a terminal's or a service manager's signal to zpaird does not reach it; none of the
  // signals blocked or ignored that zpaird blocks or ignores.
  void prepare(int control_fd) {
    posix_spawn_file_actions_adddup2(&actions_, control_fd, child_control_fd);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  const posix_spawn_file_actions_t* actions() const { return &actions_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

std::string to_text(const ProcessExit& exit) {
  std::string how = !exit.known ? std::string("is gone")
                    : exit.signal != 0
                        ? fmt::format("was killed by signal {} ({})", exit.signal, ::strsignal(exit.signal))
                        : fmt::format("exited with code {}", exit.exit_code);
  if (!exit.reason.empty()) how += fmt::format(": {}", exit.reason);
  if (!exit.detail.empty()) how += fmt::format(" ({})", exit.detail);
  return how;
}

Result<std::unique_ptr<PoolProcess>> PoolProcess::spawn(Options options, control::StartDocument document,
                                                        Callbacks callbacks) {
  if (::access(options.program.c_str(), X_OK) != 0) return fail_errno(errno, "cannot run {}", options.program);
  ZP_TRY(ends, control::Channel::make_pair());
  std::unique_ptr<PoolProcess> process(new PoolProcess(std::move(options), std::move(callbacks)));
  process->channel_ = std::make_unique<control::Channel>(std::move(ends.first));
  process->is_child_ = true;

  SpawnSettings settings;
  settings.prepare(ends.second.get());
  std::string control_fd = std::to_string(child_control_fd);
  const char* arguments[] = {process->options_.program.c_str(),
                             "--config",
                             process->options_.config_file.c_str(),
                             "--pool",
                             process->options_.pool.c_str(),
                             "--control-fd",
                             control_fd.c_str(),
                             nullptr};
  int error = ::posix_spawn(&process->pid_, process->options_.program.c_str(), settings.actions(),
                            settings.attributes(), const_cast<char* const*>(arguments), environ);
  if (error != 0) return fail_errno(error, "cannot start {}", process->options_.program);
  auto pidfd = open_pidfd(process->pid_);
  if (!pidfd) {
    ::kill(process->pid_, SIGKILL);
    ::waitpid(process->pid_, nullptr, 0);
    return std::unexpected(pidfd.error());
  }
  process->pidfd_ = std::move(*pidfd);
  auto sent = process->channel_->send(control::Start{std::move(document)});
  if (!sent) log_warning("pool {}: {}", process->options_.pool, sent.error().message);
  process->start();
  return process;
}

Result<std::unique_ptr<PoolProcess>> PoolProcess::adopt(Options options, Callbacks callbacks) {
  std::string pidfile = control::pid_path(options.run_dir, options.pool);
  if (!is_locked(pidfile)) return fail(ErrorCode::not_found, "no process of pool {} runs here", options.pool);
  ZP_TRY(text, state::load_file(pidfile));
  auto pid = static_cast<pid_t>(std::strtol(text.c_str(), nullptr, 10));
  if (pid <= 0) return fail(ErrorCode::invalid, "{} names no process", pidfile);
  ZP_TRY(pidfd, open_pidfd(pid));
  // Still locked after the pidfd was made: the number was not given to another process in between.
  if (!is_locked(pidfile)) return fail(ErrorCode::not_found, "no process of pool {} runs here", options.pool);
  std::unique_ptr<PoolProcess> process(new PoolProcess(std::move(options), std::move(callbacks)));
  process->pid_ = pid;
  process->pidfd_ = std::move(pidfd);
  auto socket = control::Channel::connect(control::control_path(process->options_.run_dir, process->options_.pool));
  if (socket) {
    process->channel_ = std::make_unique<control::Channel>(std::move(*socket));
  } else {
    // It lives and holds the drives, but cannot be spoken to: the watchdog will miss its heartbeat.
    log_warning("pool {}: process {}: {}", process->options_.pool, pid, socket.error().message);
  }
  process->start();
  return process;
}

PoolProcess::~PoolProcess() { ZP_ASSERT(tasks_.running() == 0, "a pool process's object was closed"); }

void PoolProcess::start() {
  if (channel_) {
    tasks_.spawn(receive_messages());
  } else {
    messages_done_.set();
  }
  tasks_.spawn(wait_for_exit());
}

void PoolProcess::kill() {
  if (alive_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

Result<void> PoolProcess::send(const control::Message& message, int fd) {
  if (!channel_ || !alive_) return fail(ErrorCode::unreachable, "pool {}: no control connection", options_.pool);
  return channel_->send(message, fd);
}

block::Task<void> PoolProcess::close() {
  closed_ = true;
  if (channel_) channel_->close();
  if (exit_wait_ != nullptr) {
    static block::Reactor::Completion ignored{[](block::Reactor::Completion&, int) {}};
    io_uring_sqe& entry = block::Reactor::current().next_entry(ignored);
    io_uring_prep_cancel(&entry, exit_wait_, 0);
    io_uring_sqe_set_data(&entry, &ignored);
  }
  co_await tasks_.close();
}

block::Task<void> PoolProcess::receive_messages() {
  while (!closed_) {
    auto received = co_await channel_->receive();
    if (closed_) break;
    if (!received) {
      if (received.error().code == ErrorCode::invalid) {
        log_warning("pool {}: {}", options_.pool, received.error().message);
        continue;
      }
      break;
    }
    if (auto* last = std::get_if<control::Exiting>(&received->message)) last_words_ = *last;
    callbacks_.on_message(std::move(*received));
  }
  messages_done_.set();
}

block::Task<void> PoolProcess::wait_for_exit() {
  for (;;) {
    int fd = pidfd_.get();
    auto prepare = [fd](io_uring_sqe* entry) { io_uring_prep_poll_add(entry, fd, POLLIN); };
    block::UringAwait ended(prepare);
    exit_wait_ = &ended.completion();
    int result = co_await ended;
    exit_wait_ = nullptr;
    if (closed_) co_return;
    if (result > 0) break;
  }
  alive_ = false;
  // Its last words are in the socket still.
  co_await block::wait_for(messages_done_, Deadline::in_ms(100));
  ProcessExit exit = reap();
  if (!closed_) callbacks_.on_exit(std::move(exit));
}

ProcessExit PoolProcess::reap() {
  ProcessExit exit;
  exit.reason = last_words_.reason;
  exit.detail = last_words_.detail;
  if (!is_child_) return exit;
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0)
    return exit;
  exit.known = true;
  if (info.si_code == CLD_EXITED) {
    exit.exit_code = info.si_status;
  } else {
    exit.signal = info.si_status;
  }
  return exit;
}

}  // namespace zpair::node
