#include "nbd/server.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "host.h"
#include "memory_device.h"
#include "nbd/link.h"
#include "nbd/socket_handover.h"

namespace zpair::nbd {
namespace {

using block::IoStatus;
using block::Operation;
using test::Bytes;
using test::filled;
using test::Host;
using test::MemoryDevice;
using test::RawClient;

constexpr std::uint64_t volume_bytes = 1 << 20;

// A server of one volume, tank/vm1, at a Unix socket.
struct Fixture {
  explicit Fixture(ServerOptions options = {}) {
    listening = std::move(*host.on([this] { return block::Listener::listen(block::Endpoint{"unix:" + path}); }));
    start(std::move(options));
  }
  ~Fixture() {
    stop();
    ::unlink(path.c_str());
  }
  void start(ServerOptions options = {}) {
    host.on([&] {
      server = std::make_unique<Server>(std::move(options));
      ASSERT_TRUE(server->add_export({"tank/vm1", &device, false}));
      auto listener = std::make_unique<block::Listener>(std::move(*duplicate(listening->fd())));
      ASSERT_TRUE(server->listen(std::move(listener), {Transport::local, "tank/vm1"}));
    });
  }
  void stop() {
    if (!server) return;
    host.on([this] { device.hold = nullptr; });
    host.on([this] { device.release_all(); });
    host.await([this] { return server->close(); });
    host.on([this] { server.reset(); });
  }
  RawClient client(std::string_view name = "tank/vm1", bool structured = false) {
    RawClient client = RawClient::to_unix(path);
    EXPECT_TRUE(client.go(name, structured));
    return client;
  }
  // Both ends of a connection that comes in as `transport`.
  RawClient connect_as(Transport transport) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    host.on([&] { server->serve(std::make_unique<block::Stream>(UniqueFd(ends[0])), {transport, ""}); });
    return RawClient(ends[1]);
  }
  void hold_writes() {
    host.on(
        [this] { device.hold = [](const block::Request& request) { return request.operation == Operation::write; }; });
  }
  void release() {
    host.on([this] { device.hold = nullptr; });
    host.on([this] { device.release_all(); });
  }
  // A connection is ending and waits for its requests.
  [[nodiscard]] bool one_ends() {
    return host.until([&] { return std::ranges::any_of(server->status()[0].clients, &ClientStatus::ending); });
  }
  [[nodiscard]] bool held(std::size_t count) {
    return host.until([&] { return device.held.size() == count; });
  }

  Host host;
  MemoryDevice device{volume_bytes};
  std::string path = test::socket_path("server");
  std::unique_ptr<block::Listener> listening;
  std::unique_ptr<Server> server;
};

TEST(Server, writes_and_reads_with_simple_replies) {
  Fixture fixture;
  RawClient client = fixture.client();
  client.request(wire::cmd_write, 7, 8192, 4096, filled(4096, 0xab));
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 7}));
  client.request(wire::cmd_read, 8, 8190, 8);  // off the blocks: reads may be
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 8}));
  Bytes expected = {std::byte{0}, std::byte{0}};
  expected.resize(8, std::byte{0xab});
  EXPECT_EQ(client.receive(8), expected);
}

