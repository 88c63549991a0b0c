#include "plan.h"

namespace zpair::crash {

std::string_view name_of(Trouble trouble) {
  switch (trouble) {
    case Trouble::none: return "none";
    case Trouble::power: return "power";
    case Trouble::write_errors: return "write errors";
    case Trouble::flush_errors: return "flush errors";
    case Trouble::lost_cache: return "lost cache";
    case Trouble::count: break;
  }
  return "?";
}

std::uint8_t Plan::side_mask(unsigned side) const {
  unsigned mask = 0;
  for (unsigned leg = side; leg < legs(); leg += 2) mask |= 1U << leg;
  return static_cast<std::uint8_t>(mask);
}

Plan plan_of(std::uint64_t seed, const std::optional<Aim>& aim) {
  Random random(seed);
  Plan plan;
  plan.seed = seed;
  plan.mirrors = static_cast<unsigned>(random.between(1, 3));
  for (auto count = random.between(1, 3); count > 0; --count) {
    const auto block_size_bytes = static_cast<std::uint32_t>(4096U << random.below(6));
    plan.volumes.push_back({static_cast<std::uint64_t>(random.between(8, 24)) * (128ULL << 10), block_size_bytes});
  }
  plan.writers = static_cast<unsigned>(random.between(1, 12));
  plan.operations = static_cast<unsigned>(random.between(60, 400));
  plan.large_percent = static_cast<unsigned>(random.between(0, 100));
  plan.zeroes_percent = static_cast<unsigned>(random.between(0, 12));
  if (plan.volumes.size() > 1) plan.quiet_one_in = static_cast<unsigned>(random.between(1, 40));
  plan.pause_ms_most = static_cast<unsigned>(random.between(0, 4));
  plan.sync_ms = static_cast<unsigned>(random.between(10, 150));
  plan.manners.immediate_percent = static_cast<std::uint32_t>(random.between(0, 100));
  plan.manners.delay_us_most = 50U << random.below(7);
  // Half of all lives without a trouble.
  const auto drawn = static_cast<Trouble>(1 + random.below(static_cast<std::uint64_t>(Trouble::count) - 1));
  plan.trouble = random.one_in(2) ? Trouble::none : drawn;
  plan.trouble_side = static_cast<unsigned>(random.below(2));
  plan.stays_away = random.one_in(6);
  if (aim) plan.trouble = aim->trouble;
  if (aim && aim->old_log_blocks) {
    plan.stays_away = true;
    plan.volumes.resize(2, plan.volumes.front());
    plan.quiet_one_in = 15;
    plan.sync_ms = 50;
    plan.operations = 400;
    plan.pause_ms_most = 4;
  }
  if (aim && aim->frees) {
    for (Plan::Volume& volume : plan.volumes) volume.block_size_bytes = 16384U << random.below(4);
    plan.zeroes_percent = 50;
    plan.sync_ms = 10;
  }
  return plan;
}

}  // namespace zpair::crash
