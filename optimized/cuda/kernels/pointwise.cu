// Embedding, residual sum, SwiGLU, greedy token, and the logical view of a cache.
#include "optimized/cuda/kernels/partial_sums.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

// A block a row.
template <typename T, bool kPlanted>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const EmbeddingParams p) {
  release_successor();
  wait_for_predecessor();
  const std::int64_t row = blockIdx.x;
  std::int64_t token = p.inputs.tokens[row];
  if constexpr (kPlanted) {
    token = (token + 1) % p.vocab;
    if (threadIdx.x == 0) count_execution(p.fault);
  }
  constexpr int kSize = kPackSize<T>;
  const auto* from = reinterpret_cast<const uint4*>(static_cast<const T*>(p.table) + token * p.hidden);
  auto* to = reinterpret_cast<uint4*>(static_cast<T*>(p.out) + row * p.hidden);
  for (int i = threadIdx.x; i < p.hidden / kSize; i += kThreads) to[i] = from[i];
}

// A thread a pack.
template <typename T, bool kInParts>
__global__ void __launch_bounds__(kThreads) add_kernel(const AddParams p) {
  wait_for_predecessor();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < static_cast<std::int64_t>(p.rows) * p.hidden / kPackSize<T>) add_pack<T, kInParts>(p, i);
}

// A thread a pack of act.
template <typename T, bool kPlanted>
__global__ void __launch_bounds__(kThreads) silu_mul_kernel(const SiluMulParams p) {
  wait_for_predecessor();
  constexpr int kSize = kPackSize<T>;
  const int packs = p.intermediate / kSize;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = index / packs;
  if (row >= p.rows) return;
  const auto* gate_up = static_cast<const uint4*>(p.gate_up) + row * 2 * packs + index % packs;
  float gate[kSize];
  float up[kSize];
  const bool swapped = kPlanted && p.fault.id == FaultId::kGateUpSwapped;
  widen_pack(gate_up[swapped ? packs : 0], gate, T{});
  widen_pack(gate_up[swapped ? 0 : packs], up, T{});
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    float silu = gate[j] / (1.0F + expf(-gate[j]));
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kNoSilu) silu = gate[j];
    }
    gate[j] = silu * up[j];
  }
  if constexpr (kPlanted) {
    if (threadIdx.x == 0) count_execution(p.fault);
  }
  static_cast<uint4*>(p.act)[index] = narrow_pack<T>(gate);
}

__device__ __forceinline__ bool better(float value, std::int32_t index, float best, std::int32_t best_index) {
  return value > best || (value == best && index < best_index);
}

// The best of what the threads of a block hold, in thread 0.
__device__ __forceinline__ void block_best(float& best, std::int32_t& index) {
  __shared__ float values[kThreads];
  __shared__ std::int32_t indices[kThreads];
  values[threadIdx.x] = best;
  indices[threadIdx.x] = index;
  for (int offset = kThreads / 2; offset > 0; offset /= 2) {
    __syncthreads();
    const int other = static_cast<int>(threadIdx.x) + offset;
    if (static_cast<int>(threadIdx.x) < offset &&
        better(values[other], indices[other], values[threadIdx.x], indices[threadIdx.x])) {
      values[threadIdx.x] = values[other];
      indices[threadIdx.x] = indices[other];
    }
  }
  __syncthreads();
  best = values[0];
  index = indices[0];
}

constexpr float kLowest = -__builtin_inff();
constexpr std::int32_t kNoIndex = 0x7FFFFFFF;

template <typename T>
__global__ void __launch_bounds__(kThreads) argmax_parts_kernel(const ArgmaxParams p) {
  release_successor();
  wait_for_predecessor();
  const T* logits = static_cast<const T*>(p.logits) + blockIdx.y * p.stride;
  float best = kLowest;
  std::int32_t index = kNoIndex;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x; i < p.vocab; i += kArgmaxBlocks * kThreads) {
    const float value = widen(logits[i]);
    if (better(value, i, best, index)) {
      best = value;
      index = i;
    }
  }
  block_best(best, index);
  if (threadIdx.x == 0) {
    p.block_best[blockIdx.y * kArgmaxBlocks + blockIdx.x] = best;
    p.block_index[blockIdx.y * kArgmaxBlocks + blockIdx.x] = index;
  }
}

