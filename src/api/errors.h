#pragma once
// How an Error travels over HTTP: a status for strangers, and a body {"code": "refused", "message": "…"} from which the
// same Error is made again. Only the body counts for our own programs.
#include <string>
#include <string_view>

#include "base/error.h"

namespace zpair::api {

int http_status_of(ErrorCode code);
std::string error_body(const Error& error);
// The Error in a body; one that is not ours becomes `internal` and shows the status and the body's beginning.
Error error_from_body(int http_status, std::string_view body);

}  // namespace zpair::api
