#include "block/block_device.h"

namespace zpair::block {

std::string_view name_of(IoStatus status) {
  switch (status) {
    case IoStatus::ok: return "ok";
    case IoStatus::io_error: return "io_error";
    case IoStatus::media_error: return "media_error";
    case IoStatus::fenced: return "fenced";
    case IoStatus::no_space: return "no_space";
    case IoStatus::invalid: return "invalid";
    case IoStatus::cancelled: return "cancelled";
  }
  return "unknown";
}

Op::Op(BlockDevice& device, Operation operation, std::uint64_t offset_bytes, std::span<std::byte> bytes, bool durable)
    : device_(device), whole_{bytes.data(), bytes.size()} {
  this->operation = operation;
  this->durable = durable;
  this->offset_bytes = offset_bytes;
  this->size_bytes = bytes.size();
  buffers = std::span<const iovec>(&whole_, 1);
  on_done = [](Request& request) { make_ready(static_cast<Op&>(request).waiter_); };
}

Op::Op(BlockDevice& device, Operation operation, std::uint64_t offset_bytes, std::uint64_t size_bytes)
    : device_(device) {
  this->operation = operation;
  this->offset_bytes = offset_bytes;
  this->size_bytes = size_bytes;
  on_done = [](Request& request) { make_ready(static_cast<Op&>(request).waiter_); };
}

Op read(BlockDevice& device, std::uint64_t offset_bytes, std::span<std::byte> into) {
  return Op(device, Operation::read, offset_bytes, into, false);
}

Op write(BlockDevice& device, std::uint64_t offset_bytes, std::span<const std::byte> from) {
  // A write only reads its buffer; iovec has no const form.
  return Op(device, Operation::write, offset_bytes, {const_cast<std::byte*>(from.data()), from.size()}, false);
}

Op write_durable(BlockDevice& device, std::uint64_t offset_bytes, std::span<const std::byte> from) {
  return Op(device, Operation::write, offset_bytes, {const_cast<std::byte*>(from.data()), from.size()}, true);
}

Op flush(BlockDevice& device) { return Op(device, Operation::flush, 0, 0); }

Op trim(BlockDevice& device, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  return Op(device, Operation::trim, offset_bytes, size_bytes);
}

Op write_zeroes(BlockDevice& device, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  return Op(device, Operation::write_zeroes, offset_bytes, size_bytes);
}

}  // namespace zpair::block
