#pragma once
// The faults that a sandbox ordered for its drives, one small file a drive in RUN_DIR/faults: a drive that changes its opener
// (zpaird, pool process, zpaird anew) stays as bad as it is. Not durable over a boot.
// Threading: any; synchronous.
#include <memory>
#include <string>

#include "base/config.h"
#include "base/error.h"
#include "block/fault_device.h"

namespace zpair::state {

// Wraps a drive that was just opened, with the model of all drives and the faults that were noted for this one.
Result<std::unique_ptr<block::FaultDevice>> wrap_with_faults(const std::string& run_dir,
                                                             std::unique_ptr<block::BlockDevice> inner,
                                                             const FaultConfig& config);
// Carries a command out and notes what faults there are now.
Result<void> apply_fault(const std::string& run_dir, block::FaultDevice& device, const std::string& command);

}  // namespace zpair::state