TEST(Server, structured_read_is_one_chunk_with_its_offset) {
  Fixture fixture;
  fixture.host.on([&] { fixture.device.bytes.assign(volume_bytes, std::byte{0x5a}); });
  RawClient client = fixture.client("tank/vm1", true);
  client.request(wire::cmd_read, 0x1122334455667788, 4096, 512);
  Bytes header = client.receive(28);
  ASSERT_EQ(header.size(), 28u);
  EXPECT_EQ(wire::load<std::uint32_t>(header.data()), 0x668e33efu);
  EXPECT_EQ(wire::load<std::uint16_t>(header.data() + 4), wire::chunk_flag_done);
  EXPECT_EQ(wire::load<std::uint16_t>(header.data() + 6), wire::chunk_offset_data);
  EXPECT_EQ(wire::load<std::uint64_t>(header.data() + 8), 0x1122334455667788u);
  EXPECT_EQ(wire::load<std::uint32_t>(header.data() + 16), 8u + 512u);
  EXPECT_EQ(wire::load<std::uint64_t>(header.data() + 20), 4096u);
  EXPECT_EQ(client.receive(512), filled(512, 0x5a));
  client.request(wire::cmd_read, 9, volume_bytes, 4096);  // out of range: an error chunk
  Bytes error = client.receive(26);
  ASSERT_EQ(error.size(), 26u);
  EXPECT_EQ(wire::load<std::uint16_t>(error.data() + 6), wire::chunk_error);
  EXPECT_EQ(wire::load<std::uint32_t>(error.data() + 16), 6u);
  EXPECT_EQ(wire::load<std::uint32_t>(error.data() + 20), 22u);
}

TEST(Server, each_command_reaches_the_device_as_it_is) {
  Fixture fixture;
  RawClient client = fixture.client();
  client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1), wire::cmd_flag_fua);
  client.request(wire::cmd_trim, 2, 4096, 8192);
  client.request(wire::cmd_write_zeroes, 3, 16384, 4096, {}, wire::cmd_flag_fua | wire::cmd_flag_no_hole);
  client.request(wire::cmd_flush, 4, 0, 0);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(client.simple().error, 0u);
  auto seen = fixture.host.on([&] { return fixture.device.seen; });
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[0].operation, Operation::write);
  EXPECT_TRUE(seen[0].durable);
  EXPECT_EQ(seen[1].operation, Operation::trim);
  EXPECT_FALSE(seen[1].durable);
  EXPECT_EQ(seen[1].size_bytes, 8192u);
  EXPECT_EQ(seen[2].operation, Operation::write_zeroes);
  EXPECT_TRUE(seen[2].durable);
  EXPECT_EQ(seen[3].operation, Operation::flush);
  EXPECT_EQ(seen[3].size_bytes, 0u);
}

TEST(Server, bad_requests_get_their_error_and_the_connection_goes_on) {
  Fixture fixture;
  RawClient client = fixture.client();
  client.request(wire::cmd_write, 1, volume_bytes - 4096, 8192, filled(8192, 1));  // its payload is read and dropped
  EXPECT_EQ(client.simple(), (RawClient::Simple{28, 1}));
  client.request(99, 2, 0, 0);
  EXPECT_EQ(client.simple(), (RawClient::Simple{22, 2}));
  client.request(wire::cmd_write, 3, 0, 1 << 20, filled(1 << 20, 2));
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 3}));
  client.request(wire::cmd_write, 4, 12, 1 << 19, filled(1 << 19, 2));
  EXPECT_EQ(client.simple(), (RawClient::Simple{22, 4}));
}

TEST(Server, bytes_that_are_no_request_end_the_connection) {
  Fixture fixture;
  RawClient client = fixture.client();
  client.send(filled(28, 0x77));
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(fixture.host.on([&] { return fixture.device.seen.empty(); }));
}

TEST(Server, device_errors_become_nbd_errors) {
  const std::pair<IoStatus, std::uint32_t> cases[] = {
      {IoStatus::io_error, 5}, {IoStatus::media_error, 5}, {IoStatus::no_space, 28}, {IoStatus::invalid, 22}};
  Fixture fixture;
  RawClient client = fixture.client();
  for (auto [status, error] : cases) {
    fixture.host.on([&] { fixture.device.status = [status](const block::Request&) { return status; }; });
    client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
    EXPECT_EQ(client.simple().error, error) << block::name_of(status);
  }
}

TEST(Server, a_fenced_or_closed_device_ends_the_client_without_a_word) {
  for (IoStatus status : {IoStatus::fenced, IoStatus::cancelled}) {
    Fixture fixture;
    RawClient client = fixture.client();
    fixture.host.on([&] { fixture.device.status = [status](const block::Request&) { return status; }; });
    client.request(wire::cmd_read, 1, 0, 4096);
    EXPECT_TRUE(client.ended());
  }
}

