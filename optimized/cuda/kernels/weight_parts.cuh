// The softmax's weights for tensor cores, which take no float32: in parts of the storage type. Three of bfloat16 are
// float32's 24 bits, two of float16 are 22.
#pragma once

#include <type_traits>

#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

// The leading parts of two weights, taken off them; exact.
template <typename T>
__device__ __forceinline__ unsigned take_part(float& low, float& high) {
  if constexpr (std::is_same_v<T, Bf16>) {
    // Cut off, not rounded: the unit that rounds a number to bfloat16 also does the exponentials, and was what
    // attention of many queries waited for.
    constexpr unsigned kPart = 0xFFFF0000U;
    const unsigned low_bits = __float_as_uint(low);
    const unsigned high_bits = __float_as_uint(high);
    low -= __uint_as_float(low_bits & kPart);
    high -= __uint_as_float(high_bits & kPart);
    return __byte_perm(low_bits, high_bits, 0x7632);
  } else {
    const __half2 part = __floats2half2_rn(low, high);
    const float2 taken = __half22float2(part);
    low -= taken.x;
    high -= taken.y;
    union {
      __half2 pair;
      unsigned word;
    } bits{part};
    return bits.word;
  }
}

}  // namespace qdiff::optimized::cuda
