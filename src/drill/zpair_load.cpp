// zpair-load: a verified load on volumes over NBD, for scripts and cluster tests. See README.md of this room.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "block/reactor.h"
#include "drill/load.h"

namespace zpair::drill {
namespace {

constexpr std::int64_t look_every_ms = 20;
constexpr Nanoseconds status_every_ns = 250 * ns_per_ms;

std::atomic<int> stop_requests{0};

struct Arguments {
  std::vector<std::string> uris;
  LoadOptions load;
  double seconds = 0;
  double connect_timeout_s = 30;
  double finish_timeout_s = 120;
  std::string state;
  std::string json;
  std::string control;
  bool verify_only = false;
};

// Commands, one a line: `mark NAME` starts to measure an event (and ends the one before), `end` ends it, `operations`
// prints how many the slowest volume has answered so far, `sample` and `stall` print JSON (README.md), `stop` ends the load, as
// does the end of standard input.
class Control {
 public:
  Result<void> open(const std::string& path) {
    if (path.empty()) return {};
    if (path == "-") {
      int copy = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
      if (copy < 0) return fail_errno(errno, "cannot read standard input");
      fd_ = UniqueFd(copy);
      ::fcntl(copy, F_SETFL, ::fcntl(copy, F_GETFL) | O_NONBLOCK);
      return {};
    }
    if (::mkfifo(path.c_str(), 0600) != 0 && errno != EEXIST)
      return fail_errno(errno, "cannot make the control pipe {}", path);
    fd_ =
        UniqueFd(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));  // read and write: no end when a writer leaves
    if (!fd_) return fail_errno(errno, "cannot open the control pipe {}", path);
    return {};
  }
  std::vector<std::string> new_lines() {
    std::vector<std::string> lines;
    char bytes[4096];
    while (fd_) {
      ssize_t count = ::read(fd_.get(), bytes, sizeof bytes);
      if (count == 0) fd_.reset(), text_ += "\nstop\n";  // standard input: whoever drove this load is gone
      if (count <= 0) break;
      text_.append(bytes, static_cast<std::size_t>(count));
    }
    for (std::size_t end = text_.find('\n'); end != std::string::npos; end = text_.find('\n')) {
      lines.push_back(text_.substr(0, end));
      text_.erase(0, end + 1);
    }
    return lines;
  }

 private:
  UniqueFd fd_;
  std::string text_;
};

struct Program {
  Arguments arguments;
  std::vector<std::unique_ptr<Load>> loads;
  std::vector<Load::EventId> open_events;
  Control control;
  Nanoseconds next_status_ns = 0;

