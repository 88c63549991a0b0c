// The engine alone: one mirror on two files, flushed, next to the same two files written and flushed in parallel (the raw
// two-leg limit). engine_bench FOLDER [SECONDS] [BLOCK_SIZE] [ONLY]
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "block/file_device.h"
#include "zfs/engine.h"
#include "zfs/pool.h"

using namespace zpair;
using block::Task;

namespace {

constexpr std::uint64_t leg_bytes = 2ULL << 30;
constexpr std::uint64_t volume_bytes = 256ULL << 20;

struct Load {
  block::BlockDevice* first;
  block::BlockDevice* second = nullptr;  // raw: the other leg
  block::Operation operation = block::Operation::write;
  std::uint64_t area_bytes = volume_bytes;
  std::uint64_t size_bytes = 4096;
  bool random = true;
  Nanoseconds end_ns = 0;
  std::uint64_t next = 0;
  std::mt19937_64 numbers{1};
  std::vector<double> latencies_us{};
  std::uint64_t error_count = 0;
};

Task<void> leg_write(block::BlockDevice& leg, std::uint64_t offset, std::span<const std::byte> bytes, Load& load) {
  auto written = co_await block::write(leg, offset, bytes);
  auto flushed = co_await block::flush(leg);
  if (!written.ok() || !flushed.ok()) ++load.error_count;
}

Task<void> worker(Load& load) {
  auto* raw = static_cast<std::byte*>(std::aligned_alloc(4096, load.size_bytes));
  std::span<std::byte> bytes(raw, load.size_bytes);
  std::uint64_t state = load.numbers();
  for (std::uint64_t i = 0; i < load.size_bytes / 8; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    reinterpret_cast<std::uint64_t*>(raw)[i] = state;
  }
  while (boot_time_ns() < load.end_ns) {
    std::uint64_t count = load.area_bytes / load.size_bytes;
    std::uint64_t offset = (load.random ? load.numbers() % count : load.next++ % count) * load.size_bytes;
    Nanoseconds begin_ns = boot_time_ns();
    reinterpret_cast<std::uint64_t*>(raw)[0] = load.numbers();
    if (load.second != nullptr && load.operation == block::Operation::write) {
      block::TaskGroup both;
      both.spawn(leg_write(*load.first, offset, bytes, load));
      both.spawn(leg_write(*load.second, offset, bytes, load));
      co_await both.close();
    } else if (load.operation == block::Operation::write) {
      auto outcome = co_await block::write(*load.first, offset, bytes);
      if (!outcome.ok()) ++load.error_count;
    } else {
      auto outcome = co_await block::read(*load.first, offset, bytes);
      if (!outcome.ok()) ++load.error_count;
    }
    load.latencies_us.push_back(static_cast<double>(boot_time_ns() - begin_ns) / 1000);
  }
  std::free(raw);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
long switches() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nvcsw;
}

std::string only;  // measure what has this in its name

Task<void> measure(const char* what, Load load, unsigned depth, double seconds) {
  if (std::string_view(what).find(only) == std::string_view::npos &&
      std::string_view(what).find("fill") == std::string_view::npos) {
    co_return;
  }
  Nanoseconds begin_ns = boot_time_ns();
  load.end_ns = begin_ns + static_cast<Nanoseconds>(seconds * ns_per_s);
  double cpu_before = cpu_seconds();
  long switches_before = switches();
  block::TaskGroup group;
  for (unsigned i = 0; i < depth; ++i) group.spawn(worker(load));
  co_await group.close();
  double elapsed = static_cast<double>(boot_time_ns() - begin_ns) / ns_per_s;
  auto& latencies = load.latencies_us;
  if (latencies.empty()) co_return;
  std::ranges::sort(latencies);
  double count = static_cast<double>(latencies.size());
  std::printf(
      "%-26s depth %2u: %8.0f /s %7.1f MB/s  median %7.0f us  p99 %8.0f us  max %8.0f us  cpu %5.0f us  switches "
      "%4.1f%s\n",
      what, depth, count / elapsed, count * static_cast<double>(load.size_bytes) / elapsed / 1e6,
      latencies[latencies.size() / 2], latencies[latencies.size() * 99 / 100], latencies.back(),
      (cpu_seconds() - cpu_before) / count * 1e6, static_cast<double>(switches() - switches_before) / count,
      load.error_count != 0 ? "  ERRORS" : "");
  std::fflush(stdout);
}

Task<int> run(block::Reactor& reactor, std::string folder, double seconds, std::uint32_t block_size) {
  for (const char* name : {"/a", "/b"}) {
    std::ofstream(folder + name).close();
    std::filesystem::resize_file(folder + name, leg_bytes);
  }
  auto a = co_await block::FileDevice::open({.path = folder + "/a"});
  auto b = co_await block::FileDevice::open({.path = folder + "/b"});
  if (!a || !b) {
    std::fprintf(stderr, "%s\n", (!a ? a.error() : b.error()).message.c_str());
    co_return 1;
  }
  // The raw area is allocated first, as a leg in use is.
  co_await measure("raw two legs, fill 1 MiB",
                   Load{.first = a->get(), .second = b->get(), .size_bytes = 1 << 20, .random = false}, 4, 1);
  for (unsigned depth : {1U, 16U}) {
    co_await measure("raw two legs, write 4 KiB", Load{.first = a->get(), .second = b->get()}, depth, seconds);
  }
  co_await measure("raw two legs, write 1 MiB",
                   Load{.first = a->get(), .second = b->get(), .size_bytes = 1 << 20, .random = false}, 4, seconds);
  for (unsigned depth : {1U, 16U}) {
    co_await measure("raw file, read 4 KiB", Load{.first = a->get(), .operation = block::Operation::read}, depth,
                     seconds);
  }

  zfs::EngineOptions options;
  options.config_folder = folder + "/zfs";
  options.zfs_host_id = 0x5a7a0001;
  Nanoseconds begin_ns = boot_time_ns();
  auto engine = zfs::Engine::start(reactor, options);
  if (!engine) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    co_return 1;
  }
  std::printf("engine start with the gate's self-test %.3f s\n",
              static_cast<double>(boot_time_ns() - begin_ns) / ns_per_s);
  int result = 1;
  {
    zfs::Pool pool(**engine, {"bench", nullptr});
    zfs::CreateSpec spec;
    spec.mirrors.push_back({{{{}, NodeId::a, a->get(), "a"}, {{}, NodeId::b, b->get(), "b"}}, "normal"});
    auto layout = co_await pool.create_pool(spec);
    auto made = co_await pool.create_volume({.name = "v", .size_bytes = volume_bytes, .block_size_bytes = block_size});
    auto volume = co_await pool.open_volume("v");
    if (layout && made && volume) {
      block::BlockDevice* device = volume->get();
      co_await measure("volume, fill 1 MiB", Load{.first = device, .size_bytes = 1 << 20, .random = false}, 4, 2);
      for (unsigned depth : {1U, 4U, 16U, 64U})
        co_await measure("volume, write 4 KiB", Load{.first = device}, depth, seconds);
      for (unsigned depth : {1U, 4U}) {
        co_await measure("volume, write 1 MiB", Load{.first = device, .size_bytes = 1 << 20, .random = false}, depth,
                         seconds);
      }
      for (unsigned depth : {1U, 16U}) {
        co_await measure("volume, read 4 KiB", Load{.first = device, .operation = block::Operation::read}, depth,
                         seconds);
      }
      co_await (*volume)->close();
      result = 0;
    }
    if (layout) co_await pool.destroy_pool();
  }
  co_await (*a)->close();
  co_await (*b)->close();
  co_return result;
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) {
    std::fprintf(stderr, "engine_bench FOLDER [SECONDS] [BLOCK_SIZE] [ONLY]\n");
    return 2;
  }
  std::filesystem::create_directories(words[1]);
  if (count > 4) only = words[4];
  auto reactor = block::Reactor::create();
  if (!reactor) {
    std::fprintf(stderr, "%s\n", reactor.error().message.c_str());
    return 1;
  }
  return (*reactor)->run_until_done(run(**reactor, words[1], count > 2 ? std::atof(words[2]) : 2,
                                        static_cast<std::uint32_t>(count > 3 ? std::atoi(words[3]) : 16384)));
}
