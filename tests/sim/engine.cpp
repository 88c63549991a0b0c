// The model of the engine: import, replay, writes with the gate, txgs, failing and returning legs.
#include <algorithm>

#include "world_internal.h"

namespace zpair::sim {

using namespace brain;

void World::try_import(std::uint64_t pid) {
  to_process(pid, [this, pid] {
    Process* at = process(pid);
    if (at == nullptr || !at->importing || at->imported) return;
    for (LegId leg : at->import_legs) {
      if (reachable(*at, leg)) continue;
      after(20 * ns_per_ms, [this, pid] { try_import(pid); });  // reads are held during an import, not failed
      return;
    }
    ++stats_.imports;
    Uberblock best;
    for (LegId leg : at->import_legs) {
      Drive& where = drive_of(leg);
      if (where.cached_uberblock)
        where.uberblocks.insert(*where.cached_uberblock);  // readable, flushed by the import itself
      at->known_uberblocks.insert(where.uberblocks.begin(), where.uberblocks.end());
      if (!where.uberblocks.empty()) best = std::max(best, *where.uberblocks.rbegin());
    }
    if (random_.one_in(100)) return feed(*at, owner::ImportFailed{clock(at->node), "the engine refuses"});
    if (best.txg < at->import_floor.txg) {
      feed(*at, owner::ImportFailed{clock(at->node), "below the floor"});
      return;
    }
    at->open_txg = Txg{best.txg.value + 1};
    at->last_synced = best.txg;
    at->importing = false;
    at->claiming = true;
    for (int mirror : mirrors_at_[best]) enter_mirror(*at, mirror);
    for (LegId leg : at->import_legs) drive_of(leg).imported_at = std::max(drive_of(leg).imported_at, at->epoch);
    for (LegId leg : at->import_legs) at->legs[leg].online = at->mirrors.contains(mirror_of(leg));
    for (int mirror : at->mirrors) {
      std::vector<LegId> candidates;
      for (LegId leg : at->import_legs) {
        if (mirror_of(leg) == mirror) candidates.push_back(leg);
      }
      if (candidates.empty()) {
        feed(*at, owner::ImportFailed{clock(at->node), "a mirror has no leg"});
        return;
      }
      for (int block = 0; block < plan_.block_count; ++block) {
        LegId from = candidates[random_.below(candidates.size())];
        Version found = drive_of(from).content(block);
        auto m = static_cast<std::size_t>(mirror);
        auto b = static_cast<std::size_t>(block);
        at->current[m][b] = found;
        at->in_log[m][b] = found.birth > best.txg;
        begin_write(*at, Write{mirror, block, found, 0, {}, {}, {}, {}});  // claim: the legs are made equal
      }
    }
    at->import_lacks = what_import_lacks(*at);
    // One that a newer import has overtaken may find less: its claim never ends, as the legs that hold more are fenced.
    if (!overtaken(*at) && !at->import_lacks.empty()) return breaks(at->import_lacks);
    tell("node {}: process {} imports at txg {} (epoch {})", at->node, pid, best.txg, at->epoch);
  });
}

// Steps that end when no write is in flight.
void World::import_moves(Process& at) {
  if (!at.writes.empty()) return;
  std::uint64_t pid = at.pid;
  auto later = [this, pid](auto make) {
    after_random(ns_per_ms, 20 * ns_per_ms, [this, pid, make] {
      to_process(pid, [this, pid, make] {
        if (Process* now = process(pid)) feed(*now, make(*now));
      });
    });
  };
  if (at.claiming) {
    // No former owner acknowledges while it is read and claimed. (One overtaken may hear late that its claim had ended in time.)
    if (!overtaken(at)) at.import_lacks = what_import_lacks(at);
    if (!at.import_lacks.empty()) return breaks(at.import_lacks);
    at.claiming = false;
    at.imported = true;
    later([this](Process& now) {
      std::vector<MirrorId> absent;  // recorded, but the pool has never had them: a crash in `add`
      for (const record::Mirror& mirror : now.brain.stored.record.mirrors) {
        if (!now.mirrors.contains(mirror_of(mirror.guid))) absent.push_back(mirror.guid);
      }
      return owner::Imported{clock(now.node), now.last_synced, absent};
    });
    return;
  }
  if (at.replaying) {
    at.replaying = false;
    at.replayed = true;
    for (auto& mirror : at.in_log) mirror.assign(mirror.size(), false);
    later([this](Process& now) { return owner::Replayed{clock(now.node)}; });
    return;
  }
  if (at.draining && !at.drained) {
    at.drained = true;
    later([this](Process& now) { return owner::Drained{clock(now.node)}; });
  }
}

void World::begin_write(Process& at, Write write) {
  auto key = std::pair(write.mirror, write.block);
  Write& placed = at.writes[key] = std::move(write);
  for (auto& [leg, io] : at.legs) {
    if (io.online && mirror_of(leg) == placed.mirror) issue(at, write_command(at, placed, leg), leg);
  }
}

Command World::command_of(const Process& at, Command::Kind kind, LegId leg) {
  Command command;
  command.kind = kind;
  command.pid = at.pid;
  command.node = at.node;
  command.epoch = at.epoch;
  command.drive = drive_index(leg);
  command.mirror = mirror_of(leg);
  command.side = side_of(leg);
  return command;
}

Command World::write_command(const Process& at, const Write& write, LegId leg) {
  Command command = command_of(at, Command::Kind::write, leg);
  command.block = write.block;
  command.version = write.version;
  return command;
}

void World::issue(Process& at, Command command, LegId leg) {
  command.id = ++last_command_;
  auto [first, fresh] = writer_of_epoch_.try_emplace(at.epoch, at.pid);
  if (!fresh && first->second != at.pid) {
    breaks(fmt::format("invariant 5: processes {} and {} both write at epoch {}", first->second, at.pid, at.epoch));
    return;
  }
  at.legs[leg].outstanding[command.id] = {command, clock(at.node)};
  transmit(at, command, leg);
}

void World::transmit(Process& at, const Command& wanted, LegId leg) {
  std::uint64_t pid = at.pid;
  Command command = wanted;
  if (command.side == at.node) {
    execute(command, true, [this, pid, leg, command](Answer answer, std::uint64_t verifier) {
      to_process(pid, [this, pid, leg, command, answer, verifier] { answered(pid, leg, command, answer, verifier); });
    });
    return;
  }
  std::vector<const Connection*> up;
  for (const Connection& connection : at.connections) {
    if (connection.up) up.push_back(&connection);
  }
  if (up.empty()) return;  // held until a path is back
  const Connection& over = *up[random_.below(up.size())];
  command.connection = over.id;
  at.legs[leg].outstanding[command.id].first.connection = over.id;
  int path = over.path;
  NodeId to = command.side;
  send(at.node, path, [this, pid, leg, command, path, to] {
    to_agent(to, [this, pid, leg, command, path, to] {
      execute(command, false, [this, pid, leg, command, path, to](Answer answer, std::uint64_t verifier) {
        if (!node(to).up || !node(to).agent_alive) return;
        send(to, path, [this, pid, leg, command, answer, verifier, path] {
          to_process(pid, [this, pid, leg, command, answer, verifier, path] {
            Process* now = process(pid);
            if (now == nullptr) return;
            Connection& connection = now->connections[static_cast<std::size_t>(path)];
            if (connection.id != command.connection || !connection.up) return;  // given up: its answers are not read
            connection.heard_ns = clock(now->node);
            answered(pid, leg, command, answer, verifier);
          });
        });
      });
    });
  });
}

void World::answered(std::uint64_t pid, LegId leg, Command command, Answer answer, std::uint64_t verifier) {
  Process* at = process(pid);
  if (at == nullptr) return;
  LegIo& io = at->legs[leg];
  io.abandoned.erase(command.id);
  auto found = io.outstanding.find(command.id);
  if (found == io.outstanding.end()) return;
  if (answer == Answer::fenced) {
    feed(*at, owner::FencedOut{clock(at->node), leg, Epoch{at->epoch.value + 1}});
    return;
  }
  if (answer == Answer::closed) {
    found->second.first.connection = 0;  // it waits for the fence, see refenced()
    int number = command.drive;
    after(50 * ns_per_ms, [this, pid, number] {
      to_process(pid, [this, pid, number] {
        for (int path = 0; path < 2; ++path) fence_again(pid, path, number);
      });
    });
    return;
  }
  io.last_progress_ns = clock(at->node);
  // Outside the ack set an error is passed up: ZFS goes on without the leg, and notes what it missed.
  if (answer == Answer::error && !at->gate.contains(leg)) {
    io.outstanding.erase(found);
    io.missed = true;
    auto passed = at->writes.find({command.mirror, command.block});
    if (command.kind != Command::Kind::uberblock && command.uberblock.txg.value == 0 && passed != at->writes.end() &&
        passed->second.version == command.version) {
      passed->second.passed_by.insert(command.drive);
      write_moves(*at, {command.mirror, command.block});
    }
    if (process(pid) != nullptr) sync_moves(*at);
    if (process(pid) != nullptr) no_answer(*at, leg, owner::LegFault::io_error, "write error");
    return;
  }
  if (answer == Answer::error && !model(ModelMutation::gate_off)) {
    found->second.first.connection = 0;  // nothing of it is in flight now
    bool gone = command.side == at->node && drive(command.drive).gone;
    no_answer(*at, leg, gone ? owner::LegFault::drive_gone : owner::LegFault::io_error, "write error");
    // Held, and tried again: the leg may be the only one (rule 3).
    after(100 * ns_per_ms, [this, pid, leg, command] {
      to_process(pid, [this, pid, leg, command] {
        Process* now = process(pid);
        if (now == nullptr) return;
        auto held = now->legs[leg].outstanding.find(command.id);
        bool sent_again =
            held != now->legs[leg].outstanding.end() && held->second.first.connection != 0;  // (after a fence)
        if (held != now->legs[leg].outstanding.end() && !sent_again) transmit(*now, command, leg);
      });
    });
    return;
  }
  if (answer == Answer::done && io.erred && io.erred != owner::LegFault::verifier_changed) {  // sent again, and well
    io.erred.reset();
    feed(*at, owner::LegMended{clock(at->node), leg});
    if (process(pid) == nullptr) return;
    found = io.outstanding.find(command.id);
    if (found == io.outstanding.end()) return;
  }
  auto key = std::pair(command.mirror, command.block);
  if (command.kind == Command::Kind::flush && command.uberblock.txg.value != 0) {  // a txg's flush
    bool changed = io.uberblock_verifier != verifier && !model(ModelMutation::no_verifier);
    if (changed) {
      found->second.first.connection = 0;
      no_answer(*at, leg, owner::LegFault::verifier_changed, "unflushed writes may be lost");
      return;
    }
    io.outstanding.erase(found);
    io.flushed_txg = std::max(io.flushed_txg, command.uberblock.txg);
    sync_moves(*at);
    return;
  }
  if (command.kind == Command::Kind::uberblock) {
    io.outstanding.erase(found);
    io.uberblock_verifier = verifier;
    Command flush = command;
    flush.kind = Command::Kind::flush;
    flush.version = {};
    flush.connection = 0;
    issue(*at, flush, leg);
    return;
  }
  auto write = at->writes.find(key);
  bool mine = write != at->writes.end() && write->second.version == command.version;
  if (command.kind == Command::Kind::write) {
    io.outstanding.erase(found);
    if (!mine) return;
    write->second.written.insert(command.drive);
    write->second.verifier[command.drive] = verifier;
    Command flush = command;
    flush.kind = Command::Kind::flush;
    flush.connection = 0;
    issue(*at, flush, leg);
    return;
  }
  if (mine && write->second.verifier[command.drive] != verifier && !model(ModelMutation::no_verifier)) {
    found->second.first.connection = 0;
    no_answer(*at, leg, owner::LegFault::verifier_changed, "unflushed writes may be lost");
    return;
  }
  io.outstanding.erase(found);
  if (!mine) return;
  write->second.flushed.insert(command.drive);
  write_moves(*at, key);
}

// Rule 2: the command stays unanswered; the brain hears of it once.
void World::no_answer(Process& at, LegId leg, owner::LegFault fault, std::string what) {
  LegIo& io = at.legs[leg];
  if (io.erred && (io.erred == owner::LegFault::verifier_changed || fault != owner::LegFault::verifier_changed)) return;
  io.erred = fault;
  feed(at, owner::LegErred{clock(at.node), leg, fault, std::move(what)});
}

// The mirror completes when every online leg answered; the gate looks at the ordered ack set.
void World::write_moves(Process& at, std::pair<int, int> key) {
  auto found = at.writes.find(key);
  if (found == at.writes.end()) return;
  Write& write = found->second;
  bool any = false;
  for (auto& [leg, io] : at.legs) {
    if (mirror_of(leg) != write.mirror) continue;
    bool flushed = write.flushed.contains(drive_index(leg));
    any |= flushed;
    if (io.online && !flushed && !write.passed_by.contains(drive_index(leg))) return;
  }
  if (!any) return;
  for (LegId leg : at.gate) {
    if (mirror_of(leg) != write.mirror || write.flushed.contains(drive_index(leg)) || model(ModelMutation::gate_off))
      continue;
    std::uint64_t pid = at.pid;
    tell("process {}: the gate aborts: mirror {} short of leg {}", pid, write.mirror, side_of(leg));
    kill_process(pid, std::nullopt, "gate");
    return;
  }
  if (write.client_request != 0 && (!at.serving || !owner::may_acknowledge(at.brain)))
    return;  // looked at again with each tick
  auto m = static_cast<std::size_t>(write.mirror);
  auto b = static_cast<std::size_t>(write.block);
  at.current[m][b] = write.version;
  Write done = std::move(write);
  at.writes.erase(found);
  if (done.client_request != 0) acknowledge(done.mirror, done.block, done.client_request, done.version.number);
  import_moves(at);
}

// ---------------------------------------------------------------- txgs

void World::sync_txg(Process& at) {
  if (at.pending_sync || at.syncing || !at.imported) return;
  at.pending_sync = at.open_txg;
  at.open_txg = at.open_txg.next();
  sync_moves(at);
}

// vdev_config_sync: the next txg waits until every online leg has this one's uberblock, flushed.
void World::sync_moves(Process& at) {
  if (at.pending_sync) {
    for (const auto& [key, write] : at.writes) {
      if (write.version.birth <= *at.pending_sync) return;  // a txg waits for its writes
    }
    Uberblock uberblock{*at.pending_sync, at.pid};
    at.known_uberblocks.insert(uberblock);
    std::set<int>& has = mirrors_at_[uberblock] = at.mirrors;
    if (at.adding && at.adding->second <= uberblock.txg) has.insert(mirror_of(at.adding->first.guid));
    at.syncing = std::exchange(at.pending_sync, std::nullopt);
    for (auto& [leg, io] : at.legs) {
      if (!io.online) continue;
      Command command = command_of(at, Command::Kind::uberblock, leg);
      command.uberblock = uberblock;
      issue(at, command, leg);
    }
  }
  if (!at.syncing) return;
  for (const auto& [leg, io] : at.legs) {
    if (!io.online) continue;
    for (const auto& [id, sent] : io.outstanding) {
      if (sent.first.uberblock.txg == *at.syncing) return;
    }
  }
  at.last_synced = *std::exchange(at.syncing, std::nullopt);
  synced(at);
}

void World::synced(Process& at) {
  std::uint64_t pid = at.pid;
  if (at.export_after && at.last_synced >= *at.export_after) {
    at.export_after.reset();
    after_random(20 * ns_per_ms, 90 * ns_per_ms, [this, pid] {
      to_process(pid, [this, pid] {
        if (Process* now = process(pid)) feed(*now, owner::Exported{clock(now->node)});
      });
    });
  }
  if (at.adding && at.last_synced >= at.adding->second) {
    record::Mirror built = std::exchange(at.adding, std::nullopt)->first;
    MirrorId offered = built.guid;
    bool renames = random_.one_in(2);  // the engine may choose guids of its own
    enter_mirror(at, mirror_of(offered));
    std::map<LegId, LegId> names;
    for (record::Leg& leg : built.legs) {
      LegIo io = at.legs[leg.guid];
      at.legs.erase(leg.guid);
      if (renames) leg.guid = LegId{leg.guid.value + 1000};
      at.legs[leg.guid] = io;
      at.legs[leg.guid].online = true;
    }
    if (renames) built.guid = MirrorId{built.guid.value + 1000};
    for (int block = 0; block < plan_.block_count; ++block)
      begin_write(at, Write{mirror_of(offered), block, Version{0, at.open_txg}, 0, {}, {}, {}, {}});
    after_random(ns_per_ms, 80 * ns_per_ms, [this, pid, offered, built] {
      to_process(pid, [this, pid, offered, built] {
        if (Process* now = process(pid)) feed(*now, owner::MirrorAdded{clock(now->node), offered, built});
      });
    });
  }
  if (at.resync && at.resync_copied && at.last_synced >= *at.resync_copied) {
    at.resync_copied.reset();
    std::vector<LegId> legs = std::exchange(at.resync, std::nullopt)->first;
    owner::ScanReport report = at.resync_report;
    report.synced_after_online = true;
    report.logs_replayed = at.replayed;
    for (LegId leg : legs) {
      if (!at.legs[leg].missed) continue;
      report.error_count = 1;
      report.dtl_empty = false;
    }
    std::uint64_t id = at.resync_id;
    after_random(ns_per_ms, 20 * ns_per_ms, [this, pid, legs, report, id] {
      to_process(pid, [this, pid, legs, report, id] {
        if (Process* now = process(pid)) feed(*now, owner::ResyncEnded{clock(now->node), legs, report, id});
      });
    });
  }
}

// ---------------------------------------------------------------- mirrors and legs that join

void World::enter_mirror(Process& at, int mirror) {
  auto rows = static_cast<std::size_t>(mirror) + 1;
  auto blocks = static_cast<std::size_t>(plan_.block_count);
  if (at.current.size() < rows) at.current.resize(rows, std::vector<Version>(blocks));
  if (at.in_log.size() < rows) at.in_log.resize(rows, std::vector<bool>(blocks, false));
  at.mirrors.insert(mirror);
  if (!active_mirrors_.insert(mirror).second) return;
  for (int block = 0; block < plan_.block_count; ++block) client_tick(mirror, block);
}

// The mirror is in the pool from the txg that carries the new configuration.
void World::add_mirror(Process& at, const record::Mirror& mirror) {
  if (at.pending_sync || at.syncing) {  // vdev operations wait for the txg that syncs
    std::uint64_t pid = at.pid;
    after(10 * ns_per_ms, [this, pid, mirror] {
      to_process(pid, [this, pid, mirror] {
        if (Process* now = process(pid)) add_mirror(*now, mirror);
      });
    });
    return;
  }
  for (const record::Leg& leg : mirror.legs) at.legs[leg.guid] = {};
  at.adding = std::pair(mirror, at.open_txg);
  sync_txg(at);
}

void World::attach_leg(Process& at, const owner::AttachLeg& order) {
  std::uint64_t pid = at.pid;
  if (order.discard) fail_legs(at, {*order.discard});
  if (process(pid) == nullptr) return;
  LegId leg = order.leg.guid;
  bool fails = random_.one_in(8);
  LegId built{leg.value % 1000 + 1000 * ++last_order_};  // the drive is what it was; the leaf gets a new guid
  if (!fails) {
    at.legs[built] = {};
    if (side_of(built) != at.node) at.fenced_drives.insert(drive_index(built));
  }
  after_random(5 * ns_per_ms, 40 * ns_per_ms, [this, pid, leg, built, fails] {
    to_process(pid, [this, pid, leg, built, fails] {
      Process* now = process(pid);
      if (now == nullptr) return;
      if (fails) return feed(*now, owner::LegAttachFailed{clock(now->node), leg, "the engine refuses"});
      feed(*now, owner::LegAttached{clock(now->node), leg, built});
    });
  });
}

// pool add, drive replace: the driver registers the drives and fences them at this epoch before the brain hears of them.
void World::offer_mirror(Process& at) {
  if (mirror_count_ >= plan_.mirror_count + 2) return;
  int number = mirror_count_++;
  record::Mirror mirror{MirrorId{static_cast<std::uint64_t>(50 + number)}, "normal", {}};
  clients_.resize(static_cast<std::size_t>(mirror_count_ * plan_.block_count));
  for (NodeId side : {NodeId::a, NodeId::b}) {
    record::Leg leg;
    int drive_number = add_drive(number, side);
    leg.guid = leg_id(drive_number);
    leg.node = side;
    leg.drive = drive(drive_number).id;
    mirror.legs.push_back(leg);
  }
  std::uint64_t command = ++last_order_;
  int other = drive_index(mirror.legs[at.node == NodeId::a ? 1 : 0].guid);
  fence_offered(at.pid, other, [this, command, mirror](Process& now) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.node == now.node) drive_of(leg.guid).fence_epoch = now.epoch;
    }
    feed(now, owner::MirrorOffered{clock(now.node), command, mirror});
  });
}

