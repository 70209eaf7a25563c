// What both attention kernels decide alike: which slots a query sees and which key/value head it reads.
#pragma once

#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

struct SlotRange {
  int first;
  int last;  // inclusive; less than `first`: nothing is visible
};

// Query t of row b stands in slot past + t and sees the real slots up to its own.
template <bool kPlanted>
__device__ __forceinline__ SlotRange visible_slots(const AttentionParams& p, int b, int t) {
  const int past = *p.inputs.past_length;
  const int slot = past + t;
  SlotRange range{p.inputs.left_padding[b], slot};
  if constexpr (kPlanted) {
    const int final_slot = past + p.num_tokens - 1;
    switch (p.fault.id) {
      case FaultId::kNoMask:
        range.last = final_slot;
        break;
      case FaultId::kStrict:
        if (!p.decode) range.last = slot - 1;
        break;
      case FaultId::kOneAhead:
        range.last = min(slot + 1, final_slot);
        break;
      case FaultId::kTopLeft:
        range.last = t;
        break;
      case FaultId::kChunkOnly:
        range.first = max(range.first, past);
        break;
      case FaultId::kPadVisible:
        range.first = 0;
        break;
      case FaultId::kReadMinusOne:
        if (p.decode) range.last = slot - 1;
        break;
      case FaultId::kFirstToken:
        if (p.first_decode) range.last = slot - 1;
        break;
      case FaultId::kReadMinusFirst:
        if (p.decode) range.first = max(range.first, 1);
        break;
      case FaultId::kReadPlusOne:
        if (p.decode) range.last = min(slot + 1, static_cast<int>(p.layout.capacity) - 1);
        break;
      default:
        break;
    }
  }
  return range;
}

template <bool kPlanted>
__device__ __forceinline__ int kv_head_of(const AttentionParams& p, int head) {
  const int group_size = p.num_q_heads / p.num_kv_heads;
  const int right = head / group_size;
  if constexpr (kPlanted) {
    int planted = right;
    switch (p.fault.id) {
      case FaultId::kModulo:
        planted = head % p.num_kv_heads;
        break;
      case FaultId::kPrefillOnly:
        if (!p.decode) planted = head % p.num_kv_heads;
        break;
      case FaultId::kDecodeOnly:
        if (p.decode) planted = head % p.num_kv_heads;
        break;
      case FaultId::kDivideByKv:
        planted = min(head / p.num_kv_heads, p.num_kv_heads - 1);
        break;
      case FaultId::kGroupOffByOne:
        planted = min(head / max(1, group_size + static_cast<int>(p.fault.value)), p.num_kv_heads - 1);
        break;
      case FaultId::kHeadZero:
      case FaultId::kNoHeadStride:
        planted = 0;
        break;
      default:
        break;
    }
    return planted;
  }
  return right;
}

// Element (slot 0, d 0) of the plane that row b and kv_head read.
template <bool kPlanted>
__device__ __forceinline__ std::int64_t plane_offset(const AttentionParams& p, int b, int kv_head) {
  if constexpr (kPlanted) {
    if (p.fault.id == FaultId::kNoBatchStride) return p.layout.offset(p.layer, 0, kv_head, 0, 0);
    if (p.fault.id == FaultId::kNoLayerStride) return p.layout.offset(0, b, kv_head, 0, 0);
  }
  return p.layout.offset(p.layer, b, kv_head, 0, 0);
}

// Whether a query that weighs nothing has seen scores all the same: float16 took each of them to -inf, and the softmax
// of these is NaN. `maximum` is -inf for both.
__device__ __forceinline__ bool overflowed(const KernelFault& fault, float maximum) {
  return fault.id == FaultId::kQkFp16 && maximum == -__builtin_inff();
}

// Whether what the planted code does for this head and query differs from the right code, as far as it can be told
// without the values: other slots, another head; faults of arithmetic count wherever they run.
__device__ __forceinline__ bool planted_differs(const AttentionParams& p, int b, int t, int head) {
  const SlotRange planted = visible_slots<true>(p, b, t);
  const SlotRange right = visible_slots<false>(p, b, t);
  if (planted.first != right.first || planted.last != right.last) return true;
  if (kv_head_of<true>(p, head) != kv_head_of<false>(p, head)) return true;
  if (p.fault.race == Race::kMissingBarrier) return true;
  switch (p.fault.id) {
    case FaultId::kNoBatchStride:
      return b > 0;
    case FaultId::kNoLayerStride:
      return p.layer > 0;
    case FaultId::kTileMax:
      return right.last - right.first + 1 > kKeyTile;
    case FaultId::kTailZero:
      return (right.last - right.first + 1) % kKeyTile != 0;
    case FaultId::kScaleAfter:
    case FaultId::kNoMax:
    case FaultId::kQkFp16:
      return true;
    default:
      return false;
  }
}

// The dot product on its way to the softmax.
template <bool kPlanted>
__device__ __forceinline__ float scaled_score(const AttentionParams& p, float product) {
  if constexpr (kPlanted) {
    if (p.fault.id == FaultId::kQkFp16) product = __half2float(__float2half_rn(product));
    if (p.fault.id == FaultId::kScaleAfter) return product;
  }
  return product * p.scale;
}

inline constexpr float kMinusInfinity = -__builtin_inff();

// The tensor cores' kernels count in powers of two: one instruction, where expf takes eight. Scores are multiplied by
// log2(e) then.
inline constexpr float kLog2OfE = 1.44269504088896341F;
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// What weights are relative to; a row that has seen nothing has weights of zero.
__device__ __forceinline__ float reference_of(float maximum) { return maximum == kMinusInfinity ? 0.0F : maximum; }

// Of the sums of a tensor cores' product: the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFU, x, 2);
}

// Calls f<kHeadDim>().
template <typename F>
void with_head_dim(int head_dim, F&& f) {
  switch (head_dim) {
    case 32:
      return f.template operator()<32>();
    case 64:
      return f.template operator()<64>();
    case 128:
      return f.template operator()<128>();
    default:
      throw std::logic_error("the cuda engine has no attention for this head dim");
  }
}

}  // namespace qdiff::optimized::cuda
