#include "pool/control_link.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "block/reactor.h"

namespace zpair::pool {
namespace {

TEST(ControlLink, the_newest_connection_counts_and_the_older_one_ends) {
  auto reactor = *block::Reactor::create();
  char folder[] = "/tmp/zpair-control-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/pool.control";
  reactor->run_until_done([](std::string at) -> block::Task<void> {
    int connects = 0;
    block::Signal heard;
    std::string volume;
    auto link = ControlLink::start({.socket_path = at,
                                    .on_message =
                                        [&](control::Received received) {
                                          volume = std::get<control::VolumeSocket>(received.message).volume;
                                          heard.set();
                                        },
                                    .on_connect = [&] { ++connects; }});
    EXPECT_TRUE(link);
    auto ends = control::Channel::make_pair();
    control::Channel inherited(std::move(ends->first));
    (*link)->take_over(std::move(ends->second));
    EXPECT_EQ(connects, 1);

    auto socket = control::Channel::connect(at);  // zpaird was restarted
    EXPECT_TRUE(socket);
    control::Channel restarted(std::move(*socket));
    auto ended = co_await inherited.receive();  // the link let the older one go
    EXPECT_FALSE(ended);
    EXPECT_EQ(connects, 2);

    (*link)->send(control::Heartbeat{9});
    auto beat = co_await restarted.receive();
    EXPECT_TRUE(beat && std::get<control::Heartbeat>(beat->message).engine_moves == 9);
    EXPECT_TRUE(restarted.send(control::VolumeSocket{"vm2"}));
    const bool came = co_await block::wait_for(heard, Deadline::in_ms(5000));
    EXPECT_TRUE(came);
    EXPECT_EQ(volume, "vm2");
    co_await (*link)->close();
  }(path));
}

}  // namespace
}  // namespace zpair::pool
