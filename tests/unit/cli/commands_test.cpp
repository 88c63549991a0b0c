#include "cli/commands.h"

#include <gtest/gtest.h>

namespace zpair::cli {
namespace {

TEST(Names, a_mirror_is_its_legs) {
  auto mirror = parse_mirror("a:/dev/disk/by-id/X,b:/dev/disk/by-id/Y");
  ASSERT_TRUE(mirror) << mirror.error().message;
  EXPECT_EQ(mirror->dump(), R"([{"node":"a","path":"/dev/disk/by-id/X"},{"node":"b","path":"/dev/disk/by-id/Y"}])");
}

TEST(Names, a_path_of_a_drive_is_made_full) {
  auto mirror = parse_mirror("a:drive,b:/x/../y");
  ASSERT_TRUE(mirror);
  EXPECT_EQ((*mirror)[0]["path"].get<std::string>().front(), '/');
  EXPECT_EQ((*mirror)[1]["path"], "/y");
}

TEST(Names, a_bad_mirror_is_shown_with_the_form_that_would_do) {
  for (const char* text : {"", "a", "a:", "c:/x", "/x,/y", "a:/x,", "a:/x,,b:/y"}) {
    auto mirror = parse_mirror(text);
    ASSERT_FALSE(mirror) << text;
    EXPECT_EQ(mirror.error().code, ErrorCode::invalid);
    EXPECT_NE(mirror.error().message.find("a:DRIVE,b:DRIVE"), std::string::npos);
  }
}

TEST(Names, a_volume_is_pool_and_name) {
  auto volume = parse_volume_name("tank-a/vm1");
  ASSERT_TRUE(volume);
  EXPECT_EQ(volume->pool, "tank-a");
  EXPECT_EQ(volume->name, "vm1");
  for (const char* text : {"", "tank-a", "/vm1", "tank-a/", "a/b/c"}) EXPECT_FALSE(parse_volume_name(text)) << text;
}

TEST(Names, a_snapshot_is_a_volume_and_a_name) {
  auto named = parse_snapshot_name("tank-a/vm1@monday");
  ASSERT_TRUE(named);
  EXPECT_EQ(named->volume.pool, "tank-a");
  EXPECT_EQ(named->volume.name, "vm1");
  EXPECT_EQ(named->snapshot, "monday");
  for (const char* text : {"", "tank-a/vm1", "tank-a/vm1@", "@monday", "tank-a@monday"})
    EXPECT_FALSE(parse_snapshot_name(text)) << text;
}

TEST(ExitCodes, a_rules_refusal_is_told_from_a_failure) {
  EXPECT_EQ(exit_code_of({ErrorCode::refused, ""}), 3);
  EXPECT_EQ(exit_code_of({ErrorCode::io, ""}), 1);
  EXPECT_EQ(exit_code_of({ErrorCode::invalid, ""}), 1);
}

}  // namespace
}  // namespace zpair::cli
