// Attention of many queries in float32, and all planted attention of many queries: online softmax over key tiles
// (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention), with scores, probabilities and sums in float32.
//
// A block takes 64 queries of one head. Key tiles start at the row's first real slot, so that a row's tiles, and with
// them its bits, depend neither on its padding nor on how the prompt was cut into steps.
#include <type_traits>

#include "optimized/cuda/kernels/attention.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kQueryTile = 64;
constexpr int kThreads = 256;  // 16 x 16: each holds 4 queries x 4 keys of the scores
constexpr int kRowsPerThread = 4;
constexpr int kScoreStride = kKeyTile + 4;

template <int kHeadDim>
constexpr int kTileStride = kHeadDim + 4;  // in floats: 16-byte rows that start in different banks

template <int kHeadDim>
constexpr std::size_t shared_bytes() {
  return (2 * kQueryTile * kTileStride<kHeadDim> + kQueryTile * kScoreStride) * sizeof(float);
}

// rows [0, kQueryTile) of a tile, `count` of them from memory, the rest zero.
template <typename T, int kHeadDim>
__device__ __forceinline__ void load_tile(const T* source, std::int64_t row_stride, int count, float* tile) {
  constexpr int kSize = kPackSize<T>;
  constexpr int kPacks = kHeadDim / kSize;
  for (int i = threadIdx.x; i < kQueryTile * kPacks; i += kThreads) {
    const int row = i / kPacks;
    const int pack = i % kPacks;
    float values[kSize] = {};
    if (row < count) {
      widen_pack(*reinterpret_cast<const uint4*>(source + row * row_stride + pack * kSize), values, T{});
    }
    float* out = tile + row * kTileStride<kHeadDim> + pack * kSize;
#pragma unroll
    for (int j = 0; j < kSize; j += 4) {
      *reinterpret_cast<float4*>(out + j) = make_float4(values[j], values[j + 1], values[j + 2], values[j + 3]);
    }
  }
}

__device__ __forceinline__ float half_warp_max(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, offset));
  return x;
}
__device__ __forceinline__ float half_warp_sum(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, offset);
  return x;
}

template <typename T, int kHeadDim, bool kPlanted>
__global__ void __launch_bounds__(kThreads) flash_attention_kernel(const AttentionParams p) {
  constexpr int kStride = kTileStride<kHeadDim>;
  constexpr int kCols = kHeadDim / 16;            // output columns of a thread
  constexpr int kVector = kCols < 4 ? kCols : 4;  // neighbouring ones
  constexpr int kVectors = kCols / kVector;
  extern __shared__ float shared[];
  float* queries = shared;                       // [64][kStride]
  float* keys = queries + kQueryTile * kStride;  // [64][kStride], then the values of the same slots
  float* probs = keys + kQueryTile * kStride;    // [64][kScoreStride]

  wait_for_predecessor();
  const int tile_index = static_cast<int>(gridDim.x - 1 - blockIdx.x);  // long rows first
  const int head = blockIdx.y;
  const int b = blockIdx.z;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  const int t_begin = tile_index * kQueryTile;
  const int t_count = min(kQueryTile, p.num_tokens - t_begin);
  const std::int64_t plane = plane_offset<kPlanted>(p, b, kv_head_of<kPlanted>(p, head));
  const T* key_plane = static_cast<const T*>(p.key_cache) + plane;
  const T* value_plane = static_cast<const T*>(p.value_cache) + plane;
  const std::int64_t row_begin = static_cast<std::int64_t>(b) * p.num_tokens + t_begin;  // of [M,H,d]
  const std::int64_t row_stride = static_cast<std::int64_t>(p.num_q_heads) * kHeadDim;
  load_tile<T, kHeadDim>(static_cast<const T*>(p.q) + row_begin * row_stride + head * kHeadDim, row_stride, t_count,
                         queries);

  int last[kRowsPerThread];
  int first = 0;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int t = t_begin + ty * kRowsPerThread + i;
    const SlotRange range = visible_slots<kPlanted>(p, b, t);
    first = range.first;
    last[i] = t < p.num_tokens ? range.last : -1;
    if constexpr (kPlanted) {
      if (tx == 0 && t < p.num_tokens && planted_differs(p, b, t, head)) count_execution(p.fault);
    }
  }
  const int end = visible_slots<kPlanted>(p, b, t_begin + t_count - 1).last + 1;  // of the tile's last query
  [[maybe_unused]] const int valid_length = *p.inputs.past_length + p.num_tokens;

  float maximum[kRowsPerThread];
  float sum[kRowsPerThread];
  float out[kRowsPerThread][kCols];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    maximum[i] = kMinusInfinity;
    sum[i] = 0.0F;
