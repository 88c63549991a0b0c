#pragma once
// Switches that break one line of the design's section 7 each, so that the crash cuts can show that they would notice
// (tests/crash). Plain C: the engine's C files have some of them. One at a time, set before the engine starts.
// Compiled only with ZPAIR_MUTATIONS; else zp_mutated() is a constant 0 and costs nothing.
#ifdef __cplusplus
extern "C" {
#endif

enum zp_mutation {
  ZP_MUTATION_NONE,
  ZP_SHORT_WRITES_PASS,    // a leg's write error goes up, and the gate looks away
  ZP_FLUSH_ERRORS_PASS,    // a flush that failed is an answer
  ZP_FLUSHES_ELIDED,       // a flush completes without the drive
  ZP_VERIFIER_IGNORED,     // whether a drive lost its cache is not looked at
  ZP_RETURN_WITHOUT_SEED,  // a leg comes back with the missing-txg list that ZFS made, and its being empty is believed
  ZP_SINCE_TOO_HIGH,       // a leg comes back from the open txg on, not from `since`
  ZP_GROW_BEFORE_RESYNC,   // a leg counts as soon as it is online
  ZP_LOGS_NOT_REPLAYED,    // an import leaves the logs for later, and legs come back before
  ZP_FLOOR_IGNORED,        // an import is not compared with what the partner knows
  ZP_READS_NOT_HELD,       // during an import too a read error goes up, and a log ends there
  ZP_COMMIT_SKIPPED,       // as with sync=disabled
  ZP_DIRECT_OVER_FREED,    // a large write goes past the cache where a free has not synced
};

#ifdef ZPAIR_MUTATIONS
extern enum zp_mutation zp_active_mutation;
#define zp_mutated(mutation) (zp_active_mutation == (mutation))
#else
#define zp_mutated(mutation) 0
#endif

#ifdef __cplusplus
}
#endif
