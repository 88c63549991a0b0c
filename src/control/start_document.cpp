#include "control/start_document.h"

#include <stdexcept>

#include "control/json_internal.h"

namespace zpair::control {

using nlohmann::json;

json json_of(const record::Stored& stored) {
  return {{"record", json::parse(record::to_json(stored.record))}, {"mod_revision", stored.mod_revision}};
}

record::Stored stored_of(const json& value) {
  auto record = record::parse_record(value.at("record").dump());
  if (!record) throw std::invalid_argument(record.error().message);
  return {std::move(*record), value.at("mod_revision").get<std::uint64_t>()};
}

json json_of(const DrivePlace& drive) {
  return {{"node", name_of(drive.node)},
          {"durable_id", drive.durable_id},
          {"path", drive.path},
          {"nsid", drive.nsid},
          {"size_bytes", drive.size_bytes}};
}

DrivePlace drive_place_of(const json& value) {
  auto node = parse_node(value.at("node").get<std::string>());
  if (!node) throw std::invalid_argument(node.error().message);
  return {*node, value.at("durable_id"), value.at("path"), value.at("nsid"), value.at("size_bytes")};
}

namespace {

json json_of(const Timeline& timeline) {
  return {{"since", timeline.since},
          {"began_ns", timeline.began_ns},
          {"ended_ns", timeline.ended_ns},
          {"parts", timeline.parts}};
}

Timeline timeline_of(const json& value) {
  return {value.at("since"), value.at("began_ns"), value.at("ended_ns"), value.at("parts")};
}

}  // namespace

json json_of(const StartDocument& document) {
  json drives = json::array();
  for (const DrivePlace& drive : document.drives) drives.push_back(json_of(drive));
  return {{"mode", document.mode == StartDocument::Mode::create ? "create" : "import"},
          {"stored", json_of(document.stored)},
          {"drives", drives},
          {"floor", json::parse(record::to_json(document.floor))},
          {"first_ack_not_before_ns", document.first_ack_not_before_ns},
          {"newest_txg", document.newest_txg.value},
          {"force", document.force},
          {"accept_data_loss", document.accept_data_loss},
          {"accept_corruption", document.accept_corruption},
          {"timeline", json_of(document.timeline)}};
}

StartDocument start_document_of(const json& value) {
  StartDocument document;
  const std::string mode = value.at("mode");
  if (mode != "create" && mode != "import") throw std::invalid_argument("mode is neither create nor import");
  document.mode = mode == "create" ? StartDocument::Mode::create : StartDocument::Mode::import;
  document.stored = stored_of(value.at("stored"));
  for (const json& drive : value.at("drives")) document.drives.push_back(drive_place_of(drive));
  auto floor = record::parse_floor(value.at("floor").dump());
  if (!floor) throw std::invalid_argument(floor.error().message);
  document.floor = std::move(*floor);
  document.first_ack_not_before_ns = value.at("first_ack_not_before_ns");
  document.newest_txg = Txg{value.at("newest_txg").get<std::uint64_t>()};
  document.force = value.at("force");
  document.accept_data_loss = value.at("accept_data_loss");
  document.accept_corruption = value.at("accept_corruption");
  if (value.contains("timeline")) document.timeline = timeline_of(value["timeline"]);  // a former zpaird has none
  return document;
}

std::string to_json(const StartDocument& document) { return json_of(document).dump(); }

Result<StartDocument> parse_start_document(std::string_view text) {
  try {
    return start_document_of(json::parse(text));
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "the start document cannot be read: {}", error.what());
  }
}

}  // namespace zpair::control