void World::offer_leg(Process& at, const Fault& fault) {
  const record::Record& record = at.brain.stored.record;
  const record::Mirror& mirror = record.mirrors[static_cast<std::size_t>(fault.index) % record.mirrors.size()];
  const record::Leg* old = nullptr;
  for (const record::Leg& leg : mirror.legs) {
    if (leg.node == fault.node) old = &leg;
  }
  if (old == nullptr) return;
  owner::LegOffered offered{0, ++last_order_, mirror.guid, {}, old->guid};
  if (fault.variant && !old->in_sync) {  // in its own place: from now on it comes back as a new leg
    offered.leg.node = old->node;
    offered.leg.drive = old->drive;
    return feed(at, offered);
  }
  int number = add_drive(mirror_of(mirror.guid), fault.node);
  offered.leg.guid = leg_id(number);
  offered.leg.node = fault.node;
  offered.leg.drive = drive(number).id;
  auto then = [this, offered, number](Process& now) {
    drive(number).fence_epoch = now.epoch;
    feed(now, offered);
  };
  if (fault.node != at.node) return fence_offered(at.pid, number, then);
  then(at);
}

void World::fence_offered(std::uint64_t pid, int number, std::function<void(Process&)> then) {
  Process* at = process(pid);
  if (at == nullptr) return;
  const Connection* over = nullptr;
  for (const Connection& connection : at->connections) {
    if (connection.up) over = &connection;
  }
  if (over == nullptr) return;  // the command fails; nothing has begun
  at->fenced_drives.insert(number);
  NodeId from = at->node, to = partner_of(from);
  int path = over->path;
  std::uint64_t id = over->id;
  send(from, path, [this, pid, number, to, path, id, then] {
    to_agent(to, [this, pid, number, to, path, id, then] {
      fence_remote(pid, number, id, [this, pid, to, path, then](bool ok, Epoch) {
        send(to, path, [this, pid, ok, then] {
          to_process(pid, [this, pid, ok, then] {
            Process* now = process(pid);
            if (now != nullptr && ok && now->serving) then(*now);
          });
        });
      });
    });
  });
}