TEST(Server, many_requests_are_in_flight_at_once_and_replies_come_in_any_order) {
  Fixture fixture;
  RawClient client = fixture.client();
  fixture.hold_writes();
  for (std::uint64_t i = 0; i < 32; ++i) client.request(wire::cmd_write, i, i * 4096, 4096, filled(4096, int(i)));
  EXPECT_TRUE(fixture.held(32));
  client.request(wire::cmd_read, 100, 0, 4096);
  EXPECT_EQ(client.simple().cookie, 100u);  // overtakes
  (void)client.receive(4096);
  fixture.release();
  std::uint64_t cookies = 0;
  for (int i = 0; i < 32; ++i) cookies += client.simple().cookie;
  EXPECT_EQ(cookies, 31u * 32 / 2);
}

TEST(Server, more_than_the_limit_waits_in_the_socket) {
  ServerOptions options;
  options.requests_per_connection = 4;
  Fixture fixture(std::move(options));
  RawClient client = fixture.client();
  fixture.hold_writes();
  for (std::uint64_t i = 0; i < 8; ++i) client.request(wire::cmd_write, i, i * 4096, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(4));
  fixture.release();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(client.simple().error, 0u);
}

TEST(Server, goodbye_is_answered_by_finishing_what_is_in_flight) {
  Fixture fixture;
  RawClient client = fixture.client();
  fixture.hold_writes();
  client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 9));
  client.request(wire::cmd_disc, 2, 0, 0);
  EXPECT_TRUE(fixture.held(1));
  fixture.release();
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 1}));
  EXPECT_TRUE(client.ended());
}

// Rule 6.
TEST(Server, a_read_is_held_while_it_is_not_permitted_and_writes_are_not) {
  std::atomic<bool> permitted = false;
  ServerOptions options;
  options.read_permitted = [&] { return permitted.load(); };
  Fixture fixture(std::move(options));
  RawClient client = fixture.client();
  client.request(wire::cmd_read, 1, 0, 4096);
  EXPECT_TRUE(fixture.host.until([&] { return fixture.server->status()[0].reads_held == 1; }));
  client.request(wire::cmd_write, 2, 0, 4096, filled(4096, 1));
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 2}));
  EXPECT_TRUE(client.silent());
  permitted = true;
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 1}));
  EXPECT_EQ(client.receive(4096), filled(4096, 0));  // taken before the write
}

TEST(Server, block_status_tells_data_from_holes) {
  Fixture fixture;
  fixture.host.on([&] { std::fill_n(fixture.device.bytes.begin() + 8192, 4096, std::byte{1}); });
  RawClient client = RawClient::to_unix(fixture.path);
  ASSERT_TRUE(client.go("tank/vm1", true, true));
  using Extents = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
  client.request(wire::cmd_block_status, 1, 4096, 65536);
  EXPECT_EQ(client.block_status(), (Extents{{4096, 3}, {4096, 0}, {57344, 3}}));
  client.request(wire::cmd_block_status, 2, 0, volume_bytes, {}, wire::cmd_flag_req_one);
  EXPECT_EQ(client.block_status(), (Extents{{8192, 3}}));
  client.request(wire::cmd_block_status, 3, 8192, 4096);
  EXPECT_EQ(client.block_status(), (Extents{{4096, 0}}));
  client.request(wire::cmd_block_status, 4, 0, volume_bytes + 4096);  // out of range: an error chunk
  EXPECT_EQ(wire::load<std::uint32_t>(client.receive(26).data() + 20), 22u);
  for (std::size_t block = 0; block < volume_bytes / 4096; block += 2)
    fixture.host.on([&] { fixture.device.bytes[block * 4096] = std::byte{1}; });
  client.request(wire::cmd_block_status, 5, 0, volume_bytes);
  EXPECT_EQ(client.block_status().size(), volume_bytes / 4096);
}

