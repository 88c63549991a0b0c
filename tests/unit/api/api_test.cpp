#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "api/http_client.h"
#include "api/http_server.h"

namespace zpair::api {
namespace {

using block::Reactor;
using block::Signal;
using block::Task;

class Api : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/zpair-api-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    socket_ = folder_ + "/s.sock";
    auto reactor = Reactor::create();
    ASSERT_TRUE(reactor) << reactor.error().message;
    reactor_ = std::move(*reactor);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Routes routes() {
    return {
        {"GET /v1/echo", [](Request request) { return echo(std::move(request)); }},
        {"POST /v1/echo", [](Request request) { return echo(std::move(request)); }},
        {"POST /v1/refuse", [](Request) { return refuse(); }},
        {"GET /v1/wait", [this](Request) { return wait(); }},
    };
  }
  static Task<Result<std::string>> echo(Request request) {
    co_return fmt::format("{{\"method\": \"{}\", \"since\": \"{}\", \"body_bytes\": {}}}", request.method,
                          request.query["since"], request.body.size());
  }
  static Task<Result<std::string>> refuse() {
    co_return fail(ErrorCode::refused, "mirror-3 has no in-sync leg in reach");
  }
  Task<Result<std::string>> wait() {
    ++waiting_;
    waits_.set();
    co_await released_.wait();
    co_return std::string("{}");
  }

  // Runs `client` on another thread while the server serves, then closes.
  template <class Client>
  void serve_while(Client client) {
    reactor_->run_until_done(session(*this, client));
  }
  template <class Client>
  static Task<void> session(Api& self, Client& client) {
    auto server = HttpServer::start(*self.reactor_, self.socket_, self.routes());
    EXPECT_TRUE(server) << server.error().message;
    if (!server) co_return;
    Signal done;
    std::thread thread([&] {
      client();
      self.reactor_->post([&done] { done.set(); });
    });
    co_await done.wait();
    thread.join();
    co_await (*server)->close();
    EXPECT_FALSE(std::filesystem::exists(self.socket_));
  }

  std::string folder_;
  std::string socket_;
  std::unique_ptr<Reactor> reactor_;
  Signal released_;
  Signal waits_;
  int waiting_ = 0;
};

TEST_F(Api, a_call_reaches_its_handler_with_query_and_body) {
  serve_while([this] {
    auto got = call_and_wait({socket_, "GET", "/v1/echo?since=17", ""}, 5000);
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(*got, R"({"method": "GET", "since": "17", "body_bytes": 0})");
    auto posted = call_and_wait({socket_, "POST", "/v1/echo", std::string(300'000, 'x')}, 5000);
    ASSERT_TRUE(posted) << posted.error().message;
    EXPECT_EQ(*posted, R"({"method": "POST", "since": "", "body_bytes": 300000})");
  });
}

TEST_F(Api, an_error_arrives_as_it_was_made) {
  serve_while([this] {
    auto refused = call_and_wait({socket_, "POST", "/v1/refuse", "{}"}, 5000);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::refused);
    EXPECT_EQ(refused.error().message, "mirror-3 has no in-sync leg in reach");
    auto unknown = call_and_wait({socket_, "GET", "/v1/nothing", ""}, 5000);
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code, ErrorCode::not_found);
    auto wrong_method = call_and_wait({socket_, "GET", "/v1/refuse", ""}, 5000);
    ASSERT_FALSE(wrong_method);
    EXPECT_EQ(wrong_method.error().code, ErrorCode::invalid);
  });
}

TEST_F(Api, only_its_user_may_connect) {
  serve_while([this] {
    struct stat status{};
    ASSERT_EQ(stat(socket_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
  });
}

TEST_F(Api, requests_that_wait_do_not_hold_up_others) {
  serve_while([this] {
    std::vector<std::thread> pollers;
    std::atomic<int> answered = 0;
    std::atomic<int> answered_early = 0;
    constexpr int poller_count = 20;  // more than cpp-httplib's own queue of waiting connections holds
    for (int i = 0; i < poller_count; ++i) {
      pollers.emplace_back([this, &answered, &answered_early] {
        if (call_and_wait({socket_, "GET", "/v1/wait", ""}, 30'000)) {
          ++answered;
        } else {
          ++answered_early;  // failed: counted, so that the test ends and says so
        }
      });
    }
    // All wait in their handlers; one more call is answered meanwhile.
    for (int seen = 0; seen + answered_early < poller_count;) {
      std::promise<int> count;
      reactor_->post([this, &count] { count.set_value(waiting_); });
      seen = count.get_future().get();
    }
    EXPECT_TRUE(call_and_wait({socket_, "GET", "/v1/echo", ""}, 5000));
    EXPECT_EQ(answered, 0);
    reactor_->post([this] { released_.set(); });
    for (auto& poller : pollers) poller.join();
    EXPECT_EQ(answered, poller_count);
  });
}

TEST_F(Api, nobody_there_is_unreachable) {
  auto got = call_and_wait({socket_, "GET", "/v1/echo", ""}, 1000);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::unreachable);
  auto task = reactor_->run_until_done(call({socket_, "GET", "/v1/echo", ""}, Deadline::in_ms(1000)));
  ASSERT_FALSE(task);
  EXPECT_EQ(task.error().code, ErrorCode::unreachable);
}

TEST_F(Api, a_silent_server_times_out_and_the_outcome_is_unknown) {
  serve_while([this] {
    auto got = call_and_wait({socket_, "GET", "/v1/wait", ""}, 50);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, ErrorCode::timed_out);
    reactor_->post([this] { released_.set(); });
  });
}

Task<void> call_as_a_task(Reactor& reactor, std::string socket, Routes routes, Signal& released) {
  auto server = HttpServer::start(reactor, socket, std::move(routes));
  EXPECT_TRUE(server);
  if (!server) co_return;
  auto got = co_await call({socket, "POST", "/v1/echo", std::string(100'000, 'y')}, Deadline::in_ms(10'000));
  EXPECT_TRUE(got);
  if (got) EXPECT_EQ(*got, R"({"method": "POST", "since": "", "body_bytes": 100000})");
  auto refused = co_await call({socket, "POST", "/v1/refuse", "{}"}, Deadline::in_ms(10'000));
  EXPECT_FALSE(refused);
  if (!refused) EXPECT_EQ(refused.error().code, ErrorCode::refused);
  auto late = co_await call({socket, "GET", "/v1/wait", ""}, Deadline::in_ms(50));
  EXPECT_FALSE(late);
  if (!late) EXPECT_EQ(late.error().code, ErrorCode::timed_out);
  auto second = HttpServer::start(reactor, socket, {});
  EXPECT_FALSE(second);
  if (!second) EXPECT_EQ(second.error().code, ErrorCode::exists);
  released.set();
  co_await (*server)->close();
}

TEST_F(Api, the_task_gives_answers_errors_and_deadlines_alike) {
  reactor_->run_until_done(call_as_a_task(*reactor_, socket_, routes(), released_));
}

TEST_F(Api, a_dead_processes_socket_is_replaced) {
  UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, socket_.c_str());
  ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  dead.reset();  // the file stays, nobody listens
  serve_while([this] { EXPECT_TRUE(call_and_wait({socket_, "GET", "/v1/echo", ""}, 5000)); });
}

}  // namespace
}  // namespace zpair::api
