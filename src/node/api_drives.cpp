// Orders about drives, and what only the partner's zpaird asks.
#include "base/log.h"
#include "block/drive_identity.h"
#include "node/api_internal.h"
#include "state/fault_notes.h"

namespace zpair::node {

namespace {

constexpr std::int64_t store_ms = 3000;

}  // namespace

std::string Api::pool_using(const std::string& durable_id) const {
  auto known = daemon_.drives().find(durable_id);
  if (!known) return "";
  PoolAgent* agent = daemon_.find_pool(known->pool);
  if (agent == nullptr) return "";
  auto record = agent->newest_record();
  if (!record) return known->pool;  // it is being created
  for (const record::Mirror& mirror : record->mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.drive == durable_id && leg.node == daemon_.config().node) return known->pool;
    }
  }
  return "";
}

// Of either node: a drive that was carried over here is still the other node's leg.
std::string Api::pool_recording(const std::string& durable_id) const {
  for (const std::string& name : daemon_.pools()) {
    auto record = daemon_.find_pool(name)->newest_record();
    if (!record) continue;
    for (const record::Mirror& mirror : record->mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.drive == durable_id) return name;
      }
    }
  }
  return "";
}

Api::Answer Api::drive_inspect(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(path, Impl::text_in(body, "path"));
  auto identity = block::identify_drive(path);
  if (!identity) co_return fail(identity.error(), "drive {}:{}", daemon_.config().node, path);
  json pool = nullptr;
  std::string used_by = pool_recording(identity->durable_id);
  if (used_by.empty()) used_by = pool_using(identity->durable_id);
  if (!used_by.empty()) pool = used_by;
  co_return Impl::dump({{"durable_id", identity->durable_id},
                        {"size_bytes", identity->size_bytes},
                        {"pool", pool},
                        {"registered", daemon_.drives().find(identity->durable_id).has_value()},
                        {"zfs_host_id", daemon_.config().zfs_host_id}});
}

Api::Answer Api::drive_register(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  ZP_CO_TRY(path, Impl::text_in(body, "path"));
  // A leg that was replaced stays registered until somebody wants the drive.
  auto identity = block::identify_drive(path);
  auto known = identity ? daemon_.drives().find(identity->durable_id) : std::nullopt;
  if (known && known->pool != pool && pool_using(known->durable_id).empty()) {
    ZP_CO_CHECK(co_await daemon_.drives().remove(known->durable_id));
  }
  auto drive = co_await daemon_.drives().add(pool, path);
  if (!drive) co_return fail(drive.error(), "node {}", daemon_.config().node);
  control::DrivePlace place{daemon_.config().node, drive->durable_id, drive->path, drive->nsid, drive->size_bytes};
  co_return Impl::dump(Impl::place_json(place));
}

Api::Answer Api::drive_unregister(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  ZP_CO_TRY(drive, Impl::text_in(body, "drive"));
  auto known = daemon_.drives().find(drive);
  if (!known) co_return "{}";
  if (known->pool != pool)
    co_return fail(ErrorCode::refused, "drive {} belongs to pool {}, not to {}", drive, known->pool, pool);
  PoolAgent* agent = daemon_.find_pool(pool);
  bool recorded = agent != nullptr && agent->newest_record().has_value();
  if (recorded && !pool_using(drive).empty())
    co_return fail(ErrorCode::refused, "drive {} is a leg of pool {}", drive, pool);
  ZP_CO_CHECK(co_await daemon_.drives().remove(drive));
  co_return "{}";
}

Api::Answer Api::pool_forget(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  // Only what the store, too, no longer knows.
  ZP_CO_TRY(stored, co_await daemon_.store().read(pool, Deadline::in_ms(3000)));
  if (stored) co_return fail(ErrorCode::refused, "pool {} is in the store still", pool);
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent != nullptr && agent->has_process())
    co_return fail(ErrorCode::refused, "a process of pool {} lives on node {}", pool, daemon_.config().node);
  co_await daemon_.drop_pool(pool);
  co_return "{}";
}

Api::Answer Api::inspect_at(NodeId node, std::string path) {
  const std::string body = json{{"path", path}}.dump();
  if (node == daemon_.config().node)
    co_return co_await drive_inspect({api::Request{"POST", "", {}, body}, From::partner});
  co_return co_await call_partner("POST", "/v1/node/inspect", body, Impl::quick_ms * 4);
}

Api::Answer Api::register_at(NodeId node, std::string pool, std::string path) {
  const std::string body = json{{"pool", pool}, {"path", path}}.dump();
  if (node == daemon_.config().node)
    co_return co_await drive_register({api::Request{"POST", "", {}, body}, From::partner});
  co_return co_await call_partner("POST", "/v1/node/register", body, Impl::quick_ms * 10);
}

Api::Answer Api::unregister_at(NodeId node, std::string pool, std::string durable_id) {
  const std::string body = json{{"pool", pool}, {"drive", durable_id}}.dump();
  if (node == daemon_.config().node)
    co_return co_await drive_unregister({api::Request{"POST", "", {}, body}, From::partner});
  co_return co_await call_partner("POST", "/v1/node/unregister", body, Impl::quick_ms * 10);
}

