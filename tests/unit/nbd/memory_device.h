#pragma once
// A BlockDevice in memory that a test can hold, watch and break.
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "block/block_device.h"
#include "block/reactor.h"

namespace zpair::test {

class MemoryDevice : public block::BlockDevice {
 public:
  explicit MemoryDevice(std::uint64_t size_bytes, std::uint32_t block_size_bytes = 4096)
      : bytes(size_bytes), geometry_{size_bytes, block_size_bytes} {}

  block::Geometry geometry() const override { return geometry_; }
  std::string durable_id() const override { return ""; }
  Verifier verifier() const override { return Verifier{1}; }
  void submit(block::Request& request) override {
    seen.push_back({request.operation, request.durable, request.offset_bytes, request.size_bytes});
    ++in_flight;
    if (hold && hold(request)) {
      held.push_back(&request);
    } else {
      complete_soon(request);
    }
  }
  block::Task<void> close() override { co_return; }

  void release_all() {
    for (block::Request* request : std::exchange(held, {})) complete_soon(*request);
  }

  struct Seen {
    block::Operation operation;
    bool durable;
    std::uint64_t offset_bytes, size_bytes;
  };
  std::vector<std::byte> bytes;
  std::vector<Seen> seen;
  std::deque<block::Request*> held;
  std::size_t in_flight = 0;
  std::function<bool(const block::Request&)> hold;                      // true: until release_all()
  std::function<block::IoStatus(const block::Request&)> status;         // of an operation, instead of ok
  std::function<bool(const block::Request&)> loses;                     // true: a write is acknowledged and not done
  std::function<void(const block::Request&, std::byte* data)> on_read;  // may change what a read returns
  Nanoseconds latency_ns = 0;

 private:
  void complete_soon(block::Request& request) {
    block::Reactor::current().call_at(boot_time_ns() + latency_ns, [this, &request] { complete(request); });
  }
  void complete(block::Request& request) {
    --in_flight;
    request.status = status ? status(request) : block::IoStatus::ok;
    request.verifier = Verifier{1};
    if (request.status == block::IoStatus::ok) carry_out(request);
    request.on_done(request);
  }
  void carry_out(block::Request& request) {
    std::byte* at = bytes.data() + request.offset_bytes;
    bool lost = loses && loses(request);
    switch (request.operation) {
      case block::Operation::read:
        for (const iovec& part : request.buffers) {
          std::memcpy(part.iov_base, at, part.iov_len);
          if (on_read) on_read(request, static_cast<std::byte*>(part.iov_base));
          at += part.iov_len;
        }
        return;
      case block::Operation::write:
        for (const iovec& part : request.buffers) {
          if (!lost) std::memcpy(at, part.iov_base, part.iov_len);
          at += part.iov_len;
        }
        return;
      case block::Operation::trim:
      case block::Operation::write_zeroes:
        if (!lost) std::memset(at, 0, request.size_bytes);
        return;
      case block::Operation::flush: return;
      case block::Operation::extents: find_extents(request); return;
    }
  }

  void find_extents(block::Request& request) {  // blocks of zeroes are holes
    const std::size_t block = geometry_.block_size_bytes;
    for (std::uint64_t at = request.offset_bytes; at < request.offset_bytes + request.size_bytes; at += block) {
      bool is_hole = std::all_of(bytes.begin() + at, bytes.begin() + at + block,
                                 [](std::byte each) { return each == std::byte{0}; });
      if (request.extents->empty() || request.extents->back().is_hole != is_hole) {
        if (request.extents->size() == request.most_extents) return;
        request.extents->push_back({0, is_hole});
      }
      request.extents->back().size_bytes += block;
    }
  }

  block::Geometry geometry_;
};

}  // namespace zpair::test
