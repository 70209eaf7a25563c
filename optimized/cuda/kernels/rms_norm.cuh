// y = x / sqrt(mean(x^2) + eps) * weight for one row and one block of kThreads threads.
#pragma once

#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

// Among the first kThreads threads of a block; other warps go their own way.
template <int kThreads>
__device__ __forceinline__ void meet() {
  asm volatile("bar.sync 15, %0;" ::"n"(kThreads) : "memory");
}

// The sum over the block, in every thread: lanes pairwise, then warps in order.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float sums[kThreads / 32];
  x = warp_sum(x);
  meet<kThreads>();  // the sums of the call before have been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  meet<kThreads>();
  float total = 0.0F;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) total += sums[warp];
  return total;
}

// The first kHeld packs of a thread stay in registers between the two passes over the row; what is behind them is read
// twice. Enough for rows of 6144 16-bit elements and 384 threads.
inline constexpr int kHeldPacks = 2;

// The weights of the packs that a thread holds; they depend on no other kernel and can be read ahead.
template <typename T, int kThreads>
struct HeldWeights {
  uint4 packs[kHeldPacks];
  __device__ __forceinline__ void load(const T* weight, int hidden) {
#pragma unroll
    for (int h = 0; h < kHeldPacks; ++h) {
      const int i = static_cast<int>(threadIdx.x) + h * kThreads;
      packs[h] = i < hidden / kPackSize<T> ? reinterpret_cast<const uint4*>(weight)[i] : uint4{0, 0, 0, 0};
    }
  }
};

// x: [hidden], pack i from read(i), and where it has to be read twice from read_again(i). Each y[i] is rounded once and
// given to store(pack index, pack).
template <typename T, int kThreads, bool kPlanted, typename Read, typename ReadAgain, typename Store>
__device__ __forceinline__ void rms_norm_row(Read&& read, ReadAgain&& read_again, const T* weight,
                                             const HeldWeights<T, kThreads>& held_weights, int hidden, float eps,
                                             const KernelFault& fault, Store&& store) {
  constexpr int kSize = kPackSize<T>;
  const auto* weight_packs = reinterpret_cast<const uint4*>(weight);
  const int num_packs = hidden / kSize;
  const int thread = static_cast<int>(threadIdx.x);
  float squares = 0.0F;
  float sum = 0.0F;
  const auto add = [&](const uint4& pack) {
    float values[kSize];
    widen_pack(pack, values, T{});
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      squares = fmaf(values[j], values[j], squares);
      if constexpr (kPlanted) sum += values[j];
    }
  };
  uint4 held[kHeldPacks];
#pragma unroll
  for (int h = 0; h < kHeldPacks; ++h) {
    const int i = thread + h * kThreads;
    held[h] = i < num_packs ? read(i) : uint4{0, 0, 0, 0};
  }
#pragma unroll
  for (int h = 0; h < kHeldPacks; ++h) add(held[h]);  // zeros add nothing
  for (int i = thread + kHeldPacks * kThreads; i < num_packs; i += kThreads) add(read(i));

  const float mean_square = block_sum<kThreads>(squares) / static_cast<float>(hidden);
  float factor = __frsqrt_rn(mean_square + eps);
  float shift = 0.0F;
  if constexpr (kPlanted) {
    const float mean = block_sum<kThreads>(sum) / static_cast<float>(hidden);
    if (fault.id == FaultId::kLayerNorm || fault.id == FaultId::kLayerNormFull) shift = mean;
    if (fault.id == FaultId::kLayerNormFull) factor = 1.0F / sqrtf(mean_square - mean * mean + eps);
    if (fault.id == FaultId::kNoSqrt) factor = 1.0F / (mean_square + eps);
    const bool differs = fault.id == FaultId::kLayerNorm || fault.id == FaultId::kLayerNormFull ||
                         fault.id == FaultId::kOnePlusWeight || fault.id == FaultId::kNoWeight ||
                         fault.id == FaultId::kNoSqrt;
    if (thread == 0 && differs) count_execution(fault);
  }
  const auto finish = [&](int i, const uint4& pack, const uint4& weight_pack) {
    float values[kSize];
    float weights[kSize];
    widen_pack(pack, values, T{});
    widen_pack(weight_pack, weights, T{});
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if constexpr (kPlanted) {
        if (fault.id == FaultId::kOnePlusWeight) weights[j] += 1.0F;
        if (fault.id == FaultId::kNoWeight) weights[j] = 1.0F;
        values[j] -= shift;
      }
      values[j] = values[j] * factor * weights[j];
    }
    store(i, narrow_pack<T>(values));
  };
#pragma unroll
  for (int h = 0; h < kHeldPacks; ++h) {
    const int i = thread + h * kThreads;
    if (i < num_packs) finish(i, held[h], held_weights.packs[h]);
  }
  for (int i = thread + kHeldPacks * kThreads; i < num_packs; i += kThreads) finish(i, read_again(i), weight_packs[i]);
}

// The same of x in global memory.
template <typename T, int kThreads, bool kPlanted, typename Store>
__device__ __forceinline__ void rms_norm_row(const T* x, const T* weight, const HeldWeights<T, kThreads>& held_weights,
                                             int hidden, float eps, const KernelFault& fault, Store&& store) {
  const auto read = [packs = reinterpret_cast<const uint4*>(x)](int i) { return packs[i]; };
  rms_norm_row<T, kThreads, kPlanted>(read, read, weight, held_weights, hidden, eps, fault, store);
}

}  // namespace qdiff::optimized::cuda
