#pragma once
// A local drive: a regular file or a block device, with O_DIRECT through io_uring, held by one opener.
// Ownership: holds the drive's lock (flock on the very descriptor that does the I/O, and O_EXCL for a block device) from
//            open() to the end of close(): lock free = drained, also after a kill, because the kernel keeps the descriptor
//            until its last I/O is done (design, section 4).
// Threading: one reactor; open() too.
// Errors:    open(): not_found, invalid (no drive, too small), refused (another opener holds it; names it), unsupported
//            (no io_uring or O_DIRECT here, no durable id, cannot flush; names the mend). There is no buffered fall-back.
//            I/O: a failed read is media_error, or io_error when the drive is gone; everything else io_error or no_space.
// Verifier:  of the boot and the drive: a mere re-open keeps it, because O_DIRECT leaves nothing in the process. A failed
//            flush changes it, since the kernel reports it once and forgets it: what completed before may be lost.
//            A drive whose cache could be lost unseen gets every write durable (CacheClass::fua).
// Source:    open(2) O_DIRECT, flock(2), fallocate(2), io_uring(7); rules 2 and 5.
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "block/block_device.h"
#include "block/drive_identity.h"
#include "block/reactor.h"

namespace zpair::block {

struct FileDeviceOptions {
  std::string path = {};
  std::uint32_t block_size_bytes = 4096;
  // How long to wait while another opener holds the drive. The default does not wait.
  Deadline wait_for_lock = Deadline{0};
};

class FileDevice final : public BlockDevice {
 public:
  static Task<Result<std::unique_ptr<FileDevice>>> open(FileDeviceOptions options);
  ~FileDevice() override;  // asserts that close() ran

  Geometry geometry() const override { return geometry_; }
  std::string durable_id() const override { return identity_.durable_id; }
  Verifier verifier() const override { return verifier_; }
  void submit(Request& request) override;
  Task<void> close() override;

  const std::string& path() const { return path_; }
  const DriveIdentity& identity() const { return identity_; }

 private:
  struct Transfer;

  FileDevice() = default;
  Task<Result<void>> prove_direct_io();
  bool acceptable(const Request& request) const;
  bool needs_bounce(const Request& request) const;
  Transfer& start_transfer(Request& request);
  void issue(Transfer& transfer);
  void issue_data(Transfer& transfer);
  void on_result(Transfer& transfer, int result);
  void on_data(Transfer& transfer, int result);
  void on_deallocated(Transfer& transfer, int result);
  void write_zeroes_as_data(Transfer& transfer);
  void finish(Transfer& transfer, IoStatus status);
  void change_verifier();

  std::string path_;
  UniqueFd fd_;
  Geometry geometry_;
  DriveIdentity identity_;
  Verifier verifier_;
  std::uint32_t memory_alignment_ = 512;  // of buffers, for O_DIRECT
  std::uint32_t length_alignment_ = 512;  // of each buffer's size

  std::vector<std::unique_ptr<Transfer>> transfers_;  // all that were ever made
  std::vector<Transfer*> spare_;                      // those that are free
  std::size_t in_flight_ = 0;
  bool closing_ = false;
  Signal drained_;
};

}  // namespace zpair::block
