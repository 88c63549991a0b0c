#include "world_internal.h"

namespace zpair::sim {

std::string_view name_of(ModelMutation mutation) {
  switch (mutation) {
    case ModelMutation::none: return "none";
    case ModelMutation::resend_without_quiesce: return "resend_without_quiesce";
    case ModelMutation::ended_connection_accepted: return "ended_connection_accepted";
    case ModelMutation::no_verifier: return "no_verifier";
    case ModelMutation::fence_not_stored: return "fence_not_stored";
    case ModelMutation::fence_ignores_epoch: return "fence_ignores_epoch";
    case ModelMutation::host_id_per_node: return "host_id_per_node";
    case ModelMutation::fence_without_drain: return "fence_without_drain";
    case ModelMutation::store_rolled_back: return "store_rolled_back";
    case ModelMutation::clock_rate_off: return "clock_rate_off";
    case ModelMutation::read_of_uncommitted: return "read_of_uncommitted";
    case ModelMutation::old_client_connection: return "old_client_connection";
    case ModelMutation::gate_off: return "gate_off";
    case ModelMutation::count_of_mutations: break;
  }
  return "unknown";
}

void Stats::add(const Stats& other) {
  auto add_all = [](auto& into, const auto& from) {
    for (std::size_t i = 0; i < into.size(); ++i) into[i] += from[i];
  };
  add_all(agent_events, other.agent_events);
  add_all(agent_actions, other.agent_actions);
  add_all(owner_events, other.owner_events);
  add_all(owner_actions, other.owner_actions);
  add_all(faults, other.faults);
  schedules += other.schedules;
  steps += other.steps;
  acks += other.acks;
  reads += other.reads;
  imports += other.imports;
  takeovers += other.takeovers;
  grows += other.grows;
  shrinks += other.shrinks;
  write_backs += other.write_backs;
}

World::World(const Plan& plan, brain::Mutation mutation, ModelMutation model_mutation, bool keep_story,
             Liveness liveness)
    : plan_(plan),
      model_mutation_(model_mutation),
      keep_story_(keep_story),
      liveness_(liveness),
      random_(plan.seed ^ 0x776f726c64) {
#ifdef ZPAIR_MUTATIONS
  brain::active_mutation = mutation;
#else
  (void)mutation;
#endif
  if (model(ModelMutation::clock_rate_off)) plan_.clock_rate[random_.below(2)] = random_.one_in(2) ? 0.7 : 1.3;
  auto blocks = static_cast<std::size_t>(plan_.block_count);
  mirror_count_ = plan_.mirror_count;
  for (int mirror = 0; mirror < mirror_count_; ++mirror) {
    active_mirrors_.insert(mirror);
    for (NodeId side : {NodeId::a, NodeId::b}) {
      Drive& each = drive(add_drive(mirror, side));
      each.open = false;
      each.durable.assign(blocks, Version{1, Txg{4}});  // written and synced before the schedule begins
      each.uberblocks.insert(Uberblock{Txg{5}, 0});
      mirrors_at_[Uberblock{Txg{5}, 0}].insert(mirror);
      each.kept_epoch = Epoch{1};
      each.kept_rev = Revision{1};
    }
  }
  clients_.assign(static_cast<std::size_t>(plan_.mirror_count) * blocks, Client{1, 1, 1, 0, 0, 0, 0, 0});

  record::Record first;
  first.name = "tank-a";
  first.pool_guid = PoolGuid{7};
  first.epoch = Epoch{1};
  first.rev = Revision{1};
  first.zfs_host_ids = {1, 2};
  for (int mirror = 0; mirror < plan_.mirror_count; ++mirror) {
    record::Mirror made{MirrorId{static_cast<std::uint64_t>(50 + mirror)}, "normal", {}};
    for (NodeId side : {NodeId::a, NodeId::b}) {
      record::Leg leg;
      leg.guid = leg_id(mirror * 2 + static_cast<int>(index(side)));
      leg.node = side;
      leg.drive = drive_of(leg.guid).id;
      leg.in_sync = true;
      made.legs.push_back(leg);
    }
    first.mirrors.push_back(made);
  }
  store_ = record::Stored{first, store_revision_};
  store_history_.push_back(*store_);
  for (NodeId id : {NodeId::a, NodeId::b}) {
    node(id).id = id;
    node(id).kept = store_;
  }
}

bool World::run() {
  for (NodeId id : {NodeId::a, NodeId::b}) start_agent(id);
  for (int mirror = 0; mirror < plan_.mirror_count; ++mirror) {
    for (int block = 0; block < plan_.block_count; ++block) client_tick(mirror, block);
  }
  for (const Fault& fault : plan_.faults) at(fault.at_ns, [this, fault] { inject(fault); });
  Nanoseconds heal_at = plan_.length_ns + ns_per_s;
  at(heal_at, [this] { heal_all(); });
  // Liveness (invariant 12): once everything is healed the pool serves and is whole again within a bound.
  Nanoseconds end = heal_at + (liveness_ == Liveness::checked ? 60 : 8) * ns_per_s;
  while (broken_.empty() && !calls_.empty()) {
    Call call = calls_.top();
    calls_.pop();
    now_ns_ = call.at_ns;
    if (now_ns_ > end) {
      if (liveness_ == Liveness::not_checked || store_went_back_) break;
      breaks("invariant 12: a minute after the last fault the pool does not serve with every leg in sync: " +
             why_not_settled());
      break;
    }
    std::function<void()> body = std::exchange(call_bodies_[call.place], nullptr);
    free_places_.push_back(call.place);
    body();
    ++stats_.steps;
    check_legs();
    if (faults_over_ && settled()) break;
  }
  ++stats_.schedules;
  return broken_.empty();
}

int World::add_drive(int mirror, NodeId side) {
  auto blocks = static_cast<std::size_t>(plan_.block_count);
  Drive made;
  made.mirror = mirror;
  made.side = side;
  made.id = fmt::format("m{}.{}", mirror, drives_.size());
  made.durable.resize(blocks);
  made.cached.resize(blocks);
  made.history.resize(blocks);
  made.verifier = random_.next();
  made.open = node(side).up && node(side).agent_alive && node(side).pid == 0;  // zpaird registers it
  drives_.push_back(made);
  return static_cast<int>(drives_.size()) - 1;
}

void World::at(Nanoseconds when_ns, std::function<void()> call) {
  if (free_places_.empty()) {
    free_places_.push_back(call_bodies_.size());
    call_bodies_.emplace_back();
  }
  std::size_t place = free_places_.back();
  free_places_.pop_back();
  call_bodies_[place] = std::move(call);
  calls_.push(Call{std::max(when_ns, now_ns_), ++call_count_, place});
}

void World::after_random(Nanoseconds low_ns, Nanoseconds high_ns, std::function<void()> call) {
  after(random_.between(low_ns, high_ns), std::move(call));
}

Nanoseconds World::clock(NodeId id) const {
  // Each node's clock began at another time and runs at its own rate.
  return static_cast<Nanoseconds>(static_cast<double>(now_ns_) * plan_.clock_rate[index(id)]) +
         (id == NodeId::a ? 5'000 : 77'000) * ns_per_s;
}

Nanoseconds World::delay() {
  if (random_.one_in(64)) return random_.between(1, 40) * ns_per_ms;
  return random_.between(50, 1'500) * ns_per_us;
}

void World::breaks(std::string what) {
  if (!broken_.empty()) return;
  broken_ = std::move(what);
  tell("BROKEN: {}", broken_);
}

}  // namespace zpair::sim
