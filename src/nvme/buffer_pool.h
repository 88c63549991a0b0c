#pragma once
// Page-aligned buffers for commands in flight, by powers of two, kept for the next command.
// Threading: one reactor.
#include <array>
#include <cstddef>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace zpair::nvme {

class BufferPool {
 public:
  // Owns one buffer and gives it back to its pool, which must outlive it.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          data_(std::exchange(other.data_, nullptr)),
          order_(other.order_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      if (this != &other) {
        reset();
        pool_ = std::exchange(other.pool_, nullptr);
        data_ = std::exchange(other.data_, nullptr);
        order_ = other.order_;
      }
      return *this;
    }
    ~Buffer() { reset(); }
    std::byte* data() const { return data_; }
    explicit operator bool() const { return data_ != nullptr; }
    void reset() {
      if (data_ != nullptr) pool_->give_back(std::exchange(data_, nullptr), order_);
    }

   private:
    friend class BufferPool;
    Buffer(BufferPool& pool, std::byte* data, unsigned order) : pool_(&pool), data_(data), order_(order) {}
    BufferPool* pool_ = nullptr;
    std::byte* data_ = nullptr;
    unsigned order_ = 0;
  };

  BufferPool() = default;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool() {
    for (auto& list : free_) {
      for (std::byte* buffer : list) std::free(buffer);
    }
  }

  // At least `size` bytes, at most 16 MiB; not cleared.
  Buffer take(std::size_t size) {
    unsigned order = 0;
    while ((page_bytes << order) < size) ++order;
    ZP_ASSERT(order < orders, "a command's buffer is bounded by MDTS");
    auto& list = free_[order];
    std::byte* data = nullptr;
    if (!list.empty()) {
      data = list.back();
      list.pop_back();
      kept_bytes_ -= page_bytes << order;
    } else {
      data = static_cast<std::byte*>(std::aligned_alloc(page_bytes, page_bytes << order));
      ZP_ASSERT(data != nullptr, "out of memory");
    }
    return Buffer(*this, data, order);
  }

 private:
  static constexpr std::size_t page_bytes = 4096;
  static constexpr unsigned orders = 13;
  static constexpr std::size_t max_kept_bytes = 32u << 20;

  void give_back(std::byte* data, unsigned order) {
    if (kept_bytes_ + (page_bytes << order) > max_kept_bytes) {
      std::free(data);
      return;
    }
    kept_bytes_ += page_bytes << order;
    free_[order].push_back(data);
  }

  std::array<std::vector<std::byte*>, orders> free_;
  std::size_t kept_bytes_ = 0;
};

}  // namespace zpair::nvme
