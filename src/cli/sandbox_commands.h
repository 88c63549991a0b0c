#pragma once
// `zpair sandbox …`: a whole pair on one machine, without root, in one folder (README: Sandbox).
// Errors: as sandbox_layout.h and sandbox_start.h say; what the nodes answer.
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/sandbox_layout.h"

namespace zpair::cli {

enum class Down { keep_folder, delete_folder };

// Makes the sandbox, or resumes the one that is there: other options than it was made with are refused, none are fine.
// Returns when its pools serve.
Result<void> make_sandbox(const std::string& dir, const SandboxOptions& options);  // without a word
Result<void> sandbox_up(const std::string& dir, const SandboxOptions& options, Format format);
// Exports its pools, stops every process.
Result<void> sandbox_down(const std::string& dir, Down how, Format format);
Result<void> sandbox_status(const std::string& dir, Format format);
Result<void> sandbox_kill(const std::string& dir, const std::string& target);
Result<void> sandbox_start(const std::string& dir, const std::string& target);
Result<void> sandbox_wipe(const std::string& dir, const std::string& target);
Result<void> sandbox_pause(const std::string& dir, const std::string& target);
Result<void> sandbox_resume(const std::string& dir, const std::string& target);
// path1, path2, paths (both), store:NODE; path1:a>b for one direction.
Result<void> sandbox_cut(const std::string& dir, const std::string& link);
Result<void> sandbox_heal(const std::string& dir, const std::string& link, Switch::Heal how);
// Until every pool is served (wait_served), or every leg is in sync too.
enum class WaitFor { served, in_sync };
Result<void> sandbox_wait(const std::string& dir, WaitFor what, std::int64_t timeout_s);
// NODE:DRIVE and a fault command of docs/api.md.
Result<void> sandbox_fault(const std::string& dir, const std::string& drive, const std::string& command);

// What sandbox_status prints as JSON; never fails for a sandbox whose processes are dead.
Result<nlohmann::json> sandbox_state(const std::string& dir);

}  // namespace zpair::cli
