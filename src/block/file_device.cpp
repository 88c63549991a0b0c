#include "block/file_device.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/stat.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "block/uring_await.h"

namespace zpair::block {

namespace {

constexpr std::size_t bounce_alignment = 4096;
constexpr std::size_t zero_chunk_bytes = std::size_t{256} << 10;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<std::byte, FreeMemory>;

AlignedMemory aligned_memory(std::size_t size_bytes) {
  std::size_t rounded = (size_bytes + bounce_alignment - 1) / bounce_alignment * bounce_alignment;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(bounce_alignment, rounded));
  ZP_ASSERT(memory != nullptr, "memory for a bounce buffer");
  return AlignedMemory(memory);
}

const std::byte* zero_chunk() {
  static const AlignedMemory zeroes = [] {
    AlignedMemory memory = aligned_memory(zero_chunk_bytes);
    std::memset(memory.get(), 0, zero_chunk_bytes);
    return memory;
  }();
  return zeroes.get();
}

std::uint64_t mix(std::uint64_t digest, std::string_view text) {
  for (unsigned char c : text) digest = (digest ^ c) * 0x100000001b3;  // FNV-1a
  return digest;
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

// A read's EIO, ENODATA (medium error) and EILSEQ (protection error) say that these sectors are bad; ENXIO and the like
// that the drive is gone.
IoStatus status_of(Operation operation, int error_number) {
  if (error_number == ENOSPC || error_number == EDQUOT) return IoStatus::no_space;
  bool bad_place = error_number == EIO || error_number == ENODATA || error_number == EILSEQ;
  return operation == Operation::read && bad_place ? IoStatus::media_error : IoStatus::io_error;
}

struct DirectAlignment {
  std::uint32_t memory = 512;
  std::uint32_t offset = 512;
  bool refused = false;  // the file system says that it does no direct I/O on this file
};

// statx's STATX_DIOALIGN (Linux 6.1); Debian 12's C library has no field for it.
DirectAlignment direct_alignment_of(int fd) {
  constexpr unsigned statx_dioalign = 0x2000;
  constexpr std::size_t dio_memory_offset = 0x98;
  constexpr std::size_t dio_offset_offset = 0x9c;
  alignas(8) std::byte raw[256] = {};
  DirectAlignment alignment;
  if (::syscall(SYS_statx, fd, "", AT_EMPTY_PATH, statx_dioalign, raw) != 0) return alignment;
  std::uint32_t mask = 0;
  std::memcpy(&mask, raw, sizeof mask);
  if ((mask & statx_dioalign) == 0) return alignment;
  std::memcpy(&alignment.memory, raw + dio_memory_offset, sizeof alignment.memory);
  std::memcpy(&alignment.offset, raw + dio_offset_offset, sizeof alignment.offset);
  alignment.refused = alignment.memory == 0 || alignment.offset == 0;
  return alignment;
}

std::string held_by_text(const std::string& path) {
  std::string holder = lock_holder_of(path);
  return holder.empty() ? "another process" : holder;
}

// One try: the descriptor with its lock; `refused` while another opener has it.
Result<UniqueFd> open_and_lock(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return fail(ErrorCode::not_found, "there is no drive {}", path);
    return fail_errno(errno, "cannot look at drive {}", path);
  }
  bool is_block = S_ISBLK(status.st_mode);
  if (!is_block && !S_ISREG(status.st_mode)) {
    return fail(ErrorCode::invalid, "{} is neither a regular file nor a block device", path);
  }
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC | (is_block ? O_EXCL : 0)));
  if (!fd && errno == EINVAL) {
    return fail(ErrorCode::unsupported,
                "the file system of {} does not support O_DIRECT: put the drive on ext4, xfs or btrfs", path);
  }
  if (!fd && errno == EBUSY) {
    return fail(ErrorCode::refused, "drive {} is in use by {} or mounted: stop that use first", path,
                held_by_text(path));
  }
  if (!fd) return fail_errno(errno, "cannot open drive {}", path);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, "cannot lock drive {}", path);
    return fail(ErrorCode::refused, "drive {} is in use by {}: a drive has one opener at a time", path,
                held_by_text(path));
  }
  return fd;
}

}  // namespace

