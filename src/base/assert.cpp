#include "base/assert.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace zpair {

void assertion_failed(const char* file, int line, const char* condition, const char* why) noexcept {
  std::fprintf(stderr, "%s:%d: assertion failed: %s: %s\n", file, line, condition, why);
  std::fflush(stderr);
  std::abort();
}

std::string_view name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid: return "invalid";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::exists: return "exists";
    case ErrorCode::refused: return "refused";
    case ErrorCode::fenced: return "fenced";
    case ErrorCode::stale_epoch: return "stale_epoch";
    case ErrorCode::no_space: return "no_space";
    case ErrorCode::timed_out: return "timed_out";
    case ErrorCode::unreachable: return "unreachable";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::io: return "io";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::internal: return "internal";
  }
  return "unknown";
}

Error error_from_errno(int error_number) {
  ErrorCode code = ErrorCode::io;
  switch (error_number) {
    case ENOENT: code = ErrorCode::not_found; break;
    case EEXIST: code = ErrorCode::exists; break;
    case EINVAL:
    case EACCES:
    case EPERM: code = ErrorCode::invalid; break;
    case ENOSPC:
    case EDQUOT: code = ErrorCode::no_space; break;
    case ETIMEDOUT: code = ErrorCode::timed_out; break;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH: code = ErrorCode::unreachable; break;
    case ECANCELED: code = ErrorCode::cancelled; break;
    case ENOTSUP:
    case ENOSYS: code = ErrorCode::unsupported; break;
    default: break;
  }
  return Error{code, std::strerror(error_number)};
}

}  // namespace zpair
