// Attention over splits of the keys, put together: what the last block of a group to finish does.
#pragma once

#include "optimized/cuda/kernels/attention.cuh"

namespace qdiff::optimized::cuda {

// The weight of a split's maximum relative to the highest.
struct NaturalExponential {
  static __device__ __forceinline__ float of(float x) { return expf(x); }
};
struct BinaryExponential {
  static __device__ __forceinline__ float of(float x) { return power_of_two(x); }
};

// The splits of one head added up by one warp: a lane four columns of every kSplitsAtOnce-th split.
template <typename T, int kHeadDim, bool kPlanted, typename Exponential>
__device__ __forceinline__ void combine_splits(const AttentionParams& p, std::int64_t head_row, int num_splits,
                                               float* weights) {
  constexpr int kLanesOfRow = kHeadDim / 4;
  constexpr int kSplitsAtOnce = 32 / kLanesOfRow;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kAtOnce = kHeadDim == 128 ? 16 : 10;  // loads of a lane; of a context of 1024 all but one
  const std::int64_t row = head_row * p.num_splits;
  const auto* parts = reinterpret_cast<const float4*>(p.partial_out + row * kHeadDim);
  const int first = lane / kLanesOfRow;
  // All that can be asked for at once, before any of it is used.
  float4 held[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    const int s = first + i * kSplitsAtOnce;
    held[i] = __ldcg(parts + min(s, num_splits - 1) * kLanesOfRow + lane % kLanesOfRow);
  }
  const int own = min(lane, num_splits - 1);
  const float own_maximum = lane < num_splits ? __ldcg(p.partial_max + row + own) : kMinusInfinity;
  const float own_sum = __ldcg(p.partial_sum + row + own);
  float maximum = own_maximum;
  for (int s = lane + 32; s < num_splits; s += 32) maximum = fmaxf(maximum, __ldcg(p.partial_max + row + s));
  maximum = warp_max(maximum);
  float sum = 0.0F;
  for (int s = lane; s < num_splits; s += 32) {
    const float split_maximum = s < 32 ? own_maximum : __ldcg(p.partial_max + row + s);
    float weight = maximum == kMinusInfinity ? 0.0F : Exponential::of(split_maximum - maximum);
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kTileMax) {  // relative to the maximum as it had grown by then, and left so
        float grown = kMinusInfinity;
        for (int earlier = 0; earlier <= s; ++earlier) grown = fmaxf(grown, __ldcg(p.partial_max + row + earlier));
        weight = grown == kMinusInfinity ? 0.0F : Exponential::of(split_maximum - grown);
      }
    }
    weights[s] = weight;
    sum = fmaf(weight, s < 32 ? own_sum : __ldcg(p.partial_sum + row + s), sum);
  }
  sum = warp_sum(sum);
  __syncwarp();
  float factor = sum == 0.0F ? 0.0F : 1.0F / sum;
  if constexpr (kPlanted) {
    if (sum == 0.0F && overflowed(p.fault, maximum)) factor = __builtin_nanf("");
    if (p.fault.id == FaultId::kScaleAfter) factor *= p.scale;
  }
  float4 total = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  const auto add = [&](int s, const float4& part) {
    const float weight = weights[s];
    total.x = fmaf(weight, part.x, total.x);
    total.y = fmaf(weight, part.y, total.y);
    total.z = fmaf(weight, part.z, total.z);
    total.w = fmaf(weight, part.w, total.w);
  };
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (first + i * kSplitsAtOnce < num_splits) add(first + i * kSplitsAtOnce, held[i]);
  }
#pragma unroll 8
  for (int s = first + kAtOnce * kSplitsAtOnce; s < num_splits; s += kSplitsAtOnce) {
    add(s, __ldcg(parts + s * kLanesOfRow + lane % kLanesOfRow));
  }
#pragma unroll
  for (int offset = 16; offset >= kLanesOfRow; offset /= 2) {
    total.x += __shfl_xor_sync(0xFFFFFFFFU, total.x, offset);
    total.y += __shfl_xor_sync(0xFFFFFFFFU, total.y, offset);
    total.z += __shfl_xor_sync(0xFFFFFFFFU, total.z, offset);
    total.w += __shfl_xor_sync(0xFFFFFFFFU, total.w, offset);
  }
  if (lane >= kLanesOfRow) return;
  T* out = static_cast<T*>(p.out) + head_row * kHeadDim + lane * 4;
  out[0] = narrow<T>(total.x * factor);
  out[1] = narrow<T>(total.y * factor);
  out[2] = narrow<T>(total.z * factor);
  out[3] = narrow<T>(total.w * factor);
}

// How many have taken one before. What this block has written is then there for whoever takes a later one, and what
// takers of earlier ones have written for this block (PTX ISA, memory consistency model: release and acquire, which
// the barriers around extend to the other threads). Two fences and a relaxed addition cost up to 22 us a token more
// (H100).
__device__ __forceinline__ unsigned take_ticket(unsigned* tickets) {
  unsigned before = 0;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(tickets) : "memory");
  return before;
}

}  // namespace qdiff::optimized::cuda
