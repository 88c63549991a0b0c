// The quorum store: one linearizable key. Requests and answers take time, get lost, or arrive late. And the client in front
// of it (src/quorum): after a swap of unknown outcome its next read writes what it finds back unchanged, at a new revision,
// before it answers, so that a late copy of that swap compares with a revision that has gone.
#include "world_internal.h"

namespace zpair::sim {

namespace {
constexpr Nanoseconds swap_deadline_ns = 700 * ns_per_ms;
}

void World::store_swap(NodeId from, std::shared_ptr<StoreClient> client, std::uint64_t expected, record::Record wanted,
                       bool remove, std::function<void(brain::owner::Event)> owner_answer,
                       std::function<void(brain::agent::Event)> agent_answer) {
  struct Open {
    bool answered = false;
  };
  auto open = std::make_shared<Open>();
  std::string op = wanted.op;
  auto answer = [open, owner_answer, agent_answer](auto event) {
    if (open->answered) return;
    open->answered = true;
    if (owner_answer) owner_answer(event);
    if (agent_answer) agent_answer(event);
  };
  after(swap_deadline_ns, [this, from, op, answer, open, client, expected] {
    if (!open->answered) client->unresolved.insert(expected);
    answer(brain::SwapUnknown{clock(from), op});
  });

  Node& sender = node(from);
  Nanoseconds travel = random_.between(500, 4'000) * ns_per_us + std::exchange(sender.swap_delay_ns, 0);
  bool reply_lost = std::exchange(sender.lose_swap_reply, false);
  int restores = store_restores_;
  after(travel, [this, from, expected, wanted, remove, op, answer, reply_lost, restores] {
    if (!store_serves(from) || restores != store_restores_)
      return;  // a request that meets no majority is gone; the sender learns nothing
    std::uint64_t current = store_ ? store_->mod_revision : 0;
    if (current == expected) {
      std::optional<record::Stored> before = store_;
      if (remove) {
        store_.reset();
      } else {
        store_ = record::Stored{wanted, ++store_revision_};
        store_history_.push_back(*store_);
        tell("store: epoch {} rev {} owner {}: {}", wanted.epoch, wanted.rev, wanted.owner, wanted.why);
      }
      if (before && store_) check_record(before->record, store_->record);
      record::Stored stored = store_ ? *store_ : record::Stored{};
      auto named = [](const record::Record& record) {
        int count = 0;
        for (const record::Mirror& mirror : record.mirrors)
          count += in_sync_count(mirror, NodeId::a) + in_sync_count(mirror, NodeId::b);
        return count;
      };
      bool grown = store_ && before && named(store_->record) > named(before->record);
      bool unheard = reply_lost || (grown && springs(from, FaultKind::cut_at_grow));
      store_changed();
      if (unheard) return;
      after(delay(), [this, from, op, stored, answer] { answer(brain::SwapApplied{clock(from), op, stored}); });
      return;
    }
    std::optional<record::Stored> found = store_;
    if (reply_lost) return;
    after(delay(), [this, from, op, found, answer] { answer(brain::SwapOther{clock(from), op, found}); });
  });
}

void World::store_read(NodeId from, std::shared_ptr<StoreClient> client,
                       std::function<void(std::optional<record::Stored>, bool)> answer) {
  auto reading = std::make_shared<StoreRead>(StoreRead{from, std::move(client), std::move(answer)});
  after(swap_deadline_ns, [reading] { reading->end(std::nullopt, false); });
  store_look(reading);
}

void World::store_look(std::shared_ptr<StoreRead> reading) {
  after_random(500 * ns_per_us, 4 * ns_per_ms, [this, reading] {
    if (!store_serves(reading->from)) return;
    std::optional<record::Stored> found = store_;
    after(delay(), [this, reading, found] {
      if (reading->ended) return;
      std::uint64_t revision = found ? found->mod_revision : 0;
      std::set<std::uint64_t>& unresolved = reading->client->unresolved;
      std::erase_if(unresolved, [revision](std::uint64_t expected) { return expected != revision; });
      if (!found || unresolved.empty()) return reading->end(found, true);
      store_write_back(reading, *found);
    });
  });
}

void World::store_write_back(std::shared_ptr<StoreRead> reading, record::Stored found) {
  Nanoseconds travel =
      random_.one_in(32) ? random_.between(50, 1'500) * ns_per_ms : random_.between(500, 4'000) * ns_per_us;
  bool reply_lost = random_.one_in(16);
  int restores = store_restores_;
  after(travel, [this, reading, found, reply_lost, restores] {
    if (!store_serves(reading->from) || restores != store_restores_) return;
    bool applied = store_ && store_->mod_revision == found.mod_revision;
    if (applied) {
      ++stats_.write_backs;
      store_->mod_revision = ++store_revision_;
      store_history_.push_back(*store_);
      tell("store: node {} writes epoch {} rev {} back unchanged", reading->from, found.record.epoch, found.record.rev);
      store_changed();
    }
    if (reply_lost) return;
    record::Stored stored{found.record, store_revision_};
    after(delay(), [this, reading, found, stored, applied] {
      if (!applied) return store_look(reading);
      reading->client->unresolved.erase(found.mod_revision);
      reading->end(stored, true);
    });
  });
}

// The watch: a hint that may come late or not at all.
void World::store_changed() {
  if (!store_) return;
  record::Stored stored = *store_;
  for (NodeId id : {NodeId::a, NodeId::b}) {
    if (!store_serves(id) || random_.one_in(4)) continue;
    after(delay(), [this, id, stored] {
      feed(id, brain::RecordSeen{clock(id), stored});
      if (std::uint64_t pid = node(id).pid; pid != 0) {
        to_process(pid, [this, pid, stored] {
          if (Process* at = process(pid)) feed(*at, brain::RecordSeen{clock(at->node), stored});
        });
      }
    });
  }
}

}  // namespace zpair::sim
