#pragma once
// The one error type. The code is for callers to branch on; the message is for a person and names the thing, what
// happened and the mend.
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace zpair {

enum class ErrorCode : std::uint8_t {
  invalid,      // bad input from a user, a file or the wire
  not_found,    // no such thing
  exists,       // there already
  refused,      // a rule of zero RPO forbids it (exit code 3)
  fenced,       // a newer epoch holds the leg
  stale_epoch,  // what was sent is older than what is stored
  no_space,     // the pool or volume is full
  timed_out,    // no answer within the deadline; the outcome is unknown
  unreachable,  // nobody answers there
  cancelled,    // what was waited for was closed
  io,           // the medium or the connection failed
  unsupported,  // this system or peer cannot do it
  internal,     // a library failed in a way that names no better code
};

std::string_view name_of(ErrorCode code);

struct Error {
  ErrorCode code;
  std::string message;
};

template <class T>
using Result = std::expected<T, Error>;

// fail(ErrorCode::invalid, "drive {} is {} bytes", path, size): an error that converts to any Result.
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

// fail(cause, "cannot fence leg {}", name): keeps the code and puts the context before the message.
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(Error cause, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{cause.code, fmt::format(format, std::forward<Args>(args)...) + ": " + cause.message});
}

Error error_from_errno(int error_number);

// fail_errno(errno, "cannot open {}", path): the system's own words, with context.
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail_errno(int error_number, fmt::format_string<Args...> format, Args&&... args) {
  return fail(error_from_errno(error_number), format, std::forward<Args>(args)...);
}

}  // namespace zpair

// ZP_TRY(drive, open_drive(path)): declares `drive`, or returns the error as it is; ZP_CO_TRY in a coroutine.
// For a Result<void>: ZP_CHECK(expression), ZP_CO_CHECK(expression).
#define ZP_TRY(name, expression)                                        \
  auto name##_or = (expression);                                        \
  if (!name##_or) return std::unexpected(std::move(name##_or).error()); \
  auto& name = *name##_or
#define ZP_CO_TRY(name, expression)                                        \
  auto name##_or = (expression);                                           \
  if (!name##_or) co_return std::unexpected(std::move(name##_or).error()); \
  auto& name = *name##_or
#define ZP_CHECK(expression) \
  if (auto checked_ = (expression); !checked_) return std::unexpected(std::move(checked_).error())
#define ZP_CO_CHECK(expression)                                            \
  do {                                                                     \
    auto checked_ = (expression);                                          \
    if (!checked_) co_return std::unexpected(std::move(checked_).error()); \
  } while (0)
