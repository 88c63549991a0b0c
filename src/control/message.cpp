#include "control/message.h"

#include <stdexcept>

#include "control/json_internal.h"

namespace zpair::control {

namespace {

using nlohmann::json;

std::string_view text_of(record::Wanted wanted) { return wanted == record::Wanted::serving ? "serving" : "exported"; }

record::Wanted wanted_of(const std::string& text) {
  if (text == "serving") return record::Wanted::serving;
  if (text == "exported") return record::Wanted::exported;
  throw std::invalid_argument("wanted is neither serving nor exported");
}

struct ToJson {
  json operator()(const Start& m) const { return {{"kind", "start"}, {"document", json_of(m.document)}}; }
  json operator()(const VolumeSocket& m) const {
    return {{"kind", "volume_socket"}, {"volume", m.volume}, {"guid", m.guid}};
  }
  json operator()(const VolumeClient& m) const {
    return {{"kind", "volume_client"}, {"volume", m.volume}, {"guid", m.guid}};
  }
  json operator()(const RelayLink& m) const {
    return {{"kind", "relay_link"}, {"volume", m.volume}, {"session", m.session}, {"link_number", m.link_number}};
  }
  json operator()(const Export& m) const { return {{"kind", "export"}, {"wanted", text_of(m.wanted)}}; }
  json operator()(const ReleasePromise&) const { return {{"kind", "release_promise"}}; }
  json operator()(const RecordHint& m) const { return {{"kind", "record_hint"}, {"stored", json_of(m.stored)}}; }
  json operator()(const PartnerHint& m) const {
    return {{"kind", "partner_hint"}, {"alive", m.alive}, {"can_serve_all", m.can_serve_all}};
  }
  json operator()(const CannotFence& m) const {
    json legs = json::array();
    for (LegId leg : m.legs) legs.push_back(leg.value);
    return {{"kind", "cannot_fence"}, {"legs", legs}};
  }
  json operator()(const MemoryShare& m) const {
    return {{"kind", "memory_share"},
            {"arc_bytes", m.arc_bytes},
            {"dirty_bytes", m.dirty_bytes},
            {"log_bytes", m.log_bytes}};
  }
  json operator()(const DrivePlaces& m) const {
    json drives = json::array();
    for (const DrivePlace& drive : m.drives) drives.push_back(json_of(drive));
    return {{"kind", "drive_places"}, {"drives", drives}};
  }
  json operator()(const RecordKept& m) const {
    return {{"kind", "record_kept"}, {"epoch", m.epoch.value}, {"rev", m.rev.value}};
  }
  json operator()(const Heartbeat& m) const { return {{"kind", "heartbeat"}, {"engine_moves", m.engine_moves}}; }
  json operator()(const State& m) const {
    json volumes = json::array();
    for (const State::Volume& volume : m.volumes) {
      volumes.push_back({{"name", volume.name}, {"size_bytes", volume.size_bytes}, {"guid", volume.guid}});
    }
    return {{"kind", "state"},
            {"pool", m.pool},
            {"phase", m.phase},
            {"holding_because", m.holding_because},
            {"stored", json_of(m.stored)},
            {"serving", m.serving},
            {"volumes", volumes},
            {"pid", m.pid}};
  }
  json operator()(const KeepRecord& m) const {
    return {{"kind", "keep_record"}, {"record", json::parse(record::to_json(m.record))}};
  }
  json operator()(const Exiting& m) const { return {{"kind", "exiting"}, {"reason", m.reason}, {"detail", m.detail}}; }
};

State state_of(const json& value) {
  State state;
  state.pool = value.at("pool");
  state.phase = value.at("phase");
  state.holding_because = value.at("holding_because");
  state.stored = stored_of(value.at("stored"));
  state.serving = value.at("serving");
  for (const json& volume : value.at("volumes")) {
    state.volumes.push_back({volume.at("name"), volume.at("size_bytes"), volume.at("guid")});
  }
  state.pid = value.at("pid");
  return state;
}

CannotFence cannot_fence_of(const json& value) {
  CannotFence message;
  for (const json& leg : value.at("legs")) message.legs.push_back(LegId{leg.get<std::uint64_t>()});
  return message;
}

DrivePlaces drive_places_of(const json& value) {
  DrivePlaces places;
  for (const json& drive : value.at("drives")) places.drives.push_back(drive_place_of(drive));
  return places;
}

KeepRecord keep_record_of(const json& value) {
  auto record = record::parse_record(value.at("record").dump());
  if (!record) throw std::invalid_argument(record.error().message);
  return {std::move(*record)};
}

Result<Message> message_of(const json& value) {
  const std::string kind = value.at("kind");
  if (kind == "start") return Start{start_document_of(value.at("document"))};
  if (kind == "volume_socket") return VolumeSocket{value.at("volume"), value.at("guid")};
  if (kind == "volume_client") return VolumeClient{value.at("volume"), value.at("guid")};
  if (kind == "relay_link") return RelayLink{value.at("volume"), value.at("session"), value.at("link_number")};
  if (kind == "export") return Export{wanted_of(value.at("wanted"))};
  if (kind == "release_promise") return ReleasePromise{};
  if (kind == "record_hint") return RecordHint{stored_of(value.at("stored"))};
  if (kind == "partner_hint") return PartnerHint{value.at("alive"), value.at("can_serve_all")};
  if (kind == "cannot_fence") return cannot_fence_of(value);
  if (kind == "memory_share") return MemoryShare{value.at("arc_bytes"), value.at("dirty_bytes"), value.at("log_bytes")};
  if (kind == "drive_places") return drive_places_of(value);
  if (kind == "record_kept") return RecordKept{Epoch{value.at("epoch")}, Revision{value.at("rev")}};
  if (kind == "heartbeat") return Heartbeat{value.at("engine_moves")};
  if (kind == "state") return state_of(value);
  if (kind == "keep_record") return keep_record_of(value);
  if (kind == "exiting") return Exiting{value.at("reason"), value.at("detail")};
  return fail(ErrorCode::not_found, "control message of unknown kind {}", kind);
}

}  // namespace

std::string to_json(const Message& message) { return std::visit(ToJson{}, message).dump(); }

Result<Message> parse_message(std::string_view text) {
  try {
    return message_of(json::parse(text));
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "a control message cannot be read: {}", error.what());
  }
}

}  // namespace zpair::control
