// zpair_crash: cuts power under the real engine, see README.md.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cutter.h"

namespace zpair::crash {
namespace {

struct Arguments {
  std::uint64_t seed = 1;
  std::uint64_t seconds = 60, cuts = 0;   // 0: as many as the time gives
  unsigned workers = 2;
  std::string tapes, cut;
  CutOptions options;
};

// Shared by the workers.
struct Board {
  std::atomic<std::uint64_t> next_seed, cuts;
  std::atomic<bool> failed;
  Tally tallies[16];
};

void work(const Arguments& arguments, Board& board, unsigned worker, Cutter::Clock::time_point give_up) {
  Cutter cutter(arguments.options);
  std::uint64_t counted = 0;
  while (!board.failed && Cutter::Clock::now() < give_up && (arguments.cuts == 0 || board.cuts < arguments.cuts)) {
    const std::uint64_t seed = board.next_seed++;
    const bool good = cutter.run(seed, give_up);
    board.tallies[worker] = cutter.tally();
    board.cuts += cutter.tally().cuts - counted;
    counted = cutter.tally().cuts;
    if (!good) {
      board.failed = true;
      std::printf("FAILED %s\n", cutter.why().c_str());
    }
  }
  std::fflush(stdout);
}

int run(const Arguments& arguments) {
  if (!arguments.tapes.empty()) {
    CutOptions options = arguments.options;
    options.only = arguments.cut;
    Cutter cutter(options);
    const bool good = cutter.replay(arguments.seed, arguments.tapes);
    std::printf("%s\n", good ? "nothing was lost this time" : cutter.why().c_str());
    return good ? 0 : 1;
  }
  void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* board = new (memory) Board;
  board->next_seed = arguments.seed;
  const auto began = Cutter::Clock::now();
  const auto give_up = began + std::chrono::seconds(arguments.seconds);
  std::vector<pid_t> workers;
  for (unsigned worker = 0; worker < arguments.workers; ++worker) {
    const pid_t child = ::fork();
    if (child == 0) {
      work(arguments, *board, worker, give_up);
      ::_exit(0);
    }
    workers.push_back(child);
  }
  bool good = true;
  for (pid_t worker : workers) {
    int status = 0;
    ::waitpid(worker, &status, 0);
    good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  Tally total;
  for (unsigned worker = 0; worker < arguments.workers; ++worker) total += board->tallies[worker];
  const double seconds = std::chrono::duration<double>(Cutter::Clock::now() - began).count();
  std::printf("%llu cuts (%llu of them inside a recovery, %llu with a leg off the record), %llu recoveries, %llu lives, %llu grows, "
              "%llu log records replayed, %llu sectors checked, %llu looked at by zdb: %s (%.0f s)\n",
              (unsigned long long)total.cuts, (unsigned long long)total.nested, (unsigned long long)total.during_resync,
              (unsigned long long)total.recoveries, (unsigned long long)total.lives, (unsigned long long)total.resyncs,
              (unsigned long long)total.records_replayed, (unsigned long long)total.sectors_checked, (unsigned long long)total.zdb_runs,
              good && !board->failed ? "nothing lost" : "FAILED", seconds);
  return good && !board->failed ? 0 : 1;
}

}  // namespace
}  // namespace zpair::crash

int main(int argc, char** argv) {
  zpair::crash::Arguments arguments;
  CLI::App app("cuts power under the real engine and checks what comes back");
  std::string trouble;
  app.add_option("--seed", arguments.seed, "the first life's seed (others count up from it)");
  app.add_option("--seconds", arguments.seconds);
  app.add_option("--cuts", arguments.cuts, "end after so many");
  app.add_option("--workers", arguments.workers)->check(CLI::Range(1, 16));
  app.add_option("--zdb-one-in", arguments.options.zdb_one_in);
  app.add_option("--keep", arguments.options.keep, "folder for the tapes of a failure");
  app.add_option("--tapes", arguments.tapes, "a kept folder: cut these tapes again");
  app.add_option("--cut", arguments.cut, "with --tapes: only this cut");
  CLI11_PARSE(app, argc, argv);
  return zpair::crash::run(arguments);
}
