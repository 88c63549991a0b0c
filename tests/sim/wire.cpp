// Two paths between the nodes. What is sent over a path arrives in order. A cut holds what is sent without a sign; a heal
// delivers it late, or drops it and with it every connection that used the path.
#include "world_internal.h"

namespace zpair::sim {

bool World::passes(NodeId from, int path) const { return !links_[static_cast<std::size_t>(path)][index(from)].cut; }

void World::send(NodeId from, int path, std::function<void()> arrive) {
  Link& link = links_[static_cast<std::size_t>(path)][index(from)];
  if (link.cut) {
    link.held.push_back(std::move(arrive));
    return;
  }
  link.last_arrival_ns = std::max(now_ns_ + delay(), link.last_arrival_ns);
  at(link.last_arrival_ns, std::move(arrive));
}

void World::cut(int path, NodeId from) {
  Link& link = links_[static_cast<std::size_t>(path)][index(from)];
  if (!link.cut) tell("path{} {}>{} cut", path + 1, from, partner_of(from));
  link.cut = true;
}

void World::heal(int path, NodeId from, bool late) {
  Link& link = links_[static_cast<std::size_t>(path)][index(from)];
  if (!link.cut) return;
  tell("path{} {}>{} healed, {} held messages {}", path + 1, from, partner_of(from), link.held.size(),
       late ? "delivered late" : "dropped");
  link.cut = false;
  std::deque<std::function<void()>> held = std::exchange(link.held, {});
  if (late) {
    for (auto& arrive : held) send(from, path, std::move(arrive));
    return;
  }
  // A reset: both ends lose the connections over this path; their commands may have been dropped with it.
  for (auto& [pid, each] : processes_) {
    Connection& connection = each->connections[static_cast<std::size_t>(path)];
    if (each->alive && connection.up && (each->node == from || partner_of(each->node) == from)) {
      connection.up = false;
      std::uint64_t old = connection.id;
      each->unquiesced.insert(old);
      std::uint64_t id = pid;
      after(delay(), [this, id, old, path] { quiesce(id, old, 1 - path); });
    }
  }
}

int World::usable_path(NodeId from) {
  int first = static_cast<int>(random_.below(2));
  if (passes(from, first) && passes(partner_of(from), first)) return first;
  return 1 - first;
}

// Between the agents (and from an owner to the partner's agent): small messages over some path that seems to work.
void World::message(NodeId from, brain::agent::Event to_partner) {
  NodeId to = partner_of(from);
  send(from, usable_path(from), [this, to, to_partner = std::move(to_partner)] { feed(to, to_partner); });
}

}  // namespace zpair::sim
