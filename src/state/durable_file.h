#pragma once
// Whole small files that are there after a power cut, or still the former ones: written aside, synced, renamed, and the
// folder synced.
// Threading: reactor thread; the syncs go through io_uring and block nobody.
// Errors:    the system's, with the file's name.
#include <string>
#include <string_view>

#include "base/error.h"
#include "block/task.h"

namespace zpair::state {

block::Task<Result<void>> store_file(std::string path, std::string text);
block::Task<Result<void>> remove_file(std::string path);  // durable too; fine when there is none
block::Task<Result<void>> sync_file(std::string path);  // what somebody else may just have renamed there is durable now
Result<std::string> load_file(const std::string& path);  // not_found: no such file
Result<void> make_folder(const std::string& path);       // with its parents, 0700; fine when it is there

}  // namespace zpair::state
