// Programs of others against our server: qemu-img, qemu-io, qemu-storage-daemon, nbdinfo, nbdcopy, fio.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "host.h"
#include "memory_device.h"
#include "nbd/server.h"
#include "nbd/socket_handover.h"

namespace zpair::nbd {
namespace {

using test::Host;
using test::MemoryDevice;

constexpr std::uint64_t volume_bytes = 16 << 20;

struct Outcome {
  int exit_code = -1;
  std::string output;
};

Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen(("timeout 60 " + command + " 2>&1").c_str(), "re");
  if (pipe == nullptr) return outcome;
  char bytes[4096];
  for (std::size_t count = 0; (count = std::fread(bytes, 1, sizeof bytes, pipe)) > 0;)
    outcome.output.append(bytes, count);
  int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

// A program that is told what to do line by line.
class Interactive {
 public:
  explicit Interactive(std::vector<std::string> words) {
    int to[2];
    int from[2];
    EXPECT_EQ(::pipe2(to, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(from, O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(to[0], 0);
      ::dup2(from[1], 1);
      ::dup2(from[1], 2);
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    in_ = to[1];
    out_ = from[0];
  }
  ~Interactive() {
    if (in_ >= 0) ::close(in_);
    ::close(out_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  void say(const std::string& line) {
    std::string whole = line + "\n";
    EXPECT_EQ(::write(in_, whole.data(), whole.size()), static_cast<ssize_t>(whole.size()));
  }
  // Everything said since the last call, up to `what`; without `what` when 30 s pass.
  std::string hear(const std::string& what) {
    Deadline deadline = Deadline::in_ms(30'000);
    for (;;) {
      std::size_t at = heard_.find(what);
      if (at != std::string::npos) {
        std::string part = heard_.substr(0, at + what.size());
        heard_.erase(0, at + what.size());
        return part;
      }
      pollfd look{out_, POLLIN, 0};
      if (deadline.passed()) return std::exchange(heard_, {}) + "\n(30 s passed)";
      if (::poll(&look, 1, 1000) <= 0) continue;
      char bytes[4096];
      ssize_t count = ::read(out_, bytes, sizeof bytes);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return std::exchange(heard_, {}) + "\n(the program ended)";
      heard_.append(bytes, static_cast<std::size_t>(count));
    }
  }
  int finish() {
    ::close(std::exchange(in_, -1));
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  std::string heard_;
};

struct Fixture {
  Fixture() {
    std::string pattern = "/tmp/zpair-clients-XXXXXX";
    folder = ::mkdtemp(pattern.data());
    socket = folder + "/vm1.sock";
    uri = "'nbd+unix:///tank/vm1?socket=" + socket + "'";
    listening = std::move(*host.on([this] { return block::Listener::listen(block::Endpoint{"unix:" + socket}); }));
    start();
  }
  ~Fixture() {
    stop();
    std::filesystem::remove_all(folder);
  }
  void start() {
    host.on([this] {
      server = std::make_unique<Server>();
      ASSERT_TRUE(server->add_export({"tank/vm1", &device, false}));
      auto listener = std::make_unique<block::Listener>(std::move(*duplicate(listening->fd())));
      ASSERT_TRUE(server->listen(std::move(listener), {Transport::local, "tank/vm1"}));
      auto tcp = std::move(*block::Listener::listen(block::Endpoint{"tcp:127.0.0.1:0"}));
      tcp_address = tcp->local_endpoint().text.substr(4);
      ASSERT_TRUE(server->listen(std::move(tcp), {Transport::network, ""}));
    });
  }
  void stop() {
    if (!server) return;
    host.await([this] { return server->close(); });
    host.on([this] { server.reset(); });
  }
  std::string random_file(const std::string& name, std::size_t size) {
    std::string path = folder + "/" + name;
    std::ofstream file(path, std::ios::binary);
    std::mt19937_64 random(7);
    for (std::size_t i = 0; i < size; i += 8) {
      std::uint64_t word = random();
      file.write(reinterpret_cast<const char*>(&word), sizeof word);
    }
    return path;
  }

  Host host;
  MemoryDevice device{volume_bytes};
  std::string folder, socket, uri, tcp_address;
  std::unique_ptr<block::Listener> listening;
  std::unique_ptr<Server> server;
};

TEST(RealClients, nbdinfo_sees_what_is_offered) {
  Fixture fixture;
  Outcome info = run("nbdinfo " + fixture.uri);
  EXPECT_EQ(info.exit_code, 0) << info.output;
  for (const char* line : {"newstyle-fixed", "using structured packets", "export-size: 16777216", "can_flush: true",
                           "can_fua: true", "can_trim: true", "can_zero: true", "can_fast_zero: true", "can_df: true",
                           "can_multi_conn: true", "is_read_only: false", "block_size_minimum: 4096"}) {
    EXPECT_NE(info.output.find(line), std::string::npos) << line << " is missing in\n" << info.output;
  }
  Outcome list = run("nbdinfo --list 'nbd+unix:///?socket=" + fixture.socket + "'");
  EXPECT_EQ(list.exit_code, 0) << list.output;
  EXPECT_NE(list.output.find("tank/vm1"), std::string::npos) << list.output;
  Outcome size = run("nbdinfo --size " + fixture.uri);
  EXPECT_EQ(size.output, "16777216\n");
}

TEST(RealClients, over_tcp_a_name_is_required_and_the_client_reads_why) {
  Fixture fixture;
  EXPECT_NE(run("nbdinfo nbd://" + fixture.tcp_address + "/tank/vm1").exit_code, 0);
  Outcome refused = run("qemu-img info nbd://" + fixture.tcp_address + "/tank/vm1");
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_NE(refused.output.find("a client name is required: ask for tank/vm1@CLIENT"), std::string::npos)
      << refused.output;
  Outcome served = run("nbdinfo nbd://" + fixture.tcp_address + "/tank/vm1@vm-100");
  EXPECT_EQ(served.exit_code, 0) << served.output;
  EXPECT_NE(served.output.find("can_multi_conn: false"), std::string::npos) << served.output;
}

TEST(RealClients, nbdcopy_there_and_back_keeps_every_byte) {
  Fixture fixture;
  std::string source = fixture.random_file("source", volume_bytes);
  Outcome there = run("nbdcopy --flush " + source + " " + fixture.uri);
  EXPECT_EQ(there.exit_code, 0) << there.output;
  Outcome back = run("nbdcopy " + fixture.uri + " " + fixture.folder + "/back");
  EXPECT_EQ(back.exit_code, 0) << back.output;
  EXPECT_EQ(run("cmp " + source + " " + fixture.folder + "/back").exit_code, 0);
}

TEST(RealClients, nbdinfo_and_qemu_img_map_the_holes) {
  Fixture fixture;
  fixture.host.on([&] { std::fill_n(fixture.device.bytes.begin() + (1 << 20), 1 << 20, std::byte{1}); });
  Outcome map = run("nbdinfo --map --json " + fixture.uri);
  EXPECT_EQ(map.exit_code, 0) << map.output;
  for (const char* line :
       {R"("offset": 0, "length": 1048576, "type": 3)", R"("offset": 1048576, "length": 1048576, "type": 0)",
        R"("offset": 2097152, "length": 14680064, "type": 3)"}) {
    EXPECT_NE(map.output.find(line), std::string::npos) << line << " is missing in\n" << map.output;
  }
  Outcome qemu = run("qemu-img map --output=json -f raw " + fixture.uri);
  EXPECT_EQ(qemu.exit_code, 0) << qemu.output;
  EXPECT_NE(qemu.output.find(
                R"("start": 1048576, "length": 1048576, "depth": 0, "present": true, "zero": false, "data": true)"),
            std::string::npos)
      << qemu.output;
}

TEST(RealClients, qemu_img_converts_and_compares) {
  Fixture fixture;
  std::string source = fixture.random_file("source", 4 << 20);
  Outcome converted = run("qemu-img convert -n -f raw -O raw " + source + " " + fixture.uri);
  EXPECT_EQ(converted.exit_code, 0) << converted.output;
  ASSERT_EQ(::truncate(source.c_str(), volume_bytes), 0);
  Outcome compared = run("qemu-img compare -f raw -F raw " + source + " " + fixture.uri);
  EXPECT_EQ(compared.exit_code, 0) << compared.output;
}

TEST(RealClients, qemu_io_reads_what_it_wrote) {
  Fixture fixture;
  Outcome outcome = run("qemu-io -f raw " + fixture.uri +
                        " -c 'write -P 0xaa 0 1M' -c 'write -f -P 0xbb 1M 64k' -c 'read -P 0xaa 0 1M' -c 'read -P 0xbb "
                        "1M 64k' -c 'write -z 0 64k'"
                        " -c 'read -P 0 0 64k' -c 'discard 1M 64k' -c 'write -P 0xcc 512 512' -c 'read -P 0xcc 512 "
                        "512' -c 'read -P 0 0 512' -c flush");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output.find("failed"), std::string::npos) << outcome.output;
}

TEST(RealClients, fio_verifies_what_it_wrote) {
  Fixture fixture;
  Outcome outcome = run(
      "fio --name=verify --ioengine=nbd --uri=" + fixture.uri +
      " --rw=randwrite --bs=4k --size=8M --iodepth=16 --verify=crc32c --do_verify=1 --verify_state_save=0 --fsync=32");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("err= 0"), std::string::npos) << outcome.output;
}

// Restarts the server at the same listening socket under a write that is in flight.
void restart_under_a_held_write(Fixture& fixture, std::size_t held_count) {
  ASSERT_TRUE(fixture.host.until([&] { return fixture.device.held.size() >= held_count; }));
  block::TaskGroup tasks;
  auto close = [](Server& server) -> block::Task<void> { co_await server.close(); };
  fixture.host.on([&] { tasks.spawn(close(*fixture.server)); });
  fixture.host.on([&] {
    fixture.device.hold = nullptr;
    fixture.device.bytes.assign(volume_bytes, std::byte{0});  // the unanswered write of the former owner got lost
    fixture.device.loses = [](const block::Request&) { return true; };
  });
  fixture.host.on([&] { fixture.device.release_all(); });
  fixture.host.await([&] { return tasks.close(); });
  fixture.host.on([&] {
    fixture.device.loses = nullptr;
    fixture.server.reset();
  });
  fixture.start();
}

void hold_writes(Fixture& fixture) {
  fixture.host.on([&] {
    fixture.device.hold = [](const block::Request& request) { return request.operation == block::Operation::write; };
  });
}

TEST(RealClients, qemu_io_with_reconnect_delay_sees_no_error_across_a_restart) {
  Fixture fixture;
  Interactive qemu(
      {"qemu-io", "--image-opts",
       "driver=nbd,server.type=unix,server.path=" + fixture.socket + ",export=tank/vm1,reconnect-delay=30"});
  qemu.say("write -P 1 0 64k");
  EXPECT_NE(qemu.hear("ops/sec").find("wrote 65536/65536"), std::string::npos);
  hold_writes(fixture);
  qemu.say("write -P 2 0 64k");
  restart_under_a_held_write(fixture, 1);
  std::string said = qemu.hear("ops/sec");
  EXPECT_NE(said.find("wrote 65536/65536"), std::string::npos) << said;
  qemu.say("read -P 2 0 64k");
  said = qemu.hear("ops/sec");
  EXPECT_NE(said.find("read 65536/65536"), std::string::npos) << said;
  EXPECT_EQ(said.find("failed"), std::string::npos) << said;
  qemu.say("flush");
  qemu.say("quit");
  EXPECT_EQ(qemu.finish(), 0);
}

// QEMU's block layer as a virtual machine uses it: fio over nbd to a qemu-storage-daemon, which is our client.
TEST(RealClients, qemu_storage_daemon_with_reconnect_delay_hides_a_restart_from_its_guest) {
  Fixture fixture;
  std::string guest_socket = fixture.folder + "/guest.sock";
  Interactive daemon({"qemu-storage-daemon", "--blockdev",
                      "driver=nbd,node-name=disk,server.type=unix,server.path=" + fixture.socket +
                          ",export=tank/vm1@vm-100,reconnect-delay=30",
                      "--nbd-server", "addr.type=unix,addr.path=" + guest_socket, "--export",
                      "type=nbd,id=guest,node-name=disk,name=disk,writable=on", "--pidfile", fixture.folder + "/pid"});
  Deadline deadline = Deadline::in_ms(30'000);
  while (!std::filesystem::exists(fixture.folder + "/pid") && !deadline.passed()) std::this_thread::yield();
  std::promise<Outcome> guest;
  std::thread load([&] {
    guest.set_value(run("fio --name=guest --ioengine=nbd --uri='nbd+unix:///disk?socket=" + guest_socket +
                        "' --rw=randwrite --bs=4k --size=4M --io_size=16M --iodepth=8 --verify=crc32c --do_verify=1 "
                        "--verify_state_save=0 --fsync=16"));
  });
  std::size_t written = 0;
  for (int restart = 0; restart < 3; ++restart) {
    ASSERT_TRUE(fixture.host.until([&] { return fixture.device.seen.size() > written + 200; }));
    fixture.stop();
    fixture.start();
    written = fixture.host.on([&] { return fixture.device.seen.size(); });
  }
  load.join();
  Outcome outcome = guest.get_future().get();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("err= 0"), std::string::npos) << outcome.output;
}

}  // namespace
}  // namespace zpair::nbd
