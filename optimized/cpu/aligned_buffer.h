// Memory for weights, caches and activations: aligned to a cache line, and to large pages where it is large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qdiff::optimized::cpu {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // The bytes are uninitialised. Throws std::bad_alloc.
  explicit AlignedBuffer(std::int64_t bytes) : size_(bytes) {
    if (bytes == 0) return;
    constexpr std::size_t kLine = 64;
    constexpr std::size_t kLargePage = std::size_t{2} << 20;
    const std::size_t alignment = static_cast<std::size_t>(bytes) >= kLargePage ? kLargePage : kLine;
    const std::size_t rounded = (static_cast<std::size_t>(bytes) + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    // Fewer TLB misses when weights are streamed; a refusal changes nothing but speed.
    if (alignment == kLargePage) (void)::madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
  }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace qdiff::optimized::cpu