// ---------------------------------------------------------------- legs fail and return

void World::fail_legs(Process& at, const std::vector<LegId>& legs) {
  for (LegId leg : legs) {
    LegIo& io = at.legs[leg];
    io.online = false;
    io.erred.reset();
    for (const auto& [id, sent] : io.outstanding) {
      if (sent.first.connection != 0) io.abandoned[id] = sent.first.connection;
    }
    io.outstanding.clear();
    std::erase(at.import_legs, leg);
    if (at.resync && std::ranges::find(at.resync->first, leg) != at.resync->first.end()) {
      std::vector<LegId> returning = at.resync->first;
      std::uint64_t id = at.resync_id;
      at.resync.reset();
      at.resync_copied.reset();
      std::uint64_t pid = at.pid;
      after(ns_per_ms, [this, pid, returning, id] {
        to_process(pid, [this, pid, returning, id] {
          if (Process* now = process(pid))
            feed(*now, owner::ResyncFailed{clock(now->node), returning, "a leg failed", id});
        });
      });
    }
  }
  std::uint64_t pid = at.pid;
  std::vector<std::pair<int, int>> keys;
  for (const auto& [key, write] : at.writes) keys.push_back(key);
  for (auto key : keys) {
    if (process(pid) == nullptr) return;
    write_moves(at, key);
  }
  if (process(pid) != nullptr) sync_moves(at);
}

