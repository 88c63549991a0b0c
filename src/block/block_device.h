#pragma once
// A place that stores bytes: a local drive, the partner's drive over NVMe/TCP, or a volume.
// Ownership: a Request and its buffers stay the caller's and must live until on_done ran, whatever the result.
// Threading: submit() and on_done run on the device's own reactor; nothing here locks.
// Errors:    in Request::status. A device never retries: whoever knows why it waits does. A held request completes late.
// Source:    NVMe Base 2.0 (Flush), NVM Command Set 1.0 (Read, Write, Write Zeroes, Dataset Management); rule 2.
#include <sys/uio.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/ids.h"
#include "block/task.h"

namespace zpair::block {

enum class Operation : std::uint8_t { read, write, flush, trim, write_zeroes, extents };

enum class IoStatus : std::uint8_t {
  ok,
  io_error,     // the device refused the command
  media_error,  // a read met a bad place: another copy may serve it
  fenced,       // a newer epoch holds the leg: the process exits
  no_space,
  invalid,    // out of range or not a multiple of the block size
  cancelled,  // the device was closed
};

std::string_view name_of(IoStatus status);

struct Geometry {
  std::uint64_t size_bytes = 0;
  std::uint32_t block_size_bytes = 4096;  // every offset and size is a multiple
};

// A stretch of a range: a hole reads as zeroes and holds no block; whatever is not known to be one counts as data.
struct Extent {
  std::uint64_t size_bytes = 0;
  bool is_hole = false;
  bool operator==(const Extent&) const = default;
};

// One command. The caller fills the first part, the device the second, then calls on_done exactly once, never inside
// submit().
struct Request {
  Operation operation = Operation::read;
  bool durable = false;  // write, write_zeroes: on stable storage before it completes (FUA)
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;    // the sum of the buffers for read and write; 0 for flush
  std::span<const iovec> buffers;  // read, write; the array itself must live too
  // extents: takes the first `most_extents` of the range, from its begin on and without gaps. Volumes only: a drive
  // answers `invalid`.
  std::vector<Extent>* extents = nullptr;
  std::uint32_t most_extents = 0;
  void (*on_done)(Request&) = nullptr;

  IoStatus status = IoStatus::ok;
  Verifier verifier;  // the device's, as it was when the command completed

  void* device_private = nullptr;  // the device's own, until on_done
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual Geometry geometry() const = 0;  // fixed for the device's life
  // Names the medium for ever: survives a rename, not a copy. Empty for volumes.
  virtual std::string durable_id() const = 0;
  virtual Verifier verifier() const = 0;  // the newest seen
  virtual void submit(Request& request) = 0;
  // Waits for all requests in flight, then lets the medium (and its lock) go. Submit nothing after it.
  virtual Task<void> close() = 0;
};

// co_await write(device, offset, bytes): a Request in the caller's frame, no allocation.
class Op : private Request {
 public:
  Op(BlockDevice& device, Operation operation, std::uint64_t offset_bytes, std::span<std::byte> bytes, bool durable);
  Op(BlockDevice& device, Operation operation, std::uint64_t offset_bytes, std::uint64_t size_bytes);
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  struct Outcome {
    IoStatus status;
    Verifier verifier;
    bool ok() const { return status == IoStatus::ok; }
  };

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    device_.submit(*this);
  }
  Outcome await_resume() const { return {status, verifier}; }

 private:
  BlockDevice& device_;
  iovec whole_{};
  std::coroutine_handle<> waiter_;
};

Op read(BlockDevice& device, std::uint64_t offset_bytes, std::span<std::byte> into);
Op write(BlockDevice& device, std::uint64_t offset_bytes, std::span<const std::byte> from);
Op write_durable(BlockDevice& device, std::uint64_t offset_bytes, std::span<const std::byte> from);
Op flush(BlockDevice& device);  // on return, every write that had completed before is durable
Op trim(BlockDevice& device, std::uint64_t offset_bytes, std::uint64_t size_bytes);
Op write_zeroes(BlockDevice& device, std::uint64_t offset_bytes, std::uint64_t size_bytes);

}  // namespace zpair::block
