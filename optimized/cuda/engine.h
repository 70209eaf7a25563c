// The optimized engine on an NVIDIA GPU. This header needs no CUDA: a program that includes it also starts where there
// is no GPU, and asks device_available() before it makes an engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/weights.h"

namespace qdiff::optimized::cuda {

struct Options {
  DType dtype = DType::kBF16;  // of weights, activations and cache: bfloat16, float16 or float32; sums are in float32
  int device = 0;              // CUDA's index
  // For weights there is the GPU's free memory less `spare_bytes`, which sessions and others take, and no more than
  // `max_resident_bytes` (0: no limit). Layers that it has no room for are read anew whenever they are computed, which
  // gives the same bits.
  std::int64_t spare_bytes = std::int64_t{4} << 30;
  std::int64_t max_resident_bytes = 0;
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};  // while weights are read, by layer
};

// Whether make_engine() can work here. If not and `why_not` is given, it says what is missing.
bool device_available(std::string* why_not = nullptr);

// Reads all weights and rounds each once to options.dtype. Throws qdiff::CannotJudgeError where device_available() is
// false or the GPU has no room for the model with one layer at a time, qdiff::InputError for a model or a dtype that
// the engine does not do. `source` outlives the engine.
std::unique_ptr<Engine> make_engine(const WeightSource& source, const Options& options);

}  // namespace qdiff::optimized::cuda
