// The optimized engine for processors: weights as stored in the checkpoint, rounded once to `dtype`; activations in
// `dtype`; every sum in fp32. It hands out exactly the tensors that it goes on with, and its results do not depend on
// the number of threads, on which tokens or rows are computed together, or on whether anybody looks.
#pragma once

#include <cstdint>
#include <memory>

#include "harness/contract/engine.h"

namespace qdiff::optimized::cpu {

struct KernelSet;

// So much of the vocabulary's matrix is in memory where the weights are read anew for each layer.
inline constexpr std::int64_t kStreamedHeadBytes = std::int64_t{64} << 20;

struct Options {
  DType dtype = DType::kBF16;           // float32, bfloat16 or float16
  int num_threads = 0;                  // 0: every processor that the process may use
  std::int64_t max_resident_bytes = 0;  // more weights than this are read anew for each layer; 0: no limit
};

// `weights` must outlive the engine. Throws InputError for another dtype, a missing weight or one of a wrong shape.
// One call at a time on an engine and its sessions, which must not outlive it; the threads are the engine's own.
std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Options& options);
// The same with a chosen instruction set, of those in available_kernel_sets() (kernels/kernels.h).
std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Options& options, const KernelSet& kernels);

}  // namespace qdiff::optimized::cpu