// Rule 6.
TEST(Server, where_the_holes_are_is_held_as_a_read_is) {
  std::atomic<bool> permitted = false;
  ServerOptions options;
  options.read_permitted = [&] { return permitted.load(); };
  Fixture fixture(std::move(options));
  RawClient client = RawClient::to_unix(fixture.path);
  ASSERT_TRUE(client.go("tank/vm1", true, true));
  client.request(wire::cmd_block_status, 1, 0, 4096);
  EXPECT_TRUE(fixture.host.until([&] { return fixture.server->status()[0].reads_held == 1; }));
  EXPECT_TRUE(client.silent());
  permitted = true;
  EXPECT_EQ(client.block_status().size(), 1u);
}

TEST(Server, a_held_read_is_never_answered_when_the_server_closes) {
  ServerOptions options;
  options.read_permitted = [] { return false; };
  Fixture fixture(std::move(options));
  RawClient client = fixture.client();
  client.request(wire::cmd_read, 1, 0, 4096);
  EXPECT_TRUE(fixture.host.until([&] { return fixture.server->status()[0].reads_held == 1; }));
  fixture.stop();
  EXPECT_TRUE(client.ended());
}

TEST(Server, pause_returns_when_requests_have_finished_and_sends_no_new_ones) {
  Fixture fixture;
  RawClient client = fixture.client();
  fixture.hold_writes();
  client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(1));
  std::atomic<bool> paused = false;
  auto drain = [](Server& server, std::atomic<bool>& done) -> block::Task<void> {
    co_await server.pause();
    done = true;
  };
  block::TaskGroup tasks;
  fixture.host.on([&] { tasks.spawn(drain(*fixture.server, paused)); });
  EXPECT_FALSE(paused);
  client.request(wire::cmd_write, 2, 4096, 4096, filled(4096, 2));
  fixture.release();
  EXPECT_TRUE(fixture.host.until([&] { return paused.load(); }));
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 1}));
  RawClient late = RawClient::to_unix(fixture.path);  // waits in the backlog
  EXPECT_TRUE(late.silent());
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.seen.size(); }), 1u);
  fixture.host.on([&] { fixture.server->resume(); });
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 2}));
  EXPECT_TRUE(late.go("tank/vm1"));
  fixture.host.await([&] { return tasks.close(); });
}

TEST(Server, close_waits_for_requests_and_answers_nothing) {
  Fixture fixture;
  RawClient client = fixture.client();
  fixture.hold_writes();
  client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(1));
  std::atomic<bool> closed = false;
  auto close = [](Server& server, std::atomic<bool>& done) -> block::Task<void> {
    co_await server.close();
    done = true;
  };
  block::TaskGroup tasks;
  fixture.host.on([&] { tasks.spawn(close(*fixture.server, closed)); });
  EXPECT_TRUE(fixture.one_ends());
  EXPECT_TRUE(client.silent());  // not even its end: the write may still land
  EXPECT_FALSE(closed);
  fixture.release();
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(fixture.host.until([&] { return closed.load(); }));
  fixture.host.await([&] { return tasks.close(); });
}

TEST(Server, a_client_that_comes_while_nobody_serves_is_served_by_the_next_owner) {
  Fixture fixture;
  fixture.stop();
  RawClient client = RawClient::to_unix(fixture.path);  // not refused
  EXPECT_TRUE(client.silent());
  fixture.start();
  EXPECT_TRUE(client.go("tank/vm1"));
}

TEST(Server, removing_an_export_ends_its_clients_and_frees_the_device) {
  Fixture fixture;
  RawClient client = fixture.client();
  auto removed = fixture.host.await([&] { return fixture.server->remove_export("tank/vm1"); });
  EXPECT_TRUE(removed);
  EXPECT_TRUE(client.ended());
  auto again = fixture.host.await([&] { return fixture.server->remove_export("tank/vm1"); });
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::not_found);
}

