#include "control/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/reactor.h"

namespace zpair::control {
namespace {

class ControlChannel : public testing::Test {
 protected:
  std::unique_ptr<block::Reactor> reactor = *block::Reactor::create();
};

TEST_F(ControlChannel, carries_messages_in_order_and_a_descriptor_with_its_message) {
  reactor->run_until_done([]() -> block::Task<void> {
    auto ends = Channel::make_pair();
    EXPECT_TRUE(ends);
    Channel one(std::move(ends->first));
    Channel other(std::move(ends->second));
    int pipe_ends[2];
    EXPECT_EQ(::pipe(pipe_ends), 0);
    EXPECT_TRUE(one.send(Heartbeat{1}));
    EXPECT_TRUE(one.send(VolumeSocket{"vm1"}, pipe_ends[1]));
    EXPECT_TRUE(one.send(Heartbeat{2}));
    ::close(pipe_ends[1]);

    auto first = co_await other.receive();
    EXPECT_TRUE(first && std::get<Heartbeat>(first->message).engine_moves == 1);
    auto second = co_await other.receive();
    EXPECT_TRUE(second && std::get<VolumeSocket>(second->message).volume == "vm1");
    EXPECT_TRUE(second && second->fd);
    EXPECT_EQ(::write(second->fd.get(), "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(pipe_ends[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'x');
    ::close(pipe_ends[0]);
    auto third = co_await other.receive();
    EXPECT_TRUE(third && std::get<Heartbeat>(third->message).engine_moves == 2 && !third->fd);
  }());
}

TEST_F(ControlChannel, the_end_of_the_peer_ends_a_wait) {
  reactor->run_until_done([]() -> block::Task<void> {
    auto ends = Channel::make_pair();
    EXPECT_TRUE(ends);
    Channel one(std::move(ends->first));
    {
      Channel other(std::move(ends->second));
      other.close();
    }
    auto received = co_await one.receive();
    EXPECT_FALSE(received);
    EXPECT_EQ(received.error().code, ErrorCode::cancelled);
  }());
}

TEST_F(ControlChannel, bytes_that_are_no_message_are_an_error_and_the_next_message_still_comes) {
  reactor->run_until_done([]() -> block::Task<void> {
    auto ends = Channel::make_pair();
    EXPECT_TRUE(ends);
    EXPECT_EQ(::send(ends->first.get(), "nonsense", 8, 0), 8);
    EXPECT_EQ(::send(ends->first.get(), R"({"kind":"later"})", 16, 0), 16);  // a newer program's: passed over
    Channel one(std::move(ends->first));
    Channel other(std::move(ends->second));
    EXPECT_TRUE(one.send(ReleasePromise{}));
    auto damaged = co_await other.receive();
    EXPECT_FALSE(damaged);
    EXPECT_EQ(damaged.error().code, ErrorCode::invalid);
    auto next = co_await other.receive();
    EXPECT_TRUE(next && std::holds_alternative<ReleasePromise>(next->message));
  }());
}

TEST_F(ControlChannel, a_record_of_many_legs_fits_into_one_message) {
  reactor->run_until_done([]() -> block::Task<void> {
    auto ends = Channel::make_pair();
    EXPECT_TRUE(ends);
    Channel one(std::move(ends->first));
    Channel other(std::move(ends->second));
    StartDocument document;
    for (std::uint64_t mirror = 0; mirror < 200; ++mirror) {
      record::Mirror of_record;
      of_record.guid = MirrorId{mirror};
      of_record.legs.resize(4);
      for (record::Leg& leg : of_record.legs) leg.drive = std::string(100, 'd');
      document.stored.record.mirrors.push_back(std::move(of_record));
    }
    auto sent = one.send(Start{document});
    EXPECT_TRUE(sent) << sent.error().message;
    auto received = co_await other.receive();
    EXPECT_TRUE(received && std::get<Start>(received->message).document == document);
  }());
}

TEST_F(ControlChannel, a_socket_path_that_is_too_long_says_so) {
  auto listening = Channel::listen("/tmp/" + std::string(200, 'x'));
  ASSERT_FALSE(listening);
  EXPECT_EQ(listening.error().code, ErrorCode::invalid);
}

}  // namespace
}  // namespace zpair::control