// One request under way: the kernel's completion, and what is left of a transfer that came back short.
struct FileDevice::Transfer : Reactor::Completion {
  enum class Step { data, deallocate, sync };

  FileDevice* device = nullptr;
  Request* request = nullptr;
  Step step = Step::data;
  bool durable = false;
  std::uint64_t done_bytes = 0;
  std::span<const iovec> pieces;  // the request's own, or `own`
  std::vector<iovec> own;
  AlignedMemory bounce;
};

Task<Result<std::unique_ptr<FileDevice>>> FileDevice::open(FileDeviceOptions options) {
  Result<UniqueFd> fd = open_and_lock(options.path);
  while (!fd && fd.error().code == ErrorCode::refused && !options.wait_for_lock.passed()) {
    co_await Reactor::current().after_ms(2);  // no event tells that a flock came free
    fd = open_and_lock(options.path);
  }
  if (!fd) co_return std::unexpected(fd.error());

  std::unique_ptr<FileDevice> device(new FileDevice);
  device->closing_ = true;  // nothing to close until all is checked
  device->path_ = options.path;
  device->fd_ = std::move(*fd);
  ZP_CO_TRY(identity, identify_drive(device->fd_.get(), options.path));
  device->identity_ = identity;
  device->geometry_.block_size_bytes = options.block_size_bytes;
  device->geometry_.size_bytes = identity.size_bytes / options.block_size_bytes * options.block_size_bytes;
  if (device->geometry_.size_bytes == 0) {
    co_return fail(ErrorCode::invalid,
                   "drive {} is {} bytes, less than one block: make it larger (truncate -s SIZE {})", options.path,
                   identity.size_bytes, options.path);
  }
  DirectAlignment alignment = direct_alignment_of(device->fd_.get());
  if (alignment.refused || alignment.offset > options.block_size_bytes) {
    co_return fail(ErrorCode::unsupported,
                   "{} does not allow O_DIRECT in blocks of {} bytes: put the drive on ext4, xfs or btrfs",
                   options.path, options.block_size_bytes);
  }
  device->memory_alignment_ = alignment.memory;
  device->length_alignment_ = alignment.offset;
  device->verifier_ = Verifier{mix(mix(0xcbf29ce484222325, boot_id()), identity.durable_id)};
  ZP_CO_CHECK(co_await device->prove_direct_io());
  device->closing_ = false;
  co_return device;
}

// Reads one block and flushes once, so that what cannot work is said now and not in the middle of a takeover.
Task<Result<void>> FileDevice::prove_direct_io() {
  AlignedMemory block = aligned_memory(geometry_.block_size_bytes);
  int fd = fd_.get();
  std::byte* memory = block.get();
  unsigned size_bytes = geometry_.block_size_bytes;
  auto prepare_read = [fd, memory, size_bytes](io_uring_sqe* entry) {
    io_uring_prep_read(entry, fd, memory, size_bytes, 0);
  };
  int result = co_await UringAwait(prepare_read);
  if (result == -EINVAL || result == -EOPNOTSUPP) {
    co_return fail(ErrorCode::unsupported,
                   "{} does not allow O_DIRECT through io_uring: put the drive on ext4, xfs or btrfs", path_);
  }
  // A bad first block is not a reason to refuse the drive: the mirror heals it.
  if (result < 0 && status_of(Operation::read, -result) != IoStatus::media_error) {
    co_return fail_errno(-result, "cannot read drive {}", path_);
  }
  auto prepare_flush = [fd](io_uring_sqe* entry) { io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC); };
  result = co_await UringAwait(prepare_flush);
  if (result < 0) {
    co_return fail(ErrorCode::unsupported,
                   "drive {} cannot flush ({}): zpair acknowledges only what is flushed, use another drive", path_,
                   std::strerror(-result));
  }
  co_return Result<void>{};
}

FileDevice::~FileDevice() { ZP_ASSERT(closing_ && in_flight_ == 0, "a drive is closed before it ends"); }

