// Matrix products of many rows, by cuBLASLt: float32 sums, one rounding at the end, no split-K.
//
// The library is loaded when an engine is made, not when the program starts: it is half a gigabyte, and machines
// without a GPU need not have it. The algorithm is chosen by the library's heuristics for a few nominal row counts and
// then kept for all calls of that class, so that a row has the same bits however many rows stand beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "harness/contract/dtype.h"

namespace qdiff::optimized::cuda {

// out[m][n] = sum over k of x[m][k] * weights[n][k], plus bias[n]. Leading dimensions in elements.
struct GemmCall {
  const void* x = nullptr;  // [m,k]
  std::int64_t x_stride = 0;
  const void* weights = nullptr;  // [n,k]; `transposed`: [k,n]
  std::int64_t weight_stride = 0;
  bool transposed = false;
  const void* bias = nullptr;  // [n] or null
  void* out = nullptr;         // [m,n]
  std::int64_t out_stride = 0;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

class Gemm {
 public:
  // Throws qdiff::CannotJudgeError where the library cannot be loaded.
  explicit Gemm(DType dtype);
  ~Gemm();
  Gemm(Gemm&&) = delete;

  void run(const GemmCall& call, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qdiff::optimized::cuda
