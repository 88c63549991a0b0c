#include <gtest/gtest.h>

#include <sys/socket.h>

#include "agent/agent_client.h"
#include "agent/agent_server.h"
#include "agent/channel.h"

namespace zpair::agent {
namespace {

using block::Reactor;
using block::Task;

// Answers everything; a handover waits until it is let go.
class FakeService final : public AgentService {
 public:
  void on_hello(std::size_t, const Hello& hello) override { hellos.push_back(hello); }
  Heartbeat on_heartbeat(std::size_t, const Heartbeat& partner) override { return {partner.sequence + 100, {}}; }
  PromiseAnswer on_promise(std::size_t path, const PromiseRequest& request) override {
    promise_paths.push_back(path);
    return {true, request.nonce, request.epoch};
  }
  CanServeAnswer on_can_serve(const CanServeRequest& request) override { return {true, request.epoch}; }
  Task<Result<SurveyAnswer>> on_survey(SurveyRequest request) override {
    if (request.pool == "unknown") co_return fail(ErrorCode::not_found, "no pool {}", request.pool);
    co_return SurveyAnswer{true, {LegId{1}}, ""};
  }
  Task<Result<HandoverAnswer>> on_handover(HandoverRequest request) override {
    ++handovers;
    handover_came.set();
    co_await let_handover_go.wait();
    co_return HandoverAnswer{request.stored.record.epoch, true, {}};
  }
  Task<Result<YieldAnswer>> on_yield(YieldRequest) override { co_return YieldAnswer{true, ""}; }
  Task<CallAnswer> on_call(CallRequest request) override {
    co_return CallAnswer{200, request.method + " " + request.path + " " + request.body};
  }
  RelayAnswer on_relay(const RelayHello& hello, UniqueFd& socket) override {
    if (hello.pool != "tank") return {false, "not here"};
    relayed = std::move(socket);
    relay_came.set();
    return {true, ""};
  }

  std::vector<Hello> hellos;
  std::vector<std::size_t> promise_paths;
  int handovers = 0;
  block::Signal handover_came, let_handover_go, relay_came;
  UniqueFd relayed;
};

struct Pair {
  FakeService service;
  std::unique_ptr<AgentServer> server;
  std::unique_ptr<AgentClient> client;
  std::vector<ClientPath> paths;