TEST(Server, what_came_for_a_removed_export_is_not_served_by_the_next_of_its_name) {
  Fixture fixture;
  const auto replace = [&](std::uint64_t identity) {
    EXPECT_TRUE(fixture.host.await([&] { return fixture.server->remove_export("tank/vm1"); }));
    EXPECT_TRUE(
        fixture.host.on([&] { return fixture.server->add_export({"tank/vm1", &fixture.device, false, identity}); }));
  };
  const Uuid relay = Uuid::random();
  const auto link = [&](std::uint64_t session, const char* volume) {
    RawClient client = fixture.connect_as(Transport::relay);
    client.send(encode(LinkHeader{LinkKind::client, NodeId::b, relay, session, volume, {}}));
    Bytes answer = client.receive(9);
    EXPECT_EQ(answer.size(), 9u);
    return std::pair(std::move(client), static_cast<LinkAnswer>(answer.empty() ? std::byte{} : answer.back()));
  };
  replace(7);
  auto [linked, admitted] = link(1, "tank/vm1~7");
  EXPECT_EQ(admitted, LinkAnswer::admitted);
  constexpr std::size_t greeting_bytes = 18;
  EXPECT_EQ(linked.receive(greeting_bytes).size(), greeting_bytes);
  replace(8);
  EXPECT_TRUE(linked.ended()) << "a link that was made for the former volume, in its handshake";
  EXPECT_EQ(link(2, "tank/vm1~7").second, LinkAnswer::unknown_volume);
  auto [newer, for_the_new] = link(3, "tank/vm1~8");
  EXPECT_EQ(for_the_new, LinkAnswer::admitted);
  EXPECT_TRUE(newer.go("tank/vm1~8"));
  RawClient bad = fixture.connect_as(Transport::relay);
  bad.send(encode(LinkHeader{LinkKind::client, NodeId::b, relay, 4, "tank/vm1~", {}}));
  EXPECT_TRUE(bad.ended());
}

TEST(Server, a_client_that_left_without_a_goodbye_is_told) {
  Fixture fixture;
  const auto lost_ns = [&] { return fixture.host.on([&] { return fixture.server->status()[0].client_lost_ns; }); };
  const auto alone = [&] { return fixture.host.until([&] { return fixture.server->status()[0].clients.empty(); }); };
  RawClient polite = fixture.client();
  polite.request(wire::cmd_disc, 1, 0, 0);
  EXPECT_TRUE(polite.ended());
  EXPECT_TRUE(alone());
  EXPECT_EQ(lost_ns(), 0);
  RawClient lost = fixture.client();
  lost.hang_up();
  EXPECT_TRUE(alone());
  EXPECT_GT(lost_ns(), 0);
}

TEST(Server, a_client_that_does_not_finish_its_handshake_is_dropped_and_others_are_not) {
  ServerOptions options;
  options.handshake_ms = 100;
  Fixture fixture(options);
  RawClient speaking = fixture.client();
  RawClient silent = RawClient::to_unix(fixture.path);
  constexpr std::size_t greeting_bytes = 18;
  EXPECT_EQ(silent.receive(greeting_bytes).size(), greeting_bytes);
  EXPECT_TRUE(silent.ended());
  speaking.request(wire::cmd_write, 7, 8192, 4096, filled(4096, 0xab));
  EXPECT_EQ(speaking.simple(), (RawClient::Simple{0, 7})) << "who has chosen its export stays";
}

TEST(Server, a_client_that_asks_and_never_reads_is_dropped_too) {
  ServerOptions options;
  options.handshake_ms = 100;
  Fixture fixture(options);
  for (int number = 0; number < 100; ++number) {
    const std::string name = "tank/" + std::string(200, 'v') + std::to_string(number);
    EXPECT_TRUE(fixture.host.on([&] { return fixture.server->add_export({name, &fixture.device, false}); }));
  }
  RawClient deaf = fixture.connect_as(Transport::local);
  deaf.greet();
  for (int times = 0; times < 100; ++times) deaf.option(wire::opt_list);  // 2 MB of answers: more than a socket holds
  EXPECT_TRUE(fixture.host.until([&] { return deaf.hung_up_on(); })) << "what it does not read holds the server";
}

