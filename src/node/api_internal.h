#pragma once
// What the api_*.cpp files share and others must not see: the JSON library.
#include <nlohmann/json.hpp>

#include "api/errors.h"
#include "control/start_document.h"
#include "node/api.h"
#include "node/daemon.h"

namespace zpair::node {

using nlohmann::json;

struct Api::Impl {
  static constexpr std::int64_t quick_ms = 1500;    // a question that a healthy node answers at once
  static constexpr std::int64_t slow_ms = 120'000;  // work that may take a while

  static constexpr std::uint64_t smallest_drive_bytes = 64 << 20;  // OpenZFS's SPA_MINDEVSIZE
  static Result<void> check_size(NodeId node, const std::string& path, std::uint64_t size_bytes) {
    if (size_bytes >= smallest_drive_bytes) return {};
    return fail(ErrorCode::invalid, "drive {}:{} is {} bytes, too small: a leg needs {} at least", node, path,
                size_bytes, smallest_drive_bytes);
  }

  static json place_json(const control::DrivePlace& place) {
    return {{"node", name_of(place.node)},
            {"durable_id", place.durable_id},
            {"path", place.path},
            {"nsid", place.nsid},
            {"size_bytes", place.size_bytes}};
  }
  static Result<control::DrivePlace> place_of(const json& value) {
    ZP_TRY(node, parse_node(text_or(value, "node")));
    return control::DrivePlace{node, text_or(value, "durable_id"), text_or(value, "path"),
                               static_cast<std::uint32_t>(number_or(value, "nsid")), number_or(value, "size_bytes")};
  }
  // Of answers of others: what is missing or of another type is empty.
  static std::string text_or(const json& value, const char* key) {
    return value.is_object() && value.contains(key) && value[key].is_string() ? value[key].get<std::string>()
                                                                              : std::string();
  }
  static std::uint64_t number_or(const json& value, const char* key) {
    return value.is_object() && value.contains(key) && value[key].is_number_unsigned() ? value[key].get<std::uint64_t>()
                                                                                       : 0;
  }
  static const json& list_in(const json& value, const char* key) {
    static const json empty = json::array();
    return value.is_object() && value.contains(key) && value[key].is_array() ? value[key] : empty;
  }
  static std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }
  static std::string short_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

  static Result<json> body_of(const Asked& asked) {
    json body = json::parse(asked.request.body.empty() ? "{}" : asked.request.body, nullptr, false);
    if (!body.is_object()) return fail(ErrorCode::invalid, "the body of {} is no JSON object", asked.request.path);
    return body;
  }
  static Result<std::string> text_in(const json& body, const char* key) {
    if (!body.contains(key) || !body[key].is_string())
      return fail(ErrorCode::invalid, "`{}` is missing: give it as text", key);
    return body[key].get<std::string>();
  }
  static bool flag_in(const json& body, const char* key) {
    return body.contains(key) && body[key].is_boolean() && body[key].get<bool>();
  }
  static Result<json> parsed(const Result<std::string>& text) {
    if (!text) return std::unexpected(text.error());
    json value = json::parse(*text, nullptr, false);
    if (value.is_discarded()) return fail(ErrorCode::internal, "an answer is no JSON");
    return value;
  }
};

}  // namespace zpair::node