block::Task<void> Api::give_here(NodeId node, std::string pool) {
  PoolAgent* agent = daemon_.find_pool(pool);
  if (node != daemon_.config().node || agent == nullptr || !agent->has_process()) co_return;
  co_await daemon_.drives().give_to_process(pool, agent->process_epoch());
}

Api::Answer Api::drive_look(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(node_name, Impl::text_in(body, "node"));
  ZP_CO_TRY(path, Impl::text_in(body, "path"));
  ZP_CO_TRY(node, parse_node(node_name));
  co_return co_await inspect_at(node, path);
}

Api::Answer Api::drive_replace(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", pool);
  if (!agent->has_process()) co_return co_await to_owner(std::move(asked), pool, Impl::slow_ms);
  if (!body.contains("new") || !body["new"].is_object() || !body.contains("old") || !body["old"].is_object()) {
    co_return fail(ErrorCode::invalid,
                   "`old` and `new` are missing: {{\"node\", \"drive\"}} and {{\"node\", \"path\"}}");
  }
  ZP_CO_TRY(node_name, Impl::text_in(body["new"], "node"));
  ZP_CO_TRY(path, Impl::text_in(body["new"], "path"));
  ZP_CO_TRY(node, parse_node(node_name));
  ZP_CO_TRY(identity, Impl::parsed(co_await inspect_at(node, path)));
  std::string used_by = Impl::text_or(identity, "pool");
  // A leg of this pool: a replacement that was begun before, or is taken back, or a drive that its node has forgotten.
  if (used_by == pool) {
    const auto record = agent->newest_record();
    const record::Leg* leg = record ? record::find_drive(*record, Impl::text_or(identity, "durable_id")) : nullptr;
    const bool forgotten = leg != nullptr && leg->node == node && !Impl::flag_in(identity, "registered");
    const json attached = {{"node", node_name}, {"durable_id", Impl::text_or(identity, "durable_id")}, {"path", path}};
    auto answer =
        co_await call_pool(pool, "POST", "/v1/drive/replace",
                           json{{"pool", pool}, {"old", body["old"]}, {"new", attached}}.dump(), Impl::slow_ms);
    if (answer && forgotten) {  // after the record says that it comes back as a whole, not before
      ZP_CO_CHECK(co_await register_at(node, pool, path));
      co_await give_here(node, pool);
      co_await daemon_.refresh_partner_drives();
    }
    co_return answer;
  }
  if (!used_by.empty())
    co_return fail(ErrorCode::exists, "drive {}:{} is a leg of pool {} already: name a drive that is free", node, path,
                   used_by);
  ZP_CO_CHECK(Impl::check_size(node, path, Impl::number_or(identity, "size_bytes")));
  ZP_CO_TRY(place, Impl::parsed(co_await register_at(node, pool, path)));
  co_await give_here(node, pool);
  std::string text =
      json{{"pool", pool}, {"old", body["old"]}, {"new", place}, {"force", Impl::flag_in(body, "force")}}.dump();
  auto answer = co_await call_pool(pool, "POST", "/v1/drive/replace", text, Impl::slow_ms);
  if (!answer && answer.error().code != ErrorCode::timed_out && answer.error().code != ErrorCode::io) {
    auto undone = co_await unregister_at(node, pool, Impl::text_or(place, "durable_id"));
    if (!undone) log_warning("drive {}:{} stays registered: {}", node, path, undone.error().message);
  }
  co_await daemon_.refresh_partner_drives();
  co_return answer;
}

// Why the drive of `leg` may not move here now; empty: nobody serves its pool, and nobody can write to it from where it was.
block::Task<Result<void>> Api::check_move(std::string pool, std::string path, record::Leg leg, bool node_is_off) {
  const auto changes = [&] {
    PoolAgent* agent = daemon_.find_pool(pool);
    return agent == nullptr || agent->changes_owner();
  };
  const auto served = [&] {
    return fail(
        ErrorCode::refused,
        "pool {} is served, or about to be: a drive moves while nobody serves its pool. Stop it first: zpair pool "
        "export {}",
        pool, pool);
  };
  if (changes()) co_return served();
  const bool partner_lives = daemon_.partner_alive();
  if (!partner_lives && !node_is_off) {
    co_return fail(
        ErrorCode::refused,
        "node {} does not answer: it may still serve pool {}, from its cache too. Make sure that it is off, then "
        "say so: --node-is-off",
        leg.node, pool);
  }
  if (!partner_lives) co_return Result<void>{};
  const auto& partner = daemon_.find_pool(pool)->state().partner;
  if (partner && partner->process_epoch.value > 0) co_return served();
  auto answer = Impl::parsed(co_await call_partner("GET", "/v1/drives", "", Impl::quick_ms));
  if (!answer) co_return fail(answer.error(), "node {} does not say which drives it has", leg.node);
  for (const json& drive : Impl::list_in(*answer, "drives")) {
    if (Impl::text_or(drive, "drive_id") == leg.drive && Impl::text_or(drive, "state") == "online")
      co_return fail(ErrorCode::refused, "node {} has drive {} still: take it out there first", leg.node, path);
  }
  if (changes()) co_return served();
  co_return Result<void>{};
}