TEST(Server, wrong_use_is_one_clear_error) {
  Fixture fixture;
  fixture.host.on([&] {
    EXPECT_EQ(fixture.server->add_export({"tank/vm1", &fixture.device, false}).error().code, ErrorCode::exists);
    EXPECT_EQ(fixture.server->add_export({"tank/vm@1", &fixture.device, false}).error().code, ErrorCode::invalid);
    EXPECT_EQ(fixture.server->add_export({"tank/vm~1", &fixture.device, false}).error().code, ErrorCode::invalid);
    auto listener = std::make_unique<block::Listener>(std::move(*duplicate(fixture.listening->fd())));
    EXPECT_EQ(fixture.server->listen(std::move(listener), {Transport::local, "tank/vm2"}).error().code,
              ErrorCode::not_found);
  });
}

// ---- rule 10 --------------------------------------------------------------------------------------------------------

TEST(Clients, a_newer_connection_of_a_name_ends_the_older_and_waits_for_its_requests) {
  Fixture fixture;
  RawClient older = fixture.client("tank/vm1@vm-100");
  fixture.hold_writes();
  older.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(1));
  RawClient newer = fixture.client("tank/vm1@vm-100");
  newer.request(wire::cmd_write, 2, 0, 4096, filled(4096, 2));
  older.request(wire::cmd_write, 3, 4096, 4096, filled(4096, 3));  // comes too late: dropped
  EXPECT_TRUE(fixture.one_ends());
  EXPECT_TRUE(fixture.held(1));
  fixture.release();
  EXPECT_TRUE(older.ended());
  EXPECT_EQ(newer.simple(), (RawClient::Simple{0, 2}));
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.bytes[0]; }), std::byte{2});
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.bytes[4096]; }), std::byte{0});
}

TEST(Clients, other_names_are_not_disturbed) {
  Fixture fixture;
  RawClient one = fixture.client("tank/vm1@vm-100");
  RawClient two = fixture.client("tank/vm1@vm-101");
  RawClient unnamed = fixture.client();
  for (RawClient* client : {&one, &two, &unnamed}) {
    client->request(wire::cmd_flush, 1, 0, 0);
    EXPECT_EQ(client->simple().error, 0u);
  }
}

TEST(Clients, the_first_write_without_a_name_waits_for_connections_whose_peer_is_gone) {
  Fixture fixture;
  RawClient gone = fixture.client();
  fixture.hold_writes();
  gone.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(1));
  gone.hang_up();
  RawClient next = fixture.client();
  next.request(wire::cmd_read, 2, 0, 4096);  // reads do not wait
  EXPECT_EQ(next.simple().cookie, 2u);
  (void)next.receive(4096);
  next.request(wire::cmd_write, 3, 0, 4096, filled(4096, 3));
  EXPECT_TRUE(fixture.one_ends());
  EXPECT_TRUE(fixture.held(1));  // the new write did not reach the device
  fixture.release();
  EXPECT_EQ(next.simple(), (RawClient::Simple{0, 3}));
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.bytes[0]; }), std::byte{3});
}

TEST(Clients, several_without_a_name_write_side_by_side) {
  Fixture fixture;
  RawClient one = fixture.client();
  RawClient two = fixture.client();
  fixture.hold_writes();
  one.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  two.request(wire::cmd_write, 2, 4096, 4096, filled(4096, 2));
  EXPECT_TRUE(fixture.held(2));
  fixture.release();
  EXPECT_EQ(one.simple().error, 0u);
  EXPECT_EQ(two.simple().error, 0u);
}

TEST(Clients, over_tcp_a_name_is_required) {
  Fixture fixture;
  RawClient refused = fixture.connect_as(Transport::network);
  EXPECT_FALSE(refused.go("tank/vm1"));
  RawClient served = fixture.connect_as(Transport::network);
  EXPECT_TRUE(served.go("tank/vm1@vm-100"));
}