  void end_event() {
    for (std::size_t i = 0; i < open_events.size(); ++i) loads[i]->end_event(open_events[i]);
    open_events.clear();
  }
  void obey(const std::string& line) {
    constexpr std::string_view mark = "mark ";
    if (line.empty()) return;
    if (line.starts_with(mark)) {
      end_event();
      for (auto& load : loads) open_events.push_back(load->begin_event(line.substr(mark.size())));
    } else if (line == "end") {
      end_event();
    } else if (line == "operations") {
      std::uint64_t fewest = UINT64_MAX;
      for (auto& load : loads) fewest = std::min(fewest, load->operations());
      std::printf("%llu\n", static_cast<unsigned long long>(fewest));
      std::fflush(stdout);
    } else if (line == "sample") {
      Load::Sample all;
      for (auto& load : loads) {
        const Load::Sample one = load->take_sample();
        all.operations += one.operations;
        all.acknowledged_blocks += one.acknowledged_blocks;
        all.slowest_ms = std::max(all.slowest_ms, one.slowest_ms);
        all.stalled_ms = std::max(all.stalled_ms, one.stalled_ms);
      }
      std::printf(R"({"operations": %llu, "acknowledged": %llu, "slowest_ms": %.2f, "stalled_ms": %.2f})"
                  "\n",
                  static_cast<unsigned long long>(all.operations),
                  static_cast<unsigned long long>(all.acknowledged_blocks), all.slowest_ms, all.stalled_ms);
      std::fflush(stdout);
    } else if (line == "stall") {
      std::uint64_t longest_ms = 0;
      Nanoseconds ended_ns = 0;
      for (std::size_t i = 0; i < open_events.size(); ++i) {
        if (loads[i]->stall_ms(open_events[i]) < longest_ms) continue;
        longest_ms = loads[i]->stall_ms(open_events[i]);
        ended_ns = loads[i]->stall_ended_ns(open_events[i]);
      }
      std::printf(R"({"stall_ms": %llu, "ended_ns": %lld})"
                  "\n",
                  static_cast<unsigned long long>(longest_ms), static_cast<long long>(ended_ns));
      std::fflush(stdout);
    } else if (line == "stop") {
      ++stop_requests;
    } else {
      std::fprintf(stderr,
                   "zpair-load: unknown command '%s': mark NAME, end, operations, sample, stall and stop are known\n",
                   line.c_str());
    }
  }
  void show_status() {
    Nanoseconds now = boot_time_ns();
    if (now < next_status_ns || ::isatty(STDERR_FILENO) == 0) return;
    next_status_ns = now + status_every_ns;
    std::string line;
    for (auto& load : loads) {
      LoadReport report = load->report();
      line += fmt::format("{}: {} acknowledged, {:.0f}/s, longest stall {} ms, bad {}", report.export_name,
                          report.counts.acknowledged_blocks, report.operations_per_second, report.stall_ms,
                          report.counts.bad());
      if (std::uint64_t stalled_ms = load->stalled_now_ms(); stalled_ms > 200)
        line += fmt::format(", waiting {} ms", stalled_ms);
      line += "   ";
    }
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
  }
};

Result<void> prepare(Program& program) {
  Arguments& arguments = program.arguments;
  for (std::size_t i = 0; i < arguments.uris.size(); ++i) {
    ZP_TRY(target, NbdTarget::parse(arguments.uris[i]));
    LoadOptions options = arguments.load;
    options.target = target;
    options.seed += i;
    if (!arguments.state.empty()) {
      options.state_file = arguments.uris.size() == 1 ? arguments.state : fmt::format("{}.{}", arguments.state, i);
      if (arguments.verify_only && ::access(options.state_file.c_str(), R_OK) != 0) {
        return fail_errno(errno, "cannot read the state {}", options.state_file);
      }
    }
    program.loads.push_back(std::make_unique<Load>(std::move(options)));
  }
  return program.control.open(arguments.control);
}

block::Task<void> run_until_told(Program& program) {
  for (auto& load : program.loads) load->start();
  double seconds = program.arguments.seconds;
  Nanoseconds until = seconds > 0 ? boot_time_ns() + static_cast<Nanoseconds>(seconds * 1e9) : INT64_MAX;
  while (stop_requests == 0 && boot_time_ns() < until) {
    co_await block::Reactor::current().after_ms(look_every_ms);
    for (const std::string& line : program.control.new_lines()) program.obey(line);
    program.show_status();
  }
}

// Stops what takes too long, or what a second signal ends.
block::Task<void> watch(Program& program, const bool& done, Nanoseconds until) {
  while (!done && boot_time_ns() < until && stop_requests < 2) {
    co_await block::Reactor::current().after_ms(look_every_ms);
    program.show_status();
  }
  if (done) co_return;
  for (auto& load : program.loads) co_await load->client().close();
}

block::Task<Result<void>> finish(Program& program) {
  for (auto& load : program.loads) co_await load->stop();
  for (auto& load : program.loads) {
    ZP_CO_CHECK(load->save_state());
    ZP_CO_CHECK(co_await load->verify());
  }
  co_return Result<void>{};
}

block::Task<Result<void>> run(Program& program) {
  Deadline connect{boot_time_ns() + static_cast<Nanoseconds>(program.arguments.connect_timeout_s * 1e9)};
  for (auto& load : program.loads) ZP_CO_CHECK(co_await load->open(connect));
  if (!program.arguments.verify_only) co_await run_until_told(program);
  bool done = false;
  block::TaskGroup watcher;
  watcher.spawn(
      watch(program, done, boot_time_ns() + static_cast<Nanoseconds>(program.arguments.finish_timeout_s * 1e9)));
  auto finished = co_await finish(program);
  done = true;
  co_await watcher.close();
  program.end_event();
  for (auto& load : program.loads) ZP_CO_CHECK(load->save_state());
  co_return finished;
}

block::Task<Result<void>> run_and_close(Program& program) {
  auto result = co_await run(program);
  for (auto& load : program.loads) co_await load->close();
  co_return result;
}

Result<void> write_json(const std::string& path, const std::string& json) {
  if (path.empty()) return {};
  if (path == "-") {
    std::fputs(json.c_str(), stdout);
    return {};
  }
  std::ofstream file(path, std::ios::trunc);
  file << json;
  file.close();
  if (!file) return fail(ErrorCode::io, "cannot write {}", path);
  return {};
}

int execute(Arguments arguments) {
  start_log("zpair-load", LogLevel::warning);
  auto reactor = block::Reactor::create();
  if (!reactor) {
    std::fprintf(stderr, "zpair-load: %s\n", reactor.error().message.c_str());
    return 1;
  }
  Program program;
  program.arguments = std::move(arguments);
  if (auto prepared = prepare(program); !prepared) {
    std::fprintf(stderr, "zpair-load: %s\n", prepared.error().message.c_str());
    return 2;
  }
  auto result = (*reactor)->run_until_done(run_and_close(program));
  if (::isatty(STDERR_FILENO) != 0) std::fputs("\n", stderr);
  if (!result) std::fprintf(stderr, "zpair-load: %s\n", result.error().message.c_str());
  std::vector<LoadReport> reports;
  bool good = result.has_value();
  for (auto& load : program.loads) {
    reports.push_back(load->report());
    const LoadReport& report = reports.back();
    good = good && report.good();
    for (const std::string& finding : report.findings)
      std::fprintf(stderr, "%s: %s\n", report.export_name.c_str(), finding.c_str());
    if (!report.first_error.empty()) {
      std::fprintf(stderr, "%s: %llu operations failed, the first: %s\n", report.export_name.c_str(),
                   static_cast<unsigned long long>(report.failed_operations), report.first_error.c_str());
    }
    std::fprintf(
        stderr,
        "%s: acknowledged %llu, lost %llu, corrupt %llu, went back %llu, longest stall %llu ms, %.0f operations/s%s\n",
        report.export_name.c_str(), static_cast<unsigned long long>(report.counts.acknowledged_blocks),
        static_cast<unsigned long long>(report.counts.lost),
        static_cast<unsigned long long>(report.counts.corrupt + report.counts.unborn),
        static_cast<unsigned long long>(report.counts.went_back), static_cast<unsigned long long>(report.stall_ms),
        report.operations_per_second, report.verified ? "" : ", NOT VERIFIED");
  }
  if (auto written = write_json(program.arguments.json, to_json(reports)); !written) {
    std::fprintf(stderr, "zpair-load: %s\n", written.error().message.c_str());
    return 1;
  }
  return good ? 0 : 1;
}

int main(int argc, char** argv) {
  CLI::App app{
      "A verified load on volumes over NBD: writes stamped blocks, survives reconnects, then counts what is lost."};
  app.require_subcommand(1);
  Arguments arguments;
  auto add_common = [&arguments](CLI::App& command) {
    command
        .add_option(
            "URI", arguments.uris,
            "nbd+unix:///EXPORT?socket=PATH or nbd://ADDRESS:PORT/EXPORT; alternatives of one volume separated by ','")
        ->required();
    command.add_option("--json", arguments.json, "write the result here ('-': standard output)");
    command.add_option("--connect-timeout", arguments.connect_timeout_s, "seconds to wait for the first connection");
    command.add_option("--finish-timeout", arguments.finish_timeout_s,
                       "seconds that the last operations and the verification may take");
  };
  CLI::App* run = app.add_subcommand("run", "load until SIGTERM, SIGINT, `stop` or --seconds; then verify");
  add_common(*run);
  run->add_option("--state", arguments.state,
                  "keep what every block must hold here (FILE.0, FILE.1 ... for several volumes)");
  run->add_option("--seconds", arguments.seconds, "length of the load (0: until told to stop)");
  run->add_option("--writers", arguments.load.writers, "writes in flight");
  run->add_option("--readers", arguments.load.readers, "reads in flight");
  run->add_option("--rate", arguments.load.operations_per_second,
                  "operations per second for each volume (0: as fast as it goes)");
  run->add_option("--working-set", arguments.load.working_set_bytes, "bytes, from the start of the volume (64M)")
      ->transform(CLI::AsSizeValue(false));
  run->add_option("--least", arguments.load.least_bytes, "smallest operation (4K)")->transform(CLI::AsSizeValue(false));
  run->add_option("--greatest", arguments.load.greatest_bytes, "largest operation (256K)")
      ->transform(CLI::AsSizeValue(false));
  run->add_option("--flush-every", arguments.load.flush_every, "writes of one writer between two flushes (0: none)");
  run->add_option("--seed", arguments.load.seed, "decides offsets and sizes");
  run->add_option("--control", arguments.control,
                  "pipe for commands, made if needed ('-': standard input, whose end is `stop`): mark NAME, end, "
                  "operations, sample, stall, stop");
  CLI::App* verify = app.add_subcommand("verify", "read the whole working set and check it against the state of a run");
  add_common(*verify);
  verify->add_option("--state", arguments.state, "what every block must hold")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  arguments.verify_only = verify->parsed();
  auto on_signal = [](int) { stop_requests.fetch_add(1); };
  ::signal(SIGTERM, on_signal);
  ::signal(SIGINT, on_signal);
  ::signal(SIGPIPE, SIG_IGN);
  return execute(std::move(arguments));
}

}  // namespace
}  // namespace zpair::drill

int main(int argc, char** argv) { return zpair::drill::main(argc, argv); }
