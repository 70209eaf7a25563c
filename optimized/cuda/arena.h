// The buffers of a step's tensors, in one piece of device memory. Within a step no buffer is used twice, so that every
// tensor stays as it was produced until the step ends, whether anyone looks at it or not.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "optimized/cuda/device_memory.h"
#include "optimized/cuda/device_model.h"

namespace qdiff::optimized::cuda {

// M rows each; elements of the engine's dtype.
struct LayerBuffers {
  void* input_norm;  // [M,D]
  void* qkv;         // [M,(H+2K)*d]: q_proj, k_proj, v_proj side by side
  void* q_rope;      // [M,H*d]
  void* k_rope;      // [M,K*d]
  void* attention;   // [M,H*d]
  void* o_proj;      // [M,D]
  void* resid_mid;   // [M,D]
  void* post_norm;   // [M,D]
  void* gate_up;     // [M,2*I]: gate_proj, up_proj side by side
  void* act;         // [M,I]
  void* down_proj;   // [M,D]
  void* output;      // [M,D]
};

class Arena {
 public:
  Arena(const ModelConfig& config, DType dtype) : config_(config), dtype_(dtype) {}

  // Buffers for `rows` rows of `num_layers` layers (0: none) and, if `head`, of what follows them. What earlier calls
  // gave is invalid afterwards if the memory had to grow; it is then poisoned.
  void arrange(std::int64_t rows, int num_layers, bool head, Poison poison, cudaStream_t stream);
  // Fills all of it.
  void poison(Poison poison, cudaStream_t stream);

  // All of it: what input() and the rest point into.
  const void* data() const { return memory_.data(); }
  std::size_t bytes() const { return used_; }

  void* input() const { return input_; }  // [M,D], the residual stream that enters
  const LayerBuffers& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  void* norm() const { return norm_; }      // [M,D]
  void* logits() const { return logits_; }  // [M, logits_stride()]
  std::int64_t logits_stride() const { return padded_vocab(config_); }

 private:
  ModelConfig config_;
  DType dtype_;
  DeviceBuffer memory_;
  std::size_t used_ = 0;
  void* input_ = nullptr;
  void* norm_ = nullptr;
  void* logits_ = nullptr;
  std::vector<LayerBuffers> layers_;
};

// The byte that makes every element NaN, or a large finite number, in each storage type.
int poison_byte(Poison poison, DType dtype);

}  // namespace qdiff::optimized::cuda
