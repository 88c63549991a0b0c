#pragma once
// A QuorumStore in memory, for tests of what stands above: it answers as etcd does, and fails on command.
// Threading: reactor thread only.
#include <deque>
#include <map>

#include "quorum/quorum_store.h"

namespace zpair::quorum {

class MemoryStore final : public QuorumStore {
 public:
  // What becomes of the next swaps and removes, one entry each; when the list is empty they just work.
  enum class NextSwap {
    works,
    applied_but_unknown,  // done, the answer is lost
    lost_and_unknown,     // never done, and says unknown
    late_and_unknown,     // says unknown; done (if the revision still fits) when let_late_swaps_land() is called
  };

  block::Task<Result<std::optional<record::Stored>>> read(std::string pool, Deadline deadline) override;
  block::Task<Result<std::vector<record::Stored>>> list(Deadline deadline) override;
  block::Task<SwapAnswer> swap(std::uint64_t expected_mod_revision, record::Record record, Deadline deadline) override;
  block::Task<SwapAnswer> remove(std::string pool, std::uint64_t expected_mod_revision, Deadline deadline) override;
  block::Task<Result<std::optional<record::Record>>> destroyed(std::string pool, Deadline deadline) override;
  void watch(std::function<void(record::Stored)> changed) override;
  block::Task<void> close() override;

  void next_swap(NextSwap what) { next_.push_back(what); }
  // No majority: reads wait for their deadline and then fail, swaps are unknown (and not done).
  void set_down(bool down) { down_ = down; }
  void let_late_swaps_land();
  std::uint64_t swap_count() const { return swap_count_; }  // that changed something

 private:
  struct Late {
    std::string pool;
    std::uint64_t expected_mod_revision;
    std::optional<record::Record> record;  // nullopt: a remove
  };
  SwapAnswer change(std::string pool, std::uint64_t expected_mod_revision, std::optional<record::Record> record);
  block::Task<SwapAnswer> decide(std::string pool, std::uint64_t expected_mod_revision,
                                 std::optional<record::Record> record, Deadline deadline);
  void tell(record::Stored changed);

  std::map<std::string, record::Stored> records_;
  std::map<std::string, record::Record> destroyed_;
  std::uint64_t revision_ = 1;
  std::uint64_t swap_count_ = 0;
  bool down_ = false;
  std::deque<NextSwap> next_;
  std::vector<Late> late_;
  std::map<std::string, bool> unresolved_;
  std::vector<std::function<void(record::Stored)>> watchers_;
};

}  // namespace zpair::quorum
