#include "nbd/relay.h"

#include <gtest/gtest.h>

#include <list>

#include "host.h"
#include "memory_device.h"
#include "nbd/server.h"
#include "nbd/socket_handover.h"

namespace zpair::nbd {
namespace {

using test::Bytes;
using test::filled;
using test::Host;
using test::MemoryDevice;
using test::RawClient;

// A switch between relay and owner: forwards bytes; a cut one holds them, a healed one delivers them late.
class Switch {
 public:
  Switch(block::Endpoint at, block::Endpoint to)
      : to_(std::move(to)), listener_(std::move(*block::Listener::listen(at))) {
    tasks_.spawn(accept());
  }
  void cut() { passes_.reset(); }
  void heal() { passes_.set(); }
  block::Task<void> close() {
    closing_ = true;
    heal();
    listener_->close();
    for (auto& pair : pairs_) pair.end();
    co_await tasks_.close();
  }
  std::size_t held_bytes = 0;

 private:
  struct Pair {
    std::unique_ptr<block::Stream> relay, owner;
    void end() {
      if (relay) relay->shutdown();
      if (owner) owner->shutdown();
    }
  };
  block::Task<void> accept() {
    while (!closing_) {
      auto client = co_await listener_->accept();
      if (!client) co_return;
      pairs_.emplace_back();
      pairs_.back().relay = std::move(*client);
      tasks_.spawn(forward_both(pairs_.back()));
    }
  }
  block::Task<void> forward_both(Pair& pair) {
    co_await passes_.wait();
    auto owner = co_await block::Stream::connect(to_, Deadline::in_ms(5000));
    if (!owner) co_return pair.end();
    pair.owner = std::move(*owner);
    block::TaskGroup there;
    there.spawn(forward(pair, *pair.relay, *pair.owner));
    co_await forward(pair, *pair.owner, *pair.relay);
    co_await there.close();
  }
  block::Task<void> forward(Pair&, block::Stream& from, block::Stream& to) {
    Bytes buffer(64 << 10);
    for (;;) {
      auto got = co_await from.read_some(buffer);
      std::size_t size = got ? *got : 0;
      if (!passes_.is_set()) held_bytes += size;
      co_await passes_.wait();  // also the end of a connection is held
      if (size == 0) break;
      auto sent = co_await to.write_all(std::span<const std::byte>(buffer.data(), size));
      if (!sent) break;
    }
    ::shutdown(to.fd(), SHUT_WR);
  }

  block::Endpoint to_;
  std::unique_ptr<block::Listener> listener_;
  block::Signal passes_;
  std::list<Pair> pairs_;
  block::TaskGroup tasks_;
  bool closing_ = false;

 public:
  void start() { heal(); }
};

// Node b's relay, two paths, node a's server.
struct Fixture {
  Fixture() {
    host.on([this] {
      start_owner();
      for (std::size_t i = 0; i < 2; ++i) {
        switches.push_back(std::make_unique<Switch>(path_endpoint(i), links_endpoint));
        switches.back()->start();
      }
      RelayOptions options;
      options.node = NodeId::b;
      options.path_dead_after_ms = 150;
      options.connect = [this](std::size_t path) {
        return refuse_links ? no_link() : block::Stream::connect(path_endpoint(path), Deadline::in_ms(1000));
      };
      options.pass_on = [this](const std::string& volume, UniqueFd client) {
        EXPECT_EQ(volume, "tank/vm1");
        passed_on.push_back(std::move(client));
      };
      relay = std::make_unique<Relay>(std::move(options));
      listening = std::move(*block::Listener::listen(block::Endpoint{"unix:" + volume_socket}));
      add_volume();
    });
  }
  ~Fixture() {
    host.on([this] { device.hold = nullptr; });
    host.on([this] { device.release_all(); });
    host.await([this] { return relay->close(); });
    stop_owner();
    for (auto& each : switches) host.await([&each] { return each->close(); });
    host.on([this] {
      switches.clear();
      relay.reset();
    });
    for (const std::string& path :
         {volume_socket, test::socket_path("links"), test::socket_path("path0"), test::socket_path("path1")}) {
      ::unlink(path.c_str());
    }
  }
  static block::Task<Result<std::unique_ptr<block::Stream>>> no_link() {
    co_return fail(ErrorCode::unreachable, "the owner is gone");
  }
  static block::Endpoint path_endpoint(std::size_t path) {
    return block::Endpoint{"unix:" + test::socket_path("path" + std::to_string(path))};
  }
  void add_volume() {
    auto listener = std::make_unique<block::Listener>(std::move(*duplicate(listening->fd())));
    ASSERT_TRUE(relay->add_volume("tank/vm1", std::move(listener)));
  }
  void start_owner() {  // on the reactor
    server = std::make_unique<Server>();
    ASSERT_TRUE(server->add_export({"tank/vm1", &device, false}));
    ASSERT_TRUE(server->listen(std::move(*block::Listener::listen(links_endpoint)), {Transport::relay, ""}));
  }
  void stop_owner() {
    host.await([this] { return server->close(); });
    host.on([this] { server.reset(); });
  }
  RawClient client() {
    RawClient client = RawClient::to_unix(volume_socket);
    EXPECT_TRUE(client.go(""));
    return client;
  }

