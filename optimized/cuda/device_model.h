// A model on the device: every weight rounded once to the engine's dtype, in one allocation, and the RoPE table.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "harness/contract/weights.h"
#include "optimized/cuda/device_memory.h"

namespace qdiff::optimized::cuda {

// So much lies behind the last weight, for the planted fault that reads rows at a too large stride.
inline constexpr std::size_t kSlackBytes = 4U << 20;

// Row-major, [out, in]; projections that share an input lie behind each other.
struct LayerWeights {
  void* input_norm;  // [D]
  void* qkv;         // [(H+2K)*d, D]
  void* qkv_bias;    // [(H+2K)*d]
  void* o_proj;      // [D, H*d]
  void* post_norm;   // [D]
  void* gate_up;     // [2*I, D]
  void* down_proj;   // [D, I]
};

// Rows of the embedding and of lm_head on the device: those behind the vocabulary are zero and their logits are handed
// to nobody. With 16-byte rows of logits, products have the same kernels whatever the vocabulary.
inline std::int64_t padded_vocab(const ModelConfig& config) { return (config.vocab + 7) / 8 * 8; }

struct DeviceModel {
  ModelConfig config;
  DType dtype = DType::kBF16;
  DeviceBuffer memory;
  void* embedding = nullptr;  // [padded V, D]
  std::vector<LayerWeights> layers;
  void* norm = nullptr;                       // [D]
  void* lm_head = nullptr;                    // [padded V, D]; the embedding where tied
  std::vector<std::vector<double>> qkv_bias;  // [L][(H+2K)*d], as on the device
  DeviceBuffer rope_table;                    // float2 [max_position, d/2]: cosine, sine
};

// Throws qdiff::InputError where a weight is missing or cannot be read, qdiff::CannotJudgeError where the model does
// not fit into the device's free memory.
DeviceModel load_device_model(const WeightSource& source, DType dtype);

}  // namespace qdiff::optimized::cuda
