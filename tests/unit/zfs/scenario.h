#pragma once
// OpenZFS starts once in a process and ends by abort, so each step of a test runs in a forked child: given drives (files under
// fault devices) in a folder of the test's own, run a coroutine, look at how the child ended and what it said.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/fault_device.h"
#include "block/file_device.h"
#include "zfs/engine.h"
#include "zfs/pool.h"
#include "zfs/tunables.h"
#include "zfs/volume.h"

namespace zpair::zfs::test {

using block::Task;

// In a child: a condition that must hold.
#define REQUIRE(condition)                                                                 \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "%s:%d: REQUIRE(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::fflush(stderr);                                                                 \
      _exit(3);                                                                            \
    }                                                                                      \
  } while (0)
#define REQUIRE_OK(result)                                                                                    \
  do {                                                                                                        \
    if (!(result)) {                                                                                          \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #result, (result).error().message.c_str()); \
      std::fflush(stderr);                                                                                    \
      _exit(3);                                                                                               \
    }                                                                                                         \
  } while (0)

struct Folder {
  std::string path;
  Folder() {
    std::string base = testing::TempDir() + "zpair-zfs-XXXXXX";
    REQUIRE(mkdtemp(base.data()) != nullptr);
    path = base;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

struct End {
  int status = 0;
  std::string said;  // stdout and stderr
  bool exited_well() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  bool killed() const { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }
  bool aborted() const { return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT; }
};

// The world of one child: reactor, engine, drives by name (`a0` is drive 0 of node a), events seen.
struct World {
  std::string folder;
  std::unique_ptr<block::Reactor> reactor;
  std::unique_ptr<Engine> engine;
  std::map<std::string, std::unique_ptr<block::FaultDevice>> drives;
  std::vector<LegEvent> events;
  block::Signal event_came;
  std::unique_ptr<Pool> pool;
  std::vector<LegId> known_legs;

  block::FaultDevice& drive(const std::string& name) { return *drives.at(name); }

  Task<void> open_drives(std::vector<std::string> names, block::FaultOptions options = {}) {
    for (const std::string& name : names) {
      auto file =
          co_await block::FileDevice::open({.path = folder + "/" + name, .wait_for_lock = Deadline::in_ms(10000)});
      REQUIRE_OK(file);
      auto fault = block::FaultDevice::wrap(std::move(*file), options);
      REQUIRE_OK(fault);
      drives[name] = std::move(*fault);
    }
  }
  Task<void> close_drives() {
    for (auto& [name, drive] : drives) co_await drive->close();
    drives.clear();
  }
  void make_pool(const std::string& name = "tank") {
    pool = std::make_unique<Pool>(*engine, Pool::Options{name, [this](const LegEvent& event) {
                                                           events.push_back(event);
                                                           event_came.set();
                                                         }});
  }
  LegSpec leg(const std::string& name, LegId guid = {}) {
    return LegSpec{guid, name[0] == 'a' ? NodeId::a : NodeId::b, &drive(name), name};
  }
  // Mirrors a0-b0, a1-b1, ...
  CreateSpec mirrors(int count) {
    CreateSpec spec;
    for (int i = 0; i < count; ++i) {
      spec.mirrors.push_back(MirrorSpec{{leg("a" + std::to_string(i)), leg("b" + std::to_string(i))}, "normal"});
    }
    return spec;
  }
  // The legs that these drives carry, by their labels.
  Task<ImportSpec> import_spec(std::vector<std::string> names) {
    ImportSpec spec;
    spec.zfs_host_ids = {0x5a7a0001, 0x5a7a0002};
    for (const std::string& name : names) {
      auto survey = co_await survey_labels(drive(name));
      REQUIRE_OK(survey);
      REQUIRE(survey->has_value());
      spec.guid = (*survey)->pool_guid;
      spec.legs.push_back(leg(name, (*survey)->leg_guid));
    }
    co_return spec;
  }
  LegId leg_of(const std::string& name) const {
    for (const MirrorLayout& mirror : pool->layout().mirrors) {
      for (const LegLayout& each : mirror.legs) {
        if (each.name == name) return each.guid;
      }
    }
    return {};
  }
  std::vector<LegId> legs_of(const std::vector<std::string>& names) const {
    std::vector<LegId> legs;
    for (const std::string& name : names) legs.push_back(leg_of(name));
    return legs;
  }
  void set_ack_set(const std::vector<std::string>& names) {
    std::vector<LegId> legs = legs_of(names);
    pool->set_ack_set(legs);
  }
  Task<void> wait_for_event() {
    co_await event_came.wait();
    event_came.reset();
  }
};

inline void make_files(const std::string& folder, std::vector<std::string> names,
                       std::uint64_t size_bytes = 256ULL << 20) {
  for (const std::string& name : names) {
    std::ofstream(folder + "/" + name).close();
    std::filesystem::resize_file(folder + "/" + name, size_bytes);
  }
}

struct ChildOptions {
  std::uint32_t zfs_host_id = 0x5a7a0001;
  EngineOptions::SelfTest self_test = EngineOptions::SelfTest::skip;
};

// Runs `scenario` in a child. It leaves by returning (exit 0), by a failed REQUIRE (3), or as the test wants it to.
inline End in_child(const Folder& folder, Task<void> (*scenario)(World&), ChildOptions options = {}) {
  int pipe_fds[2];
  EXPECT_EQ(pipe(pipe_fds), 0);
  std::fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipe_fds[1], 1);
    dup2(pipe_fds[1], 2);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    setvbuf(stdout, nullptr, _IONBF, 0);
    alarm(120);  // a hang is a failure, not a wait
    World world;
    world.folder = folder.path;
    auto reactor = block::Reactor::create();
    REQUIRE_OK(reactor);
    world.reactor = std::move(*reactor);
    EngineOptions engine_options;
    engine_options.config_folder = folder.path + "/zfs";
    engine_options.zfs_host_id = options.zfs_host_id;
    engine_options.self_test = options.self_test;
    auto engine = Engine::start(*world.reactor, engine_options);
    REQUIRE_OK(engine);
    world.engine = std::move(*engine);
    world.reactor->run_until_done(scenario(world));
    world.pool.reset();
    std::fflush(nullptr);
    _exit(0);
  }
  close(pipe_fds[1]);
  End end;
  char bytes[4096];
  for (ssize_t count; (count = read(pipe_fds[0], bytes, sizeof bytes)) > 0;)
    end.said.append(bytes, static_cast<std::size_t>(count));
  close(pipe_fds[0]);
  waitpid(child, &end.status, 0);
  return end;
}

