#include "quorum/memory_store.h"

#include "block/reactor.h"

namespace zpair::quorum {

using block::Reactor;
using block::Task;

void MemoryStore::tell(record::Stored changed) {
  for (auto& watcher : watchers_) {
    Reactor::current().post([watcher, changed] { watcher(changed); });
  }
}

SwapAnswer MemoryStore::change(std::string pool, std::uint64_t expected_mod_revision,
                               std::optional<record::Record> record) {
  auto found = records_.find(pool);
  std::uint64_t now = found == records_.end() ? 0 : found->second.mod_revision;
  if (now != expected_mod_revision) {
    record::Stored held = found == records_.end() ? record::Stored{} : found->second;
    return SwapAnswer{SwapAnswer::Outcome::other, held};
  }
  ++swap_count_;
  ++revision_;
  if (!record) {
    if (found != records_.end()) {
      destroyed_[pool] = found->second.record;
      records_.erase(found);
    }
    record::Stored gone;
    gone.record.name = pool;
    tell(gone);
    return SwapAnswer{SwapAnswer::Outcome::applied, gone};
  }
  record::Stored stored{*record, revision_};
  records_[pool] = stored;
  tell(stored);
  return SwapAnswer{SwapAnswer::Outcome::applied, stored};
}

Task<SwapAnswer> MemoryStore::decide(std::string pool, std::uint64_t expected_mod_revision,
                                     std::optional<record::Record> record, Deadline deadline) {
  SwapAnswer unknown{SwapAnswer::Outcome::unknown, {}};
  if (down_) {
    if (deadline.at_ns != INT64_MAX) co_await Reactor::current().until(deadline.at_ns);
    co_return unknown;
  }
  co_await Reactor::current().yield();
  NextSwap what = NextSwap::works;
  if (!next_.empty()) {
    what = next_.front();
    next_.pop_front();
  }
  switch (what) {
    case NextSwap::works: co_return change(pool, expected_mod_revision, record);
    case NextSwap::applied_but_unknown: (void)change(pool, expected_mod_revision, record); break;
    case NextSwap::lost_and_unknown: break;
    case NextSwap::late_and_unknown: late_.push_back(Late{pool, expected_mod_revision, record}); break;
  }
  unresolved_[pool] = true;
  co_return unknown;
}

Task<SwapAnswer> MemoryStore::swap(std::uint64_t expected_mod_revision, record::Record record, Deadline deadline) {
  std::string pool = record.name;
  co_return co_await decide(pool, expected_mod_revision, std::optional(std::move(record)), deadline);
}

Task<SwapAnswer> MemoryStore::remove(std::string pool, std::uint64_t expected_mod_revision, Deadline deadline) {
  co_return co_await decide(std::move(pool), expected_mod_revision, std::nullopt, deadline);
}

Task<Result<std::optional<record::Record>>> MemoryStore::destroyed(std::string pool, Deadline deadline) {
  if (down_) {
    if (deadline.at_ns != INT64_MAX) co_await Reactor::current().until(deadline.at_ns);
    co_return fail(ErrorCode::timed_out, "no majority of the store answered");
  }
  co_await Reactor::current().yield();
  auto found = destroyed_.find(pool);
  if (found == destroyed_.end()) co_return std::optional<record::Record>();
  co_return std::optional(found->second);
}

Task<Result<std::optional<record::Stored>>> MemoryStore::read(std::string pool, Deadline deadline) {
  if (down_) {
    if (deadline.at_ns != INT64_MAX) co_await Reactor::current().until(deadline.at_ns);
    co_return fail(ErrorCode::timed_out, "no majority of the store answered");
  }
  co_await Reactor::current().yield();
  auto found = records_.find(pool);
  if (found == records_.end()) co_return std::optional<record::Stored>();
  // As EtcdStore does: what was unknown can no longer happen once it was read.
  if (unresolved_.erase(pool) > 0) found->second.mod_revision = ++revision_;
  co_return std::optional(found->second);
}

Task<Result<std::vector<record::Stored>>> MemoryStore::list(Deadline deadline) {
  if (down_) {
    if (deadline.at_ns != INT64_MAX) co_await Reactor::current().until(deadline.at_ns);
    co_return fail(ErrorCode::timed_out, "no majority of the store answered");
  }
  co_await Reactor::current().yield();
  std::vector<record::Stored> all;
  for (const auto& [pool, stored] : records_) all.push_back(stored);
  co_return all;
}

void MemoryStore::let_late_swaps_land() {
  for (Late& late : std::exchange(late_, {})) (void)change(late.pool, late.expected_mod_revision, late.record);
}

void MemoryStore::watch(std::function<void(record::Stored)> changed) { watchers_.push_back(std::move(changed)); }

Task<void> MemoryStore::close() {
  watchers_.clear();
  co_return;
}

}  // namespace zpair::quorum
