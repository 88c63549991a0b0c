// The driver of the agent's brain with a store in memory, real drives (files), no partner, and a script in zpair-pool's place.
#include "node/pool_agent.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "block/file_device.h"
#include "quorum/memory_store.h"
#include "scratch.h"

namespace zpair::node {
namespace {

using block::FileDevice;
using block::Reactor;
using block::Scratch;
using block::Task;

constexpr std::uint64_t drive_bytes = 64 << 20;

Task<Result<std::unique_ptr<block::BlockDevice>>> open_file(RegisteredDrive drive, Deadline wait_for_lock) {
  auto device =
      co_await FileDevice::open({.path = drive.path, .block_size_bytes = 4096, .wait_for_lock = wait_for_lock});
  if (!device) co_return std::unexpected(device.error());
  co_return std::unique_ptr<block::BlockDevice>(std::move(*device));
}

class Node {
 public:
  explicit Node(Reactor& reactor) : worker(reactor) {
    std::ofstream(scratch.path("pool")) << "#!/bin/sh\nexec sleep 1000\n";
    ::chmod(scratch.path("pool").c_str(), 0755);
    config.node = NodeId::a;
    config.state_dir = scratch.path("state");
    config.run_dir = scratch.path("");
    folder = std::move(*StateFolder::open(config.state_dir));
    events = std::make_unique<Events>(NodeId::a, scratch.path("events"));
    Drives::Options options;
    options.node = NodeId::a;
    options.open = open_file;
    drives = std::make_unique<Drives>(std::move(options), *folder);
    partner = std::make_unique<agent::AgentClient>(agent::AgentClient::Options{.node = NodeId::a, .paths = {}});
    parts.config = &config;
    parts.config_file = "/dev/null";
    parts.pool_program = scratch.path("pool");
    parts.reactor = &reactor;
    parts.drives = drives.get();
    parts.folder = folder.get();
    parts.store = &store;
    parts.partner = partner.get();
    parts.events = events.get();
    parts.worker = &worker;
    parts.limits.partner_wait_ns = 0;
    parts.paths = {{"path1", {"tcp:127.0.0.1:1"}, ""}};  // nobody answers there
    parts.partner_places = [](const std::string&) { return std::vector<control::DrivePlace>{}; };
  }

  // A pool of one mirror, whose leg of this node is a real drive; in the store at epoch 3.
  Task<record::Record> make_pool(NodeId owner, NodeId in_sync) {
    EXPECT_TRUE(drives->start({}).has_value());
    auto drive = co_await drives->add("tank", scratch.drive("d1", drive_bytes));
    EXPECT_TRUE(drive.has_value());
    record::Record record;
    record.name = "tank";
    record.pool_guid = PoolGuid{77};
    record.home = record.owner = owner;
    record.epoch = Epoch{3};
    record.rev = Revision{5};
    record.op = "made by the test";
    record::Mirror mirror;
    mirror.guid = MirrorId{1};
    mirror.legs.push_back({LegId{11}, NodeId::a, drive->durable_id, in_sync == NodeId::a, false, Txg{1}, false});
    mirror.legs.push_back({LegId{12}, NodeId::b, "file:far", true, false, Txg{}, false});
    record.mirrors.push_back(mirror);
    auto swapped = co_await store.swap(0, record, Deadline::in_ms(1000));
    EXPECT_EQ(swapped.outcome, quorum::SwapAnswer::Outcome::applied);
    co_return record;
  }

  Task<record::Record> wait_for_epoch(std::uint64_t epoch) {
    for (;;) {
      auto stored = co_await store.read("tank", Deadline::in_ms(1000));
      if (stored && *stored && (*stored)->record.epoch.value >= epoch) co_return (*stored)->record;
      co_await Reactor::current().after_ms(2);
    }
  }
  Task<void> wait_for_process(PoolAgent& pool, pid_t other_than) {
    while (!pool.has_process() || pool.process_pid() == other_than) co_await Reactor::current().after_ms(2);
  }
  Task<void> close(PoolAgent& pool) {
    pid_t pid = pool.process_pid();
    co_await pool.close();
    if (pid > 0) ::kill(pid, SIGKILL);
    co_await partner->close();
    co_await drives->close();
    co_await store.close();
    worker.close();
  }

