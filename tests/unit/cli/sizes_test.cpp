#include "cli/sizes.h"

#include <gtest/gtest.h>

namespace zpair::cli {
namespace {

TEST(Sizes, are_read_as_people_write_them) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"4096", 4096},   {"4K", 4096},         {"256M", 256u << 20}, {"10G", 10ull << 30}, {"1.5T", 3ull << 39},
      {"1g", 1u << 30}, {"64KiB", 64u << 10}, {"64KB", 64u << 10},  {"512B", 512},        {"64mib", 64u << 20}};
  for (const auto& [text, bytes] : cases) {
    auto size = parse_size(text);
    ASSERT_TRUE(size) << text;
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(Sizes, what_is_none_is_refused) {
  for (const char* text : {"", "G", "-1G", "0", "10X", "10GG", "10 G", "1e99", "0.3K", "nan", "inf", "99999999P"}) {
    auto size = parse_size(text);
    ASSERT_FALSE(size) << text;
    EXPECT_EQ(size.error().code, ErrorCode::invalid);
    EXPECT_NE(size.error().message.find(std::string("'") + text + "'"), std::string::npos);
  }
}

TEST(Sizes, are_written_short) {
  EXPECT_EQ(format_size(0), "0B");
  EXPECT_EQ(format_size(512), "512B");
  EXPECT_EQ(format_size(256u << 20), "256M");
  EXPECT_EQ(format_size(3ull << 29), "1.50G");
  EXPECT_EQ(format_size((10ull << 30) + (1ull << 29)), "10.5G");
  EXPECT_EQ(format_size((200ull << 30) + (1ull << 29)), "200G");
}

TEST(Words, are_quoted_only_where_a_shell_wants_it) {
  EXPECT_EQ(quoted("/tmp/s-1"), "/tmp/s-1");
  EXPECT_EQ(quoted("/tmp/two words"), "'/tmp/two words'");
  EXPECT_EQ(quoted("it's"), "'it'\\''s'");
  EXPECT_EQ(quoted(""), "''");
  EXPECT_EQ(count_of(1, "mirror"), "1 mirror");
  EXPECT_EQ(count_of(0, "mirror"), "0 mirrors");
}

TEST(Sizes, durations_are_written_for_people) {
  EXPECT_EQ(format_duration(12), "12 s");
  EXPECT_EQ(format_duration(180), "3 min");
  EXPECT_EQ(format_duration(185), "3 min 5 s");
  EXPECT_EQ(format_duration(7800), "2 h 10 min");
}

}  // namespace
}  // namespace zpair::cli
