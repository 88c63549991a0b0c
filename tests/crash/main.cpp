// zpair_crash: cuts power under the real engine and looks at what comes back. README.md.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/assert.h"
#include "cutter.h"

namespace zpair::crash {
namespace {

struct Arguments {
  std::uint64_t seed = 1;
  std::uint64_t seconds = 60, cuts = 0;  // 0: as many as the time gives
  std::uint64_t cuts_least = 0;          // fewer in that time is a failure
  unsigned workers = 2;
  std::string tapes, cut, mutation;
  bool mutations = false, quick = false;
  CutOptions options;
};

// Shared by the workers.
struct Board {
  static constexpr std::size_t workers_most = 16;
  std::atomic<std::uint64_t> next_seed, cuts;
  std::atomic<bool> failed;
  char why[16384];  // of the first that failed
  Tally tallies[workers_most];
};

void work(const Arguments& arguments, Board& board, unsigned worker, Cutter::Clock::time_point give_up) {
  Cutter cutter(arguments.options);
  std::uint64_t counted = 0;
  while (!board.failed && Cutter::Clock::now() < give_up && (arguments.cuts == 0 || board.cuts < arguments.cuts)) {
    const bool good = cutter.run(board.next_seed++, give_up);
    board.tallies[worker] = cutter.tally();
    board.cuts += cutter.tally().cuts - counted;
    counted = cutter.tally().cuts;
    if (!good && !board.failed.exchange(true)) std::snprintf(board.why, sizeof board.why, "%s", cutter.why().c_str());
  }
}

struct Search {
  bool good = true;
  std::string why;
  Tally tally;
  double seconds = 0;
};

Search search(const Arguments& arguments) {
  void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ZP_ASSERT(memory != MAP_FAILED, "there is memory for the board");
  auto* board = new (memory) Board;
  board->next_seed = arguments.seed;
  const auto began = Cutter::Clock::now();
  std::vector<pid_t> workers;
  for (unsigned worker = 0; worker < arguments.workers; ++worker) {
    const pid_t child = ::fork();
    if (child == 0) {
      work(arguments, *board, worker, began + std::chrono::seconds(arguments.seconds));
      ::_exit(0);
    }
    workers.push_back(child);
  }
  Search found;
  for (pid_t worker : workers) {
    int status = 0;
    ::waitpid(worker, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    found.good = false;
    found.why = "a worker of the judge died";
  }
  for (unsigned worker = 0; worker < arguments.workers; ++worker) found.tally += board->tallies[worker];
  if (board->failed) {
    found.good = false;
    found.why = board->why;
  }
  found.seconds = std::chrono::duration<double>(Cutter::Clock::now() - began).count();
  ::munmap(memory, sizeof(Board));
  return found;
}

int cut_once(const Arguments& arguments) {
  CutOptions options = arguments.options;
  options.only = arguments.cut;
  Cutter cutter(options);
  const bool good = cutter.replay(arguments.seed, arguments.tapes);
  fmt::print("{}\n", good ? "nothing was lost this time" : cutter.why());
  return good ? 0 : 1;
}

int cut_many(const Arguments& arguments) {
  Search found = search(arguments);
  const Tally& tally = found.tally;
  if (found.good && tally.cuts < arguments.cuts_least) {
    found.good = false;
    found.why = fmt::format("{} cuts in {:.0f} s, wanted are {}", tally.cuts, found.seconds, arguments.cuts_least);
  }
  if (!found.good) fmt::print("FAILED {}\n", found.why);
  fmt::print(
      "{} cuts ({} inside a recovery, {} with a leg off the record, {} with older drives than the floor, {} of these "
      "refused), {} recoveries, "
      "{} first lives, {} grows, {} log records replayed, {} sectors checked, {} pools looked at by zdb: {} ({:.0f} "
      "s)\n",
      tally.cuts, tally.nested, tally.with_absent_leg, tally.rolled_back, tally.refusals, tally.recoveries, tally.lives,
      tally.grows, tally.records_replayed, tally.sectors_checked, tally.zdb_runs,
      found.good ? "nothing lost" : "FAILED", found.seconds);
  return found.good ? 0 : 1;
}

int find_mutations(Arguments arguments) {
  unsigned missed = 0, tried = 0;
  arguments.options.zdb_one_in = 0;
  for (const Mutation& mutation : mutations()) {
    if (!arguments.mutation.empty() && mutation.name != arguments.mutation) continue;
    if (arguments.quick && mutation.rare) continue;
    ++tried;
    arguments.options.mutation = &mutation;
    Search found = search(arguments);
    if (found.good) ++missed;
    const std::string first_lines =
        arguments.mutation.empty() ? found.why.substr(0, found.why.find('\n', found.why.find('\n') + 1)) : found.why;
    fmt::print("{:20} {:55} {} after {} cuts, {:.0f} s\n    {}\n", mutation.name, mutation.line,
               found.good ? "NOT FOUND" : "found", found.tally.cuts, found.seconds, first_lines);
    std::fflush(stdout);
  }
  fmt::print("{} of {} mutations found\n", tried - missed, tried);
  return missed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace zpair::crash

int main(int argc, char** argv) {
  zpair::crash::Arguments arguments;
  CLI::App app("cuts power under the real engine and checks what comes back");
  app.add_option("--seed", arguments.seed, "of the first life; others count up from it");
  app.add_option("--seconds", arguments.seconds, "end after so long (of each mutation)");
  app.add_option("--cuts", arguments.cuts, "end after so many");
  app.add_option("--at-least", arguments.cuts_least, "fail when the time does not give so many");
  app.add_option("--workers", arguments.workers)->check(CLI::Range(1, 16));
  app.add_option("--zdb-one-in", arguments.options.zdb_one_in, "recoveries that zdb looks at; 0: none");
  app.add_option("--keep", arguments.options.keep, "folder for the tapes of a failure");
  app.add_option("--tapes", arguments.tapes, "a kept folder: cut these tapes again");
  app.add_option("--cut", arguments.cut, "with --tapes: only this cut");
  app.add_flag("--mutations", arguments.mutations, "each plant must be found");
  app.add_flag("--quick", arguments.quick, "with --mutations: but for the rare ones");
  app.add_option("--mutation", arguments.mutation, "only this one");
  CLI11_PARSE(app, argc, argv);
  if (!arguments.mutation.empty()) {
    arguments.options.mutation = zpair::crash::find_mutation(arguments.mutation);
    if (arguments.options.mutation == nullptr) {
      fmt::print(stderr, "zpair_crash: no mutation is called {}\n", arguments.mutation);
      return 2;
    }
  }
  if (!arguments.tapes.empty()) return zpair::crash::cut_once(arguments);
  return arguments.mutations || !arguments.mutation.empty() ? zpair::crash::find_mutations(arguments)
                                                            : zpair::crash::cut_many(arguments);
}
