#include "api/errors.h"

#include <array>
#include <optional>

#include <nlohmann/json.hpp>

namespace zpair::api {
namespace {

constexpr std::array all_codes = {
    ErrorCode::invalid,     ErrorCode::not_found,   ErrorCode::exists,    ErrorCode::refused,     ErrorCode::fenced,
    ErrorCode::stale_epoch, ErrorCode::no_space,    ErrorCode::timed_out, ErrorCode::unreachable, ErrorCode::cancelled,
    ErrorCode::io,          ErrorCode::unsupported, ErrorCode::internal};

std::optional<ErrorCode> code_named(std::string_view name) {
  for (ErrorCode code : all_codes) {
    if (name_of(code) == name) return code;
  }
  return std::nullopt;
}

}  // namespace

int http_status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid: return 400;
    case ErrorCode::refused: return 403;
    case ErrorCode::not_found: return 404;
    case ErrorCode::exists:
    case ErrorCode::fenced:
    case ErrorCode::stale_epoch: return 409;
    case ErrorCode::unsupported: return 501;
    case ErrorCode::unreachable: return 502;
    case ErrorCode::cancelled: return 503;
    case ErrorCode::timed_out: return 504;
    case ErrorCode::no_space: return 507;
    case ErrorCode::io:
    case ErrorCode::internal: return 500;
  }
  return 500;
}

std::string error_body(const Error& error) {
  // A message may quote bytes that are no UTF-8 (a file's name): they are replaced, not fatal.
  return nlohmann::json{{"code", name_of(error.code)}, {"message", error.message}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Error error_from_body(int http_status, std::string_view body) {
  const auto parsed = nlohmann::json::parse(body, nullptr, false);
  if (parsed.is_object() && parsed.contains("code") && parsed["code"].is_string() && parsed.contains("message") &&
      parsed["message"].is_string()) {
    if (auto code = code_named(parsed["code"].get<std::string>())) return {*code, parsed["message"].get<std::string>()};
  }
  return {ErrorCode::internal, fmt::format("the server answered HTTP {}: {}", http_status, body.substr(0, 200))};
}

}  // namespace zpair::api