// ---- links of a relay -----------------------------------------------------------------------------------------------

struct Links {
  Fixture fixture;
  Uuid relay = Uuid::random();

  RawClient link(std::uint64_t session, std::vector<std::uint64_t> ends = {}, std::string volume = "tank/vm1") {
    RawClient client = fixture.connect_as(Transport::relay);
    client.send(encode(LinkHeader{LinkKind::client, NodeId::b, relay, session, std::move(volume), std::move(ends)}));
    return client;
  }
  static LinkAnswer answer(RawClient& client) {
    Bytes bytes = client.receive(9);
    return bytes.size() == 9 ? static_cast<LinkAnswer>(bytes[8]) : LinkAnswer{};
  }
  // A link with a write that the device holds.
  RawClient busy_link(std::uint64_t session) {
    RawClient client = link(session);
    EXPECT_EQ(answer(client), LinkAnswer::admitted);
    EXPECT_TRUE(client.go("tank/vm1"));
    fixture.hold_writes();
    client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
    EXPECT_TRUE(fixture.held(1));
    return client;
  }
};

TEST(Link, a_newer_link_of_a_session_is_admitted_when_the_former_has_finished) {
  Links links;
  RawClient former = links.busy_link(5);
  RawClient newer = links.link(5);
  EXPECT_TRUE(links.fixture.one_ends());
  EXPECT_TRUE(newer.silent());
  former.request(wire::cmd_write, 2, 0, 4096, filled(4096, 7));  // late bytes of the former link
  links.fixture.release();
  EXPECT_EQ(Links::answer(newer), LinkAnswer::admitted);
  EXPECT_TRUE(newer.go("tank/vm1"));
  newer.request(wire::cmd_write, 3, 0, 4096, filled(4096, 3));
  EXPECT_EQ(newer.simple().error, 0u);
  former.request(wire::cmd_write, 4, 0, 4096, filled(4096, 8));
  EXPECT_TRUE(former.ended());
  EXPECT_EQ(links.fixture.host.on([&] { return links.fixture.device.bytes[0]; }), std::byte{3});
}

TEST(Link, sessions_that_the_header_names_are_ended_others_are_not) {
  Links links;
  RawClient named = links.busy_link(5);
  RawClient other = links.link(6);
  EXPECT_EQ(Links::answer(other), LinkAnswer::admitted);
  RawClient newer = links.link(7, {5});
  EXPECT_TRUE(links.fixture.one_ends());
  EXPECT_TRUE(newer.silent());
  links.fixture.release();
  EXPECT_EQ(Links::answer(newer), LinkAnswer::admitted);
  EXPECT_TRUE(named.ended());
  EXPECT_TRUE(other.go("tank/vm1"));
}

TEST(Link, a_restarted_relay_ends_the_links_of_the_node_s_former_one) {
  Links links;
  RawClient former = links.busy_link(5);
  links.relay = Uuid::random();
  RawClient newer = links.link(1);
  EXPECT_TRUE(links.fixture.one_ends());
  links.fixture.release();
  EXPECT_EQ(Links::answer(newer), LinkAnswer::admitted);
  EXPECT_TRUE(former.ended());
}

TEST(Link, an_unknown_volume_is_said_and_a_bad_header_ends_the_link) {
  Links links;
  RawClient unknown = links.link(1, {}, "tank/vm9");
  EXPECT_EQ(Links::answer(unknown), LinkAnswer::unknown_volume);
  RawClient bad = links.fixture.connect_as(Transport::relay);
  bad.send(filled(64, 0x11));
  EXPECT_TRUE(bad.ended());
}

TEST(Link, a_probe_is_echoed) {
  Links links;
  RawClient probe = links.fixture.connect_as(Transport::relay);
  probe.send(encode(LinkHeader{LinkKind::probe, NodeId::b, links.relay, 0, "", {}}));
  EXPECT_EQ(Links::answer(probe), LinkAnswer::admitted);
  probe.send(test::bytes_of("12345678"));
  EXPECT_EQ(test::text_of(probe.receive(8)), "12345678");
}

