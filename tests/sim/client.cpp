// One client a block: a writer that knows what was acknowledged and re-sends what was not, and a reader that never goes back.
#include "world_internal.h"

namespace zpair::sim {

void World::client_tick(int mirror, int block) {
  after_random(4 * ns_per_ms, 60 * ns_per_ms, [this, mirror, block] { client_tick(mirror, block); });
  Client& at = client(mirror, block);
  // Whoever serves, as far as a client can tell: a process that is paused or fenced looks alike.
  Process* to = process(at.pid);
  if (to == nullptr || !to->serving || now_ns_ - at.sent_ns > 400 * ns_per_ms) {
    std::vector<Process*> serving;
    for (NodeId id : {NodeId::a, NodeId::b}) {
      Process* each = process(node(id).pid);
      if (each != nullptr && each->serving) serving.push_back(each);
    }
    if (serving.empty()) return;
    to = serving[random_.below(serving.size())];
    if (at.pid != to->pid) at.request = 0;
    at.pid = to->pid;
  }
  std::uint64_t pid = to->pid;
  if (at.request == 0 && now_ns_ < at.rest_until_ns && !faults_over_) {
    // It only reads; the next write may go to whoever serves.
  } else if (at.request == 0 && !(faults_over_ && at.acked == at.issued)) {
    if (at.acked == at.issued) ++at.issued;
    at.request = ++last_request_;
    at.sent_ns = now_ns_;
    std::uint64_t connection = ++at.connection;
    std::uint64_t request = at.request;
    std::uint64_t number = at.issued;
    // A dead path may hold a request for long; the client has reconnected by then (rule 10).
    Nanoseconds travel = random_.one_in(100) ? random_.between(100, 1'500) * ns_per_ms : delay();
    after(travel, [this, pid, mirror, block, request, number, connection] {
      to_process(pid, [this, pid, mirror, block, request, number, connection] {
        take_request(pid, mirror, block, request, number, connection);
      });
    });
  } else if (now_ns_ - at.sent_ns > 400 * ns_per_ms) {
    at.request = 0;  // no answer: sent again with the next tick
  }
  if (random_.one_in(2)) {
    // Reads may go to either process, also to one that has been replaced.
    for (NodeId id : {NodeId::a, NodeId::b}) {
      std::uint64_t reader = node(id).pid;
      std::uint64_t floor = std::max(at.acked, at.read_floor);
      after(delay(), [this, reader, mirror, block, floor] {
        to_process(reader, [this, reader, mirror, block, floor] { read(reader, mirror, block, floor); });
      });
    }
  }
}

void World::take_request(std::uint64_t pid, int mirror, int block, std::uint64_t request, std::uint64_t number,
                         std::uint64_t connection) {
  Process* at = process(pid);
  if (at == nullptr || !at->serving || at->draining || !at->mirrors.contains(mirror)) return;
  auto key = std::pair(mirror, block);
  std::uint64_t& newest = at->client_connections[key];
  if (connection < newest && !model(ModelMutation::old_client_connection)) return;  // rule 10: a newer one has ended it
  newest = std::max(newest, connection);
  auto running = at->writes.find(key);
  if (running != at->writes.end()) {
    if (running->second.version.number == number && running->second.client_request != 0)
      running->second.client_request = request;
    return;  // rule 10: the newer connection waits for the older one's request
  }
  begin_write(*at, Write{mirror, block, Version{number, at->open_txg}, request, {}, {}, {}, {}});
}

void World::acknowledge(int mirror, int block, std::uint64_t request, std::uint64_t number) {
  Client& at = client(mirror, block);
  ++stats_.acks;
  at.acked = std::max(at.acked, number);
  if (at.request == request) {
    after(delay(), [this, mirror, block, request] {
      Client& now = client(mirror, block);
      if (now.request != request) return;
      now.request = 0;
      if (!random_.one_in(plan_.rest_one_in)) return;
      now.rest_until_ns = now_ns_ + random_.between(200, 3'000) * ns_per_ms;
      now.pid = 0;
    });
  }
}

void World::read(std::uint64_t pid, int mirror, int block, std::uint64_t floor) {
  Process* at = process(pid);
  if (at == nullptr || !at->serving || !at->mirrors.contains(mirror)) return;
  auto uncommitted = at->writes.find({mirror, block});
  if (uncommitted != at->writes.end() && !model(ModelMutation::read_of_uncommitted)) return;  // rule 10: it waits
  std::uint64_t value = uncommitted != at->writes.end()
                            ? uncommitted->second.version.number
                            : at->current[static_cast<std::size_t>(mirror)][static_cast<std::size_t>(block)].number;
  // The data is taken; the permission is asked afterwards, possibly much later.
  after_random(0, 3 * ns_per_ms, [this, pid, mirror, block, floor, value] {
    to_process(pid, [this, pid, mirror, block, floor, value] {
      Process* now = process(pid);
      if (now == nullptr || !brain::owner::may_answer_reads(now->brain, clock(now->node))) return;
      ++stats_.reads;
      Client& reader = client(mirror, block);
      if (value < floor) {
        breaks(fmt::format("invariant 4: epoch {} reads version {} of mirror {} block {}, at least {} was due",
                           now->epoch, value, mirror, block, floor));
      }
      reader.read_floor = std::max(reader.read_floor, value);
    });
  });
}

}  // namespace zpair::sim
