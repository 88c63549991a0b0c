#include "block/drive_identity.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/ids.h"
#include "base/unique_fd.h"

namespace zpair::block {

namespace {

namespace fs = std::filesystem;

// Linux 6.9's FS_IOC_GETFSUUID; Debian 12's headers are older than the kernels we meet.
struct FileSystemUuid {
  std::uint8_t length;
  std::uint8_t bytes[16];
};
constexpr unsigned long get_file_system_uuid = _IOR(0x15, 0, FileSystemUuid);

std::string first_line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  while (!line.empty() && (line.back() == ' ' || line.back() == '\n')) line.pop_back();
  return line;
}

// The block device that a file system on `device` is mounted from: btrfs gives its files an anonymous device number.
std::optional<dev_t> mounted_from(dev_t device) {
  std::ifstream mounts("/proc/self/mountinfo");
  std::string wanted = fmt::format("{}:{}", major(device), minor(device));
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string mount_id, parent_id, numbers;
    fields >> mount_id >> parent_id >> numbers;
    std::size_t dash = line.find(" - ");
    if (numbers != wanted || dash == std::string::npos) continue;
    std::istringstream tail(line.substr(dash + 3));
    std::string type, source;
    tail >> type >> source;
    struct stat status{};
    if (::stat(source.c_str(), &status) == 0 && S_ISBLK(status.st_mode)) return status.st_rdev;
  }
  return std::nullopt;
}

// udev's link in /dev/disk/by-uuid that leads to the file system's device.
std::optional<std::string> uuid_by_udev(dev_t device) {
  dev_t source = mounted_from(device).value_or(device);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/dev/disk/by-uuid", error)) {
    struct stat status{};
    if (::stat(entry.path().c_str(), &status) == 0 && S_ISBLK(status.st_mode) && status.st_rdev == source) {
      return entry.path().filename().string();
    }
  }
  return std::nullopt;
}

Result<std::string> file_system_id(int fd, dev_t device, const std::string& path) {
  FileSystemUuid uuid{};
  if (::ioctl(fd, get_file_system_uuid, &uuid) == 0 && uuid.length == sizeof uuid.bytes) {
    Uuid id;
    std::memcpy(id.bytes.data(), uuid.bytes, sizeof uuid.bytes);
    return id.to_string();
  }
  if (auto found = uuid_by_udev(device)) return *found;
  struct statfs status{};
  if (::fstatfs(fd, &status) != 0) return fail_errno(errno, "cannot ask the file system of {} for its id", path);
  std::uint64_t id = 0;
  static_assert(sizeof id == sizeof status.f_fsid);
  std::memcpy(&id, &status.f_fsid, sizeof id);
  if (id == 0) {
    return fail(ErrorCode::unsupported,
                "the file system of {} has no UUID, so that a drive on it cannot be told from a copy: "
                "put the drive on ext4, xfs or btrfs",
                path);
  }
  return fmt::format("fsid-{:016x}", id);
}

Result<std::string> file_id(int fd, const std::string& path) {
  struct statx status{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0)
    return fail_errno(errno, "cannot look at {}", path);
  if ((status.stx_mask & STATX_BTIME) == 0) {
    return fail(ErrorCode::unsupported,
                "the file system of {} keeps no birth times, so that a drive on it cannot be told from a copy: "
                "put the drive on ext4, xfs or btrfs",
                path);
  }
  ZP_TRY(system, file_system_id(fd, makedev(status.stx_dev_major, status.stx_dev_minor), path));
  return fmt::format("file:{}:{}:{}.{:09}", system, std::uint64_t{status.stx_ino},
                     std::int64_t{status.stx_btime.tv_sec}, std::uint32_t{status.stx_btime.tv_nsec});
}

fs::path sysfs_of(dev_t device) {
  std::error_code error;
  return fs::canonical(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)), error);
}

bool is_partition(const fs::path& sysfs) { return fs::exists(sysfs / "partition"); }

