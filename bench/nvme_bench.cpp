// What NVMe/TCP over loopback costs, next to the same drive used directly: 4 KiB writes (with a flush after each, or FUA-less
// alone) with 1 and 16 in flight, 1 MiB writes and reads. Target and initiator run in two processes, as on two nodes.
//   zpair-nvme-bench FOLDER [SECONDS]
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "block/file_device.h"
#include "block/reactor.h"
#include "fence/fence_file.h"
#include "nvme/remote_drive.h"
#include "nvme/remote_node.h"
#include "nvme/target.h"

using namespace zpair;
using block::Task;

namespace {

constexpr std::uint64_t drive_bytes = 256u << 20;
const char* const subsystem = "nqn.2026-01.io.zpair:bench";

struct Memory {
  explicit Memory(std::size_t size) : bytes(static_cast<std::byte*>(std::aligned_alloc(4096, size)), size) {
    std::ranges::fill(bytes, std::byte{0x5a});
  }
  ~Memory() { std::free(bytes.data()); }
  std::span<std::byte> bytes;
};

// A drive that costs nothing: what is left is the transport.
class NullDevice final : public block::BlockDevice {
 public:
  block::Geometry geometry() const override { return {drive_bytes, 4096}; }
  std::string durable_id() const override { return "null"; }
  Verifier verifier() const override { return Verifier{1}; }
  void submit(block::Request& request) override {
    ready_.push_back(&request);
    if (ready_.size() > 1) return;
    block::Reactor::current().call_at(0, [this] {
      std::vector<block::Request*> now;
      now.swap(ready_);
      for (block::Request* each : now) {
        each->status = block::IoStatus::ok;
        each->verifier = Verifier{1};
        each->on_done(*each);
      }
    });
  }
  Task<void> close() override { co_return; }

