#include "block/stream.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace zpair::block {
namespace {

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

Task<void> serve_echo(Listener& listener, std::size_t size) {
  auto client = co_await listener.accept();
  if (!client) co_return;
  std::vector<std::byte> bytes(size);
  auto got = co_await (*client)->read_exactly(bytes);
  if (got) (void)co_await (*client)->write_all(std::span<const std::byte>(bytes));
}

Task<bool> echo_returns_all(Endpoint at) {
  auto listener = Listener::listen(at);
  if (!listener) co_return false;
  constexpr std::size_t size = 3 << 20;
  TaskGroup group;
  group.spawn(serve_echo(**listener, size));
  auto client = co_await Stream::connect((*listener)->local_endpoint(), Deadline::in_ms(5000));
  if (!client) co_return false;
  auto sent = pattern(size);
  std::vector<std::byte> back(size);
  auto write = [](Stream& stream, std::span<const std::byte> bytes) -> Task<void> {
    (void)co_await stream.write_all(bytes);
  };
  group.spawn(write(**client, sent));
  auto got = co_await (*client)->read_exactly(back);
  co_await group.close();
  co_return got.has_value() && back == sent;
}

TEST(Stream, tcp_carries_every_byte) {
  auto reactor = std::move(*Reactor::create());
  EXPECT_TRUE(reactor->run_until_done(echo_returns_all(Endpoint{"tcp:127.0.0.1:0"})));
}

TEST(Stream, unix_socket_carries_every_byte) {
  auto reactor = std::move(*Reactor::create());
  std::string path = ::testing::TempDir() + "zpair_stream_test.sock";
  EXPECT_TRUE(reactor->run_until_done(echo_returns_all(Endpoint{"unix:" + path})));
}

Task<ErrorCode> code_of_closed_accept(Reactor& reactor) {
  auto listener = std::move(*Listener::listen(Endpoint{"tcp:127.0.0.1:0"}));
  reactor.call_at(boot_time_ns() + 2 * ns_per_ms, [&listener] { listener->close(); });
  auto client = co_await listener->accept();
  co_return client ? ErrorCode::internal : client.error().code;
}

TEST(Listener, close_ends_a_waiting_accept) {
  auto reactor = std::move(*Reactor::create());
  EXPECT_EQ(reactor->run_until_done(code_of_closed_accept(*reactor)), ErrorCode::cancelled);
}

Task<ErrorCode> code_of_connect(Endpoint to) {
  auto stream = co_await Stream::connect(to, Deadline::in_ms(1000));
  co_return stream ? ErrorCode::internal : stream.error().code;
}

TEST(Stream, connecting_to_nobody_is_unreachable) {
  auto reactor = std::move(*Reactor::create());
  EXPECT_EQ(reactor->run_until_done(code_of_connect(Endpoint{"unix:/nonexistent/socket"})), ErrorCode::unreachable);
}

TEST(Endpoint, bad_text_names_the_mend) {
  for (const char* text : {"", "127.0.0.1:1", "tcp:localhost:1", "tcp:1.2.3.4", "tcp:1.2.3.4:99999", "unix:"}) {
    auto endpoint = Endpoint::parse(text);
    ASSERT_FALSE(endpoint) << text;
    EXPECT_EQ(endpoint.error().code, ErrorCode::invalid) << text;
  }
}

}  // namespace
}  // namespace zpair::block