// A leg's drive was carried from one server to the other. The record says where it is from now on, and the new node's import
// may use it. Nobody serves the pool meanwhile, so nobody else writes the record: what comes first makes this swap fail.
Api::Answer Api::drive_move(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(pool, Impl::text_in(body, "pool"));
  ZP_CO_TRY(node_name, Impl::text_in(body, "node"));
  ZP_CO_TRY(path, Impl::text_in(body, "path"));
  ZP_CO_TRY(node, parse_node(node_name));
  const NodeId here = daemon_.config().node;
  if (node != here) {
    if (asked.from == From::partner) co_return fail(ErrorCode::invalid, "that is node {}'s", node);
    co_return co_await call_partner("POST", "/v1/drive/move", asked.request.body, Impl::slow_ms);
  }
  if (daemon_.find_pool(pool) == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", pool);
  auto identity = block::identify_drive(path);
  if (!identity) co_return fail(identity.error(), "drive {}:{}", here, path);
  ZP_CO_TRY(stored, co_await daemon_.store().read(pool, Deadline::in_ms(store_ms)));
  if (!stored) co_return fail(ErrorCode::not_found, "the store knows no pool {}", pool);
  record::Record wanted = stored->record;
  const record::Leg* there = record::find_drive(wanted, identity->durable_id);
  if (there == nullptr) co_return fail(ErrorCode::invalid, "drive {}:{} is no leg of pool {}", here, path, pool);
  const record::Leg moved = *there;
  if (moved.node != here) ZP_CO_CHECK(co_await check_move(pool, path, moved, Impl::flag_in(body, "node_is_off")));
  // Before the record names this node: it must be able to open the drive. Closed to every writer until it is fenced.
  ZP_CO_CHECK(co_await register_at(here, pool, path));
  if (moved.node == here) {
    co_await give_here(here, pool);
  } else {
    record::Leg& leg = *record::find_leg(wanted, moved.guid);
    leg.node = here;
    leg.replaces.clear();
    wanted.rev = wanted.rev.next();
    wanted.op = Uuid::random().to_string();
    wanted.why = fmt::format("drive {} was carried from {} to {}", leg.drive, moved.node, here);
    const std::string why = wanted.why;
    auto answer = co_await daemon_.store().swap(stored->mod_revision, std::move(wanted), Deadline::in_ms(store_ms));
    if (answer.outcome == quorum::SwapAnswer::Outcome::unknown)
      co_return fail(ErrorCode::timed_out,
                     "the store does not say whether the record of pool {} was changed: try again", pool);
    if (answer.outcome == quorum::SwapAnswer::Outcome::other) {
      ZP_CO_CHECK(co_await daemon_.drives().remove(identity->durable_id));
      co_return fail(ErrorCode::refused, "the record of pool {} changed meanwhile: try again", pool);
    }
    daemon_.events().add(pool, "drive-moved", why);
    if (PoolAgent* agent = daemon_.find_pool(pool)) agent->seen(std::move(answer.stored));
    (void)co_await unregister_at(moved.node, pool, moved.drive);  // a node that is off lists it until it is asked again
  }
  co_return Impl::dump({{"pool", pool}, {"node", name_of(here)}, {"drive", Impl::short_name(path)}});
}

Api::Answer Api::fault(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(node_name, Impl::text_in(body, "node"));
  ZP_CO_TRY(drive, Impl::text_in(body, "drive"));
  ZP_CO_TRY(command, Impl::text_in(body, "command"));
  ZP_CO_TRY(node, parse_node(node_name));
  if (node != daemon_.config().node) {
    if (asked.from == From::partner) co_return fail(ErrorCode::invalid, "that drive is on node {}", node);
    co_return co_await call_partner("POST", "/v1/fault", asked.request.body, Impl::quick_ms * 4);
  }
  for (const DriveStatus& status : daemon_.drives().status()) {
    bool named =
        status.drive.durable_id == drive || status.drive.path == drive || Impl::short_name(status.drive.path) == drive;
    if (!named) continue;
    if (block::FaultDevice* device = daemon_.fault_device(status.drive.durable_id)) {
      ZP_CO_CHECK(state::apply_fault(daemon_.config().run_dir, *device, command));
      co_return "{}";
    }
    if (status.state == DriveState::elsewhere) {
      std::string order = json{{"node", node_name}, {"drive", status.drive.durable_id}, {"command", command}}.dump();
      co_return co_await call_pool(status.drive.pool, "POST", "/v1/fault", order, Impl::quick_ms * 4);
    }
    co_return fail(ErrorCode::unreachable, "drive {} is not open here: {}", drive, status.why);
  }
  co_return fail(ErrorCode::not_found, "node {} has no drive {}: see zpair drive list", node, drive);
}

// Planned stop of the whole node: exports its pools, then ends zpaird. The record stays `serving`.
Api::Answer Api::shutdown(Asked) {
  daemon_.ask_to_stop(Daemon::StopPools::yes);
  co_return "{}";
}

}  // namespace zpair::node
