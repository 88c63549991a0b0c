#pragma once
// Buffers for the data path, aligned to 4096 bytes (O_DIRECT, registered DMA), in powers of two, kept for reuse.
// Ownership: the pool owns all memory; give() every buffer back before the pool ends.
// Threading: none. Errors: none (out of memory aborts).
#include <array>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <vector>

#include "base/assert.h"

namespace zpair::nbd {

class BufferPool {
 public:
  struct Buffer {
    std::byte* bytes = nullptr;
    std::size_t size = 0;
  };

  BufferPool() = default;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool() {
    ZP_ASSERT(given_out_ == 0, "every buffer returns before its pool ends");
    for (auto& kept : kept_) {
      for (std::byte* bytes : kept) std::free(bytes);
    }
  }

  Buffer take(std::size_t least_size) {
    std::size_t size = std::bit_ceil(std::max(least_size, alignment));
    auto& kept = kept_[static_cast<std::size_t>(std::countr_zero(size))];
    ++given_out_;
    if (!kept.empty()) {
      std::byte* bytes = kept.back();
      kept.pop_back();
      kept_bytes_ -= size;
      return {bytes, size};
    }
    auto* bytes = static_cast<std::byte*>(std::aligned_alloc(alignment, size));
    ZP_ASSERT(bytes != nullptr, "memory for a request");
    return {bytes, size};
  }

  void give(Buffer buffer) {
    if (buffer.bytes == nullptr) return;
    --given_out_;
    if (kept_bytes_ + buffer.size > most_kept_bytes) {
      std::free(buffer.bytes);
      return;
    }
    kept_bytes_ += buffer.size;
    kept_[static_cast<std::size_t>(std::countr_zero(buffer.size))].push_back(buffer.bytes);
  }

 private:
  static constexpr std::size_t alignment = 4096;
  static constexpr std::size_t most_kept_bytes = 64u << 20;
  std::array<std::vector<std::byte*>, 64> kept_;
  std::size_t kept_bytes_ = 0;
  std::size_t given_out_ = 0;
};

}  // namespace zpair::nbd