#pragma unroll
    for (int c = 0; c < kCols; ++c) out[i][c] = 0.0F;
  }

  for (int base = first; base < end; base += kKeyTile) {
    const int count = min(kKeyTile, end - base);
    __syncthreads();  // the values of the tile before have been read
    load_tile<T, kHeadDim>(key_plane + static_cast<std::int64_t>(base) * kHeadDim, kHeadDim, count, keys);
    __syncthreads();

    float score[kRowsPerThread][4] = {};
#pragma unroll 4
    for (int k = 0; k < kHeadDim; k += 4) {
      float4 q[kRowsPerThread];
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        q[i] = *reinterpret_cast<const float4*>(queries + (ty * kRowsPerThread + i) * kStride + k);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4 key = *reinterpret_cast<const float4*>(keys + (tx + 16 * j) * kStride + k);
#pragma unroll
        for (int i = 0; i < kRowsPerThread; ++i) {
          score[i][j] = fmaf(q[i].x, key.x, score[i][j]);
          score[i][j] = fmaf(q[i].y, key.y, score[i][j]);
          score[i][j] = fmaf(q[i].z, key.z, score[i][j]);
          score[i][j] = fmaf(q[i].w, key.w, score[i][j]);
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      float highest = maximum[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int slot = base + tx + 16 * j;
        float value = scaled_score<kPlanted>(p, score[i][j]);
        if (!(slot <= last[i])) {
          value = kMinusInfinity;
          if constexpr (kPlanted) {
            // In the query's own last tile, and no later one of the block's.
            if (p.fault.id == FaultId::kTailZero && slot >= valid_length && base <= last[i]) value = 0.0F;
          }
        }
        score[i][j] = value;
        highest = fmaxf(highest, value);
      }
      highest = half_warp_max(highest);
      if constexpr (kPlanted) {
        if (p.fault.id == FaultId::kNoMax) highest = 0.0F;
      }
      // A query that has seen nothing yet keeps its zeros.
      float correction = highest == kMinusInfinity ? 1.0F : expf(maximum[i] - highest);
      if constexpr (kPlanted) {
        if (p.fault.id == FaultId::kTileMax && maximum[i] != kMinusInfinity) correction = 1.0F;
        if (p.fault.id == FaultId::kNoMax) correction = 1.0F;
      }
      float weights = 0.0F;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = score[i][j] == kMinusInfinity ? 0.0F : expf(score[i][j] - highest);
        probs[(ty * kRowsPerThread + i) * kScoreStride + tx + 16 * j] = weight;
        weights += weight;
      }
      sum[i] = fmaf(sum[i], correction, half_warp_sum(weights));
      maximum[i] = highest;
#pragma unroll
      for (int c = 0; c < kCols; ++c) out[i][c] *= correction;
    }
    __syncthreads();  // all scores are done with the keys, and all probabilities are there
    load_tile<T, kHeadDim>(value_plane + static_cast<std::int64_t>(base) * kHeadDim, kHeadDim, count, keys);
    __syncthreads();

#pragma unroll 2
    for (int j = 0; j < kKeyTile; j += 4) {
      float weight[kRowsPerThread][4];
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        const float4 w = *reinterpret_cast<const float4*>(probs + (ty * kRowsPerThread + i) * kScoreStride + j);
        weight[i][0] = w.x;
        weight[i][1] = w.y;
        weight[i][2] = w.z;
        weight[i][3] = w.w;
      }
#pragma unroll
      for (int jj = 0; jj < 4; ++jj) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const float* value = keys + (j + jj) * kStride + (v * 16 + tx) * kVector;
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
#pragma unroll
            for (int i = 0; i < kRowsPerThread; ++i) {
              out[i][v * kVector + e] = fmaf(weight[i][jj], value[e], out[i][v * kVector + e]);
            }
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int row = ty * kRowsPerThread + i;
    if (row >= t_count) continue;
    T* destination = static_cast<T*>(p.out) + (row_begin + row) * row_stride + head * kHeadDim;
    float factor = 1.0F;
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kScaleAfter) factor = p.scale;
    }
#pragma unroll
    for (int c = 0; c < kCols; ++c) {
      const int column = (c / kVector * 16 + tx) * kVector + c % kVector;
      float value = sum[i] == 0.0F ? 0.0F : out[i][c] / sum[i] * factor;
      if constexpr (kPlanted) {
        if (sum[i] == 0.0F && last[i] >= first && overflowed(p.fault, maximum[i])) value = __builtin_nanf("");
      }
      destination[column] = narrow<T>(value);
    }
  }
}

template <typename T, int kHeadDim>
void launch_head_dim(const AttentionParams& params, const Launch& launch) {
  const dim3 grid((params.num_tokens + kQueryTile - 1) / kQueryTile, params.num_q_heads, params.batch);
  auto kernel = flash_attention_kernel<T, kHeadDim, true>;
  if constexpr (std::is_same_v<T, float>) {
    if (!launch.planted) kernel = flash_attention_kernel<T, kHeadDim, false>;
  }
  launch_kernel(kernel, grid, dim3(kThreads), shared_bytes<kHeadDim>(), launch, params);
}

}  // namespace

void launch_flash_attention(const AttentionParams& params, const Launch& launch) {
  if (!launch.planted && launch.dtype != DType::kF32) return launch_tensor_attention(params, launch);
  with_storage(launch.dtype, [&]<typename T>() {
    with_head_dim(params.head_dim, [&]<int kHeadDim>() { launch_head_dim<T, kHeadDim>(params, launch); });
  });
}

}  // namespace qdiff::optimized::cuda
