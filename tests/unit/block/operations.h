#pragma once
// One command on a device as a Task that run_until_done takes.
#include <numeric>

#include "block/block_device.h"
#include "block/reactor.h"

namespace zpair::block {

inline Task<IoStatus> do_write(BlockDevice& device, std::uint64_t at, std::span<const std::byte> bytes) {
  auto outcome = co_await write(device, at, bytes);
  co_return outcome.status;
}
inline Task<IoStatus> do_write_durable(BlockDevice& device, std::uint64_t at, std::span<const std::byte> bytes) {
  auto outcome = co_await write_durable(device, at, bytes);
  co_return outcome.status;
}
inline Task<IoStatus> do_read(BlockDevice& device, std::uint64_t at, std::span<std::byte> bytes) {
  auto outcome = co_await read(device, at, bytes);
  co_return outcome.status;
}
inline Task<IoStatus> do_flush(BlockDevice& device) {
  auto outcome = co_await flush(device);
  co_return outcome.status;
}
inline Task<IoStatus> do_trim(BlockDevice& device, std::uint64_t at, std::uint64_t size) {
  auto outcome = co_await trim(device, at, size);
  co_return outcome.status;
}
inline Task<IoStatus> do_zero(BlockDevice& device, std::uint64_t at, std::uint64_t size) {
  auto outcome = co_await write_zeroes(device, at, size);
  co_return outcome.status;
}

inline Task<IoStatus> do_vector(BlockDevice& device, Operation operation, std::span<const iovec> pieces) {
  struct Waited : Request {
    Signal done;
  } request;
  request.operation = operation;
  request.buffers = pieces;
  request.size_bytes = std::accumulate(pieces.begin(), pieces.end(), std::uint64_t{0},
                                       [](std::uint64_t sum, const iovec& piece) { return sum + piece.iov_len; });
  request.on_done = [](Request& self) { static_cast<Waited&>(self).done.set(); };
  device.submit(request);
  co_await request.done.wait();
  co_return request.status;
}

}  // namespace zpair::block