  Host host;
  MemoryDevice device{1 << 20};
  std::string volume_socket = test::socket_path("volume");
  block::Endpoint links_endpoint{"unix:" + test::socket_path("links")};
  std::unique_ptr<block::Listener> listening;
  std::unique_ptr<Server> server;
  std::vector<std::unique_ptr<Switch>> switches;
  std::unique_ptr<Relay> relay;
  std::vector<UniqueFd> passed_on;
  bool refuse_links = false;
};

TEST(Relay, forwards_a_client_to_the_owner) {
  Fixture fixture;
  RawClient client = fixture.client();
  client.request(wire::cmd_write, 1, 0, 1 << 20, filled(1 << 20, 5));
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 1}));
  client.request(wire::cmd_read, 2, 0, 1 << 20);
  EXPECT_EQ(client.simple(), (RawClient::Simple{0, 2}));
  EXPECT_EQ(client.receive(1 << 20), filled(1 << 20, 5));
}

TEST(Relay, clients_come_in_without_a_name) {
  Fixture fixture;
  RawClient one = fixture.client();
  RawClient two = fixture.client();
  for (RawClient* client : {&one, &two}) {
    client->request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
    EXPECT_EQ(client->simple().error, 0u);
  }
}

TEST(Relay, a_client_that_leaves_ends_its_link) {
  Fixture fixture;
  {
    RawClient client = fixture.client();
    client.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
    EXPECT_EQ(client.simple().error, 0u);
  }
  EXPECT_TRUE(fixture.host.until([&] { return fixture.relay->client_count() == 0; }));
  EXPECT_TRUE(fixture.host.until([&] { return fixture.server->status()[0].clients.empty(); }));
}

TEST(Relay, clients_wait_in_the_handshake_while_there_is_no_owner) {
  Fixture fixture;
  fixture.stop_owner();
  RawClient client = RawClient::to_unix(fixture.volume_socket);
  EXPECT_TRUE(client.silent());
  fixture.host.on([&] { fixture.start_owner(); });
  EXPECT_TRUE(client.go("tank/vm1"));
}

TEST(Relay, a_client_left_in_the_backlog_is_found_by_this_node_s_own_server) {
  Fixture fixture;
  fixture.stop_owner();
  fixture.host.await([&] { return fixture.relay->remove_volume("tank/vm1"); });
  RawClient client = RawClient::to_unix(fixture.volume_socket);
  EXPECT_TRUE(client.silent());
  fixture.host.on([&] {
    fixture.start_owner();
    auto listener = std::make_unique<block::Listener>(std::move(*duplicate(fixture.listening->fd())));
    ASSERT_TRUE(fixture.server->listen(std::move(listener), {Transport::local, "tank/vm1"}));
  });
  EXPECT_TRUE(client.go("tank/vm1"));
}

