// A node around the real brain::agent: zpaird's orders carried out, its facts fed back; boots and power losses.
#include "world_internal.h"

namespace zpair::sim {

using namespace brain;

Limits World::limits() const {
  Limits limits;
  limits.promise_ns = plan_.promise_ns;
  limits.partner_wait_ns = 2'000 * ns_per_ms;
  limits.back_off_ns = 300 * ns_per_ms;
  limits.back_off_most_ns = 2'000 * ns_per_ms;
  limits.back_off_memory_ns = 5'000 * ns_per_ms;
  return limits;
}

void World::start_agent(NodeId id) {
  Node& at = node(id);
  at.agent_alive = true;
  at.agent_paused = false;
  at.agent_inbox.clear();
  at.store = std::make_shared<StoreClient>();
  ++at.agent_run;
  at.closing.reset();
  at.opening = at.holds_drives = false;
  at.fenced_elsewhere = {};
  each_drive(id, [](Drive& own) {
    own.open = false;
    own.closed_to_writers = true;
  });
  at.agent = agent::State{};
  at.agent.limits = limits();
  std::optional<Epoch> running;
  if (Process* own = process(at.pid)) {
    running = own->epoch;
    at.fenced_elsewhere = own->epoch;
  }
  tell("node {}: zpaird starts", id);
  feed(id, agent::Started{clock(id), id, "tank-a", at.kept, running, random_.next()});
  agent_tick(id, at.agent_run);
}

void World::stop_agent(NodeId id) {
  Node& at = node(id);
  if (!at.agent_alive) return;
  at.agent_alive = false;
  ++at.agent_run;
  at.agent_inbox.clear();
  // Every connection to its target ends with it; what the kernel has already taken goes on.
  for (TargetConnection& connection : target_connections_) connection.ended |= connection.at == id;
}

void World::to_agent(NodeId id, std::function<void()> call) {
  Node& at = node(id);
  if (!at.up || !at.agent_alive) return;
  if (at.agent_paused) {
    at.agent_inbox.push_back(std::move(call));
    return;
  }
  call();
}

void World::feed(NodeId id, agent::Event event) {
  Node& at = node(id);
  if (!at.up || !at.agent_alive) return;
  if (at.agent_paused) {
    at.agent_inbox.push_back([this, id, event] { feed(id, event); });
    return;
  }
  // The fact is noticed now, whenever it was sent.
  std::visit([this, id](auto& fact) { fact.now_ns = clock(id); }, event);
  ++stats_.agent_events[event.index()];
  bool quiet = std::holds_alternative<agent::Ticked>(event) || std::holds_alternative<agent::PartnerHeard>(event) ||
               std::holds_alternative<agent::PoolHeartbeat>(event) ||
               std::holds_alternative<agent::PromiseAsked>(event);
  if (keep_story_ && !quiet) tell("zpaird {} hears {}", id, variant_name(event));
  if (const auto* asked = std::get_if<agent::SurveyAsked>(&event)) at.survey_epoch = asked->epoch;
  std::uint64_t run = at.agent_run;
  for (agent::Action& action : agent::step(at.agent, event)) {
    ++stats_.agent_actions[action.index()];
    if (!at.agent_alive || at.agent_run != run) return;
    carry_out(id, std::move(action));
  }
}

void World::carry_out(NodeId id, agent::Action action) {
  Node& at = node(id);
  std::uint64_t run = at.agent_run;
  auto reply = [this, id, run](Nanoseconds low, Nanoseconds high, auto make) {
    after_random(low, high, [this, id, run, make] {
      if (node(id).agent_run == run) feed(id, make());
    });
  };
  if (keep_story_ && !std::holds_alternative<agent::AnswerPromise>(action))
    tell("zpaird {} orders {}", id, variant_name(action));
  std::visit(
      Overloaded{
          [&](const agent::SurveyLocal&) {
            reply(ns_per_ms, 15 * ns_per_ms, [this, id]() -> agent::Event {
              std::vector<agent::LocalLeg> legs;
              each_drive(id, [&](Drive& own) {
                std::optional<LegId> leg = named_leg(own, id);
                if (!leg || own.gone) return;
                legs.push_back({*leg, own.kept_epoch, own.kept_rev, own.fence_epoch,
                                own.uberblocks.empty() ? Txg{} : own.uberblocks.rbegin()->txg});
              });
              return agent::LocalSurveyed{clock(id), legs};
            });
          },
          [&](const agent::CloseLocalDrives& order) {
            at.closing = order.epoch;
            at.holds_drives = false;
            at.fenced_elsewhere = order.epoch;
            each_drive(id, [](Drive& own) { own.open = false; });
            after(delay(), [this, id] { drives_move(id); });
          },
          [&](const agent::OpenLocalDrives&) {
            at.opening = true;
            after(delay(), [this, id] { drives_move(id); });
          },
          [&](const agent::StartPool& order) {
            if (process(at.pid) != nullptr) {
              breaks("rule 5: a second pool process is started on a node");
              return;
            }
            if (order.stored.record.owner == id && order.stored.record.epoch.value > 2) ++stats_.takeovers;
            start_process(id, order);
          },
          [&](const agent::KillPool&) {
            std::uint64_t pid = at.pid;
            Nanoseconds dies_after =
                random_.one_in(16) ? random_.between(5, 200) * ns_per_ms : random_.between(50, 3'000) * ns_per_us;
            after(dies_after, [this, pid] { kill_process(pid, std::nullopt, "killed by its agent"); });
          },
          [&](const agent::ReleasePromise& order) {
            to_own_process(id, order.epoch,
                           [this](Process& own) { feed(own, owner::PromiseReleased{clock(own.node)}); });
          },
          [&](const agent::TellCannotFence& order) {
            std::vector<LegId> legs = order.legs;
            to_own_process(id, order.epoch, [this, legs](Process& own) {
              std::uint64_t pid = own.pid;
              for (LegId leg : legs) {
                if (Process* now = process(pid))
                  feed(*now, owner::LegCannotFence{clock(now->node), leg, "the partner's agent cannot"});
              }
            });
          },
          [&](const agent::DrainPool& order) {
            to_own_process(id, order.epoch, [this](Process& own) {
              feed(own, owner::EndOrdered{clock(own.node), 0, owner::End::yield});
            });
          },
          [&](const agent::AnswerPromise& order) {
            NodeId to = partner_of(id);
            agent::AnswerPromise answer = order;
            send(id, order.path, [this, to, answer] {
              std::uint64_t pid = node(to).pid;
              to_process(pid, [this, to, pid, answer] {
                Process* owner_process = process(pid);
                if (owner_process == nullptr) return;
                if (answer.granted) {
                  feed(*owner_process, owner::PromiseGranted{clock(owner_process->node), answer.nonce});
                  springs(to, FaultKind::cut_at_promise);
                } else {
                  feed(*owner_process, owner::PromiseRefused{clock(owner_process->node), answer.nonce, answer.known});
                }
              });
            });
          },
          [&](const agent::AnswerCanServe& order) {
            NodeId to = partner_of(id);
            agent::AnswerCanServe answer = order;
            send(id, usable_path(id), [this, to, answer] {
              std::uint64_t pid = node(to).pid;
              to_process(pid, [this, pid, answer] {
                if (Process* own = process(pid))
                  feed(*own, owner::PartnerAnswered{clock(own->node), answer.can_serve, answer.known});
              });
            });
          },
          [&](const agent::SendSurvey& order) { message(id, agent::SurveyAsked{0, order.id, order.epoch}); },
          [&](const agent::AnswerSurvey& order) {
            if (order.agreed) agreed_.insert({partner_of(id), at.survey_epoch});
            message(id, agent::SurveyAnswered{0, order.id, order.agreed, order.legs, order.why});
          },
          [&](const agent::SendHandover& order) { message(id, agent::HandoverAsked{0, order.stored}); },
          [&](const agent::AnswerHandover& order) {
            message(id, agent::HandoverAnswered{0, order.epoch, order.done, order.cannot});
            springs(id, FaultKind::pause_at_handover);
          },
          [&](const agent::SendYield& order) { message(id, agent::YieldAsked{0, order.epoch}); },
          [&](const agent::AnswerYield& order) {
            message(id, agent::YieldAnswered{0, order.epoch, order.done, order.why});
          },
          [&](const agent::AnswerCommand& order) {
            tell("zpaird {}: command {}: {} {}", id, order.command, order.done ? "done" : "refused", order.text);
          },
          [&](const agent::Report& order) { tell("zpaird {}: {}", id, order.text); },
          [&](SwapRecord& order) {
            check_import_order(id, order.record);
            auto answer = [this, id, run](agent::Event event) {
              if (node(id).agent_run == run) feed(id, event);
            };
            store_swap(id, at.store, order.expected_mod_revision, std::move(order.record), false, nullptr, answer);
          },
          [&](const ReadRecord&) {
            store_read(id, at.store, [this, id, run](std::optional<record::Stored> stored, bool ok) {
              if (node(id).agent_run != run) return;
              if (ok) {
                feed(id, RecordRead{clock(id), stored});
              } else {
                feed(id, RecordReadFailed{clock(id)});
              }
            });
          },
          [&](const KeepCopy& order) {
            record::Stored stored = order.stored;
            // Now and then the state folder's fsync takes long.
            Nanoseconds took =
                random_.one_in(24) ? random_.between(20, 300) * ns_per_ms : random_.between(200, 5'000) * ns_per_us;
            after(took, [this, id, run, stored] {
              Node& now = node(id);
              if (now.agent_run != run) return;
              now.kept = stored;
              each_drive(id, [&](Drive& own) {
                if (std::tie(own.kept_epoch, own.kept_rev) < std::tie(stored.record.epoch, stored.record.rev)) {
                  own.kept_epoch = stored.record.epoch;
                  own.kept_rev = stored.record.rev;
                }
              });
              feed(id, RecordKept{clock(id), stored.record.epoch, stored.record.rev});
            });
          },
      },
      action);
}

// The guid by which the newest record that the node keeps calls the drive.
std::optional<LegId> World::named_leg(const Drive& drive, NodeId id) const {
  const std::optional<record::Stored>& kept = nodes_[index(id)].kept;
  if (!kept) return std::nullopt;
  for (const record::Mirror& mirror : kept->record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.drive == drive.id) return leg.guid;
    }
  }
  return std::nullopt;
}

void World::to_own_process(NodeId id, Epoch epoch, std::function<void(Process&)> call) {
  std::uint64_t pid = node(id).pid;
  NodeId node_of = id;
  after(delay(), [this, pid, epoch, call, node_of] {
    to_process(pid, [this, pid, epoch, call, node_of] {
      Process* own = process(pid);
      if (own == nullptr || own->epoch != epoch) return;
      if (own->started || random_.one_in(2)) return call(*own);
      to_own_process(node_of, epoch, call);  // its control link is not up yet: said again (or lost, as the coin fell)
    });
  });
}

void World::agent_tick(NodeId id, std::uint64_t run) {
  Node& at = node(id);
  if (at.agent_run != run || !at.agent_alive) return;
  after(at.agent.limits.tick_ns, [this, id, run] {
    if (node(id).agent_run != run) return;
    to_agent(id, [this, id, run] { agent_tick(id, run); });
  });
  feed(id, agent::Ticked{clock(id)});
  if (++at.ticks % 2 != 0) return;
  agent::PartnerReport report = agent::report(at.agent);
  for (int path = 0; path < 2; ++path) {
    NodeId to = partner_of(id);
    send(id, path, [this, to, report] { feed(to, agent::PartnerHeard{0, report}); });
  }
}

// Closing and opening end when nothing is in flight at the drives (the lock is free).
void World::drives_move(NodeId id) {
  Node& at = node(id);
  if (!at.up || !at.agent_alive) return;
  bool quiet = true;
  each_drive(id, [&](Drive& own) { quiet &= own.in_flight_remote == 0 && own.in_flight_local == 0; });
  if (!quiet) return;  // looked at again when the last of them is done
  if (at.closing) {
    Epoch epoch = *std::exchange(at.closing, std::nullopt);
    feed(id, agent::LocalDrivesClosed{clock(id), epoch});
  }
  if (at.opening && process(at.pid) == nullptr) {
    at.opening = false;
    std::vector<LegId> failed;
    each_drive(id, [&](Drive& own) {
      if (own.open && !own.gone) return;
      if (open_drive(own)) return;
      if (std::optional<LegId> leg = named_leg(own, id)) failed.push_back(*leg);
    });
    at.holds_drives = true;
    after(300 * ns_per_ms, [this, id, run = at.agent_run] { open_missing(id, run); });
    feed(id, agent::LocalDrivesOpened{clock(id), failed});
  }
}

bool World::open_drive(Drive& own) {
  own.open = !own.gone && (faults_over_ || !random_.one_in(60));  // now and then a drive opens only the second time
  own.closed_to_writers = true;
  return own.open;
}

// zpaird tries again by itself what did not open, named by a record or not.
void World::open_missing(NodeId id, std::uint64_t run) {
  Node& at = node(id);
  if (at.agent_run != run || !at.agent_alive || !at.holds_drives) return;
  bool all = true;
  each_drive(id, [&](Drive& own) { all &= own.open || open_drive(own); });
  if (!all) after(300 * ns_per_ms, [this, id, run] { open_missing(id, run); });
}

void World::crash(NodeId id) {
  Node& at = node(id);
  if (!at.up) return;
  tell("node {} loses power", id);
  stop_agent(id);
  if (Process* own = process(at.pid)) own->alive = false;
  at.pid = 0;
  at.up = false;
  ++at.boot;
  each_drive(id, [&](Drive& own) {
    own.in_flight_local = own.in_flight_remote = 0;
    own.in_flight_of.clear();
    lose_cache(own, false);
    own.open = false;
    if (model(ModelMutation::fence_not_stored)) own.fence_epoch = {};
  });
  for (TargetConnection& connection : target_connections_) {
    if (connection.at == id) connection.in_flight = 0;
  }
}

void World::boot(NodeId id) {
  Node& at = node(id);
  if (at.up) return;
  tell("node {} boots", id);
  at.up = true;
  start_agent(id);
}

}  // namespace zpair::sim
