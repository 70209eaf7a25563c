// RoPE and cache append of many rows, its planted twin, and the table of angles.
#include <cmath>

#include "optimized/cuda/kernels/partial_sums.cuh"
#include "optimized/cuda/kernels/rope_append.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kThreads = 256;

// A thread a pack of rotary pairs: index = (row * (H+2K) + head) * packs + pack.
template <typename T, bool kInParts>
__global__ void __launch_bounds__(kThreads) rope_append_kernel(const RopeAppendParams p) {
  wait_for_predecessor();
  constexpr int kSize = kPackSize<T>;
  const int half = p.head_dim / 2;
  const int packs = half / kSize;
  const int heads = p.num_q_heads + 2 * p.num_kv_heads;
  const std::int64_t rows = static_cast<std::int64_t>(p.batch) * p.num_tokens;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = index / (static_cast<std::int64_t>(heads) * packs);
  if (row >= rows) return;
  const int in_row = static_cast<int>(index - row * heads * packs);
  const int head = in_row / packs;
  const int i = in_row % packs * kSize;  // the first pair's
  const int column = head * p.head_dim + i;
  const std::int64_t width = static_cast<std::int64_t>(heads) * p.head_dim;
  auto* low_at = reinterpret_cast<uint4*>(static_cast<T*>(p.qkv) + row * width + column);
  auto* high_at = reinterpret_cast<uint4*>(static_cast<T*>(p.qkv) + row * width + column + half);
  if constexpr (kInParts) {
    const auto finish = [&](int first, uint4* to) {
      float sums[kSize];
      float bias[kSize];
      add_parts(p.partials, rows * width, row * width + first, sums);
      widen_pack(*reinterpret_cast<const uint4*>(static_cast<const T*>(p.bias) + first), bias, T{});
#pragma unroll
      for (int j = 0; j < kSize; ++j) sums[j] += bias[j];
      *to = narrow_pack<T>(sums);
    };
    finish(column, low_at);
    finish(column + half, high_at);
  }
  const uint4 low_pack = *low_at;
  const uint4 high_pack = *high_at;
  const int b = static_cast<int>(row / p.num_tokens);
  const int t = static_cast<int>(row % p.num_tokens);
  const std::int64_t slot = *p.inputs.past_length + static_cast<std::int64_t>(t);
  const auto append = [&](void* cache, int kv_head, const uint4& low, const uint4& high) {
    T* to = static_cast<T*>(cache) + p.layout.offset(p.layer, b, kv_head, slot, i);
    *reinterpret_cast<uint4*>(to) = low;
    *reinterpret_cast<uint4*>(to + half) = high;
  };
  if (head >= p.num_q_heads + p.num_kv_heads) {
    append(p.value_cache, head - p.num_q_heads - p.num_kv_heads, low_pack, high_pack);
    return;
  }
  const float2* turns = p.table + static_cast<std::int64_t>(p.inputs.positions[row]) * half + i;
  float low[kSize];
  float high[kSize];
  widen_pack(low_pack, low, T{});
  widen_pack(high_pack, high, T{});
#pragma unroll
  for (int j = 0; j < kSize; j += 2) {
    const float4 two = *reinterpret_cast<const float4*>(turns + j);
    rotate(low[j], high[j], {two.x, two.y});
    rotate(low[j + 1], high[j + 1], {two.z, two.w});
  }
  const uint4 rotated_low = narrow_pack<T>(low);
  const uint4 rotated_high = narrow_pack<T>(high);
  const bool is_q = head < p.num_q_heads;
  T* out = is_q ? static_cast<T*>(p.q_rope) + (row * p.num_q_heads + head) * p.head_dim
                : static_cast<T*>(p.k_rope) + (row * p.num_kv_heads + head - p.num_q_heads) * p.head_dim;
  *reinterpret_cast<uint4*>(out + i) = rotated_low;
  *reinterpret_cast<uint4*>(out + i + half) = rotated_high;
  if (!is_q) append(p.key_cache, head - p.num_q_heads, rotated_low, rotated_high);
}

struct Pair {
  float low;
  float high;
};

// Elements i and j of one head, turned by angle i of `position`, by the planted rules.
__device__ Pair planted_turn(const RopeAppendParams& p, float low, float high, std::int64_t position, int i) {
  const float2 turn = p.table[position * (p.head_dim / 2) + i];
  const float sine = p.fault.id == FaultId::kReverse ? -turn.y : turn.y;
  return {low * turn.x - high * sine, high * turn.x + low * sine};
}

