// Drives and the targets in front of them. A command is checked on arrival (fence, connection), then in flight for a while,
// then done: a write goes to the cache or straight to the medium, a flush makes durable what had completed before it.
#include "world_internal.h"

namespace zpair::sim {

void World::execute(Command command, bool local, std::function<void(Answer, std::uint64_t)> answer) {
  Drive& at = drive(command.drive);
  if (!node(command.side).up) return;
  if (!local) {
    if (!node(command.side).agent_alive) return;
    if (target_connections_[command.connection].ended && !model(ModelMutation::ended_connection_accepted)) return;
    bool fenced = !at.open || at.fence_epoch != command.epoch || (at.fence_node != command.node);
    if (model(ModelMutation::host_id_per_node)) fenced = !at.open || at.fence_node != command.node;
    if (fenced || at.closed_to_writers) {
      Epoch by = at.open ? at.fence_epoch : std::max(at.fence_epoch, node(command.side).fenced_elsewhere);
      bool higher = by > command.epoch;
      return answer(higher ? Answer::fenced : Answer::closed, 0);  // closed: the initiator fences again and sends again
    }
    ++at.in_flight_remote;
    ++at.in_flight_of[command.pid];
    ++target_connections_[command.connection].in_flight;
  } else {
    ++at.in_flight_local;
  }
  std::uint64_t boot = node(command.side).boot;
  Nanoseconds took = random_.between(30, 600) * ns_per_us;
  if (at.slow) took += (random_.one_in(2) ? random_.between(100, 1'500) : random_.between(1'500, 6'000)) * ns_per_ms;
  after(took, [this, command, local, answer, boot] {
    if (node(command.side).boot != boot) return;  // the power went: it did not happen
    Drive& done_at = drive(command.drive);
    bool error = done_at.gone || (done_at.erring && command.kind != Command::Kind::uberblock);
    if (!error) apply(command, done_at);
    if (local) {
      --done_at.in_flight_local;
    } else {
      --done_at.in_flight_remote;
      if (--done_at.in_flight_of[command.pid] == 0) done_at.in_flight_of.erase(command.pid);
      --target_connections_[command.connection].in_flight;
    }
    answer(error ? Answer::error : Answer::done, done_at.verifier);
    target_event(command.side);
  });
}

void World::apply(const Command& command, Drive& at) {
  if (trace) {
    tell("  {}@{}: {} of process {} block {} version {} txg {} connection {}", at.id, command.side,
         command.kind == Command::Kind::write   ? "write"
         : command.kind == Command::Kind::flush ? "flush"
                                                : "uberblock",
         command.pid, command.block, command.version.number, command.uberblock.txg, command.connection);
  }
  auto block = static_cast<std::size_t>(command.block);
  if (command.epoch < at.imported_at && command.kind != Command::Kind::flush) {
    breaks(fmt::format("invariant 9: a command of epoch {} changes {}@{}, which epoch {} has imported", command.epoch,
                       at.id, at.side, at.imported_at));
  }
  switch (command.kind) {
    case Command::Kind::write: at.cached[block] = command.version; break;
    case Command::Kind::uberblock: at.cached_uberblock = command.uberblock; break;
    case Command::Kind::flush:
      for (std::size_t i = 0; i < at.cached.size(); ++i) {
        if (at.cached[i].number == 0) continue;
        at.history[i].push_back(at.durable[i]);
        if (at.history[i].size() > 12) at.history[i].erase(at.history[i].begin());
        at.durable[i] = at.cached[i];
        at.cached[i] = {};
      }
      if (at.cached_uberblock) at.uberblocks.insert(*at.cached_uberblock);
      at.cached_uberblock.reset();
      break;
  }
}

// Of what was not flushed any subset may be gone.
void World::lose_cache(Drive& at, bool whole) {
  for (std::size_t i = 0; i < at.cached.size(); ++i) {
    if (at.cached[i].number == 0) continue;
    if (!whole && random_.one_in(2)) {
      at.history[i].push_back(at.durable[i]);
      at.durable[i] = at.cached[i];
    }
    at.cached[i] = {};
  }
  if (at.cached_uberblock && random_.one_in(2)) at.uberblocks.insert(*at.cached_uberblock);
  at.cached_uberblock.reset();
  at.verifier = random_.next();
}

// A reservation over one connection: register, acquire by compare, preempt and abort; done after the drain (rule 5).
void World::fence_remote(std::uint64_t pid, int number, std::uint64_t connection,
                         std::function<void(bool, Epoch)> answer) {
  Process* asker = process(pid);
  if (asker == nullptr) return;
  NodeId side = partner_of(asker->node);
  Epoch epoch = asker->epoch;
  NodeId from = asker->node;
  if (!node(side).up || !node(side).agent_alive) return;
  if (target_connections_[connection].ended) return;
  Drive& at = drive(number);
  if (!at.open || at.gone) {
    answer(false, std::max(at.fence_epoch, node(side).fenced_elsewhere));
    return;
  }
  if (at.fence_epoch > epoch && !model(ModelMutation::fence_ignores_epoch)) {
    answer(false, at.fence_epoch);
    return;
  }
  at.fence_epoch = epoch;  // from here on no other host's command is accepted; what is in flight drains
  at.fence_node = from;
  if (!at.others_in_flight(pid) || model(ModelMutation::fence_without_drain)) {
    at.closed_to_writers = false;
    answer(true, epoch);
    return;
  }
  after(ns_per_ms, [this, pid, number, connection, answer] { fence_remote_drained(pid, number, connection, answer); });
}

void World::fence_remote_drained(std::uint64_t pid, int number, std::uint64_t connection,
                                 std::function<void(bool, Epoch)> answer) {
  Process* asker = process(pid);
  if (asker == nullptr) return;
  Drive& at = drive(number);
  if (!at.open || at.fence_epoch != asker->epoch) {
    answer(false, at.fence_epoch);
    return;
  }
  if (at.others_in_flight(pid)) {
    after(ns_per_ms,
          [this, pid, number, connection, answer] { fence_remote_drained(pid, number, connection, answer); });
    return;
  }
  at.closed_to_writers = false;
  answer(true, asker->epoch);
}

void World::target_event(NodeId side) {
  if (node(side).closing || node(side).opening) drives_move(side);
}

}  // namespace zpair::sim
