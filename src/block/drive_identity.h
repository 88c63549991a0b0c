#pragma once
// Who a drive is, apart from its path: the durable id that the record names (rule 7), and how it keeps what it completed.
// Threading: any; these calls read /sys, /proc and the file's inode and do not block on the medium.
// Errors:    not_found (no such path), unsupported (nothing durable is known about it; names the mend), invalid (neither
//            a regular file nor a block device, or too small).
//
// Durable ids:
//   file    file:FILE-SYSTEM:INODE:BIRTH-TIME. A rename or a remount keeps it; a copy has another inode or birth time.
//           FILE-SYSTEM is its UUID, from FS_IOC_GETFSUUID (Linux 6.9) or /dev/disk/by-uuid, else `fsid-` and statfs's f_fsid
//           (on ext4, btrfs and f2fs made from the UUID). A byte-for-byte copy of the whole file system is not told apart.
//   drive   wwid:…, nguid:…, uuid:…, serial:… from sysfs, the first that the drive has; dm:UUID (LVM and the like);
//           a partition adds `:start-SECTOR`; a loop device is its backing file, as loop:OFFSET:…
#include <cstdint>
#include <string>

#include "base/error.h"

namespace zpair::block {

enum class DriveKind : std::uint8_t { file, block_device };

// What a completed but unflushed write needs in order to survive (design, section 4, the verifier).
enum class CacheClass : std::uint8_t {
  flush,  // a file: durable with the next flush; the host's drive is trusted not to reset under a mounted file system
  write_through,  // no volatile cache: durable when it completes
  fua,            // a volatile cache whose loss nobody would see: every write goes out durable
};

std::string_view name_of(CacheClass cache);

struct DriveIdentity {
  DriveKind kind = DriveKind::file;
  std::string durable_id;
  std::uint64_t size_bytes = 0;
  CacheClass cache = CacheClass::flush;
};

// Of the file or block device at `path`; takes no lock, so that `drive list` may ask about a drive in use.
Result<DriveIdentity> identify_drive(const std::string& path);
// The same through an open descriptor; `path` only for messages.
Result<DriveIdentity> identify_drive(int fd, const std::string& path);

// "zpair-pool (pid 4711)", or empty when /proc/locks does not say who holds the flock on `path`.
std::string lock_holder_of(const std::string& path);

}  // namespace zpair::block