__device__ std::int64_t planted_position(const RopeAppendParams& p, int b, int t) {
  const std::int64_t row = static_cast<std::int64_t>(b) * p.num_tokens + t;
  switch (p.fault.id) {
    case FaultId::kDecodePosZero:
      return p.decode ? 0 : p.inputs.positions[row];
    case FaultId::kDecodePosPlusOne:
      return p.inputs.positions[row] + (p.decode ? 1 : 0);
    case FaultId::kChunkLocalPos:
      return p.decode ? p.inputs.positions[row] : max(0, t - max(0, p.inputs.left_padding[b] - *p.inputs.past_length));
    case FaultId::kBatchPos:
      return p.inputs.positions[t];
    default:
      return p.inputs.positions[row];
  }
}

// Whether this head of this token comes out otherwise than it should, as far as it can be told without the values.
__device__ bool turn_differs(const RopeAppendParams& p, int b, int t, bool is_q, bool is_v) {
  if (is_v) return false;
  const std::int64_t right = p.inputs.positions[static_cast<std::int64_t>(b) * p.num_tokens + t];
  if (planted_position(p, b, t) != right || p.late_bias != nullptr) return true;
  if (right == 0) return false;  // nothing turns there
  switch (p.fault.id) {
    case FaultId::kInterleaved:
    case FaultId::kNoRope:
    case FaultId::kRopeTwice:
    case FaultId::kReverse:
      return true;
    case FaultId::kQOnly:
    case FaultId::kAfterCache:
      return !is_q;
    case FaultId::kKOnly:
      return is_q;
    default:
      return false;
  }
}

// Whether row b writes to this slot; pads do not, but for one fault.
__device__ bool writes(const RopeAppendParams& p, int b, std::int64_t slot) {
  return slot >= p.inputs.left_padding[b] || (p.fault.id == FaultId::kNoBatchStride && p.fault.value == 1.0F);
}

