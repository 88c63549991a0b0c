// Names of states, for status, logs and the simulator's stories.
#include "brain/agent.h"
#include "brain/mutation.h"
#include "brain/owner.h"

namespace zpair::brain {

std::string_view name_of(Mutation mutation) {
  switch (mutation) {
    case Mutation::none: return "none";
    case Mutation::ack_before_shrink: return "ack-before-shrink";
    case Mutation::leg_error_passed: return "leg-error-passed";
    case Mutation::restart_keeps_epoch: return "restart-keeps-epoch";
    case Mutation::no_local_drain: return "no-local-drain";
    case Mutation::handover_before_kill: return "handover-before-kill";
    case Mutation::import_before_all_fenced: return "import-before-all-fenced";
    case Mutation::grow_before_resync: return "grow-before-resync";
    case Mutation::grow_without_quiesce: return "grow-without-quiesce";
    case Mutation::seed_from_newest_since: return "seed-from-newest-since";
    case Mutation::ack_set_after_swap: return "ack-set-after-swap";
    case Mutation::unknown_taken_as_failed: return "unknown-taken-as-failed";
    case Mutation::swap_at_stale_revision: return "swap-at-stale-revision";
    case Mutation::no_read_check: return "no-read-check";
    case Mutation::promise_counted_from_answer: return "promise-counted-from-answer";
    case Mutation::only_on_by_reach: return "only-on-by-reach";
    case Mutation::open_swap_ignored_for_reads: return "open-swap-ignored-for-reads";
    case Mutation::promise_during_own_takeover: return "promise-during-own-takeover";
    case Mutation::promise_to_lower_epoch: return "promise-to-lower-epoch";
    case Mutation::start_forgets_promise: return "start-forgets-promise";
    case Mutation::promise_released_without_handover: return "promise-released-without-handover";
    case Mutation::takeover_without_in_sync_leg: return "takeover-without-in-sync-leg";
    case Mutation::takeover_without_agreement: return "takeover-without-agreement";
    case Mutation::import_missing_leg: return "import-missing-leg";
    case Mutation::suicidal_shrink: return "suicidal-shrink";
    case Mutation::lower_record_accepted: return "lower-record-accepted";
    case Mutation::new_mirror_recorded_late: return "new-mirror-recorded-late";
    case Mutation::record_not_kept_first: return "record-not-kept-first";
    case Mutation::late_timer_trusted: return "late-timer-trusted";
    case Mutation::shrink_since_too_high: return "shrink-since-too-high";
    case Mutation::count_of_mutations: break;
  }
  return "?";
}

namespace owner {

std::string_view name_of(Phase phase) {
  switch (phase) {
    case Phase::starting: return "starting";
    case Phase::fencing: return "fencing";
    case Phase::importing: return "importing";
    case Phase::replaying: return "replaying";
    case Phase::waiting_for_promise: return "waiting for the promise";
    case Phase::serving: return "serving";
    case Phase::draining: return "draining";
    case Phase::exporting: return "exporting";
    case Phase::exited: return "exited";
  }
  return "?";
}

std::string_view name_of(Standing standing) {
  switch (standing) {
    case Standing::named: return "in sync";
    case Standing::off: return "missing";
    case Standing::fencing: return "fencing";
    case Standing::quiescing: return "quiescing";
    case Standing::ready: return "ready";
    case Standing::resyncing: return "resyncing";
    case Standing::joining: return "joining";
  }
  return "?";
}

}  // namespace owner

namespace agent {

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::takeover: return "takeover";
    case Kind::restart: return "restart";
    case Kind::cold_start: return "cold start";
    case Kind::switchover: return "switchover";
    case Kind::command: return "takeover by command";
    case Kind::import: return "import by command";
  }
  return "?";
}

std::string_view name_of(Process process) {
  switch (process) {
    case Process::none: return "none";
    case Process::starting: return "starting";
    case Process::running: return "running";
    case Process::dying: return "dying";
  }
  return "?";
}

std::string_view name_of(Vouch vouch) {
  switch (vouch) {
    case Vouch::none: return "none";
    case Vouch::importing: return "importing";
    case Vouch::serving: return "serving";
    case Vouch::cannot: return "cannot";
    case Vouch::gave_up: return "gave up";
  }
  return "?";
}

}  // namespace agent

}  // namespace zpair::brain