bool FileDevice::acceptable(const Request& request) const {
  if (request.operation == Operation::flush) return true;
  if (request.operation == Operation::extents) return false;
  std::uint64_t block = geometry_.block_size_bytes;
  bool aligned = request.offset_bytes % block == 0 && request.size_bytes % block == 0 && request.size_bytes > 0;
  bool inside =
      request.offset_bytes <= geometry_.size_bytes && request.size_bytes <= geometry_.size_bytes - request.offset_bytes;
  return aligned && inside;
}

bool FileDevice::needs_bounce(const Request& request) const {
  return std::ranges::any_of(request.buffers, [this](const iovec& piece) {
    return reinterpret_cast<std::uintptr_t>(piece.iov_base) % memory_alignment_ != 0 ||
           piece.iov_len % length_alignment_ != 0;
  });
}

FileDevice::Transfer& FileDevice::start_transfer(Request& request) {
  if (spare_.empty()) {
    transfers_.push_back(std::make_unique<Transfer>());
    spare_.push_back(transfers_.back().get());
  }
  Transfer& transfer = *spare_.back();
  spare_.pop_back();
  transfer.on_complete = [](Reactor::Completion& self, int result) {
    auto& done = static_cast<Transfer&>(self);
    done.device->on_result(done, result);
  };
  transfer.device = this;
  transfer.request = &request;
  transfer.done_bytes = 0;
  transfer.pieces = request.buffers;
  transfer.durable = request.durable || identity_.cache == CacheClass::fua;
  ++in_flight_;
  return transfer;
}

void FileDevice::submit(Request& request) {
  Transfer& transfer = start_transfer(request);
  if (closing_ || !acceptable(request)) {
    IoStatus status = closing_ ? IoStatus::cancelled : IoStatus::invalid;
    Reactor::current().post([this, &transfer, status] { finish(transfer, status); });
    return;
  }
  switch (request.operation) {
    case Operation::flush: transfer.step = Transfer::Step::sync; break;
    case Operation::trim:
    case Operation::write_zeroes: transfer.step = Transfer::Step::deallocate; break;
    case Operation::read:
    case Operation::write: {
      std::uint64_t sum = 0;
      for (const iovec& piece : request.buffers) sum += piece.iov_len;
      ZP_ASSERT(sum == request.size_bytes, "the buffers are as large as the request");
      transfer.step = Transfer::Step::data;
      if (needs_bounce(request)) {
        transfer.bounce = aligned_memory(sum);
        if (request.operation == Operation::write) {
          std::byte* to = transfer.bounce.get();
          for (const iovec& piece : request.buffers) {
            std::memcpy(to, piece.iov_base, piece.iov_len);
            to += piece.iov_len;
          }
        }
        transfer.own.assign(1, iovec{transfer.bounce.get(), sum});
        transfer.pieces = transfer.own;
      }
      break;
    }
    case Operation::extents: break;  // not acceptable
  }
  issue(transfer);
}

void FileDevice::issue(Transfer& transfer) {
  if (transfer.step == Transfer::Step::data) {
    issue_data(transfer);
    return;
  }
  const Request& request = *transfer.request;
  io_uring_sqe& entry = Reactor::current().next_entry(transfer);
  if (transfer.step == Transfer::Step::sync) {
    io_uring_prep_fsync(&entry, fd_.get(), IORING_FSYNC_DATASYNC);
  } else {
    int how = request.operation == Operation::trim ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    io_uring_prep_fallocate(&entry, fd_.get(), how | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(request.offset_bytes),
                            static_cast<off_t>(request.size_bytes));
  }
  io_uring_sqe_set_data(&entry, static_cast<Reactor::Completion*>(&transfer));
}

void FileDevice::issue_data(Transfer& transfer) {
  const Request& request = *transfer.request;
  auto count = static_cast<unsigned>(std::min<std::size_t>(transfer.pieces.size(), IOV_MAX));
  std::uint64_t offset_bytes = request.offset_bytes + transfer.done_bytes;
  io_uring_sqe& entry = Reactor::current().next_entry(transfer);
  if (request.operation == Operation::read) {
    io_uring_prep_readv(&entry, fd_.get(), transfer.pieces.data(), count, offset_bytes);
  } else {
    io_uring_prep_writev2(&entry, fd_.get(), transfer.pieces.data(), count, offset_bytes,
                          transfer.durable ? RWF_DSYNC : 0);
  }
  io_uring_sqe_set_data(&entry, static_cast<Reactor::Completion*>(&transfer));
}