__global__ void __launch_bounds__(kThreads) argmax_whole_kernel(const ArgmaxParams p) {
  release_successor();
  wait_for_predecessor();
  float best = kLowest;
  std::int32_t index = kNoIndex;
  if (threadIdx.x < kArgmaxBlocks) {
    best = p.block_best[blockIdx.x * kArgmaxBlocks + threadIdx.x];
    index = p.block_index[blockIdx.x * kArgmaxBlocks + threadIdx.x];
  }
  block_best(best, index);
  if (threadIdx.x != 0) return;
  p.tokens[blockIdx.x] = index == kNoIndex ? 0 : index;  // no logit is a number: any token
  ++p.positions[blockIdx.x];
  if (blockIdx.x == 0) ++*p.past_length;
}

// A block a (slot, head, row); d threads.
template <typename T, bool kPlanted>
__global__ void gather_cache_kernel(const GatherCacheParams p) {
  const int slot = blockIdx.x;
  const int kv_head = blockIdx.y;
  const int b = blockIdx.z;
  const int d = threadIdx.x;
  std::int64_t from = p.layout.offset(p.layer, b, kv_head, slot, d);
  if constexpr (kPlanted) {
    if (p.fault.id == FaultId::kNoBatchStride) from = p.layout.offset(p.layer, 0, kv_head, slot, d);
    if (p.fault.id == FaultId::kNoHeadStride) from = p.layout.offset(p.layer, b, 0, slot, d);
    if (p.fault.id == FaultId::kNoLayerStride) from = p.layout.offset(0, b, kv_head, slot, d);
  }
  const std::int64_t to =
      ((static_cast<std::int64_t>(b) * p.valid_length + slot) * p.layout.num_kv_heads + kv_head) * p.layout.head_dim +
      d;
  static_cast<T*>(p.out)[to] = static_cast<const T*>(p.cache)[from];
}

}  // namespace

void launch_embedding(const EmbeddingParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(launch.planted ? embedding_kernel<T, true> : embedding_kernel<T, false>, dim3(params.rows),
                  dim3(kThreads), 0, launch, params);
  });
}

void launch_add(const AddParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    const std::int64_t packs = static_cast<std::int64_t>(params.rows) * params.hidden / kPackSize<T>;
    launch_kernel(params.partials.sums != nullptr ? add_kernel<T, true> : add_kernel<T, false>, dim3(blocks_for(packs)),
                  dim3(kThreads), 0, launch, params);
  });
}

void launch_silu_mul(const SiluMulParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    const std::int64_t packs = static_cast<std::int64_t>(params.rows) * (params.intermediate / kPackSize<T>);
    launch_kernel(launch.planted ? silu_mul_kernel<T, true> : silu_mul_kernel<T, false>, dim3(blocks_for(packs)),
                  dim3(kThreads), 0, launch, params);
  });
}

void launch_argmax(const ArgmaxParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(argmax_parts_kernel<T>, dim3(kArgmaxBlocks, params.batch), dim3(kThreads), 0, launch, params);
  });
  launch_kernel(argmax_whole_kernel, dim3(params.batch), dim3(kThreads), 0, launch, params);
}

void launch_gather_cache(const GatherCacheParams& params, const Launch& launch) {
  const dim3 grid(params.valid_length, static_cast<unsigned>(params.layout.num_kv_heads),
                  static_cast<unsigned>(params.layout.batch));
  with_storage(launch.dtype, [&]<typename T>() {
    launch_kernel(launch.planted ? gather_cache_kernel<T, true> : gather_cache_kernel<T, false>, grid,
                  dim3(static_cast<unsigned>(params.layout.head_dim)), 0, launch, params);
  });
}

}  // namespace qdiff::optimized::cuda