  Scratch scratch;
  NodeConfig config;
  std::unique_ptr<StateFolder> folder;
  std::unique_ptr<Events> events;
  std::unique_ptr<Drives> drives;
  quorum::MemoryStore store;
  std::unique_ptr<agent::AgentClient> partner;
  Worker worker;
  NodeParts parts;
};

template <class Body>
void run(Body body) {
  auto reactor = std::move(*Reactor::create());
  reactor->run_until_done(body(*reactor));
}

TEST(PoolAgentDriver, a_lone_home_node_imports_at_the_next_epoch_with_its_own_legs) {
  run([](Reactor& reactor) -> Task<void> {
    Node node(reactor);
    record::Record record = co_await node.make_pool(NodeId::a, NodeId::a);
    PoolAgent pool("tank", node.parts);
    pool.start(record);
    record::Record won = co_await node.wait_for_epoch(4);
    EXPECT_EQ(won.owner, NodeId::a);
    EXPECT_TRUE(won.mirrors[0].legs[0].in_sync);
    EXPECT_FALSE(won.mirrors[0].legs[1].in_sync);
    co_await node.wait_for_process(pool, 0);
    // The copy is durable before the process starts (rule 9), and the drive is the process's (rule 5).
    auto copies = node.folder->load_records();
    EXPECT_TRUE(copies && copies->at("tank").epoch == Epoch{4});
    EXPECT_FALSE(node.drives->exported(won.mirrors[0].legs[0].drive));
    co_await node.close(pool);
  });
}

// Rule 4: a restart in place is a new epoch.
TEST(PoolAgentDriver, a_process_that_died_is_started_again_at_a_new_epoch) {
  run([](Reactor& reactor) -> Task<void> {
    Node node(reactor);
    record::Record record = co_await node.make_pool(NodeId::a, NodeId::a);
    PoolAgent pool("tank", node.parts);
    pool.start(record);
    co_await node.wait_for_process(pool, 0);
    pid_t first = pool.process_pid();
    ::kill(first, SIGKILL);
    record::Record won = co_await node.wait_for_epoch(5);
    EXPECT_EQ(won.owner, NodeId::a);
    co_await node.wait_for_process(pool, first);
    bool told = false;
    for (const Event& event : node.events->since(0)) told = told || event.kind == "process-died";
    EXPECT_TRUE(told);
    co_await node.close(pool);
  });
}

// Rules 4 and 11: without an in-sync leg in reach nothing is imported, and the reason is said.
TEST(PoolAgentDriver, a_node_without_an_in_sync_leg_refuses) {
  run([](Reactor& reactor) -> Task<void> {
    Node node(reactor);
    record::Record record = co_await node.make_pool(NodeId::a, NodeId::b);
    PoolAgent pool("tank", node.parts);
    pool.start(record);
    while (pool.state().refused.empty()) co_await Reactor::current().after_ms(2);
    EXPECT_FALSE(pool.has_process());
    auto stored = co_await node.store.read("tank", Deadline::in_ms(1000));
    EXPECT_TRUE(stored && *stored && (*stored)->record.epoch == Epoch{3});
    co_await node.close(pool);
  });
}

TEST(PoolAgentDriver, its_close_waits_for_whoever_asks_for_its_side) {
  run([](Reactor& reactor) -> Task<void> {
    Node node(reactor);
    record::Record record = co_await node.make_pool(NodeId::b, NodeId::a);
    PoolAgent pool("tank", node.parts);
    pool.start(record);
    Task<std::string> asked = pool.side();
    asked.start();
    EXPECT_FALSE(asked.done()) << "it reads a drive";
    co_await pool.close();
    EXPECT_TRUE(asked.done());
    co_await node.close(pool);
  });
}

TEST(PoolAgentDriver, a_promise_is_answered_with_its_nonce) {
  run([](Reactor& reactor) -> Task<void> {
    Node node(reactor);
    record::Record record = co_await node.make_pool(NodeId::b, NodeId::a);
    PoolAgent pool("tank", node.parts);
    pool.start(record);
    auto granted = pool.promise(1, {"tank", Epoch{3}, 42, {}});
    EXPECT_TRUE(granted.granted);
    EXPECT_EQ(granted.nonce, 42U);
    auto refused = pool.promise(1, {"tank", Epoch{2}, 43, {}});  // a former epoch
    EXPECT_FALSE(refused.granted);
    EXPECT_EQ(refused.epoch, Epoch{3});
    co_await node.close(pool);
  });
}

}  // namespace
}  // namespace zpair::node
