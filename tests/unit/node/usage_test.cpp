#include "node/usage.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace zpair::node {
namespace {

const std::string stat =
    "42 (zpair) pool 1) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1000 1000000 300 18446744073709551615\n";
const std::string io =
    "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";

TEST(Usage, is_read_from_the_kernels_text_whatever_the_programs_name_is) {
  const auto usage = parse_usage(stat, io);
  ASSERT_TRUE(usage) << usage.error().message;
  EXPECT_EQ(usage->cpu_ticks, 300u);
  EXPECT_EQ(usage->read_bytes, 4096u);
  EXPECT_EQ(usage->written_bytes, 8192u);
  EXPECT_EQ(usage->resident_bytes, 300u * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
}

TEST(Usage, text_that_is_cut_off_is_an_error) {
  for (const auto& [shorter, counters] : {std::pair{std::string(), io},
                                          {stat.substr(0, 40), io},
                                          {stat, std::string()},
                                          {stat, std::string("write_bytes: x")}}) {
    const auto usage = parse_usage(shorter, counters);
    ASSERT_FALSE(usage);
    EXPECT_EQ(usage.error().code, ErrorCode::internal);
  }
}

TEST(Usage, of_this_process_goes_up) {
  const auto before = usage_of(::getpid());
  ASSERT_TRUE(before) << before.error().message;
  EXPECT_GT(before->resident_bytes, 0u);
  std::uint64_t now = before->cpu_ticks;
  while (now == before->cpu_ticks) now = usage_of(::getpid()).value().cpu_ticks;  // the loop itself uses the CPU
  EXPECT_GT(now, before->cpu_ticks);
}

TEST(Usage, of_a_process_that_is_gone_is_an_error) {
  const auto usage = usage_of(0x7fffffff);
  ASSERT_FALSE(usage);
  EXPECT_EQ(usage.error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace zpair::node