void FileDevice::on_result(Transfer& transfer, int result) {
  if (result == -EINTR || result == -EAGAIN) {  // the kernel did nothing yet
    issue(transfer);
    return;
  }
  switch (transfer.step) {
    case Transfer::Step::data: on_data(transfer, result); return;
    case Transfer::Step::deallocate: on_deallocated(transfer, result); return;
    case Transfer::Step::sync:
      if (result < 0) change_verifier();
      finish(transfer, result < 0 ? IoStatus::io_error : IoStatus::ok);
      return;
  }
}

void FileDevice::on_data(Transfer& transfer, int result) {
  const Request& request = *transfer.request;
  if (result < 0) {
    if (transfer.durable && request.operation == Operation::write)
      change_verifier();  // it may have been the flush in it
    finish(transfer, status_of(request.operation, -result));
    return;
  }
  if (result == 0) {  // the file is shorter than it was
    finish(transfer, IoStatus::io_error);
    return;
  }
  transfer.done_bytes += static_cast<std::uint64_t>(result);
  if (transfer.done_bytes < request.size_bytes) {
    std::vector<iovec> left;
    auto skip = static_cast<std::size_t>(result);
    for (iovec piece : transfer.pieces) {
      std::size_t gone = std::min(skip, piece.iov_len);
      skip -= gone;
      if (gone == piece.iov_len) continue;
      left.push_back(iovec{static_cast<std::byte*>(piece.iov_base) + gone, piece.iov_len - gone});
    }
    transfer.own = std::move(left);
    transfer.pieces = transfer.own;
    issue_data(transfer);
    return;
  }
  if (request.operation == Operation::read && transfer.bounce) {
    const std::byte* from = transfer.bounce.get();
    for (const iovec& piece : request.buffers) {
      std::memcpy(piece.iov_base, from, piece.iov_len);
      from += piece.iov_len;
    }
  }
  finish(transfer, IoStatus::ok);
}

void FileDevice::on_deallocated(Transfer& transfer, int result) {
  const Request& request = *transfer.request;
  bool unsupported = result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
  if (unsupported && request.operation == Operation::trim) {  // a hint
    finish(transfer, IoStatus::ok);
  } else if (unsupported) {
    write_zeroes_as_data(transfer);
  } else if (result < 0) {
    finish(transfer, status_of(request.operation, -result));
  } else if (request.operation == Operation::write_zeroes && transfer.durable) {
    transfer.step = Transfer::Step::sync;
    issue(transfer);
  } else {
    finish(transfer, IoStatus::ok);
  }
}

void FileDevice::write_zeroes_as_data(Transfer& transfer) {
  transfer.own.clear();
  for (std::uint64_t left = transfer.request->size_bytes; left > 0;) {
    std::size_t size_bytes = std::min<std::uint64_t>(left, zero_chunk_bytes);
    transfer.own.push_back(iovec{const_cast<std::byte*>(zero_chunk()), size_bytes});  // only read by the write
    left -= size_bytes;
  }
  transfer.pieces = transfer.own;
  transfer.step = Transfer::Step::data;
  issue_data(transfer);
}

void FileDevice::finish(Transfer& transfer, IoStatus status) {
  Request& request = *transfer.request;
  transfer.request = nullptr;
  transfer.bounce.reset();
  spare_.push_back(&transfer);
  request.status = status;
  request.verifier = verifier_;
  if (--in_flight_ == 0 && closing_) drained_.set();
  request.on_done(request);  // may submit again
}

void FileDevice::change_verifier() { verifier_ = Verifier{mix(verifier_.value, "flush failed")}; }

Task<void> FileDevice::close() {
  if (!fd_) co_return;
  closing_ = true;
  while (in_flight_ > 0) {
    drained_.reset();
    co_await drained_.wait();
  }
  // Explicitly: the kernel may keep the file a moment longer for a request that just completed.
  ::flock(fd_.get(), LOCK_UN);
  fd_.reset();
}

}  // namespace zpair::block