std::optional<std::string> drive_id_in_sysfs(const fs::path& sysfs) {
  struct Place {
    const char* file;
    const char* prefix;
  };
  static constexpr Place places[] = {{"wwid", "wwid"},  {"device/wwid", "wwid"}, {"nguid", "nguid"},
                                     {"uuid", "uuid"},  {"eui", "eui"},          {"dm/uuid", "dm"},
                                     {"md/uuid", "md"}, {"serial", "serial"},    {"device/serial", "serial"}};
  for (const Place& place : places) {
    std::string value = first_line_of(sysfs / place.file);
    bool says_something = value.find_first_not_of("0- ") != std::string::npos;  // drives without one give zeros
    if (says_something) return fmt::format("{}:{}", place.prefix, value);
  }
  return std::nullopt;
}

Result<std::string> block_device_id(dev_t device, const std::string& path) {
  fs::path sysfs = sysfs_of(device);
  if (sysfs.empty()) return fail(ErrorCode::unsupported, "{} is not in /sys/dev/block: mount sysfs", path);
  std::string suffix;
  if (is_partition(sysfs)) {
    suffix = fmt::format(":start-{}", first_line_of(sysfs / "start"));
    sysfs = sysfs.parent_path();
  }
  if (std::string backing = first_line_of(sysfs / "loop/backing_file"); !backing.empty()) {
    UniqueFd file(::open(backing.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno(errno, "cannot open {}, the backing file of {}", backing, path);
    ZP_TRY(id, file_id(file.get(), backing));
    return fmt::format("loop:{}:{}{}", first_line_of(sysfs / "loop/offset"), id, suffix);
  }
  auto id = drive_id_in_sysfs(sysfs);
  if (!id) {
    return fail(
        ErrorCode::unsupported,
        "drive {} tells neither WWID, NGUID, EUI nor serial number, so that it cannot be found again after a restart: "
        "give the (virtual) drive a serial number, or put a logical volume or a file on it",
        path);
  }
  return *id + suffix;
}

// A drive whose cache is volatile may forget completed writes at a reset that no one tells us of.
CacheClass cache_of(dev_t device) {
  fs::path sysfs = sysfs_of(device);
  if (is_partition(sysfs)) sysfs = sysfs.parent_path();
  return first_line_of(sysfs / "queue/write_cache") == "write through" ? CacheClass::write_through : CacheClass::fua;
}

}  // namespace

std::string_view name_of(CacheClass cache) {
  switch (cache) {
    case CacheClass::flush: return "flush";
    case CacheClass::write_through: return "write-through";
    case CacheClass::fua: return "fua";
  }
  return "unknown";
}

Result<DriveIdentity> identify_drive(int fd, const std::string& path) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return fail_errno(errno, "cannot look at {}", path);
  DriveIdentity identity;
  if (S_ISREG(status.st_mode)) {
    ZP_TRY(id, file_id(fd, path));
    identity.durable_id = std::move(id);
    identity.size_bytes = static_cast<std::uint64_t>(status.st_size);
    return identity;
  }
  if (!S_ISBLK(status.st_mode))
    return fail(ErrorCode::invalid, "{} is neither a regular file nor a block device", path);
  identity.kind = DriveKind::block_device;
  if (::ioctl(fd, BLKGETSIZE64, &identity.size_bytes) != 0)
    return fail_errno(errno, "cannot ask {} for its size", path);
  ZP_TRY(id, block_device_id(status.st_rdev, path));
  identity.durable_id = std::move(id);
  identity.cache = cache_of(status.st_rdev);
  return identity;
}

Result<DriveIdentity> identify_drive(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd && errno == ENOENT) return fail(ErrorCode::not_found, "there is no drive {}", path);
  if (!fd) return fail_errno(errno, "cannot open drive {}", path);
  return identify_drive(fd.get(), path);
}

std::string lock_holder_of(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return {};
  // 3: FLOCK  ADVISORY  WRITE 4711 fe:00:1184 0 EOF
  std::string file = fmt::format("{:02x}:{:02x}:{}", major(status.st_dev), minor(status.st_dev), status.st_ino);
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::istringstream fields(line);
    std::string number, type, advisory, access, pid, inode;
    fields >> number >> type >> advisory >> access >> pid >> inode;
    if (type != "FLOCK" || inode != file) continue;
    std::string name = first_line_of(fmt::format("/proc/{}/comm", pid));
    return name.empty() ? fmt::format("pid {}", pid) : fmt::format("{} (pid {})", name, pid);
  }
  return {};
}

}  // namespace zpair::block
