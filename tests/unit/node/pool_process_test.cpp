#include "node/pool_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "scratch.h"

namespace zpair::node {
namespace {

using block::Reactor;
using block::Scratch;
using block::Task;

// A shell script in zpair-pool's place.
std::string script(Scratch& scratch, const std::string& name, const std::string& text) {
  std::string path = scratch.path(name);
  std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
  ::chmod(path.c_str(), 0755);
  return path;
}

struct Watched {
  std::optional<ProcessExit> exit;
  block::Signal ended;
  PoolProcess::Callbacks callbacks() {
    return {.on_message = [](control::Received) {},
            .on_exit =
                [this](ProcessExit how) {
                  exit = std::move(how);
                  ended.set();
                }};
  }
};

TEST(PoolProcess, its_exit_code_and_its_signal_are_told) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  std::string exits = script(scratch, "exits", "exit 10");
  std::string sleeps = script(scratch, "sleeps", "exec sleep 1000");
  reactor->run_until_done([](std::string folder, std::string first, std::string second) -> Task<void> {
    Watched watched;
    auto process = PoolProcess::spawn({"tank", folder, "/dev/null", first}, {}, watched.callbacks());
    EXPECT_TRUE(process.has_value());
    if (!process) co_return;
    co_await watched.ended.wait();
    EXPECT_TRUE(watched.exit->known);
    EXPECT_EQ(watched.exit->exit_code, 10);
    EXPECT_FALSE((*process)->alive());
    co_await (*process)->close();

    Watched killed;
    auto sleeper = PoolProcess::spawn({"tank", folder, "/dev/null", second}, {}, killed.callbacks());
    EXPECT_TRUE(sleeper.has_value());
    if (!sleeper) co_return;
    (*sleeper)->kill();
    co_await killed.ended.wait();
    EXPECT_EQ(killed.exit->signal, SIGKILL);
    co_await (*sleeper)->close();
  }(scratch.path(""), exits, sleeps));
}

// zpaird's end is not the pool's: close() leaves the process alone.
TEST(PoolProcess, close_lets_the_process_live) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  std::string sleeps = script(scratch, "sleeps", "exec sleep 1000");
  pid_t pid = reactor->run_until_done([](std::string folder, std::string program) -> Task<pid_t> {
    Watched watched;
    auto process = PoolProcess::spawn({"tank", folder, "/dev/null", program}, {}, watched.callbacks());
    EXPECT_TRUE(process.has_value());
    if (!process) co_return 0;
    pid_t its = (*process)->pid();
    co_await (*process)->close();
    EXPECT_FALSE(watched.exit.has_value());
    co_return its;
  }(scratch.path(""), sleeps));
  ASSERT_GT(pid, 0);
  EXPECT_EQ(::kill(pid, 0), 0);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST(PoolProcess, a_missing_program_is_named) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done([](std::string folder) -> Task<void> {
    Watched watched;
    auto process = PoolProcess::spawn({"tank", folder, "/dev/null", folder + "/zpair-pool"}, {}, watched.callbacks());
    EXPECT_FALSE(process.has_value());
    if (!process) EXPECT_EQ(process.error().code, ErrorCode::not_found);
    co_return;
  }(scratch.path("")));
}

// A pidfile counts only while its lock is held: a dead process's number may be somebody else's by now.
TEST(PoolProcess, only_a_locked_pidfile_is_adopted) {
  Scratch scratch;
  auto reactor = std::move(*Reactor::create());
  std::string folder = scratch.path("");
  std::string pidfile = control::pid_path(folder, "tank");
  pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  std::ofstream(pidfile) << child << "\n";
  reactor->run_until_done([](std::string run_dir, std::string file, pid_t pid) -> Task<void> {
    Watched watched;
    auto unlocked = PoolProcess::adopt({"tank", run_dir, "/dev/null", "/dev/null"}, watched.callbacks());
    EXPECT_FALSE(unlocked.has_value());
    if (!unlocked) EXPECT_EQ(unlocked.error().code, ErrorCode::not_found);

    UniqueFd lock(::open(file.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
    auto process = PoolProcess::adopt({"tank", run_dir, "/dev/null", "/dev/null"}, watched.callbacks());
    EXPECT_TRUE(process.has_value());
    if (!process) co_return;
    EXPECT_EQ((*process)->pid(), pid);
    (*process)->kill();
    co_await watched.ended.wait();
    EXPECT_FALSE((*process)->alive());
    co_await (*process)->close();
  }(folder, pidfile, child));
  ::waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace zpair::node
