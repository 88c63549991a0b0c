// Orders about drives and the store, and what only the partner's zpaird asks.
#include "base/log.h"
#include "block/drive_identity.h"
#include "node/api_internal.h"
#include "state/fault_notes.h"

namespace zpair::node {

std::string Api::pool_using(const std::string& durable_id) const {
  auto known = daemon_.drives().find(durable_id);
  if (!known) return "";
  PoolAgent* agent = daemon_.find_pool(known->pool);
  if (agent == nullptr) return "";
  auto record = agent->newest_record();
  if (!record) return known->pool;  // it is being created
  for (const record::Mirror& mirror : record->mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.drive == durable_id) return known->pool;
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
  std::string order = json{{"pool", pool}, {"path", path}}.dump();
  std::string look = json{{"path", path}}.dump();
  bool here = node == daemon_.config().node;
  Result<std::string> inspected = fail(ErrorCode::internal, "not asked");
  if (here) {
    inspected = co_await drive_inspect({api::Request{"POST", "", {}, look}, From::partner});
  } else {
    inspected = co_await call_partner("POST", "/v1/node/inspect", look, Impl::quick_ms * 4);
  }
  ZP_CO_TRY(identity, Impl::parsed(inspected));
  std::string used_by = Impl::text_or(identity, "pool");
  // A leg of this pool: a replacement that was begun before, or is taken back.
  if (used_by == pool) {
    const json attached = {{"node", node_name}, {"durable_id", Impl::text_or(identity, "durable_id")}, {"path", path}};
    co_return co_await call_pool(pool, "POST", "/v1/drive/replace",
                                 json{{"pool", pool}, {"old", body["old"]}, {"new", attached}}.dump(), Impl::slow_ms);
  }
  if (!used_by.empty())
    co_return fail(ErrorCode::exists, "drive {}:{} is a leg of pool {} already: name a drive that is free", node, path,
                   used_by);
  ZP_CO_CHECK(Impl::check_size(node, path, Impl::number_or(identity, "size_bytes")));
  Result<std::string> registered = fail(ErrorCode::internal, "not asked");
  if (here) {
    registered = co_await drive_register({api::Request{"POST", "", {}, order}, From::partner});
  } else {
    registered = co_await call_partner("POST", "/v1/node/register", order, Impl::quick_ms * 10);
  }
  ZP_CO_TRY(place, Impl::parsed(registered));
  if (here) co_await daemon_.drives().give_to_process(pool, agent->process_epoch());
  std::string text =
      json{{"pool", pool}, {"old", body["old"]}, {"new", place}, {"force", Impl::flag_in(body, "force")}}.dump();
  auto answer = co_await call_pool(pool, "POST", "/v1/drive/replace", text, Impl::slow_ms);
  if (!answer && answer.error().code != ErrorCode::timed_out && answer.error().code != ErrorCode::io) {
    std::string back = json{{"pool", pool}, {"drive", Impl::text_or(place, "durable_id")}}.dump();
    Result<std::string> undone = fail(ErrorCode::internal, "not asked");
    if (here) {
      undone = co_await drive_unregister({api::Request{"POST", "", {}, back}, From::partner});
    } else {
      undone = co_await call_partner("POST", "/v1/node/unregister", back, Impl::quick_ms * 10);
    }
    if (!undone) log_warning("drive {}:{} stays registered: {}", node, path, undone.error().message);
  }
  co_await daemon_.refresh_partner_drives();
  co_return answer;
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

Api::Answer Api::store_readmit(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(member, Impl::text_in(body, "member"));
  ZP_CO_TRY(readmitted, co_await daemon_.store().readmit(member, Deadline::in_ms(10'000)));
  co_return Impl::dump(
      {{"member", member}, {"id", readmitted.member_id}, {"initial_cluster", readmitted.initial_cluster}});
}

// Planned stop of the whole node: exports its pools, then ends zpaird. The record stays `serving`.
Api::Answer Api::shutdown(Asked) {
  daemon_.ask_to_stop(Daemon::StopPools::yes);
  co_return "{}";
}

}  // namespace zpair::node
