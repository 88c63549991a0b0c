#pragma once
// The owner's line to the partner's agent: asks for the promise on each path (rule 6), and whether the partner could serve
// while this process holds (rule 3). Keeps no state of the rules: the brain counts.
// Ownership: close() before the end.
// Threading: reactor thread; answers come as the brain's facts through `feed`.
#include <functional>
#include <string>

#include "agent/agent_client.h"
#include "base/config.h"
#include "block/task.h"
#include "brain/owner.h"

namespace zpair::pool {

class Promises {
 public:
  struct Options {
    NodeConfig config;
    std::string pool;
    std::function<void(brain::owner::Event)> feed;
  };
  explicit Promises(Options options);

  void start();
  block::Task<void> close();

  std::uint8_t path_count() const;
  void ask(const brain::owner::AskPromise& order, record::Floor floor);
  void ask_partner(Epoch epoch);
  Nanoseconds last_heard_ns() const { return client_.last_heard_ns(); }

 private:
  block::Task<void> run_ask(std::size_t path, agent::PromiseRequest request);
  block::Task<void> run_ask_partner(Epoch epoch);

  Options options_;
  agent::AgentClient client_;
  block::TaskGroup tasks_;
};

}  // namespace zpair::pool
