#include "mutations.h"

namespace zpair::crash {

namespace {

using enum Trouble;
constexpr bool rare = true;
constexpr Aim old_log_blocks = {power, true};
constexpr Aim frees = {none, false, true};

constexpr Mutation all[] = {
    {"short-writes-pass", "a partial mirror write counts as success", ZP_SHORT_WRITES_PASS, {write_errors}, rare},
    {"flush-errors-pass", "flush errors are thrown away", ZP_FLUSH_ERRORS_PASS, {flush_errors}, rare},
    {"flushes-elided", "after one ENOTSUP a leg is never flushed again", ZP_FLUSHES_ELIDED, {none}},
    {"verifier-ignored", "a lost drive cache is never known", ZP_VERIFIER_IGNORED, {lost_cache}, rare},
    {"return-without-seed", "the DTL lacks what a flush lost", ZP_RETURN_WITHOUT_SEED, {power}, rare},
    {"since-too-high", "the DTL is seeded from a txg later than `since`", ZP_SINCE_TOO_HIGH, {power}, rare},
    {"grow-before-resync", "a leg that is online is not yet in sync", ZP_GROW_BEFORE_RESYNC, {power}},
    {"logs-not-replayed", "a resilver skips live logs", ZP_LOGS_NOT_REPLAYED, old_log_blocks, rare},
    {"floor-ignored", "the best readable uberblock, the log as far as it reads", ZP_FLOOR_IGNORED, {none}},
    {"reads-not-held", "a bad log block silently ends the log", ZP_READS_NOT_HELD, {none}, rare},
    {"commit-skipped", "sync=disabled", ZP_COMMIT_SKIPPED, {none}},
    {"direct-over-freed", "a large write past the cache over a free not synced", ZP_DIRECT_OVER_FREED, frees, rare},
    {"failed-before-swap", "rule 3: the record first", ZP_MUTATION_NONE, {power}, rare, Play::fail_before_swap},
    {"record-ignored", "rule 7: the named legs only", ZP_MUTATION_NONE, {power}, !rare, Play::record_ignored},
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
