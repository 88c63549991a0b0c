#include "state/fault_notes.h"

#include <gtest/gtest.h>

#include "block/file_device.h"
#include "block/reactor.h"
#include "scratch.h"

namespace zpair::state {
namespace {

using block::Scratch;

block::Task<std::unique_ptr<block::FaultDevice>> open(Scratch& scratch, std::string path) {
  auto file = co_await block::FileDevice::open({.path = path});
  EXPECT_TRUE(file) << file.error().message;
  auto wrapped = wrap_with_faults(scratch.path("run"), std::move(*file), FaultConfig{});
  EXPECT_TRUE(wrapped) << wrapped.error().message;
  co_return std::move(*wrapped);
}

TEST(FaultNotes, a_drive_that_changes_its_opener_keeps_its_faults) {
  auto reactor = std::move(*block::Reactor::create());
  reactor->run_until_done([]() -> block::Task<void> {
    Scratch scratch;
    const std::string path = scratch.drive("d", 64 << 20);
    auto first = co_await open(scratch, path);
    EXPECT_TRUE(apply_fault(scratch.path("run"), *first, "write-errors on; slow 7"));
    EXPECT_FALSE(apply_fault(scratch.path("run"), *first, "nonsense"));
    const std::string faults = first->faults();
    co_await first->close();
    first.reset();
    auto second = co_await open(scratch, path);
    EXPECT_EQ(second->faults(), faults);
    EXPECT_TRUE(apply_fault(scratch.path("run"), *second, "clear"));
    co_await second->close();
    second.reset();
    auto third = co_await open(scratch, path);
    EXPECT_EQ(third->faults(), "");
    co_await third->close();
  }());
}

}  // namespace
}  // namespace zpair::state
