#pragma once
// Starting the processes of a sandbox, detached (their own session, no terminal, logs in DIR/log), and stopping them.
// Targets, as `zpair sandbox kill|start|pause|resume` take them: a, b, witness, both (a and b), all, switch, zpaird:NODE,
// etcd:MEMBER, pool:NAME.
// Errors: invalid: an unknown target. timed_out: a process did not answer, or did not end; names its log.
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/peer_process.h"
#include "cli/sandbox_layout.h"

namespace zpair::cli {

// The folder of this program; the others lie beside it.
std::string own_folder();
// What a user types to call this program: zpair where the shell finds it, else its whole path.
std::string own_name();

// Whether a process belongs to the target; `invalid` when there is no such target.
Result<std::function<bool(const SandboxProcess&)>> matcher_of(const std::string& target);

Result<void> start_switch(const SandboxLayout& layout);
Result<void> start_etcd(const SandboxLayout& layout, std::string_view member);
Result<void> start_zpaird(const SandboxLayout& layout, std::string_view node);
// What of the target does not run; returns when it answers.
Result<void> start_target(const SandboxLayout& layout, const std::string& target);

// kill -9; returns when all of the target are gone. Processes that they started meanwhile too.
Result<void> kill_target(const SandboxLayout& layout, const std::string& target);
// not_found when nothing of the target runs.
Result<void> pause_target(const SandboxLayout& layout, const std::string& target);
Result<void> resume_target(const SandboxLayout& layout, const std::string& target);
// What a new machine has in its place: an empty disk. a, b: state, member of the store and drives; witness, etcd:MEMBER: that
// member's memory; zpaird:NODE: the node's state, not its drives; store: all three members' memory, and they begin a new
// store. refused while something of it runs.
Result<void> wipe_target(const SandboxLayout& layout, const std::string& target);
// SIGTERM, and SIGKILL for what is still there after `grace_ms`.
Result<void> end_target(const SandboxLayout& layout, const std::string& target, std::int64_t grace_ms);

// Polls until `fact` is true; false when the time is over.
bool wait_until(std::int64_t timeout_ms, const std::function<bool()>& fact);

}  // namespace zpair::cli
