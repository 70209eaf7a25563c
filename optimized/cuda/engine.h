// The optimized engine on an NVIDIA GPU. This header needs no CUDA: a program that includes it also starts where there
// is no GPU, and asks device_available() before it makes an engine.
#pragma once

#include <memory>
#include <string>

#include "harness/contract/engine.h"
#include "harness/contract/weights.h"

namespace qdiff::optimized::cuda {

struct Options {
  DType dtype = DType::kBF16;  // of weights, activations and cache: bfloat16, float16 or float32; sums are in float32
  int device = 0;              // CUDA's index
};

// Whether make_engine() can work here. If not and `why_not` is given, it says what is missing.
bool device_available(std::string* why_not = nullptr);

// Reads all weights and rounds each once to options.dtype. Throws qdiff::CannotJudgeError where device_available() is
// false or the GPU has too little memory, qdiff::InputError for a model or a dtype that the engine does not do.
// `source` is not used afterwards.
std::unique_ptr<Engine> make_engine(const WeightSource& source, const Options& options);

}  // namespace qdiff::optimized::cuda