void World::return_legs(Process& at, std::vector<LegId> legs, Txg since, std::uint64_t id) {
  for (LegId leg : legs) {
    LegIo& io = at.legs[leg];
    io.online = true;
    io.erred.reset();
    io.missed = false;
    io.flushed_txg = Txg{0};
    io.outstanding.clear();
    for (auto& [key, write] : at.writes) {  // what is in flight goes there too
      if (write.mirror != mirror_of(leg)) continue;
      write.written.erase(drive_index(leg));
      write.flushed.erase(drive_index(leg));
      write.passed_by.erase(drive_index(leg));
      issue(at, write_command(at, write, leg), leg);
    }
  }
  at.resync = std::pair(legs, since);
  at.resync_copied.reset();
  std::uint64_t pid = at.pid;
  std::uint64_t order = ++last_order_;
  at.resync_order = order;
  at.resync_id = id;
  after_random(20 * ns_per_ms, 500 * ns_per_ms,
               [this, pid, order] { to_process(pid, [this, pid, order] { resync(pid, order); }); });
}

void World::resync(std::uint64_t pid, std::uint64_t order) {
  Process* at = process(pid);
  if (at == nullptr || !at->resync || at->resync_copied || at->resync_order != order) return;
  auto [legs, since] = *at->resync;
  std::uint64_t id = at->resync_id;
  for (LegId leg : legs) {
    Drive& where = drive_of(leg);
    bool writable = !where.gone && (side_of(leg) == at->node || (where.open && !where.closed_to_writers));
    if (!reachable(*at, leg) || !writable || where.fence_epoch != at->epoch) {
      at->resync.reset();
      feed(*at, owner::ResyncFailed{clock(at->node), legs, "a leg does not answer", id});
      return;
    }
  }
  // Now and then OpenZFS believes itself done without having looked at the older txgs; its own record tells.
  bool excised = random_.one_in(8);
  Txg from = excised ? Txg{since.value + random_.below(6) + 1} : since;
  feed(*at, owner::ResyncProgressed{clock(at->node), 50, 1});
  for (LegId leg : legs) {
    Drive& where = drive_of(leg);
    for (int block = 0; block < plan_.block_count; ++block) {
      auto m = static_cast<std::size_t>(mirror_of(leg));
      auto b = static_cast<std::size_t>(block);
      Version wanted = at->current[m][b];
      bool copied = wanted.birth >= from && !at->in_log[m][b];
      bool kept = where.durable[b] == wanted || std::ranges::find(where.history[b], wanted) != where.history[b].end();
      // A write in flight lies elsewhere (copy on write): it neither hinders the copy nor is undone by it.
      auto in_flight = at->writes.find({mirror_of(leg), block});
      auto is_in_flight = [&](const Version& version) {
        return in_flight != at->writes.end() && in_flight->second.version == version;
      };
      if ((copied || kept) && !is_in_flight(where.durable[b])) {
        where.history[b].push_back(where.durable[b]);
        where.durable[b] = wanted;
      }
      if (!is_in_flight(where.cached[b])) where.cached[b] = {};
    }
    std::erase_if(where.uberblocks, [&](const Uberblock& each) { return !at->known_uberblocks.contains(each); });
  }
  owner::ScanReport report;
  report.finished = true;
  report.error_count = 0;
  report.scan_min_txg = Txg{from.value == 0 ? 0 : from.value - 1};
  report.dtl_empty = true;
  at->resync_report = report;
  at->resync_copied = at->open_txg.next();
  sync_txg(*at);
}

}  // namespace zpair::sim
