#include "state/fault_notes.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/ids.h"
#include "base/log.h"

namespace zpair::state {

namespace {

std::string folder_of(const std::string& run_dir) { return run_dir + "/faults"; }

std::string file_of(const std::string& run_dir, const std::string& durable_id) {
  return folder_of(run_dir) + "/" + Uuid::from_name(durable_id).to_string();
}

}  // namespace

Result<std::unique_ptr<block::FaultDevice>> wrap_with_faults(const std::string& run_dir,
                                                             std::unique_ptr<block::BlockDevice> inner,
                                                             const FaultConfig& config) {
  std::ostringstream noted;
  std::ifstream file(file_of(run_dir, inner->durable_id()));
  if (file) noted << file.rdbuf();
  if (!noted.str().empty()) log_info("drive {} keeps its faults: {}", inner->durable_id(), noted.str());
  return block::FaultDevice::wrap(
      std::move(inner), {.volatile_cache = config.volatile_cache, .commands = config.model + "\n" + noted.str()});
}

Result<void> apply_fault(const std::string& run_dir, block::FaultDevice& device, const std::string& command) {
  ZP_CHECK(device.apply(command));
  std::error_code error;
  std::filesystem::create_directories(folder_of(run_dir), error);
  const std::string path = file_of(run_dir, device.durable_id());
  const std::string faults = device.faults();
  if (faults.empty()) {
    std::filesystem::remove(path, error);
    return {};
  }
  std::ofstream file(path, std::ios::trunc);
  file << faults;
  file.close();
  if (!file) return fail(ErrorCode::io, "the fault is there, and cannot be noted in {}", path);
  return {};
}

}  // namespace zpair::state
