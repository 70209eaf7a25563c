// A model on the device: every weight rounded once to the engine's dtype, in one allocation, and the RoPE table. Where
// there is no room for all layers, the matrices of the last ones take turns in one place (layer_turns.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "harness/contract/weights.h"
#include "optimized/cuda/device_memory.h"
#include "optimized/cuda/engine.h"
#include "optimized/cuda/layer_turns.h"

namespace qdiff::optimized::cuda {

// So much lies behind the last weight, for the planted fault that reads rows at a too large stride.
inline constexpr std::size_t kSlackBytes = 4U << 20;

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
  int resident_layers = 0;                    // whose matrices have a place of their own: the first ones
  std::unique_ptr<LayerTurns> turns;          // of the others; none where all are resident

  bool all_resident() const { return turns == nullptr; }
  // Before a layer's products are put into the stream. Not while it is captured, for the host may wait here.
  void bring_matrices_of(int layer, cudaStream_t stream) const {
    if (layer >= resident_layers) turns->bring(layer, stream);
  }
};

// The device memory of a model's weights where so many layers are resident.
std::size_t weight_bytes(const ModelConfig& config, DType dtype, int resident_layers);

// `source` outlives the model where not all layers are resident. Of `options` the dtype and the two limits count.
// Throws qdiff::InputError where a weight is missing or cannot be read, qdiff::CannotJudgeError where the device's free
// memory has no room for the model with one layer at a time.
DeviceModel load_device_model(const WeightSource& source, const Options& options);

}  // namespace qdiff::optimized::cuda
