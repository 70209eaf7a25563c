#include "optimized/cuda/arena.h"

namespace qdiff::optimized::cuda {
int poison_byte(Poison poison, DType dtype) {
  if (poison == Poison::kNaN) return 0xFF;
  return dtype == DType::kF16 ? 0x77 : 0x47;  // float16 0x7777 = 30576; bfloat16 0x4747 and float32 0x47474747 = 5.1e4
}

void Arena::arrange(std::int64_t rows, int num_layers, bool head, Poison poison, cudaStream_t stream) {
  // Walked twice: for the size, and for the addresses.
  const auto walk = [&](std::byte* base) {
    std::size_t at = 0;
    const auto take = [&](std::int64_t width) {
      void* address = base == nullptr ? nullptr : base + at;
      at += aligned(static_cast<std::size_t>(rows * width) * size_of(dtype_));
      return address;
    };
    input_ = take(config_.hidden);
    layers_.clear();
    for (int i = 0; i < num_layers; ++i) {
      LayerBuffers layer{};
      layer.input_norm = take(config_.hidden);
      layer.qkv = take(config_.q_width() + 2 * config_.kv_width());
      layer.q_rope = take(config_.q_width());
      layer.k_rope = take(config_.kv_width());
      layer.attention = take(config_.q_width());
      layer.o_proj = take(config_.hidden);
      layer.resid_mid = take(config_.hidden);
      layer.post_norm = take(config_.hidden);
      layer.gate_up = take(2 * config_.intermediate);
      layer.act = take(config_.intermediate);
      layer.down_proj = take(config_.hidden);
      layer.output = take(config_.hidden);
      layers_.push_back(layer);
    }
    norm_ = head ? take(config_.hidden) : nullptr;
    logits_ = head ? take(logits_stride()) : nullptr;
    return at;
  };
  used_ = walk(nullptr);
  if (used_ > memory_.size()) {
    memory_ = DeviceBuffer();  // freed first: there may be no room for both
    memory_ = DeviceBuffer(used_);
    this->poison(poison, stream);
  }
  walk(static_cast<std::byte*>(memory_.data()));
}

void Arena::poison(Poison poison, cudaStream_t stream) {
  QDIFF_CUDA_CHECK(cudaMemsetAsync(memory_.data(), poison_byte(poison, dtype_), used_, stream));
}

}  // namespace qdiff::optimized::cuda
