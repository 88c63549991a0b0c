#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/assert.h"

namespace zpair {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorCode::invalid, "{} is odd", value);
  return value / 2;
}

Result<int> quarter(int value) {
  ZP_TRY(once, half(value));
  ZP_TRY(twice, half(once));
  return twice;
}

Result<void> check_quarter(int value) {
  ZP_CHECK(quarter(value));
  return {};
}

TEST(Error, try_returns_the_value_or_the_error_as_it_is) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_TRUE(check_quarter(4));
  EXPECT_EQ(check_quarter(6).error().code, ErrorCode::invalid);
}

TEST(Error, context_keeps_the_code_and_stands_before_the_message) {
  Result<int> wrapped = fail(Error{ErrorCode::fenced, "epoch 7 holds it"}, "cannot write leg {}", "nvme3@b");
  EXPECT_EQ(wrapped.error().code, ErrorCode::fenced);
  EXPECT_EQ(wrapped.error().message, "cannot write leg nvme3@b: epoch 7 holds it");
}

TEST(Error, errno_becomes_a_code_to_branch_on) {
  EXPECT_EQ(error_from_errno(ENOENT).code, ErrorCode::not_found);
  EXPECT_EQ(error_from_errno(ENOSPC).code, ErrorCode::no_space);
  EXPECT_EQ(error_from_errno(ECONNREFUSED).code, ErrorCode::unreachable);
  EXPECT_EQ(error_from_errno(EIO).code, ErrorCode::io);
}

TEST(AssertDeathTest, an_assertion_says_the_rule_and_aborts_in_every_build) {
  EXPECT_DEATH(ZP_ASSERT(1 + 1 == 3, "rule 2: durable on every leg of the ack set"), "1 \\+ 1 == 3: rule 2");
}

}  // namespace
}  // namespace zpair
