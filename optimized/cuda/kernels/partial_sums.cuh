// A product whose sum over k was taken in parts (gemm.h), put together: the parts are added in order, in float32.
#pragma once

#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

// kSize neighbours of [M,n], from element `at` on; `size` is M*n.
template <int kSize>
__device__ __forceinline__ void add_parts(const PartialSums& p, std::int64_t size, std::int64_t at,
                                          float (&out)[kSize]) {
  const auto* parts = reinterpret_cast<const float4*>(p.sums + at);
#pragma unroll
  for (int j = 0; j < kSize; ++j) out[j] = 0.0F;
#pragma unroll 4
  for (int s = 0; s < p.splits; ++s) {
#pragma unroll
    for (int j = 0; j < kSize / 4; ++j) {
      const float4 part = parts[s * (size / 4) + j];
      out[4 * j] += part.x;
      out[4 * j + 1] += part.y;
      out[4 * j + 2] += part.z;
      out[4 * j + 3] += part.w;
    }
  }
}

// Pack `index` of residual + product; both it and a product made of parts are stored.
template <typename T, bool kInParts>
__device__ __forceinline__ uint4 add_pack(const AddParams& p, std::int64_t index) {
  constexpr int kSize = kPackSize<T>;
  auto* products = static_cast<uint4*>(p.product);
  uint4 product;
  if constexpr (kInParts) {
    float parts[kSize];
    add_parts(p.partials, static_cast<std::int64_t>(p.rows) * p.hidden, index * kSize, parts);
    product = narrow_pack<T>(parts);
    products[index] = product;
  } else {
    product = products[index];
  }
  float sum[kSize];
  float b[kSize];
  widen_pack(static_cast<const uint4*>(p.residual)[index], sum, T{});
  widen_pack(product, b, T{});
#pragma unroll
  for (int j = 0; j < kSize; ++j) sum[j] += b[j];
  const uint4 rounded = narrow_pack<T>(sum);
  static_cast<uint4*>(p.sum)[index] = rounded;
  return rounded;
}

}  // namespace qdiff::optimized::cuda
