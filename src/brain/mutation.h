#pragma once
// Switches that break one rule each, so that the simulator can show that it would notice (protocol-review, sections 6, 8).
// Compiled only with ZPAIR_MUTATIONS; else mutated() is a constant false and costs nothing.
#include <cstdint>
#include <string_view>

namespace zpair::brain {

enum class Mutation : std::uint8_t {
  none,
  ack_before_shrink,            // rule 3: the leg is failed before the swap is applied
  leg_error_passed,             // rule 2: an erring leg is failed without any swap (H1)
  restart_keeps_epoch,          // rule 4 (H12)
  no_local_drain,               // rule 5: the pool process starts before zpaird's drives are drained and closed (H17)
  handover_before_kill,         // rule 5: `done` is said before the own process is dead and drained
  import_before_all_fenced,     // rule 5 (H16)
  grow_before_resync,           // rule 8: the scan's report is not looked at
  grow_without_quiesce,         // rule 8: older connections of a returning leg are not quiesced
  seed_from_newest_since,       // rule 8: seeds from the largest `since` instead of the smallest
  ack_set_after_swap,           // rule 2: a growing leg joins the ack set only after the swap (H21)
  unknown_taken_as_failed,      // rule 9 (H20)
  swap_at_stale_revision,       // rule 9: after `other` the old wish is sent again at the new revision, unchecked (H20)
  no_read_check,                // rule 6: reads need no promise
  promise_counted_from_answer,  // rule 6: counted from when the answer came
  only_on_by_reach,             // rule 6: "the partner cannot be reached" taken for "only we have it"
  open_swap_ignored_for_reads,  // rule 6: an open grow is not looked at
  promise_during_own_takeover,  // rule 6
  promise_to_lower_epoch,       // rule 6
  start_forgets_promise,        // rule 6: a start of node or agent does not count as a promise (H25)
  promise_released_without_handover,  // rule 6: the wait is skipped
  takeover_without_in_sync_leg,       // rule 4
  takeover_without_agreement,         // rule 4: the other node's legs are named without its agent's word
  import_missing_leg,                 // rule 7
  suicidal_shrink,                    // rule 3, whole-pool decision (H32)
  lower_record_accepted,              // rule 9 (H23)
  new_mirror_recorded_late,           // rule 1 (H22)
  record_not_kept_first,              // rule 9: things count before the copy is durable
  late_timer_trusted,                 // section 3: windows run on while the process itself was paused
  shrink_since_too_high,              // rule 3: since = the open txg instead of 1 + the newest flushed
  count_of_mutations,
};

std::string_view name_of(Mutation mutation);

#ifdef ZPAIR_MUTATIONS
// One at a time; thread-local, so that simulator threads do not disturb each other.
inline thread_local Mutation active_mutation = Mutation::none;
inline bool mutated(Mutation mutation) { return active_mutation == mutation; }
#else
constexpr bool mutated(Mutation) { return false; }
#endif

}  // namespace zpair::brain
