#include "cli/switch.h"

#include <gtest/gtest.h>

#include <cstring>

#include <nlohmann/json.hpp>

namespace zpair::cli {
namespace {

using block::Endpoint;
using block::Listener;
using block::Reactor;
using block::Stream;
using block::Task;
using nlohmann::json;

// A switch with one connection through it: `client` (node a) to `server` (node b) over path1. Each test is a coroutine.
struct World {
  Reactor& reactor;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Switch> sw;
  std::unique_ptr<Stream> client;
  std::unique_ptr<Stream> server;

  std::uint64_t held_bytes() const { return json::parse(sw->status_json())["links"][0]["held_bytes"]; }
};

Task<bool> open(World& world, std::int64_t latency_ms) {
  world.listener = std::move(*Listener::listen(Endpoint{"tcp:127.0.0.1:0"}));
  SwitchPlan plan{
      "", "", latency_ms, {{"path1", "a", "b", "tcp:127.0.0.1:0", world.listener->local_endpoint().text, ""}}};
  auto started = Switch::start(world.reactor, std::move(plan));
  if (!started) co_return false;
  world.sw = std::move(*started);
  co_return true;
}

Task<std::unique_ptr<Stream>> dial(World& world) {
  auto stream = co_await Stream::connect(world.sw->endpoint_of(0), Deadline::in_ms(5000));
  EXPECT_TRUE(stream);
  co_return stream ? std::move(*stream) : nullptr;
}

Task<bool> join_ends(World& world) {
  world.client = co_await dial(world);
  auto server = co_await world.listener->accept();
  if (!server) co_return false;
  world.server = std::move(*server);
  co_return world.client != nullptr;
}

Task<void> end(World& world) {
  if (world.client) world.client->shutdown();
  if (world.server) world.server->shutdown();
  world.listener->close();
  co_await world.sw->close();
}

Task<bool> send(Stream& stream, std::string text) {
  auto sent = co_await stream.write_all(std::as_bytes(std::span(text)));
  co_return sent.has_value();
}

// The next bytes, at most as many; "" at the end of the stream.
Task<std::string> receive(Stream& stream, std::size_t count) {
  std::string text(count, '\0');
  std::size_t have = 0;
  while (have < count) {
    auto piece = co_await stream.read_some(std::as_writable_bytes(std::span(text).subspan(have)));
    if (!piece || *piece == 0) break;
    have += *piece;
  }
  text.resize(have);
  co_return text;
}

// The switch has taken `bytes` and keeps them: waits for that fact.
Task<void> until_held(World& world, std::uint64_t bytes) {
  while (world.held_bytes() < bytes) co_await world.reactor.after_ms(1);
}

template <class Test>
void with_world(Test test, std::int64_t latency_ms = 0) {
  auto reactor = Reactor::create();
  ASSERT_TRUE(reactor) << reactor.error().message;
  World world{**reactor, nullptr, nullptr, nullptr, nullptr};
  ASSERT_TRUE((*reactor)->run_until_done(open(world, latency_ms)));
  (*reactor)->run_until_done(test(world));
  (*reactor)->run_until_done(end(world));
}

Task<void> forwards_both_ways(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  co_await send(*world.client, "ping");
  EXPECT_EQ(co_await receive(*world.server, 4), "ping");
  co_await send(*world.server, "pong!");
  EXPECT_EQ(co_await receive(*world.client, 5), "pong!");
  world.client->shutdown();
  EXPECT_EQ(co_await receive(*world.server, 1), "");  // the end travels too
}
TEST(Switch, forwards_both_ways_and_the_end_too) { with_world(forwards_both_ways); }

Task<void> sink(Stream& stream, std::uint64_t& total) {
  std::vector<std::byte> bytes(65536);
  while (true) {
    auto count = co_await stream.read_some(bytes);
    if (!count || *count == 0) co_return;
    total += *count;
  }
}
Task<void> carries_much(World& world) {
  std::uint64_t total = 0;
  block::TaskGroup group;
  EXPECT_TRUE(co_await join_ends(world));
  group.spawn(sink(*world.server, total));
  for (int i = 0; i < 4; ++i) co_await send(*world.client, std::string(2 << 20, 'x'));
  world.client->shutdown();
  co_await group.close();
  EXPECT_EQ(total, 8u << 20);
}
TEST(Switch, carries_more_than_it_may_queue) { with_world(carries_much); }

Task<void> holds_and_delivers_late(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  EXPECT_TRUE(world.sw->cut(parse_cut("path1")));
  co_await send(*world.client, "late");
  co_await until_held(world, 4);
  EXPECT_TRUE(world.sw->heal(parse_cut("path1"), Switch::Heal::deliver_late));
  EXPECT_EQ(co_await receive(*world.server, 4), "late");
  co_await send(*world.server, "back");
  EXPECT_EQ(co_await receive(*world.client, 4), "back");  // the connection lived through it
}
TEST(Switch, a_cut_holds_bytes_and_a_heal_delivers_them_late) { with_world(holds_and_delivers_late); }

Task<void> drops_on_reset(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  EXPECT_TRUE(world.sw->cut(parse_cut("path1")));
  co_await send(*world.client, "lost");
  co_await until_held(world, 4);
  EXPECT_TRUE(world.sw->heal(parse_cut("path1"), Switch::Heal::reset));
  EXPECT_EQ(co_await receive(*world.server, 4), "");
  EXPECT_EQ(co_await receive(*world.client, 1), "");
  EXPECT_TRUE(co_await join_ends(world));  // a new connection works
  co_await send(*world.client, "new");
  EXPECT_EQ(co_await receive(*world.server, 3), "new");
}
TEST(Switch, a_reset_drops_what_was_held_and_closes_both_ends) { with_world(drops_on_reset); }

Task<void> cuts_one_way(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  EXPECT_TRUE(world.sw->cut(parse_cut("path1:a>b")));
  co_await send(*world.client, "held");
  co_await until_held(world, 4);
  co_await send(*world.server, "through");
  EXPECT_EQ(co_await receive(*world.client, 7), "through");
  EXPECT_EQ(json::parse(world.sw->status_json())["links"][0]["state"], "cut a>b");
  EXPECT_TRUE(world.sw->heal(parse_cut("path1:a>b"), Switch::Heal::deliver_late));
  EXPECT_EQ(co_await receive(*world.server, 4), "held");
}
TEST(Switch, one_direction_is_cut_alone) { with_world(cuts_one_way); }

Task<void> holds_new_connections(World& world) {
  EXPECT_TRUE(world.sw->cut(parse_cut("path1")));
  auto client = co_await dial(world);  // accepted, as the kernel of a live switch port would, and held
  co_await send(*client, "early");
  EXPECT_TRUE(world.sw->heal(parse_cut("path1"), Switch::Heal::deliver_late));
  auto server = co_await world.listener->accept();
  EXPECT_TRUE(server);
  EXPECT_EQ(co_await receive(**server, 5), "early");
}
TEST(Switch, a_connection_made_during_a_cut_waits_for_the_heal) { with_world(holds_new_connections); }

Task<void> holds_the_end(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  EXPECT_TRUE(world.sw->cut(parse_cut("path1")));
  co_await send(*world.client, "last words");
  world.client->shutdown();  // the process dies behind the cut
  co_await until_held(world, 10);
  EXPECT_TRUE(world.sw->heal(parse_cut("path1"), Switch::Heal::deliver_late));
  EXPECT_EQ(co_await receive(*world.server, 11), "last words");  // only then the end
}
TEST(Switch, the_end_of_a_connection_is_held_too) { with_world(holds_the_end); }

Task<void> adds_latency(World& world) {
  EXPECT_TRUE(co_await join_ends(world));
  const Nanoseconds began = boot_time_ns();
  co_await send(*world.client, "x");
  EXPECT_EQ(co_await receive(*world.server, 1), "x");
  EXPECT_GE(boot_time_ns() - began, 20 * ns_per_ms);
}
TEST(Switch, latency_delays_each_way) { with_world(adds_latency, 20); }

Task<void> names_links(World& world) {
  auto unknown = world.sw->cut(parse_cut("path9"));
  EXPECT_FALSE(unknown);
  if (!unknown) EXPECT_NE(unknown.error().message.find("there are path1"), std::string::npos);
  EXPECT_FALSE(world.sw->cut(parse_cut("path1:a>c")));
  EXPECT_FALSE(world.sw->heal(parse_cut("store:a"), Switch::Heal::reset));
  EXPECT_EQ(json::parse(world.sw->answer(R"({"cut": "path1"})"))["ok"], true);
  EXPECT_EQ(json::parse(world.sw->answer(R"({"cut": "path9"})"))["ok"], false);
  EXPECT_EQ(json::parse(world.sw->answer("nonsense"))["ok"], false);
  EXPECT_EQ(json::parse(world.sw->answer(R"({"status": true})"))["links"][0]["state"], "cut");
  co_return;
}
TEST(Switch, an_unknown_link_is_an_error_that_lists_those_there_are) { with_world(names_links); }

TEST(CutName, a_direction_stands_behind_the_last_colon) {
  EXPECT_EQ(parse_cut("path1"), (CutName{"path1", ""}));
  EXPECT_EQ(parse_cut("path1:a>b"), (CutName{"path1", "a>b"}));
  EXPECT_EQ(parse_cut("store:a"), (CutName{"store:a", ""}));
  EXPECT_EQ(parse_cut("store:a:a>witness"), (CutName{"store:a", "a>witness"}));
}

TEST(SwitchPlan, survives_its_json) {
  SwitchPlan plan{"/x/switch.sock", "/x", 3, {{"store", "", "b", "tcp:127.0.0.1:1", "tcp:127.0.0.1:2", "127.0.0.3"}}};
  auto again = parse_switch_plan(to_json(plan));
  ASSERT_TRUE(again);
  EXPECT_EQ(to_json(*again), to_json(plan));
  EXPECT_FALSE(parse_switch_plan("{}"));
}

}  // namespace
}  // namespace zpair::cli
