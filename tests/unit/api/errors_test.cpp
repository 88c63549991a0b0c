#include "api/errors.h"

#include <gtest/gtest.h>

namespace zpair::api {
namespace {

TEST(ApiErrors, every_code_survives_the_way) {
  for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
    const Error sent{static_cast<ErrorCode>(code), "mirror-3 has \"no\" leg"};
    const int status = http_status_of(sent.code);
    EXPECT_GE(status, 400);
    const Error got = error_from_body(status, error_body(sent));
    EXPECT_EQ(got.code, sent.code);
    EXPECT_EQ(got.message, sent.message);
  }
}

TEST(ApiErrors, a_message_with_broken_utf8_still_travels) {
  const Error got = error_from_body(400, error_body(Error{ErrorCode::invalid, "drive \xff\xfe"}));
  EXPECT_EQ(got.code, ErrorCode::invalid);
}

TEST(ApiErrors, a_strangers_answer_is_internal_and_shown) {
  const Error got = error_from_body(502, "<html>bad gateway");
  EXPECT_EQ(got.code, ErrorCode::internal);
  EXPECT_NE(got.message.find("HTTP 502: <html>bad gateway"), std::string::npos);
}

}  // namespace
}  // namespace zpair::api
