// The one door to LibTorch: its header, and what carries named tensors across.
#pragma once

// LibTorch defines a CHECK of its own, which ends the program where it fails: in a test it would stand for Catch2's.
#pragma push_macro("CHECK")
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#pragma pop_macro("CHECK")

#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/dtype.h"
#include "harness/contract/tensor.h"
#include "reference/reference.h"

namespace qdiff::reference {

// Whether a layer's matrices are so large that several threads, or a GPU, gain more than waking and waiting for them
// costs.
bool is_large(const ModelConfig& config);

// While one lives, operations of its thread do not pass through LibTorch's automatic differentiation, which nothing
// here asks for and which costs a small tensor as much as its arithmetic.
using WithoutAutograd = at::AutoDispatchBelowADInplaceOrView;

// Lets the C library keep freed memory up to 64 MiB, for the whole process. As it is by itself, it gives large tensors
// back to the system and takes zeroed pages for the next: a fifth of the time of a long span on the small test shapes.
void keep_freed_memory();

// Sets LibTorch's threads for the whole process; 0 lets the model decide: one thread where a layer's matrices are so
// small that waking and waiting for the others costs more than they compute (measured: on the small test shapes, four
// fifths of the time went into waiting), LibTorch's default otherwise.
void use_threads(int num_threads, const ModelConfig& config);

at::ScalarType scalar_type(DType dtype);

// Where all tensors of the reference live, for the whole process: host memory, or the first GPU.
at::Device device();
// Throws qdiff::CannotJudgeError for a GPU that LibTorch cannot use here.
void use_device(Where where, const ModelConfig& config);
// Gives back what LibTorch keeps of the GPU's memory for later tensors; and, where these had so many bytes that the
// holes they leave are worth it, what the C library keeps of the host's.
void release_unused_memory(std::int64_t bytes = 0);
// Of a new tensor there.
inline at::TensorOptions of_type(at::ScalarType type) { return at::dtype(type).device(device()); }

// A host view's elements, widened exactly to `compute` (fp64, or fp32 from a type that is no wider).
// A copy.
at::Tensor widen(const TensorView& view, at::ScalarType compute);

// Each element of an fp64 or fp32 tensor rounded once to `dtype`; the tensor keeps its own type.
at::Tensor round_to(DType dtype, const at::Tensor& x);
// x itself, but infinite where rounding to `dtype` gives infinity.
at::Tensor with_overflow(DType dtype, const at::Tensor& x);
// Distance between neighbouring numbers of `dtype` at each |x|, in fp64; 0 where x is not finite.
at::Tensor spacing_at(DType dtype, const at::Tensor& x);
// Variance of one rounding to `dtype`, uniform over half a spacing to either side: spacing^2 / 12.
at::Tensor rounding_variance(DType dtype, const at::Tensor& x);

// Whether two fp64 or fp32 tensors are equal bit by bit, signs of zeros and NaN included.
bool has_bits_of(const at::Tensor& x, const at::Tensor& other);

std::vector<double> to_vector(const at::Tensor& x);       // row-major
std::vector<float> to_float_vector(const at::Tensor& x);  // row-major

// f(index, value) of each element of a contiguous fp64 tensor, in parallel, on the host.
template <typename F>
at::Tensor map_elements(const at::Tensor& x, F f) {
  const at::Tensor in = x.to(at::kCPU, at::kDouble).contiguous();
  at::Tensor out = at::empty_like(in);
  const double* from = in.const_data_ptr<double>();
  double* to = out.mutable_data_ptr<double>();
  at::parallel_for(0, in.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) to[i] = f(i, from[i]);
  });
  return out.to(x.device());
}

}  // namespace qdiff::reference