// The owner died while a client waited for its word; now this node owns.
TEST(Relay, a_client_that_was_accepted_and_never_linked_is_passed_on) {
  Fixture fixture;
  RawClient first = fixture.client();  // a path lives: the relay accepts
  fixture.host.on([&] { fixture.refuse_links = true; });
  RawClient client = RawClient::to_unix(fixture.volume_socket);
  EXPECT_TRUE(client.silent());
  EXPECT_TRUE(fixture.host.until([&] { return fixture.relay->client_count() == 2; }));
  fixture.host.await([&] { return fixture.relay->remove_volume("tank/vm1"); });
  fixture.host.on([&] {
    ASSERT_EQ(fixture.passed_on.size(), 1u);
    fixture.server->serve(std::make_unique<block::Stream>(std::move(fixture.passed_on.front())),
                          {Transport::local, "tank/vm1"});
  });
  EXPECT_TRUE(client.go("tank/vm1"));
}

// The relay's path is cut with a write in it and heals late: nothing old lands (issue 2).
TEST(Relay, a_write_in_a_cut_path_never_lands_after_its_successor) {
  for (int cut = 0; cut < 2; ++cut) {
    Fixture fixture;
    RawClient first = fixture.client();
    first.request(wire::cmd_write, 1, 0, 4096, filled(4096, 1));
    EXPECT_EQ(first.simple().error, 0u);
    Switch& dead = *fixture.switches[static_cast<std::size_t>(cut)];
    fixture.host.on([&] { dead.cut(); });
    first.request(wire::cmd_write, 2, 0, 4096, filled(4096, 2));
    bool my_path = fixture.host.until([&] { return dead.held_bytes >= 4096 || fixture.device.seen.size() == 2; });
    ASSERT_TRUE(my_path);
    if (fixture.host.on([&] { return fixture.device.seen.size(); }) == 2) continue;  // it went over the other path

    EXPECT_TRUE(first.ended());  // the relay noticed, the client reconnects and sends again
    RawClient second = fixture.client();
    second.request(wire::cmd_write, 2, 0, 4096, filled(4096, 2));
    EXPECT_EQ(second.simple().error, 0u);
    second.request(wire::cmd_write, 3, 0, 4096, filled(4096, 3));
    EXPECT_EQ(second.simple().error, 0u);
    std::size_t seen = fixture.host.on([&] { return fixture.device.seen.size(); });
    fixture.host.on([&] { dead.heal(); });
    // What was held is delivered when the dead path carries a new client's bytes behind it.
    EXPECT_TRUE(fixture.host.until([&] { return fixture.server->status()[0].clients.size() == 1; }));
    for (int i = 0; i < 4; ++i) {
      RawClient other = fixture.client();
      other.request(wire::cmd_read, 9, 0, 4096);
      EXPECT_EQ(other.simple().error, 0u);
      EXPECT_EQ(other.receive(4096), filled(4096, 3));
    }
    EXPECT_EQ(fixture.host.on([&] { return fixture.device.seen.size(); }), seen + 4);
    EXPECT_EQ(fixture.host.on([&] { return fixture.device.bytes[0]; }), std::byte{3});
    return;
  }
  FAIL() << "no path carried the client";
}

TEST(Relay, dropping_the_links_ends_their_clients_who_may_come_again) {
  Fixture fixture;
  RawClient client = fixture.client();
  std::optional<RawClient> again_or;  // comes at the very moment: it is accepted, and has to be served later
  fixture.host.on([&] {
    again_or = RawClient::to_unix(fixture.volume_socket);
    fixture.relay->drop_links();
  });
  EXPECT_TRUE(client.ended());
  RawClient& again = *again_or;
  EXPECT_TRUE(again.go("tank/vm1"));
  again.request(wire::cmd_flush, 1, 0, 0);
  EXPECT_EQ(again.simple().error, 0u);
}

TEST(Relay, wrong_use_is_one_clear_error) {
  Fixture fixture;
  fixture.host.on([&] {
    auto listener = std::make_unique<block::Listener>(std::move(*duplicate(fixture.listening->fd())));
    EXPECT_EQ(fixture.relay->add_volume("tank/vm1", std::move(listener)).error().code, ErrorCode::exists);
  });
}

}  // namespace
}  // namespace zpair::nbd
