#pragma once
// What the pair itself needs in order to run must not lie on a volume of the pair: zpaird's state folder and its etcd
// member's data would wait for a pool that waits for them (design, section 4; hole 37).
// Threading: any; looks at the mount's block device in sysfs.
// Errors:    refused, with the mend. What cannot be looked at passes.
#include <string>

#include "base/error.h"

namespace zpair::node {

// `what` names it in the message: "etcd's data". `sysfs` and `device` ("8:1") are for tests; empty: the device under `path`.
Result<void> check_not_on_pair(const std::string& what, const std::string& path, const std::string& sysfs = "/sys",
                               std::string device = "");

}  // namespace zpair::node
