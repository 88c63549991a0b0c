// The client and the verified load against our server over a device that is broken on purpose.
#include "drill/load.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "host.h"
#include "memory_device.h"
#include "nbd/server.h"
#include "nbd/socket_handover.h"

namespace zpair::drill {
namespace {

using block::Operation;
using test::Bytes;
using test::filled;
using test::Host;
using test::MemoryDevice;

struct Fixture {
  Fixture() {
    listening = std::move(*host.on([this] { return block::Listener::listen(block::Endpoint{"unix:" + path}); }));
    start();
  }
  ~Fixture() {
    stop();
    ::unlink(path.c_str());
  }
  void start() {
    host.on([this] {
      server = std::make_unique<nbd::Server>();
      ASSERT_TRUE(server->add_export({"tank/vm1", &device, false}));
      auto listener = std::make_unique<block::Listener>(std::move(*nbd::duplicate(listening->fd())));
      ASSERT_TRUE(server->listen(std::move(listener), {nbd::Transport::local, "tank/vm1"}));
    });
  }
  void stop() {
    if (!server) return;
    host.on([this] { device.hold = nullptr; });
    host.on([this] { device.release_all(); });
    host.await([this] { return server->close(); });
    host.on([this] { server.reset(); });
  }
  NbdTarget target() const { return *NbdTarget::parse("nbd+unix:///tank/vm1?socket=" + path); }
  LoadOptions options() const {
    LoadOptions options;
    options.target = target();
    options.writers = 4;
    options.readers = 2;
    options.working_set_bytes = 4 << 20;
    options.client.retry_ms = 1;
    return options;
  }
  void break_device(std::function<void(MemoryDevice&)> how) {
    host.on([&] { how(device); });
  }