 private:
  std::vector<block::Request*> ready_;
};

enum class Work { write, write_flush, read };

struct Load {
  block::BlockDevice& device;
  Work work;
  std::size_t size;
  Nanoseconds until_ns;
  std::vector<Nanoseconds> times;
};

Task<void> worker(Load& load, unsigned seed) {
  Memory memory(load.size);
  std::mt19937_64 random(seed);
  std::uint64_t places = drive_bytes / load.size;
  while (boot_time_ns() < load.until_ns) {
    std::uint64_t offset = random() % places * load.size;
    Nanoseconds begin = boot_time_ns();
    block::Op::Outcome outcome{};
    if (load.work == Work::read) {
      outcome = co_await block::read(load.device, offset, memory.bytes);
    } else {
      outcome = co_await block::write(load.device, offset, memory.bytes);
      if (outcome.ok() && load.work == Work::write_flush) outcome = co_await block::flush(load.device);
    }
    if (!outcome.ok()) {
      std::fprintf(stderr, "failed: %s\n", std::string(name_of(outcome.status)).c_str());
      std::exit(1);
    }
    load.times.push_back(boot_time_ns() - begin);
  }
}

Task<void> measure(block::BlockDevice& device, const char* where, double seconds) {
  struct Cell {
    const char* name;
    Work work;
    std::size_t size;
    unsigned in_flight;
  };
  const Cell cells[] = {
      {"write 4k q1", Work::write, 4096, 1},    {"write+flush 4k q1", Work::write_flush, 4096, 1},
      {"write 4k q16", Work::write, 4096, 16},  {"write+flush 4k q16", Work::write_flush, 4096, 16},
      {"read 4k q1", Work::read, 4096, 1},      {"read 4k q16", Work::read, 4096, 16},
      {"write 1m q4", Work::write, 1 << 20, 4}, {"read 1m q4", Work::read, 1 << 20, 4},
  };
  for (const Cell& cell : cells) {
    Load load{device, cell.work, cell.size, boot_time_ns() + static_cast<Nanoseconds>(seconds * 1e9), {}};
    Nanoseconds begin = boot_time_ns();
    block::TaskGroup tasks;
    for (unsigned i = 0; i < cell.in_flight; ++i) tasks.spawn(worker(load, i + 1));
    co_await tasks.close();
    double elapsed = static_cast<double>(boot_time_ns() - begin) / 1e9;
    std::ranges::sort(load.times);
    double per_s = static_cast<double>(load.times.size()) / elapsed;
    std::printf("%-12s %-20s %9.0f /s %9.1f MB/s   median %7.1f us   p99 %7.1f us\n", where, cell.name, per_s,
                per_s * static_cast<double>(cell.size) / 1e6,
                static_cast<double>(load.times[load.times.size() / 2]) / 1e3,
                static_cast<double>(load.times[load.times.size() * 99 / 100]) / 1e3);
    std::fflush(stdout);
  }
}

Task<Result<std::unique_ptr<block::FileDevice>>> open_file(std::string path) {
  block::FileDeviceOptions options;
  options.path = std::move(path);
  co_return co_await block::FileDevice::open(options);
}

// The child: exports both drives, tells its ports, serves until it is killed.
Task<int> serve(std::string folder, int port_pipe) {
  auto file = co_await open_file(folder + "/drive");
  if (!file) co_return 1;
  if (!fence::FenceFile::remove(folder, (*file)->durable_id())) co_return 1;  // of a former run
  auto fence = fence::FenceFile::create(folder, (*file)->durable_id());
  if (!fence) co_return 1;
  NullDevice nothing;
  nvme::TargetOptions options;
  options.subsystem_nqn = subsystem;
  nvme::Target target(options);
  target.add_namespace(1, Uuid::random(), **file, **fence);
  target.add_open_namespace(2, Uuid::random(), nothing);
  std::string ports;
  for (int i = 0; i < 2; ++i) ports += target.listen(block::Endpoint{"tcp:127.0.0.1:0"})->text + "\n";
  [[maybe_unused]] ssize_t written = ::write(port_pipe, ports.data(), ports.size());
  ::close(port_pipe);
  block::Signal never;
  co_await never.wait();
  co_return 0;
}

Task<int> drive_load(std::string folder, std::vector<std::string> addresses, double seconds) {
  nvme::RemoteNodeOptions options;
  options.subsystem_nqn = subsystem;
  options.host_id = Uuid::random();
  for (auto& address : addresses) options.paths.push_back({address, block::Endpoint{address}, ""});
  nvme::RemoteNode node(options);
  node.start();
  auto nothing = co_await node.open_drive(2, Deadline::in_ms(5000));
  auto remote = co_await node.open_drive(1, Deadline::in_ms(5000));
  if (!nothing || !remote) co_return 1;
  auto fenced = co_await (*remote)->fence(Epoch{1}, Epoch{0}, Deadline::in_ms(5000));
  if (!fenced) co_return 1;
  co_await measure(**nothing, "remote null", seconds);
  co_await measure(**remote, "remote file", seconds);
  co_await (*nothing)->close();
  co_await (*remote)->close();
  co_await node.close();
  auto local = co_await open_file(folder + "/drive-2");
  if (!local) co_return 1;
  co_await measure(**local, "direct file", seconds);
  co_await (*local)->close();
  co_return 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count < 2) {
    std::fprintf(stderr, "usage: zpair-nvme-bench FOLDER [SECONDS]\n");
    return 2;
  }
  std::string folder = arguments[1];
  double seconds = argument_count > 2 ? std::atof(arguments[2]) : 2;
  std::filesystem::create_directories(folder);
  for (const char* name : {"/drive", "/drive-2"}) {
    std::ofstream out(folder + name, std::ios::binary);
    std::vector<char> chunk(1 << 20, 'z');
    for (std::uint64_t i = 0; i < drive_bytes / chunk.size(); ++i)
      out.write(chunk.data(), static_cast<std::streamsize>(chunk.size()));
  }
  int port_pipe[2];
  if (::pipe(port_pipe) != 0) return 1;
  pid_t child = ::fork();
  if (child == 0) {
    auto reactor = block::Reactor::create();
    return reactor ? (*reactor)->run_until_done(serve(folder, port_pipe[1])) : 1;
  }
  ::close(port_pipe[1]);
  std::string ports;
  char buffer[256];
  for (ssize_t got; (got = ::read(port_pipe[0], buffer, sizeof buffer)) > 0;)
    ports.append(buffer, static_cast<std::size_t>(got));
  std::vector<std::string> addresses;
  for (std::size_t end; (end = ports.find('\n')) != std::string::npos; ports.erase(0, end + 1))
    addresses.push_back(ports.substr(0, end));
  auto reactor = block::Reactor::create();
  int result = reactor && !addresses.empty() ? (*reactor)->run_until_done(drive_load(folder, addresses, seconds)) : 1;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return result;
}
