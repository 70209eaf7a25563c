#include "optimized/cuda/recorder.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace qdiff::optimized::cuda {
namespace {

constexpr std::size_t kChunkBytes = 8U << 20;
constexpr std::size_t kChunkAlignment = 64;

}  // namespace

void* Recorder::reserve(std::size_t bytes) {
  bytes = (bytes + kChunkAlignment - 1) / kChunkAlignment * kChunkAlignment;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) chunks_.emplace_back(std::max(bytes, kChunkBytes));
  void* address = chunks_[chunk_].bytes_at(used_);
  used_ += bytes;
  return address;
}

void Recorder::copy(const TensorId& id, Shape shape, const void* source, std::int64_t rows, std::int64_t columns,
                    std::int64_t stride) {
  if (!active()) return;
  const std::size_t width = static_cast<std::size_t>(columns) * size_of(dtype_);
  if (mirror_of_ != nullptr) {
    const std::byte* held = mirror_ + (static_cast<const std::byte*>(source) - mirror_of_);
    if (stride != columns && rows > 1) {
      auto* packed = static_cast<std::byte*>(reserve(width * static_cast<std::size_t>(rows)));
      for (std::int64_t r = 0; r < rows; ++r) {
        std::memcpy(packed + static_cast<std::size_t>(r) * width,
                    held + static_cast<std::size_t>(r * stride) * size_of(dtype_), width);
      }
      held = packed;
    }
    pending_.push_back({id, {held, dtype_, std::move(shape), {}, nullptr}});
    return;
  }
  void* destination = reserve(width * static_cast<std::size_t>(rows));
  if (stride == columns) {
    QDIFF_CUDA_CHECK(
        cudaMemcpyAsync(destination, source, width * static_cast<std::size_t>(rows), cudaMemcpyDeviceToHost, stream_));
  } else {
    QDIFF_CUDA_CHECK(cudaMemcpy2DAsync(destination, width, source, static_cast<std::size_t>(stride) * size_of(dtype_),
                                       width, static_cast<std::size_t>(rows), cudaMemcpyDeviceToHost, stream_));
  }
  pending_.push_back({id, {destination, dtype_, std::move(shape), {}, nullptr}});
}

void Recorder::flush() {
  if (!active()) return;
  if (mirror_of_ == nullptr) QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_));
  for (const Pending& pending : pending_) sink_->take(pending.id, pending.view);
  pending_.clear();
}

}  // namespace qdiff::optimized::cuda
