#include "node/circular.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>

namespace zpair::node {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view our_nqn = "nqn.2026-01.io.zpair:";
constexpr int deepest = 8;  // dm on md on a partition on ...

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

// The name of a device of the pair that `device` (a folder of sysfs) is or stands on; empty: none.
std::string device_of_pair(const fs::path& device, int depth) {
  std::error_code error;
  fs::path folder = fs::canonical(device, error);
  if (error || depth > deepest) return "";
  if (fs::exists(folder / "partition", error)) folder = folder.parent_path();
  const std::string name = folder.filename();
  if (name.starts_with("nbd")) return name;
  for (const char* nqn : {"device/subsysnqn", "../subsysnqn"}) {
    if (first_line(folder / nqn).starts_with(our_nqn)) return name;
  }
  for (const auto& below : fs::directory_iterator(folder / "slaves", error)) {
    std::string found = device_of_pair(below.path(), depth + 1);
    if (!found.empty()) return found;
  }
  return "";
}

}  // namespace

Result<void> check_not_on_pair(const std::string& what, const std::string& path, const std::string& sysfs,
                               std::string device) {
  if (device.empty()) {
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) return {};
    device = fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
  }
  const std::string found = device_of_pair(fs::path(sysfs) / "dev" / "block" / device, 0);
  if (found.empty()) return {};
  return fail(ErrorCode::refused,
              "{} ({}) lies on {}, a network block device: on a volume of the pair it would wait for the pool that "
              "waits for it. "
              "Move it to a drive of this node alone",
              what, path, found);
}

}  // namespace zpair::node
