// zpair-raw-legs: the limit of a pair without a pair. N writers, each: write one block to both legs in parallel, flush both in
// parallel, count one. Readers read one leg. Prints JSON: {"operations", "seconds", "per_second", "bytes_per_second",
// "cpu_us_per_operation", "latency_us": {"mean", "p50", "p99", "p99_9"}}.
#include <sys/resource.h>

#include <cstdlib>
#include <memory>
#include <random>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "block/file_device.h"
#include "block/reactor.h"
#include "latency.h"

namespace {

using namespace zpair;
using namespace zpair::block;
using zpair::bench::Latencies;

struct Options {
  std::string leg_a, leg_b;
  std::string operation = "write";
  std::uint32_t block_size_bytes = 4096;
  int in_flight = 1;
  double seconds = 5;
  unsigned read_percent = 70;  // of mixed operations
  bool sequential = false;
};

struct Legs {
  std::unique_ptr<FileDevice> a, b;
};

struct Counter {
  std::uint64_t operations = 0;
  std::uint64_t next_block = 0;
  Latencies latencies;
  bool failed = false;
};

Task<void> one(BlockDevice& leg, std::uint64_t offset_bytes, std::span<const std::byte> from, bool& ok) {
  auto written = co_await write(leg, offset_bytes, from);
  auto flushed = co_await flush(leg);
  ok = written.ok() && flushed.ok();
}

std::span<std::byte> aligned_buffer(std::size_t size_bytes, unsigned seed) {
  auto* bytes = static_cast<std::byte*>(std::aligned_alloc(4096, size_bytes));
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < size_bytes; i += sizeof(std::uint64_t)) {
    std::uint64_t value = random();  // incompressible
    std::memcpy(bytes + i, &value, sizeof value);
  }
  return {bytes, size_bytes};
}

Task<void> worker(Legs& legs, const Options& options, int index, Nanoseconds end_ns, Counter& counter) {
  std::mt19937_64 random(static_cast<unsigned>(index) + 1);
  auto buffer = aligned_buffer(options.block_size_bytes, static_cast<unsigned>(index));
  const unsigned read_percent = options.operation == "write"  ? 0
                                : options.operation == "read" ? 100
                                                              : options.read_percent;
  std::uint64_t block_count =
      std::min(legs.a->geometry().size_bytes, legs.b->geometry().size_bytes) / options.block_size_bytes;
  while (boot_time_ns() < end_ns && !counter.failed) {
    std::uint64_t block = options.sequential ? counter.next_block++ % block_count : random() % block_count;
    std::uint64_t offset_bytes = block * options.block_size_bytes;
    bool ok_a = false;
    bool ok_b = false;
    const bool reads = read_percent == 100 || (read_percent > 0 && random() % 100 < read_percent);
    const Nanoseconds begin_ns = boot_time_ns();
    if (!reads) {
      TaskGroup both;
      both.spawn(one(*legs.a, offset_bytes, buffer, ok_a));
      both.spawn(one(*legs.b, offset_bytes, buffer, ok_b));
      co_await both.close();
    } else {
      auto outcome = co_await read(*legs.a, offset_bytes, buffer);
      ok_a = ok_b = outcome.ok();
    }
    if (!ok_a || !ok_b) counter.failed = true;
    ++counter.operations;
    counter.latencies.add(boot_time_ns() - begin_ns);
  }
  std::free(buffer.data());
}

Task<Result<Counter>> measure(const Options& options) {
  Legs legs;
  ZP_CO_TRY(leg_a, co_await FileDevice::open({.path = options.leg_a}));
  legs.a = std::move(leg_a);
  ZP_CO_TRY(leg_b, co_await FileDevice::open({.path = options.leg_b}));
  legs.b = std::move(leg_b);
  Counter counter;
  Nanoseconds end_ns = boot_time_ns() + static_cast<Nanoseconds>(options.seconds * 1e9);
  TaskGroup workers;
  for (int i = 0; i < options.in_flight; ++i) workers.spawn(worker(legs, options, i, end_ns, counter));
  co_await workers.close();
  co_await legs.a->close();
  co_await legs.b->close();
  if (counter.failed) co_return fail(ErrorCode::io, "a leg refused a command");
  co_return counter;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"The limit of a pair: both legs written and flushed in parallel."};
  app.add_option("leg_a", options.leg_a)->required();
  app.add_option("leg_b", options.leg_b)->required();
  app.add_option("--operation", options.operation, "write (both legs, flushed), read (leg a) or mixed")
      ->check(CLI::IsMember({"write", "read", "mixed"}));
  app.add_option("--read-percent", options.read_percent, "of mixed operations")->check(CLI::Range(0, 100));
  app.add_option("--block-size", options.block_size_bytes, "bytes");
  app.add_option("--in-flight", options.in_flight);
  app.add_option("--seconds", options.seconds);
  app.add_flag("--sequential", options.sequential);
  CLI11_PARSE(app, argc, argv);

  auto reactor = Reactor::create();
  if (!reactor) {
    fmt::print(stderr, "zpair-raw-legs: {}\n", reactor.error().message);
    return 1;
  }
  Nanoseconds begin_ns = boot_time_ns();
  Result<Counter> counter = (*reactor)->run_until_done(measure(options));
  if (!counter) {
    fmt::print(stderr, "zpair-raw-legs: {}\n", counter.error().message);
    return 1;
  }
  double seconds = static_cast<double>(boot_time_ns() - begin_ns) / 1e9;
  double per_second = static_cast<double>(counter->operations) / seconds;
  rusage used{};
  (void)::getrusage(RUSAGE_SELF, &used);
  const double cpu_us = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
                        static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  const bool some = counter->operations > 0;
  nlohmann::json result = {
      {"operations", counter->operations},
      {"seconds", seconds},
      {"per_second", per_second},
      {"bytes_per_second", per_second * options.block_size_bytes},
      {"cpu_us_per_operation", some ? nlohmann::json(cpu_us / static_cast<double>(counter->operations)) : nullptr},
      {"latency_us", counter->latencies.summary_us()}};
  fmt::print("{}\n", result.dump());
  return 0;
}
