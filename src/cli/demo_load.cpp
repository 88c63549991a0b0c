#include "cli/demo_load.h"

#include <future>
#include <map>
#include <thread>

#include "block/reactor.h"

namespace zpair::cli {

using block::Task;
using drill::Load;

namespace {

constexpr std::int64_t open_timeout_ms = 30000;
constexpr std::uint64_t working_set_bytes = 32u << 20;  // all of it is read back at the end
constexpr double operations_per_second = 200;  // of each client: the machine also runs both nodes and the store

}  // namespace

struct DemoLoad::Impl {
  std::unique_ptr<block::Reactor> reactor;
  std::thread thread;
  std::vector<std::string> pools;
  std::vector<std::unique_ptr<Load>> loads;     // reactor thread
  std::map<std::string, Load::EventId> events;  // by pool; reactor thread
  block::TaskGroup tasks;
  bool finished = false;

  Load& load_of(const std::string& pool) {
    for (std::size_t i = 0; i < pools.size(); ++i) {
      if (pools[i] == pool) return *loads[i];
    }
    ZP_ASSERT(false, "the demo names only pools that it loads");
    std::abort();
  }

  // Runs `call` on the reactor and waits for its value.
  template <class Call>
  auto ask(Call call) {
    std::promise<decltype(call())> promise;
    auto future = promise.get_future();
    reactor->post([&] { promise.set_value(call()); });
    return future.get();
  }
  // The same for a task.
  template <class T>
  T await(Task<T> task) {
    std::promise<T> promise;
    auto future = promise.get_future();
    reactor->post([&] { tasks.spawn(settle(std::move(task), promise)); });
    return future.get();
  }
  template <class T>
  static Task<void> settle(Task<T> task, std::promise<T>& promise) {
    auto value = co_await task;
    promise.set_value(std::move(value));
  }

  static Task<Result<void>> open_all(Impl& self) {
    for (auto& load : self.loads) ZP_CO_CHECK(co_await load->open(Deadline::in_ms(open_timeout_ms)));
    for (auto& load : self.loads) load->start();
    co_return Result<void>{};
  }
  static Task<Result<std::vector<drill::LoadReport>>> stop_and_verify(Impl& self) {
    std::vector<drill::LoadReport> reports;
    for (auto& load : self.loads) co_await load->stop();
    for (auto& load : self.loads) {
      auto verified = co_await load->verify();
      if (!verified) co_return fail(verified.error(), "a volume cannot be read back");
      reports.push_back(load->report());
    }
    co_return reports;
  }
  static Task<Result<void>> close_all(Impl& self) {
    for (auto& load : self.loads) co_await load->close();
    co_return Result<void>{};
  }
};

DemoLoad::DemoLoad(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

DemoLoad::~DemoLoad() {
  (void)impl_->await(Impl::close_all(*impl_));
  impl_->ask([this] {
    impl_->loads.clear();
    return true;
  });
  impl_->reactor->stop();
  impl_->thread.join();
}

Result<std::unique_ptr<DemoLoad>> DemoLoad::open(const std::vector<Volume>& volumes) {
  auto impl = std::make_unique<Impl>();
  ZP_TRY(reactor, block::Reactor::create());
  impl->reactor = std::move(reactor);
  std::uint64_t seed = 1;
  for (const Volume& volume : volumes) {
    drill::LoadOptions options;
    ZP_TRY(target, drill::NbdTarget::parse(volume.uri));
    options.target = target;
    options.operations_per_second = operations_per_second;
    options.working_set_bytes = working_set_bytes;
    options.greatest_bytes = 64u << 10;
    options.seed = seed++;
    impl->pools.push_back(volume.pool);
    impl->loads.push_back(std::make_unique<Load>(std::move(options)));
  }
  impl->thread = std::thread([raw = impl.get()] { raw->reactor->run(); });
  std::unique_ptr<DemoLoad> self(new DemoLoad(std::move(impl)));
  ZP_CHECK(self->impl_->await(Impl::open_all(*self->impl_)));
  return self;
}

void DemoLoad::begin_event(const std::string& pool, const std::string& name) {
  impl_->ask([&] {
    impl_->events.insert_or_assign(pool, impl_->load_of(pool).begin_event(name));
    return true;
  });
}

DemoLoad::Stall DemoLoad::end_event(const std::string& pool) {
  return impl_->ask([&] {
    Load& load = impl_->load_of(pool);
    const auto event = impl_->events.at(pool);
    load.end_event(event);
    return Stall{load.stall_ms(event), load.stall_ended_ns(event)};
  });
}

std::vector<DemoLoad::Now> DemoLoad::now() {
  return impl_->ask([&] {
    std::vector<Now> all;
    for (std::size_t i = 0; i < impl_->loads.size(); ++i) {
      Load& load = *impl_->loads[i];
      all.push_back({impl_->pools[i], load.operations(), load.history().counts().acknowledged_blocks,
                     load.stalled_now_ms(), load.client().connected()});
    }
    return all;
  });
}

Result<std::vector<drill::LoadReport>> DemoLoad::finish() { return impl_->await(Impl::stop_and_verify(*impl_)); }

}  // namespace zpair::cli