TEST(Link, whoever_says_nothing_is_dropped_in_time) {
  ServerOptions options;
  options.handshake_ms = 100;
  Fixture fixture(options);
  const Uuid relay = Uuid::random();
  const auto link = [&](LinkKind kind, std::uint64_t session) {
    RawClient client = fixture.connect_as(Transport::relay);
    client.send(encode(LinkHeader{kind, NodeId::b, relay, session, kind == LinkKind::probe ? "" : "tank/vm1", {}}));
    return client;
  };
  RawClient silent = fixture.connect_as(Transport::relay);
  EXPECT_TRUE(silent.ended()) << "no header";
  RawClient probe = link(LinkKind::probe, 0);
  EXPECT_EQ(Links::answer(probe), LinkAnswer::admitted);
  EXPECT_TRUE(probe.ended()) << "a probe without a beat";
  RawClient former = link(LinkKind::client, 5);
  EXPECT_EQ(Links::answer(former), LinkAnswer::admitted);
  EXPECT_TRUE(former.go("tank/vm1"));
  fixture.hold_writes();
  former.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
  EXPECT_TRUE(fixture.held(1));
  RawClient newer = link(LinkKind::client, 5);
  EXPECT_TRUE(newer.ended()) << "waits for a former link's request that hangs";
  EXPECT_EQ(fixture.host.on([&] { return fixture.device.held.size(); }), 1u);
}

// ---- handing sockets over -------------------------------------------------------------------------------------------

struct Pair {
  Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0); }
  ~Pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  int ends[2];
};

TEST(SocketHandover, listening_sockets_arrive_with_their_labels) {
  Pair pair;
  Fixture fixture;
  fixture.stop();
  SocketToSend sockets[] = {{"tank/vm1", fixture.listening->fd()}, {"tank/vm2", fixture.listening->fd()}};
  ASSERT_TRUE(send_sockets(pair.ends[0], sockets, Deadline::in_ms(5000)));
  ASSERT_TRUE(send_sockets(pair.ends[0], {}, Deadline::in_ms(5000)));
  auto received = receive_sockets(pair.ends[1], Deadline::in_ms(5000));
  ASSERT_TRUE(received);
  ASSERT_EQ(received->size(), 2u);
  EXPECT_EQ((*received)[0].label, "tank/vm1");
  EXPECT_EQ((*received)[1].label, "tank/vm2");
  auto empty = receive_sockets(pair.ends[1], Deadline::in_ms(5000));
  ASSERT_TRUE(empty);
  EXPECT_TRUE(empty->empty());

  RawClient client = RawClient::to_unix(fixture.path);  // comes before anybody serves
  fixture.listening = std::make_unique<block::Listener>(std::move((*received)[0].fd));
  fixture.start();
  EXPECT_TRUE(client.go("tank/vm1"));
}

TEST(SocketHandover, what_is_wrong_is_an_error) {
  Pair pair;
  std::string label(2000, 'x');
  SocketToSend too_long[] = {{label, pair.ends[0]}};
  EXPECT_EQ(send_sockets(pair.ends[0], too_long, Deadline::in_ms(5000)).error().code, ErrorCode::invalid);
  EXPECT_EQ(receive_sockets(pair.ends[1], Deadline::in_ms(1)).error().code, ErrorCode::timed_out);
  ASSERT_EQ(::send(pair.ends[0], "garbage, and more", 17, 0), 17);
  EXPECT_EQ(receive_sockets(pair.ends[1], Deadline::in_ms(5000)).error().code, ErrorCode::invalid);
  Pair cut;
  ASSERT_EQ(::send(cut.ends[0], "KSP", 3, 0), 3);
  ::shutdown(cut.ends[0], SHUT_WR);
  EXPECT_EQ(receive_sockets(cut.ends[1], Deadline::in_ms(5000)).error().code, ErrorCode::io);
}

}  // namespace
}  // namespace zpair::nbd
