// The pool process around the real brain::owner: its orders carried out, its facts fed back. The engine is a model of
// OpenZFS from outside: a write goes to every online leg of its mirror, then a flush; the mirror completes when each online
// leg answered; the gate aborts when a leg of the ordered ack set is missing; an error or a changed verifier is no answer.
#include "world_internal.h"

namespace zpair::sim {

using namespace brain;

Process* World::process(std::uint64_t pid) {
  auto found = processes_.find(pid);
  return found == processes_.end() || !found->second->alive ? nullptr : found->second.get();
}

void World::start_process(NodeId id, agent::StartPool order) {
  auto made = std::make_unique<Process>();
  Process& at = *made;
  at.pid = ++last_pid_;
  at.node = id;
  at.epoch = order.stored.record.epoch;
  at.brain.limits = limits();
  for (const record::Mirror& mirror : order.stored.record.mirrors) {
    for (const record::Leg& leg : mirror.legs) at.legs[leg.guid] = {};
  }
  at.kept_rev = order.stored.record.rev;
  at.ran_since_ns = now_ns_;
  at.current.assign(static_cast<std::size_t>(mirror_count_),
                    std::vector<Version>(static_cast<std::size_t>(plan_.block_count)));
  at.in_log.assign(at.current.size(), std::vector<bool>(static_cast<std::size_t>(plan_.block_count), false));
  for (int path = 0; path < 2; ++path) at.connections[static_cast<std::size_t>(path)].path = path;
  std::uint64_t pid = at.pid;
  node(id).pid = pid;
  processes_.emplace(pid, std::move(made));
  tell("node {}: process {} starts at epoch {}", id, pid, order.stored.record.epoch);
  // Now and then exec and ZFS's start take long.
  Nanoseconds took =
      random_.one_in(16) ? random_.between(25, 400) * ns_per_ms : random_.between(3'000, 25'000) * ns_per_us;
  after(took, [this, pid, order] {
    to_process(pid, [this, pid, order] {
      Process* started = process(pid);
      if (started == nullptr) return;
      started->started = true;
      for (int path = 0; path < 2; ++path) connect(pid, path);
      feed(*started, owner::Started{clock(started->node), started->node, order.stored, order.first_ack_at_ns,
                                    order.promise_released, order.newest_txg, order.floor, random_.next(), 2});
      process_tick(pid);
    });
  });
}

void World::kill_process(std::uint64_t pid, std::optional<owner::ExitReason> reason, std::string text) {
  Process* at = process(pid);
  if (at == nullptr) return;
  tell("node {}: process {} (epoch {}) ends: {}", at->node, pid, at->epoch, reason ? text : "killed");
  at->alive = false;
  for (Connection& connection : at->connections) {
    // Its sockets close: the target hears of it, unless the path holds it back.
    if (connection.id == 0) continue;
    std::uint64_t old = connection.id;
    send(at->node, connection.path, [this, old] { target_connections_[old].ended = true; });
  }
  NodeId id = at->node;
  Epoch epoch = at->epoch;
  if (node(id).pid == pid) node(id).pid = 0;
  std::uint64_t run = node(id).agent_run;
  after_random(ns_per_ms / 2, 4 * ns_per_ms, [this, id, epoch, reason, text, run] {
    if (node(id).agent_run == run) feed(id, agent::PoolExited{clock(id), epoch, reason, text});
    if (node(id).closing || node(id).opening) drives_move(id);
  });
}

void World::to_process(std::uint64_t pid, std::function<void()> call) {
  Process* at = process(pid);
  if (at == nullptr) return;
  if (at->paused) {
    at->inbox.push_back(std::move(call));
    return;
  }
  call();
}

void World::feed(Process& at, owner::Event event) {
  if (!at.alive || !at.started) return;
  ++stats_.owner_events[event.index()];
  if (keep_story_ && !std::holds_alternative<owner::Ticked>(event))
    tell("process {} hears {}", at.pid, variant_name(event));
  for (owner::Action& action : owner::step(at.brain, event)) {
    ++stats_.owner_actions[action.index()];
    if (!at.alive) return;
    carry_out(at, std::move(action));
  }
}

void World::carry_out(Process& at, owner::Action action) {
  std::uint64_t pid = at.pid;
  auto reply = [this, pid](Nanoseconds low, Nanoseconds high, auto make) {
    after_random(low, high, [this, pid, make] {
      to_process(pid, [this, pid, make] {
        if (Process* now = process(pid)) feed(*now, make(*now));
      });
    });
  };
  if (keep_story_) tell("process {} orders {}", pid, variant_name(action));
  std::visit(
      Overloaded{
          [&](const owner::FenceLeg& order) { fence_leg(at, order); },
          [&](const owner::ImportPool& order) {
            for (LegId leg : order.legs) {
              const record::Leg* named = record::find_leg(at.brain.stored.record, leg);
              if (named == nullptr || !named->in_sync)
                breaks("invariant 8: an import opens a leg that the record does not name");
            }
            at.importing = true;
            at.import_legs = order.legs;
            at.import_floor = order.floor;
            after_random(5 * ns_per_ms, 60 * ns_per_ms, [this, pid] { try_import(pid); });
          },
          [&](const owner::ReplayLogs&) {
            at.replaying = true;
            for (int mirror : at.mirrors) {
              for (int block = 0; block < plan_.block_count; ++block) {
                auto m = static_cast<std::size_t>(mirror);
                auto b = static_cast<std::size_t>(block);
                if (!at.in_log[m][b]) continue;
                Version again = at.current[m][b];
                again.birth = at.open_txg;
                begin_write(at, Write{mirror, block, again, 0, {}, {}, {}, {}});
              }
            }
            import_moves(at);
          },
          [&](const owner::Serve&) { at.serving = true; },
          [&](const owner::SetAckSet& order) {
            at.gate.clear();
            at.gate.insert(order.legs.begin(), order.legs.end());
            std::uint64_t generation = order.generation;
            reply(10 * ns_per_us, 3 * ns_per_ms,
                  [this, generation](Process& now) { return owner::AckSetStands{clock(now.node), generation}; });
          },
          [&](const owner::FailLegs& order) {
            check_failing(at);
            fail_legs(at, order.legs);
            std::vector<LegId> legs = order.legs;
            reply(5 * ns_per_ms, 60 * ns_per_ms,
                  [this, legs](Process& now) { return owner::LegsFailed{clock(now.node), legs}; });
          },
          [&](const owner::QuiesceLeg& order) {
            LegId leg = order.leg;
            after_random(ns_per_ms, 10 * ns_per_ms, [this, pid, leg] {
              to_process(pid, [this, pid, leg] {
                Process* now = process(pid);
                if (now == nullptr) return;
                bool local = side_of(leg) == now->node;
                bool quiet = local
                                 ? drive_of(leg).in_flight_local == 0
                                 : now->unquiesced.empty() && now->legs[leg].abandoned.empty() && reachable(*now, leg);
                if (quiet || model(ModelMutation::resend_without_quiesce)) {
                  feed(*now, owner::LegQuiesced{clock(now->node), leg});
                } else {
                  feed(*now,
                       owner::LegQuiesceFailed{clock(now->node), leg, "older connections are not confirmed quiesced"});
                }
              });
            });
          },
          [&](const owner::InspectLegs& order) {
            std::vector<LegId> legs = order.legs;
            std::uint64_t id = order.resync_id;
            after_random(ns_per_ms, 20 * ns_per_ms,
                         [this, pid, legs, id] { to_process(pid, [this, pid, legs, id] { inspect(pid, legs, id); }); });
          },
          [&](const owner::ReturnLegs& order) { return_legs(at, order.legs, order.since, order.resync_id); },
          [&](const owner::AwaitResync& order) { return_legs(at, order.legs, Txg{0}, order.resync_id); },
          [&](const owner::AskPromise& order) {
            NodeId from = at.node;
            record::Floor floor;
            floor.txg = at.last_synced;
            agent::PromiseAsked asked{0, order.path, order.epoch, order.nonce, floor};
            send(from, order.path, [this, from, asked]() mutable {
              asked.now_ns = clock(partner_of(from));
              feed(partner_of(from), asked);
            });
          },
          [&](const owner::AskPartner&) {
            message(at.node, agent::CanServeAsked{clock(partner_of(at.node)), at.epoch});
          },
          [&](const owner::AddMirror& order) {
            if (!random_.one_in(6)) return add_mirror(at, order.mirror);
            reply(ns_per_ms, 20 * ns_per_ms, [this, order](Process& now) {
              return owner::MirrorAddFailed{clock(now.node), order.mirror.guid, "the engine refuses"};
            });
          },
          [&](const owner::AttachLeg& order) { attach_leg(at, order); },
          [&](const owner::DetachLeg& order) {
            if (random_.one_in(6)) {
              reply(ns_per_ms, 20 * ns_per_ms, [this, order](Process& now) {
                return owner::LegDetachFailed{clock(now.node), order.leg, "the engine refuses"};
              });
              return;
            }
            fail_legs(at, {order.leg});
            reply(ns_per_ms, 20 * ns_per_ms,
                  [this, order](Process& now) { return owner::LegDetached{clock(now.node), order.leg}; });
          },
          [&](const owner::StopAccepting&) {
            at.draining = true;
            import_moves(at);
          },
          [&](const owner::ExportPool&) {
            if (random_.one_in(16)) {
              reply(ns_per_ms, 20 * ns_per_ms,
                    [this](Process& now) { return owner::ExportFailed{clock(now.node), "the engine refuses"}; });
              return;
            }
            at.export_after = at.open_txg;
            sync_txg(at);
          },
          [&](const owner::AnswerCommand& order) {
            tell("command {}: {} {}", order.command, order.done ? "done" : "refused", order.text);
          },
          [&](const owner::Report& order) { tell("process {}: {}", pid, order.text); },
          [&](const owner::ExitProcess& order) { kill_process(pid, order.reason, order.text); },
          [&](SwapRecord& order) {
            check_shrink_order(at, order.record);
            auto answer = [this, pid](owner::Event event) {
              to_process(pid, [this, pid, event] {
                if (Process* now = process(pid)) feed(*now, event);
              });
            };
            store_swap(at.node, at.store, order.expected_mod_revision, std::move(order.record), false, answer, nullptr);
          },
          [&](const RemoveRecord& order) {
            record::Record none;
            none.op = order.op;
            auto answer = [this, pid](owner::Event event) {
              to_process(pid, [this, pid, event] {
                if (Process* now = process(pid)) feed(*now, event);
              });
            };
            store_swap(at.node, at.store, order.expected_mod_revision, none, true, answer, nullptr);
          },
          [&](const ReadRecord&) {
            store_read(at.node, at.store, [this, pid](std::optional<record::Stored> stored, bool ok) {
              to_process(pid, [this, pid, stored, ok] {
                Process* now = process(pid);
                if (now == nullptr) return;
                if (ok) {
                  feed(*now, RecordRead{clock(now->node), stored});
                } else {
                  feed(*now, RecordReadFailed{clock(now->node)});
                }
              });
            });
          },
          [&](const KeepCopy& order) {
            record::Stored stored = order.stored;
            after_random(200 * ns_per_us, 5 * ns_per_ms, [this, pid, stored] {
              to_process(pid, [this, pid, stored] {
                Process* now = process(pid);
                if (now == nullptr) return;
                keep(*now, stored);
                feed(*now, RecordKept{clock(now->node), stored.record.epoch, stored.record.rev});
              });
            });
          },
      },
      action);
}

// The whole record in the node's state file (zpaird writes it, if it lives), epoch and revision with each leg reached.
void World::keep(Process& at, const record::Stored& stored) {
  Node& home = node(at.node);
  if (home.agent_alive && (!home.kept || std::tie(home.kept->record.epoch, home.kept->record.rev) <
                                             std::tie(stored.record.epoch, stored.record.rev))) {
    home.kept = stored;
  }
  at.kept_rev = std::max(at.kept_rev, stored.record.rev);
  for (auto& [leg, io] : at.legs) {
    if (!reachable(at, leg)) continue;
    Drive& where = drive_of(leg);
    if (std::tie(where.kept_epoch, where.kept_rev) < std::tie(stored.record.epoch, stored.record.rev)) {
      where.kept_epoch = stored.record.epoch;
      where.kept_rev = stored.record.rev;
    }
  }
}

void World::inspect(std::uint64_t pid, const std::vector<LegId>& legs, std::uint64_t id) {
  Process* at = process(pid);
  if (at == nullptr) return;
  std::set<Txg> foreign;
  for (LegId leg : legs) {
    if (!reachable(*at, leg) || drive_of(leg).gone) {
      feed(*at, owner::LegsInspectFailed{clock(at->node), legs, "a leg does not answer", id});
      return;
    }
    for (const Uberblock& uberblock : drive_of(leg).uberblocks) {
      if (!at->known_uberblocks.contains(uberblock)) foreign.insert(uberblock.txg);
    }
  }
  feed(*at, owner::LegsInspected{clock(at->node), legs, static_cast<std::uint32_t>(foreign.size()), false, id});
}

// ---------------------------------------------------------------- ticks

void World::process_tick(std::uint64_t pid) {
  Process* at = process(pid);
  if (at == nullptr) return;
  // A paused process's timer fires when it runs again.
  after(at->brain.limits.tick_ns, [this, pid] { to_process(pid, [this, pid] { process_tick(pid); }); });
  path_watch(*at);
  if (process(pid) == nullptr) return;
  std::vector<owner::LegPulse> pulses;
  for (auto& [leg, io] : at->legs) {
    owner::LegPulse pulse;
    pulse.leg = leg;
    pulse.reachable = reachable(*at, leg);
    bool local = side_of(leg) == at->node;
    if (local && drive_of(leg).gone) pulse.reachable = false;
    pulse.last_progress_ns = pulse.reachable && local ? clock(at->node) : io.last_progress_ns;
    for (const Connection& connection : at->connections) {
      if (!local && connection.up) pulse.last_progress_ns = std::max(pulse.last_progress_ns, connection.heard_ns);
    }
    for (const auto& [id, sent] : io.outstanding) {
      pulse.oldest_write_ns = std::min(pulse.oldest_write_ns.value_or(sent.second), sent.second);
    }
    pulse.flushed_txg = io.flushed_txg;
    pulses.push_back(pulse);
  }
  feed(*at, owner::Ticked{clock(at->node), std::move(pulses)});
  at = process(pid);
  if (at == nullptr) return;
  if (at->imported && (at->ticks % 4 == 0 || at->export_after || at->resync_copied || at->adding)) sync_txg(*at);
  sync_moves(*at);
  for (auto it = at->writes.begin(); it != at->writes.end();) {
    auto key = (it++)->first;
    write_moves(*at, key);
    if (process(pid) == nullptr) return;
  }
  if (at->ticks % 2 == 0) {
    NodeId id = at->node;
    agent::PoolHeartbeat beat{0, at->epoch, at->brain.phase};
    std::uint64_t run = node(id).agent_run;
    after_random(20 * ns_per_us, ns_per_ms, [this, id, beat, run]() mutable {
      if (node(id).agent_run < run) return;
      beat.now_ns = clock(id);
      feed(id, beat);
    });
  }
  ++at->ticks;
}

bool World::reachable(const Process& at, LegId leg) const {
  if (side_of(leg) == at.node) return true;
  for (const Connection& connection : at.connections) {
    if (connection.up && clock(at.node) - connection.heard_ns < 200 * ns_per_ms) return true;
  }
  return false;
}

// ---------------------------------------------------------------- paths

void World::connect(std::uint64_t pid, int path) {
  Process* at = process(pid);
  if (at == nullptr) return;
  NodeId from = at->node;
  NodeId to = partner_of(from);
  send(from, path, [this, pid, path, to] {
    to_agent(to, [this, pid, path, to] {
      std::uint64_t id = target_connections_.size();
      target_connections_.push_back({to});
      send(to, path, [this, pid, path, id] {
        to_process(pid, [this, pid, path, id] {
          Process* now = process(pid);
          if (now == nullptr) return;
          Connection& connection = now->connections[static_cast<std::size_t>(path)];
          if (connection.up) return;
          connection.id = id;
          connection.up = true;
          connection.heard_ns = clock(now->node);
          for (std::uint64_t old : now->unquiesced) quiesce(pid, old, path);
          // The reservation is taken again at our epoch wherever we hold it: a restarted target is closed.
          for (int number : now->fenced_drives) fence_again(pid, path, number);
        });
      });
    });
  });
}

void World::fence_again(std::uint64_t pid, int path, int number) {
  Process* at = process(pid);
  if (at == nullptr || !at->connections[static_cast<std::size_t>(path)].up) return;
  std::uint64_t over = at->connections[static_cast<std::size_t>(path)].id;
  NodeId side = partner_of(at->node);
  send(at->node, path, [this, pid, number, over, path, side] {
    to_agent(side, [this, pid, number, over, path, side] {
      fence_remote(pid, number, over, [this, pid, number, path, side](bool ok, Epoch by) {
        send(side, path, [this, pid, number, ok, by] { refenced(pid, number, ok, by); });
      });
    });
  });
}

void World::refenced(std::uint64_t pid, int number, bool ok, Epoch by) {
  to_process(pid, [this, pid, number, ok, by] {
    Process* at = process(pid);
    if (at == nullptr) return;
    for (auto& [leg, io] : at->legs) {
      if (drive_index(leg) != number || side_of(leg) == at->node) continue;
      if (!ok) {
        if (by > at->epoch) return feed(*at, owner::FencedOut{clock(at->node), leg, by});
        after(50 * ns_per_ms, [this, pid, number] { fence_again(pid, static_cast<int>(random_.below(2)), number); });
        return;
      }
      for (auto& [id, sent] : io.outstanding) {
        if (sent.first.connection == 0) transmit(*at, sent.first, leg);
      }
    }
  });
}

void World::path_watch(Process& at) {
  std::uint64_t pid = at.pid;
  for (Connection& connection : at.connections) {
    int path = connection.path;
    if (!connection.up) {
      connect(pid, path);
      continue;
    }
    if (clock(at.node) - connection.heard_ns > 200 * ns_per_ms) {
      tell("process {}: path{} makes no progress: given up", pid, path + 1);
      connection.up = false;
      std::uint64_t old = connection.id;
      at.unquiesced.insert(old);
      if (model(ModelMutation::resend_without_quiesce)) {
        resend(at, old);
      } else {
        quiesce(pid, old, 1 - path);
      }
      continue;
    }
    NodeId from = at.node;
    NodeId to = partner_of(from);
    std::uint64_t id = connection.id;
    send(from, path, [this, pid, path, to, id] {
      to_agent(to, [this, pid, path, to, id] {
        if (target_connections_[id].ended) {
          send(to, path,
               [this, pid, path, id] { to_process(pid, [this, pid, path, id] { connection_ended(pid, path, id); }); });
          return;
        }
        send(to, path, [this, pid, path, id] {
          to_process(pid, [this, pid, path, id] {
            Process* now = process(pid);
            if (now == nullptr) return;
            Connection& heard = now->connections[static_cast<std::size_t>(path)];
            if (heard.id == id && heard.up) heard.heard_ns = clock(now->node);
          });
        });
      });
    });
  }
  for (std::uint64_t old : at.unquiesced) {
    for (const Connection& connection : at.connections) {
      if (connection.up) quiesce(pid, old, connection.path);
    }
  }
}

void World::connection_ended(std::uint64_t pid, int path, std::uint64_t id) {
  Process* at = process(pid);
  if (at == nullptr) return;
  Connection& connection = at->connections[static_cast<std::size_t>(path)];
  if (connection.id != id || !connection.up) return;
  connection.up = false;
  at->unquiesced.insert(id);
}

// Cross-Controller Reset: the target ends the old connection and confirms when its commands are no longer in flight.
void World::quiesce(std::uint64_t pid, std::uint64_t old_connection, int through_path) {
  Process* at = process(pid);
  if (at == nullptr || !at->unquiesced.contains(old_connection)) return;
  const Connection& through = at->connections[static_cast<std::size_t>(through_path)];
  if (!through.up) return;
  NodeId from = at->node;
  NodeId to = partner_of(from);
  std::uint64_t over = through.id;
  send(from, through_path, [this, pid, old_connection, through_path, to, over] {
    to_agent(to, [this, pid, old_connection, through_path, to, over] {
      if (target_connections_[over].ended) return;
      target_connections_[old_connection].ended = true;
      quiesced_at_target(pid, old_connection, through_path, to);
    });
  });
}

void World::quiesced_at_target(std::uint64_t pid, std::uint64_t old_connection, int path, NodeId side) {
  if (target_connections_[old_connection].in_flight > 0) {
    after(ns_per_ms, [this, pid, old_connection, path, side] { quiesced_at_target(pid, old_connection, path, side); });
    return;
  }
  send(side, path, [this, pid, old_connection] {
    to_process(pid, [this, pid, old_connection] {
      Process* at = process(pid);
      if (at == nullptr || at->unquiesced.erase(old_connection) == 0) return;
      resend(*at, old_connection);
    });
  });
}

void World::resend(Process& at, std::uint64_t old_connection) {
  for (auto& [leg, io] : at.legs) {
    std::erase_if(io.abandoned, [old_connection](const auto& each) { return each.second == old_connection; });
    for (auto& [id, sent] : io.outstanding) {
      if (sent.first.connection != old_connection) continue;
      sent.first.connection = 0;
      transmit(at, sent.first, leg);
    }
  }
}

// ---------------------------------------------------------------- fencing

void World::fence_leg(Process& at, const owner::FenceLeg& order) {
  std::uint64_t pid = at.pid;
  LegId leg = order.leg;
  int number = drive_index(leg);
  if (side_of(leg) == at.node) {
    after_random(200 * ns_per_us, 4 * ns_per_ms, [this, pid, leg] { fence_local(pid, leg); });
    return;
  }
  at.fenced_drives.insert(number);
  auto answered = std::make_shared<bool>(false);
  auto fail_late = [this, pid, leg, answered](std::string why) {
    to_process(pid, [this, pid, leg, answered, why] {
      Process* now = process(pid);
      if (now == nullptr || std::exchange(*answered, true)) return;
      feed(*now, owner::LegFenceFailed{clock(now->node), leg, why});
    });
  };
  after(300 * ns_per_ms, [fail_late] { fail_late("no answer"); });
  const Connection* over = nullptr;
  for (const Connection& connection : at.connections) {
    if (connection.up) over = &connection;
  }
  if (over == nullptr) {
    after(20 * ns_per_ms, [fail_late] { fail_late("not connected"); });
    return;
  }
  NodeId to = partner_of(at.node);
  int path = over->path;
  std::uint64_t id = over->id;
  send(at.node, path, [this, pid, leg, number, to, path, id, answered] {
    to_agent(to, [this, pid, leg, number, to, path, id, answered] {
      fence_remote(pid, number, id, [this, pid, leg, to, path, answered](bool ok, Epoch by) {
        send(to, path, [this, pid, leg, ok, by, answered] {
          to_process(pid, [this, pid, leg, ok, by, answered] {
            Process* now = process(pid);
            if (now == nullptr || std::exchange(*answered, true)) return;
            Nanoseconds time = clock(now->node);
            if (ok) {
              feed(*now, owner::LegFenced{time, leg});
            } else if (by > now->epoch) {
              feed(*now, owner::FencedOut{time, leg, by});
            } else {
              feed(*now, owner::LegFenceFailed{time, leg, "closed"});
            }
          });
        });
      });
    });
  });
}

// The own node's leg: through the fence file, holding the lock, which is free only when nothing older is in flight.
void World::fence_local(std::uint64_t pid, LegId leg) {
  to_process(pid, [this, pid, leg] {
    Process* at = process(pid);
    if (at == nullptr) return;
    Drive& where = drive_of(leg);
    if (where.gone) return feed(*at, owner::LegFenceFailed{clock(at->node), leg, "the drive is gone"});
    if (where.open || where.in_flight_local > 0 || where.in_flight_remote > 0) {
      if (!model(ModelMutation::fence_without_drain) && brain::mutated(Mutation::no_local_drain) == false) {
        after(2 * ns_per_ms, [this, pid, leg] { fence_local(pid, leg); });
        return;
      }
      where.open = false;
    }
    if (where.fence_epoch > at->epoch && !model(ModelMutation::fence_ignores_epoch)) {
      feed(*at, owner::FencedOut{clock(at->node), leg, where.fence_epoch});
      return;
    }
    where.fence_epoch = at->epoch;
    where.fence_node = at->node;
    feed(*at, owner::LegFenced{clock(at->node), leg});
  });
}

}  // namespace zpair::sim
