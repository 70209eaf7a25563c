// Matrix products of many rows, by cuBLASLt: float32 sums, one rounding at the end.
//
// A row has the same bits however many rows stand beside it. cuBLASLt's heuristics are asked for a few nominal row
// counts, and their first answer for the fewest rows says which bits are right. Of what else they answer, and of some
// tiles that they do not think of, only what gives the same bits on random rows and the weights at hand is taken; of
// that, where the first takes long, the fastest. So the choice may depend on what else the machine does, but no
// bit does.
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
  // Instead of out, where given: [splits,m,n], the sums over each of so many equal parts of k, in float32 and without
  // the bias. Not with `transposed`.
  float* partials = nullptr;
  int splits = 1;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

// Into how many parts k is cut where the rows and the matrix are small, so that every multiprocessor has weights to
// read. It depends on nothing but k, and with it a row's bits.
int splits_of_product(std::int64_t k);

class Gemm {
 public:
  // Throws qdiff::CannotJudgeError where the library cannot be loaded.
  explicit Gemm(DType dtype);
  ~Gemm();
  Gemm(Gemm&&) = delete;

  // The first call of a shape may wait for the stream, which must not be capturing then.
  void run(const GemmCall& call, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qdiff::optimized::cuda
