#pragma once
// The start document's JSON as a value: private to this room.
#include <nlohmann/json.hpp>

#include "control/start_document.h"

namespace zpair::control {

nlohmann::json json_of(const StartDocument& document);
nlohmann::json json_of(const DrivePlace& drive);
nlohmann::json json_of(const record::Stored& stored);
// These throw what nlohmann throws, or std::invalid_argument.
StartDocument start_document_of(const nlohmann::json& value);
DrivePlace drive_place_of(const nlohmann::json& value);
record::Stored stored_of(const nlohmann::json& value);

}  // namespace zpair::control
