#include "mutations.h"

namespace zpair::crash {

namespace {

constexpr Mutation all[] = {
    {"short-writes-pass", "a partial mirror write counts as success", ZP_SHORT_WRITES_PASS, Play::by_the_rules, {Trouble::write_errors}, true},
    {"flush-errors-pass", "flush errors are thrown away", ZP_FLUSH_ERRORS_PASS, Play::by_the_rules, {Trouble::flush_errors}, true},
    {"flushes-elided", "after one ENOTSUP a leg is never flushed again", ZP_FLUSHES_ELIDED, Play::by_the_rules},
    {"verifier-ignored", "a lost drive cache is never known", ZP_VERIFIER_IGNORED, Play::by_the_rules, {Trouble::lost_cache}, true},
    {"return-without-seed", "the DTL lacks flushed-away and log writes", ZP_RETURN_WITHOUT_SEED, Play::by_the_rules, {Trouble::power}, true},
    {"since-too-high", "the DTL is seeded from a later txg than `since`", ZP_SINCE_TOO_HIGH, Play::by_the_rules, {Trouble::power}, true},
    {"grow-before-resync", "a leg that is online is not a leg in sync", ZP_GROW_BEFORE_RESYNC, Play::by_the_rules, {Trouble::power}},
    {"logs-not-replayed", "resilver skips live logs", ZP_LOGS_NOT_REPLAYED, Play::by_the_rules, {Trouble::power, true}, true},
    {"floor-ignored", "the best readable uberblock, the log as far as it reads", ZP_FLOOR_IGNORED, Play::by_the_rules},
    {"reads-not-held", "a bad log block silently ends the log", ZP_READS_NOT_HELD, Play::by_the_rules},
    {"commit-skipped", "sync=disabled", ZP_COMMIT_SKIPPED, Play::by_the_rules},
    {"failed-before-swap", "rule 3: the record drops a leg before it is failed", ZP_MUTATION_NONE, Play::fail_before_swap, {Trouble::power}, true},
    {"record-ignored", "rule 7: exactly the legs that the record names", ZP_MUTATION_NONE, Play::record_ignored, {Trouble::power}},
};

}  // namespace

std::span<const Mutation> mutations() { return all; }

const Mutation* find_mutation(std::string_view name) {
  for (const Mutation& mutation : all) {
    if (mutation.name == name) return &mutation;
  }
  return nullptr;
}

}  // namespace zpair::crash