#define EXPECT_WELL(end)                                                                        \
  do {                                                                                          \
    const End& end_ = (end);                                                                    \
    EXPECT_TRUE(end_.exited_well()) << "status " << end_.status << ", it said:\n" << end_.said; \
  } while (0)

// ---- a pool of one mirror

inline const std::vector<std::string> one_mirror = {"a0", "b0"};

inline Task<void> make_pool(World& world, block::FaultOptions options = {}) {
  co_await world.open_drives(one_mirror, options);
  world.make_pool();
  auto layout = co_await world.pool->create_pool(world.mirrors(1));
  REQUIRE_OK(layout);
}
inline Task<void> export_and_close(World& world) {
  auto exported = co_await world.pool->export_pool();
  REQUIRE_OK(exported);
  co_await world.close_drives();
}
inline Task<std::unique_ptr<Volume>> open(World& world, std::string name) {
  auto volume = co_await world.pool->open_volume(std::move(name));
  REQUIRE_OK(volume);
  co_return std::move(*volume);
}
inline Task<ImportReport> import_again(World& world, block::FaultOptions options = {},
                                       std::vector<std::string> names = one_mirror,
                                       ImportSpec::Floor floor = ImportSpec::Floor::enforce) {
  co_await world.open_drives(names, options);
  auto spec = co_await world.import_spec(names);
  spec.floor = floor;
  world.make_pool();
  auto report = co_await world.pool->import_pool(spec);
  REQUIRE_OK(report);
  co_return std::move(*report);
}

// ---- data: each block says where it is and which write made it

inline constexpr std::uint32_t block_bytes = 4096;

struct alignas(4096) Block {
  std::uint64_t words[block_bytes / 8];
};

inline void fill(std::span<Block> blocks, std::uint64_t first, std::uint64_t generation) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    std::uint64_t word = (first + i) * 0x9e3779b97f4a7c15ULL + generation;
    for (std::uint64_t& each : blocks[i].words) {
      word ^= word << 13;
      word ^= word >> 7;
      word ^= word << 17;
      each = word;
    }
  }
}

inline Task<block::IoStatus> write_blocks(block::BlockDevice& device, std::uint64_t first, std::size_t count,
                                          std::uint64_t generation) {
  std::vector<Block> blocks(count);
  fill(blocks, first, generation);
  auto outcome = co_await block::write(device, first * block_bytes, std::as_bytes(std::span(blocks)));
  co_return outcome.status;
}

// How many of the blocks differ from what was written.
inline Task<std::size_t> wrong_blocks(block::BlockDevice& device, std::uint64_t first, std::size_t count,
                                      std::uint64_t generation) {
  std::vector<Block> blocks(count), wanted(count);
  fill(wanted, first, generation);
  auto outcome = co_await block::read(device, first * block_bytes, std::as_writable_bytes(std::span(blocks)));
  if (!outcome.ok()) co_return count;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < count; ++i) wrong += std::memcmp(&blocks[i], &wanted[i], block_bytes) != 0;
  co_return wrong;
}

inline int zdb(const Folder& folder, const std::string& options, const std::string& pool = "tank") {
  std::string command = "zdb -e -p " + folder.path + " " + options + " " + pool + " > " + folder.path + "/zdb.out 2>&1";
  return std::system(command.c_str());
}
inline std::string zdb_said(const Folder& folder) {
  std::ifstream file(folder.path + "/zdb.out");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Overwrites the blocks that zdb named (`DVA[0]=<mirror:offset:size>`, or `L0 mirror:offset:size`) on both legs; the data of a leg begins after 4 MiB.
inline int spoil_blocks(const Folder& folder, const std::string& said) {
  int spoiled = 0;
  for (std::size_t at = 0; (at = said.find_first_of("< ", at)) != std::string::npos; ++at) {
    unsigned mirror = 0;
    unsigned long long offset = 0, size = 0;
    if (std::sscanf(said.c_str() + at + 1, "%u:%llx:%llx", &mirror, &offset, &size) != 3 || mirror > 9) continue;
    for (const char* side : {"/a", "/b"}) {
      std::fstream file(folder.path + side + std::to_string(mirror), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>((4ULL << 20) + offset));
      file << std::string(size, 'x');
      ++spoiled;
    }
  }
  return spoiled;
}

}  // namespace zpair::zfs::test