  explicit Pair(std::string partner = "127.0.0.1", NodeId client_node = NodeId::a) {
    AgentServer::Options options;
    options.node = NodeId::b;
    options.paths = {{"path1", {"tcp:127.0.0.1:0"}, partner}, {"path2", {"tcp:127.0.0.1:0"}, partner}};
    auto made = AgentServer::create(std::move(options), service);
    ZP_ASSERT(made.has_value(), "the test's server listens");
    server = std::move(*made);
    server->start();
    for (std::size_t path = 0; path < 2; ++path)
      paths.push_back({fmt::format("path{}", path + 1), server->local_endpoint(path), ""});
    AgentClient::Options client_options;
    client_options.node = client_node;
    client_options.role = Role::pool;
    client_options.paths = paths;
    client = std::make_unique<AgentClient>(std::move(client_options));
    client->start();
  }
  Task<void> wait_both() {
    while (!client->connected(0) || !client->connected(1)) co_await Reactor::current().after_ms(1);
  }
  Task<void> close() {
    service.let_handover_go.set();
    co_await client->close();
    co_await server->close();
  }
};

template <class Body>
void run(Body body) {
  auto reactor = Reactor::create();
  ASSERT_TRUE(reactor) << reactor.error().message;
  (*reactor)->run_until_done(body());
}

Deadline soon() { return Deadline::in_ms(10'000); }

TEST(Agent, every_question_is_answered_on_its_path) {
  run([]() -> Task<void> {
    Pair pair;
    co_await pair.wait_both();
    for (std::size_t path = 0; path < 2; ++path) {
      auto promise = co_await pair.client->promise(path, {"tank", Epoch{3}, 77 + path, {}}, soon());
      EXPECT_TRUE(promise.has_value());
      if (promise) {
        EXPECT_TRUE(promise->granted);
        EXPECT_EQ(promise->nonce, 77 + path);
      }
    }
    EXPECT_EQ(pair.service.promise_paths, (std::vector<std::size_t>{0, 1}));
    auto heartbeat = co_await pair.client->heartbeat(0, {5, {}}, soon());
    EXPECT_TRUE(heartbeat && heartbeat->sequence == 105);
    auto can = co_await pair.client->can_serve({"tank", Epoch{3}}, soon());
    EXPECT_TRUE(can && can->can_serve);
    auto survey = co_await pair.client->survey({"tank", Epoch{3}}, soon());
    EXPECT_TRUE(survey && survey->agreed);
    auto yield = co_await pair.client->yield({"tank", Epoch{3}}, soon());
    EXPECT_TRUE(yield && yield->done);
    auto call = co_await pair.client->call({"GET", "/v1/status", "{}"}, soon());
    EXPECT_TRUE(call && call->body == "GET /v1/status {}");
    EXPECT_EQ(pair.service.hellos.size(), 2U);
    EXPECT_GT(pair.client->last_heard_ns(), 0);
    co_await pair.close();
  });
}

TEST(Agent, an_error_of_the_service_keeps_its_code) {
  run([]() -> Task<void> {
    Pair pair;
    co_await pair.wait_both();
    auto survey = co_await pair.client->survey({"unknown", Epoch{3}}, soon());
    EXPECT_FALSE(survey.has_value());
    if (!survey) EXPECT_EQ(survey.error().code, ErrorCode::not_found);
    co_await pair.close();
  });
}

TEST(Agent, a_long_question_does_not_hold_up_others_and_times_out_alone) {
  run([]() -> Task<void> {
    Pair pair;
    co_await pair.wait_both();
    record::Record record;
    record.name = "tank";
    auto handover = co_await pair.client->handover({{record, 1}}, Deadline::in_ms(30));
    EXPECT_FALSE(handover.has_value());
    if (!handover) EXPECT_EQ(handover.error().code, ErrorCode::timed_out);
    EXPECT_EQ(pair.service.handovers, 1);
    auto promise = co_await pair.client->promise(0, {"tank", Epoch{3}, 1, {}}, soon());
    EXPECT_TRUE(promise.has_value());
    co_await pair.close();
  });
}

TEST(Agent, a_stranger_is_turned_away) {
  run([]() -> Task<void> {
    Pair pair("10.255.255.1");
    auto stream = co_await block::Stream::connect(pair.server->local_endpoint(0), soon());
    EXPECT_TRUE(stream.has_value());
    if (stream) {
      Channel channel(std::move(*stream));
      auto frame = co_await channel.receive();
      EXPECT_FALSE(frame.has_value());
    }
    EXPECT_FALSE(pair.client->connected(0));
    EXPECT_TRUE(pair.service.hellos.empty());
    co_await pair.close();
  });
}

TEST(Agent, a_node_that_is_not_the_partner_is_turned_away) {
  run([]() -> Task<void> {
    Pair pair("127.0.0.1", NodeId::b);
    auto promise = co_await pair.client->promise(0, {"tank", Epoch{3}, 1, {}}, Deadline::in_ms(50));
    EXPECT_FALSE(promise.has_value());
    EXPECT_TRUE(pair.service.hellos.empty());
    co_await pair.close();
  });
}

// Bytes that are no frame end the connection, and only that one.
TEST(Agent, bad_bytes_end_the_connection) {
  struct Case {
    const char* name;
    std::string bytes;
  };
  static const std::vector<Case> cases = {
      {"length zero", std::string(4, '\0')},
      {"length too big", std::string("\xff\xff\xff\x7f", 4)},
      {"no JSON", std::string("\x03\0\0\0abc", 7)},
      {"no hello", to_bytes(Frame{"promise", 1, "{}"})},
      {"bad hello", to_bytes(Frame{"hello", 1, R"({"version":"x"})"})},
      {"bad relay", to_bytes(Frame{"relay", 1, "{}"})},
      {"bad request", to_bytes(Frame{"hello", 0, to_json(Hello{1, NodeId::a, Role::zpaird, Uuid{}, "p"})}) +
                          to_bytes(Frame{"promise", 1, "{}"})},
      {"unknown type", to_bytes(Frame{"hello", 0, to_json(Hello{1, NodeId::a, Role::zpaird, Uuid{}, "p"})}) +
                           to_bytes(Frame{"what", 1, "{}"})},
  };
  run([]() -> Task<void> {
    Pair pair;
    co_await pair.wait_both();
    for (const Case& one : cases) {
      auto stream = co_await block::Stream::connect(pair.server->local_endpoint(0), soon());
      EXPECT_TRUE(stream.has_value());
      if (!stream) continue;
      auto sent = co_await (*stream)->write_all(std::as_bytes(std::span(one.bytes)));
      (void)sent;
      Channel channel(std::move(*stream));
      // At most the server's hello, then the end.
      auto first = co_await channel.receive();
      if (first) first = co_await channel.receive();
      EXPECT_FALSE(first.has_value()) << one.name;
    }
    auto promise = co_await pair.client->promise(0, {"tank", Epoch{3}, 1, {}}, soon());
    EXPECT_TRUE(promise.has_value());
    co_await pair.close();
  });
}

TEST(Agent, everywhere_is_no_address_to_listen_at) {
  run([]() -> Task<void> {
    FakeService service;
    AgentServer::Options options;
    options.node = NodeId::b;
    options.paths = {{"path1", {"tcp:0.0.0.0:0"}, "127.0.0.1"}};
    auto server = AgentServer::create(std::move(options), service);
    EXPECT_FALSE(server.has_value());
    if (!server) EXPECT_EQ(server.error().code, ErrorCode::invalid);
    co_return;
  });
}

TEST(Agent, the_client_comes_back_after_the_server) {
  run([]() -> Task<void> {
    Pair pair;
    co_await pair.wait_both();
    block::Endpoint first = pair.server->local_endpoint(0);
    block::Endpoint second = pair.server->local_endpoint(1);
    co_await pair.server->close();
    while (pair.client->connected(0) || pair.client->connected(1)) co_await Reactor::current().after_ms(1);
    auto lost = co_await pair.client->promise(0, {"tank", Epoch{3}, 1, {}}, soon());
    EXPECT_FALSE(lost.has_value());
    if (!lost) EXPECT_EQ(lost.error().code, ErrorCode::unreachable);

    pair.server.reset();
    AgentServer::Options options;
    options.node = NodeId::b;
    options.paths = {{"path1", first, "127.0.0.1"}, {"path2", second, "127.0.0.1"}};
    auto again = AgentServer::create(std::move(options), pair.service);
    EXPECT_TRUE(again.has_value());
    if (again) {
      pair.server = std::move(*again);
      pair.server->start();
      bool connected = co_await pair.client->wait_connected(soon());
      EXPECT_TRUE(connected);
      co_await pair.wait_both();
      auto promise = co_await pair.client->promise(0, {"tank", Epoch{3}, 1, {}}, soon());
      EXPECT_TRUE(promise.has_value());
    }
    co_await pair.close();
  });
}

// A switch that died holds the bytes and says nothing: the connection is given up, the other path goes on.
TEST(Agent, a_path_that_swallows_bytes_is_given_up) {
  run([]() -> Task<void> {
    auto silent = block::Listener::listen({"tcp:127.0.0.1:0"});
    EXPECT_TRUE(silent.has_value());
    AgentClient::Options options;
    options.node = NodeId::a;
    options.paths = {{"path1", (*silent)->local_endpoint(), ""}};
    AgentClient client(std::move(options));
    client.start();
    auto accepted = co_await (*silent)->accept();  // never says hello
    EXPECT_TRUE(accepted.has_value());
    auto again = co_await (*silent)->accept();  // the client gave the first up by itself
    EXPECT_TRUE(again.has_value());
    EXPECT_FALSE(client.connected(0));
    (*silent)->close();
    co_await client.close();
  });
}

TEST(Agent, a_relay_becomes_a_plain_stream) {
  run([]() -> Task<void> {
    Pair pair;
    block::TaskGroup group;
    group.spawn([](Pair& owner) -> Task<void> {
      co_await owner.service.relay_came.wait();
      block::Stream stream(std::move(owner.service.relayed));
      std::string hello = relay_accepted_bytes() + "NBDMAGIC";
      auto sent = co_await stream.write_all(std::as_bytes(std::span(hello)));
      EXPECT_TRUE(sent.has_value());
      std::array<std::byte, 5> got{};
      auto read = co_await stream.read_exactly(got);
      EXPECT_TRUE(read.has_value());
      EXPECT_EQ(std::string(reinterpret_cast<char*>(got.data()), got.size()), "HELLO");
    }(pair));
    auto stream = co_await connect_relay(pair.paths[0], {"tank", "vm1", Uuid::random(), 1}, soon());
    EXPECT_TRUE(stream.has_value());
    if (stream) {
      std::array<std::byte, 8> magic{};
      auto read = co_await (*stream)->read_exactly(magic);
      EXPECT_TRUE(read.has_value());
      EXPECT_EQ(std::string(reinterpret_cast<char*>(magic.data()), magic.size()), "NBDMAGIC");
      std::string text = "HELLO";
      auto sent = co_await (*stream)->write_all(std::as_bytes(std::span(text)));
      EXPECT_TRUE(sent.has_value());
    }
    co_await group.close();
    auto refused = co_await connect_relay(pair.paths[0], {"other", "vm1", Uuid::random(), 1}, soon());
    EXPECT_FALSE(refused.has_value());
    co_await pair.close();
  });
}

}  // namespace
}  // namespace zpair::agent