// The address that a wrong writer computes. Where several values would land on one address, the last of them in the
// order of (batch, head) stays, as in a loop over them; -1: this one does not stay, or is not written.
__device__ std::int64_t planted_offset(const RopeAppendParams& p, int b, int kv_head, std::int64_t slot, int i) {
  const KvCacheLayout& l = p.layout;
  if (!writes(p, b, slot)) return -1;
  switch (p.fault.id) {
    case FaultId::kNoBatchStride:
      for (int later = b + 1; later < p.batch; ++later) {
        if (writes(p, later, slot)) return -1;
      }
      return l.offset(p.layer, 0, kv_head, slot, i);
    case FaultId::kNoHeadStride:
      return kv_head == p.num_kv_heads - 1 ? l.offset(p.layer, b, 0, slot, i) : -1;
    case FaultId::kNoLayerStride:
      return l.offset(0, b, kv_head, slot, i);
    case FaultId::kPosMajor:
      return l.offset(p.layer, b, 0, slot * p.num_kv_heads + kv_head, i);
    case FaultId::kHeadStrideIsTokens:
      return l.offset(p.layer, b, 0, kv_head * static_cast<std::int64_t>(p.num_tokens) + slot, i);
    case FaultId::kWritePlusOne:
      return l.offset(p.layer, b, kv_head, p.decode && slot + 1 < l.capacity ? slot + 1 : slot, i);
    case FaultId::kWriteMinusOne:
      return l.offset(p.layer, b, kv_head, p.decode && slot > 0 ? slot - 1 : slot, i);
    default:
      return l.offset(p.layer, b, kv_head, slot, i);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) rope_append_planted_kernel(const RopeAppendParams p) {
  wait_for_predecessor();
  const int half = p.head_dim / 2;
  const int heads = p.num_q_heads + 2 * p.num_kv_heads;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = index / (static_cast<std::int64_t>(heads) * half);
  if (row >= static_cast<std::int64_t>(p.batch) * p.num_tokens) return;
  const int in_row = static_cast<int>(index - row * heads * half);
  const int head = in_row / half;
  const int i = in_row % half;
  const int b = static_cast<int>(row / p.num_tokens);
  const int t = static_cast<int>(row % p.num_tokens);
  const std::int64_t slot = *p.inputs.past_length + t;
  const T* x = static_cast<const T*>(p.qkv) + (row * heads + head) * p.head_dim;
  const bool is_q = head < p.num_q_heads;
  const bool is_v = head >= p.num_q_heads + p.num_kv_heads;
  const int kv_head = is_v ? head - p.num_q_heads - p.num_kv_heads : head - p.num_q_heads;

  const bool interleaved = p.fault.id == FaultId::kInterleaved && !is_v;
  const int first = interleaved ? 2 * i : i;
  const int second = interleaved ? 2 * i + 1 : i + half;
  Pair pair{widen(x[first]), widen(x[second])};
  const Pair before = pair;
  if (!is_v) {
    const bool turns = p.fault.id != FaultId::kNoRope && !(p.fault.id == FaultId::kQOnly && !is_q) &&
                       !(p.fault.id == FaultId::kKOnly && is_q);
    const std::int64_t position = planted_position(p, b, t);
    if (turns) pair = planted_turn(p, pair.low, pair.high, position, i);
    if (p.fault.id == FaultId::kRopeTwice) pair = planted_turn(p, pair.low, pair.high, position, i);
  }
  if (p.late_bias != nullptr && !is_v) {
    const T* bias = static_cast<const T*>(p.late_bias) + head * p.head_dim;
    pair.low += widen(bias[first]);
    pair.high += widen(bias[second]);
  }
  const T low = narrow<T>(pair.low);
  const T high = narrow<T>(pair.high);
  if (!is_v) {
    T* out = is_q ? static_cast<T*>(p.q_rope) + (row * p.num_q_heads + head) * p.head_dim
                  : static_cast<T*>(p.k_rope) + (row * p.num_kv_heads + kv_head) * p.head_dim;
    out[first] = low;
    out[second] = high;
  }
  if (i == 0 && turn_differs(p, b, t, is_q, is_v)) count_execution(p.fault);
  if (is_q) return;

  const std::int64_t first_offset = planted_offset(p, b, kv_head, slot, first);
  const std::int64_t right_offset = p.layout.offset(p.layer, b, kv_head, slot, first);
  const std::int64_t second_offset = planted_offset(p, b, kv_head, slot, second);
  if (first_offset < 0) return;
  if (i == 0 && (p.fault.id == FaultId::kVIntoK ? is_v : first_offset != right_offset)) count_execution(p.fault);
  const bool unrotated = p.fault.id == FaultId::kAfterCache && !is_v;
  const T cached_low = unrotated ? narrow<T>(before.low) : low;
  const T cached_high = unrotated ? narrow<T>(before.high) : high;
  T* cache = static_cast<T*>(is_v ? p.value_cache : p.key_cache);
  if (p.fault.id == FaultId::kVIntoK) {
    if (!is_v) return;  // v comes later and stays
    cache = static_cast<T*>(p.key_cache);
  }
  cache[first_offset] = cached_low;
  cache[second_offset] = cached_high;
}

// A thread a table entry. The angle and its cosine and sine are in float64, rounded once to float32.
__global__ void rope_table_kernel(const RopeTableParams p) {
  const int half = p.head_dim / 2;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= static_cast<std::int64_t>(p.num_positions) * half) return;
  const int i = static_cast<int>(index % half);
  const double position = static_cast<double>(index / half);
  const double angle = 2 * i < p.rotated ? position * pow(p.theta, -2.0 * i / p.head_dim) : 0.0;
  float cosine = static_cast<float>(cos(angle));
  float sine = static_cast<float>(sin(angle));
  if (p.through_bf16) {
    cosine = __bfloat162float(__float2bfloat16_rn(cosine));
    sine = __bfloat162float(__float2bfloat16_rn(sine));
  }
  p.table[index] = make_float2(cosine, sine);
}

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

void launch_rope_append(const RopeAppendParams& params, const Launch& launch) {
  const std::int64_t heads =
      static_cast<std::int64_t>(params.batch) * params.num_tokens * (params.num_q_heads + 2 * params.num_kv_heads);
  const int half = params.head_dim / 2;
  with_storage(launch.dtype, [&]<typename T>() {
    if (launch.planted) {
      launch_kernel(rope_append_planted_kernel<T>, dim3(blocks_for(heads * half)), dim3(kThreads), 0, launch, params);
    } else {
      launch_kernel(params.partials.sums != nullptr ? rope_append_kernel<T, true> : rope_append_kernel<T, false>,
                    dim3(blocks_for(heads * (half / kPackSize<T>))), dim3(kThreads), 0, launch, params);
    }
  });
}

void launch_rope_table(const RopeTableParams& params, cudaStream_t stream) {
  const std::int64_t entries = static_cast<std::int64_t>(params.num_positions) * (params.head_dim / 2);
  rope_table_kernel<<<blocks_for(entries), kThreads, 0, stream>>>(params);
  QDIFF_CUDA_CHECK_LAUNCH();
}

}  // namespace qdiff::optimized::cuda