  Host host;
  MemoryDevice device{8 << 20};
  std::string path = test::socket_path("drill");
  std::unique_ptr<block::Listener> listening;
  std::unique_ptr<nbd::Server> server;
};

// ---- the client -----------------------------------------------------------------------------------------------------

struct ClientFixture : Fixture {
  ClientFixture() {
    host.on([this] { client = std::make_unique<NbdClient>(target(), NbdClientOptions{1, {}}); });
    opened = host.await([this] { return client->open(Deadline::in_ms(10'000)); }).has_value();
  }
  ~ClientFixture() {
    host.await([this] { return client->close(); });
    host.on([this] { client.reset(); });
  }
  std::unique_ptr<NbdClient> client;
  bool opened = false;
};

TEST(NbdClient, reads_what_it_wrote_in_any_size) {
  ClientFixture fixture;
  ASSERT_TRUE(fixture.opened);
  EXPECT_EQ(fixture.client->info().size_bytes, 8u << 20);
  EXPECT_EQ(fixture.client->info().block_size_bytes, 4096u);
  for (std::size_t size : {4096u, 65536u, 1u << 20, 4u << 20}) {
    Bytes sent = filled(size, int(size >> 12));
    sent[size / 2] = std::byte{77};
    EXPECT_TRUE(fixture.host.await([&] { return fixture.client->write_durable(4096, sent); }));
    Bytes back(size);
    EXPECT_TRUE(fixture.host.await([&] { return fixture.client->read(4096, back); }));
    EXPECT_EQ(back, sent);
  }
  EXPECT_TRUE(fixture.host.await([&] { return fixture.client->flush(); }));
  EXPECT_TRUE(fixture.host.await([&] { return fixture.client->trim(0, 8192); }));
  EXPECT_TRUE(fixture.host.await([&] { return fixture.client->write_zeroes(0, 8192); }));
}

TEST(NbdClient, the_server_s_errors_are_the_caller_s) {
  ClientFixture fixture;
  Bytes block(4096);
  EXPECT_EQ(fixture.host.await([&] { return fixture.client->write(8 << 20, block); }).error().code,
            ErrorCode::no_space);
  EXPECT_EQ(fixture.host.await([&] { return fixture.client->read(8 << 20, block); }).error().code, ErrorCode::invalid);
  fixture.break_device([](MemoryDevice& device) { device.status = [](auto&) { return block::IoStatus::io_error; }; });
  EXPECT_EQ(fixture.host.await([&] { return fixture.client->read(0, block); }).error().code, ErrorCode::io);
}

TEST(NbdClient, what_was_not_answered_is_sent_again_after_a_restart) {
  ClientFixture fixture;
  fixture.break_device([](MemoryDevice& device) {
    device.hold = [](auto&) { return true; };
    device.loses = [](auto&) { return true; };  // the former owner's unanswered writes vanish
  });
  Bytes bytes = filled(8192, 5);
  std::atomic<bool> done = false;
  auto write = [](NbdClient& client, Bytes& what, std::atomic<bool>& over) -> block::Task<void> {
    auto written = co_await client.write(0, what);
    over = written.has_value();
  };
  block::TaskGroup tasks;
  fixture.host.on([&] { tasks.spawn(write(*fixture.client, bytes, done)); });
  ASSERT_TRUE(fixture.host.until([&] { return fixture.device.held.size() == 1; }));
  fixture.break_device([](MemoryDevice& device) { device.status = [](auto&) { return block::IoStatus::cancelled; }; });
  fixture.stop();
  EXPECT_FALSE(done);
  fixture.break_device([](MemoryDevice& device) {
    device.loses = nullptr;
    device.status = nullptr;
  });
  fixture.start();
  EXPECT_TRUE(fixture.host.until([&] { return done.load(); }));
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.bytes[8191]; }), std::byte{5});
  EXPECT_GE(fixture.client->resent_count(), 1u);  // more when it came back before the former server had closed
  EXPECT_GE(fixture.client->connection_count(), 2u);
  fixture.host.await([&] { return tasks.close(); });
}

TEST(NbdClient, an_address_where_nobody_answers_is_left_for_the_other) {
  Fixture fixture;
  const std::string silent_path = test::socket_path("silent");
  auto silent =
      std::move(*fixture.host.on([&] { return block::Listener::listen(block::Endpoint{"unix:" + silent_path}); }));
  auto target = NbdTarget::parse("nbd+unix:///tank/vm1@x?socket=" + silent_path +
                                 ",nbd+unix:///tank/vm1@x?socket=" + fixture.path);
  ASSERT_TRUE(target);
  NbdClient client(*target, {1, {}});
  EXPECT_TRUE(fixture.host.await([&] { return client.open(Deadline::in_ms(20'000)); }));
  Bytes block(4096);
  EXPECT_TRUE(fixture.host.await([&] { return client.read(0, block); }));
  fixture.host.await([&] { return client.close(); });
  fixture.host.on([&] { silent.reset(); });
  ::unlink(silent_path.c_str());
}

TEST(NbdClient, nobody_there_is_a_time_out_and_closing_ends_what_waits) {
  Host host;
  NbdClient client(*NbdTarget::parse("nbd+unix:///tank/vm1?socket=/nonexistent/socket"), {1, {}});
  auto opened = host.await([&] { return client.open(Deadline::in_ms(5)); });
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::timed_out);
  std::atomic<bool> cancelled = false;
  auto read = [](NbdClient& from, std::atomic<bool>& over) -> block::Task<void> {
    Bytes bytes(4096);
    auto got = co_await from.read(0, bytes);
    over = !got && got.error().code == ErrorCode::cancelled;
  };
  block::TaskGroup tasks;
  host.on([&] { tasks.spawn(read(client, cancelled)); });
  host.await([&] { return client.close(); });
  host.await([&] { return tasks.close(); });
  EXPECT_TRUE(cancelled);
}

// ---- the load -------------------------------------------------------------------------------------------------------

// Runs a load for some hundred operations, `meanwhile`, verifies, and returns its report.
LoadReport run_load(Fixture& fixture, LoadOptions options, const std::function<void(Load&)>& meanwhile = {}) {
  Load* load = fixture.host.on([&] { return new Load(options); });
  auto opened = fixture.host.await([&] { return load->open(Deadline::in_ms(10'000)); });
  EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
  fixture.host.on([&] { load->start(); });
  auto more = [&] {
    std::uint64_t before = fixture.host.on([&] { return load->operations(); });
    EXPECT_TRUE(fixture.host.until([&] { return load->operations() >= before + 300; }));
  };
  more();
  if (meanwhile) meanwhile(*load);
  more();
  fixture.host.await([&] { return load->stop(); });
  EXPECT_TRUE(fixture.host.on([&] { return load->save_state(); }));
  (void)fixture.host.await([&] { return load->verify(); });
  LoadReport report = fixture.host.on([&] { return load->report(); });
  fixture.host.await([&] { return load->close(); });
  fixture.host.on([&] { delete load; });
  return report;
}

TEST(Load, a_sound_device_is_found_sound) {
  Fixture fixture;
  LoadReport report = run_load(fixture, fixture.options());
  EXPECT_TRUE(report.good()) << to_json({report});
  EXPECT_GT(report.counts.acknowledged_blocks, 100u);
  EXPECT_GT(report.counts.reads_checked_blocks, 100u);
  EXPECT_EQ(report.counts.verified_blocks, 1024u);
  EXPECT_GT(report.write_operations, 100u);
  EXPECT_GT(report.read_operations, 10u);
}

TEST(Load, restarts_of_the_server_lose_nothing_and_are_measured) {
  Fixture fixture;
  LoadReport report = run_load(fixture, fixture.options(), [&](Load& load) {
    for (int i = 0; i < 3; ++i) {
      auto event = fixture.host.on([&] { return load.begin_event("restart"); });
      fixture.stop();
      std::uint64_t stopped = fixture.host.on([&] { return load.operations(); });
      EXPECT_TRUE(fixture.host.until([&] { return load.stalled_now_ms() >= 30; }));
      fixture.start();
      EXPECT_TRUE(fixture.host.until([&] { return load.operations() > stopped + 50; }));
      fixture.host.on([&] { load.end_event(event); });
    }
  });
  EXPECT_TRUE(report.good()) << to_json({report});
  EXPECT_GE(report.reconnects, 3u);
  ASSERT_EQ(report.events.size(), 3u);
  for (const auto& event : report.events) {
    EXPECT_EQ(event.name, "restart");
    EXPECT_GE(event.stall_ms, 30u);
    EXPECT_LE(event.stall_ms, event.length_ms + 1000);
  }
  EXPECT_GE(report.stall_ms, 30u);
}

TEST(Load, a_device_that_drops_an_acknowledged_write_is_found) {
  Fixture fixture;
  LoadOptions options = fixture.options();
  options.readers = 0;
  LoadReport report = run_load(fixture, options, [&](Load&) {
    fixture.break_device([](MemoryDevice& device) {
      device.loses = [count = 0](const block::Request& request) mutable {
        return request.operation == Operation::write && ++count % 40 == 0;
      };
    });
  });
  EXPECT_FALSE(report.good());
  EXPECT_GT(report.counts.lost, 0u);
  EXPECT_EQ(report.counts.corrupt, 0u);
  EXPECT_FALSE(report.findings.empty());
}

TEST(Load, a_takeover_that_forgets_the_last_writes_is_found) {  // a gate that acknowledged on one leg only
  Fixture fixture;
  Bytes other_leg;
  LoadReport report = run_load(fixture, fixture.options(), [&](Load& load) {
    fixture.break_device([&](MemoryDevice& device) { other_leg = device.bytes; });
    std::uint64_t before = fixture.host.on([&] { return load.operations(); });
    EXPECT_TRUE(fixture.host.until([&] { return load.operations() > before + 100; }));
    fixture.stop();
    fixture.break_device([&](MemoryDevice& device) { device.bytes = other_leg; });
    fixture.start();
  });
  EXPECT_GT(report.counts.lost + report.counts.went_back, 0u);
}

TEST(Load, reads_that_go_back_are_found_although_the_end_is_right) {
  Fixture fixture;
  Bytes older;
  LoadReport report = run_load(fixture, fixture.options(), [&](Load& load) {
    fixture.break_device([&](MemoryDevice& device) { older = device.bytes; });
    std::uint64_t before = fixture.host.on([&] { return load.operations(); });
    EXPECT_TRUE(fixture.host.until([&] { return load.operations() > before + 200; }));
    fixture.break_device([&](MemoryDevice& device) {  // every fifth read comes from a former owner
      device.on_read = [&older, count = 0](const block::Request& request, std::byte* data) mutable {
        if (++count % 5 == 0) std::memcpy(data, older.data() + request.offset_bytes, request.size_bytes);
      };
    });
    before = fixture.host.on([&] { return load.operations(); });
    EXPECT_TRUE(fixture.host.until([&] { return load.operations() > before + 300; }));
    fixture.break_device([](MemoryDevice& device) { device.on_read = nullptr; });
  });
  EXPECT_GT(report.counts.went_back, 0u);
  EXPECT_EQ(report.counts.lost, 0u);
  EXPECT_EQ(report.counts.corrupt, 0u);
}

TEST(Load, a_device_that_changes_a_byte_is_found) {
  Fixture fixture;
  LoadReport report = run_load(fixture, fixture.options(), [&](Load&) {
    fixture.break_device([](MemoryDevice& device) {
      device.on_read = [](const block::Request& request, std::byte* data) {
        if (request.offset_bytes <= 4096 && request.offset_bytes + request.size_bytes > 4096)
          data[4096 - request.offset_bytes + 200] ^= std::byte{4};
      };
    });
  });
  EXPECT_GT(report.counts.corrupt, 0u);
}

TEST(Load, errors_are_counted_and_told) {
  Fixture fixture;
  LoadReport report = run_load(fixture, fixture.options(), [&](Load& load) {
    fixture.break_device([](MemoryDevice& device) { device.status = [](auto&) { return block::IoStatus::io_error; }; });
    EXPECT_TRUE(fixture.host.until([&] { return load.report().failed_operations > 3; }));
    fixture.break_device([](MemoryDevice& device) { device.status = nullptr; });
  });
  EXPECT_FALSE(report.good());
  EXPECT_GT(report.failed_operations, 3u);
  EXPECT_EQ(report.counts.bad(), 0u);
  EXPECT_EQ(report.first_error, "the server answered error 5");
}

TEST(Load, the_state_lets_a_later_load_go_on_and_verify) {
  Fixture fixture;
  LoadOptions options = fixture.options();
  options.state_file = test::socket_path("state");
  EXPECT_TRUE(run_load(fixture, options).good());
  options.seed = 2;
  EXPECT_TRUE(run_load(fixture, options).good());
  fixture.break_device([](MemoryDevice& device) { std::ranges::fill(device.bytes, std::byte{0}); });
  EXPECT_GT(run_load(fixture, options).counts.bad(), 0u);
  std::filesystem::remove(options.state_file);
}

TEST(Load, a_rate_is_kept) {
  Fixture fixture;
  LoadOptions options = fixture.options();
  options.operations_per_second = 2000;
  LoadReport report = run_load(fixture, options);
  EXPECT_TRUE(report.good());
  EXPECT_LT(report.operations_per_second, 2500);
}

TEST(Load, an_abandoned_load_ends_although_nobody_serves) {
  Fixture fixture;
  Load* load = fixture.host.on([&] { return new Load(fixture.options()); });
  ASSERT_TRUE(fixture.host.await([&] { return load->open(Deadline::in_ms(10'000)); }));
  fixture.host.on([&] { load->start(); });
  fixture.stop();
  fixture.host.await([&] { return load->abandon(); });
  fixture.start();
  EXPECT_TRUE(fixture.host.await([&] { return load->verify(); }));
  EXPECT_TRUE(fixture.host.on([&] { return load->report().good(); }));
  fixture.host.await([&] { return load->close(); });
  fixture.host.on([&] { delete load; });
}

// ---- the program ----------------------------------------------------------------------------------------------------

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

TEST(ZpairLoad, ends_with_the_standard_input_that_it_takes_commands_from) {
  Fixture fixture;
  Outcome ran =
      run("sh -c '(sleep 0.3; printf \"mark one\") | " ZPAIR_LOAD " run \"nbd+unix:///tank/vm1?socket=" + fixture.path +
          "\" --working-set 4M --control - --json -'");  // the last line has no end
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  EXPECT_NE(ran.output.find("\"name\": \"one\""), std::string::npos) << ran.output;
}

TEST(ZpairLoad, runs_measures_marked_events_saves_its_state_and_verifies) {
  Fixture fixture;
  std::string uri = " 'nbd+unix:///tank/vm1?socket=" + fixture.path + "'";
  std::string state = test::socket_path("program-state");
  Outcome ran = run("sh -c '(echo mark one; echo mark two; echo end; sleep 1) | " ZPAIR_LOAD
                    " run \"nbd+unix:///tank/vm1?socket=" +
                    fixture.path + "\" --seconds 0.3 --working-set 4M --control - --json - --state " + state + "'");
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  for (const char* part :
       {"\"good\": true", "\"name\": \"one\"", "\"name\": \"two\"", "\"verified\": true", "lost 0, corrupt 0"}) {
    EXPECT_NE(ran.output.find(part), std::string::npos) << part << " is missing in\n" << ran.output;
  }
  Outcome verified = run(ZPAIR_LOAD " verify" + uri + " --state " + state);
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
  fixture.break_device([](MemoryDevice& device) { std::fill(device.bytes.begin(), device.bytes.end(), std::byte{0}); });
  Outcome lost = run(ZPAIR_LOAD " verify" + uri + " --state " + state);
  EXPECT_EQ(lost.exit_code, 1) << lost.output;
  EXPECT_NE(lost.output.find(": lost: holds write 0"), std::string::npos) << lost.output;
  std::filesystem::remove(state);
}

TEST(ZpairLoad, wrong_use_is_exit_2_and_nobody_there_exit_1) {
  EXPECT_EQ(run(ZPAIR_LOAD " run nonsense").exit_code, 2);
  EXPECT_EQ(run(ZPAIR_LOAD " run").exit_code, 2);
  EXPECT_EQ(run(ZPAIR_LOAD " verify nbd://127.0.0.1:9/x --state /nonexistent").exit_code, 2);
  EXPECT_EQ(run(ZPAIR_LOAD " run 'nbd+unix:///x?socket=/nonexistent' --connect-timeout 0.1").exit_code, 1);
}

}  // namespace
}  // namespace zpair::drill
