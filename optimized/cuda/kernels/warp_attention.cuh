// Attention of one query a row to a few dozen keys, by one warp on the tensor cores, for all query heads of a group.
//
// A product has 16 rows and a group no more than eight heads. The scores leave the lower eight rows empty; the product
// with the values has a second part of the weights there.
#pragma once

#include <type_traits>

#include "optimized/cuda/kernels/attention.cuh"
#include "optimized/cuda/kernels/bulk_copy.cuh"
#include "optimized/cuda/kernels/weight_parts.cuh"

namespace qdiff::optimized::cuda {

inline constexpr int kMostHeads = 8;  // of a group

// Lest the second part of a float16 underflow.
template <typename T>
constexpr float kShift = std::is_same_v<T, Bf16> ? 1.0F : 0x1p10F;

template <typename T, int kHeadDim, int kKeys>
struct Values {
  static constexpr int kRowBytes = kHeadDim * static_cast<int>(sizeof(T)) + 16;  // neighbours differ in bank
  static constexpr int kWarpBytes = kKeys * kRowBytes;
};

// sums [16][8] += a [16][16] b [16][8] (PTX ISA, mma.m16n8k16). Of a lane: the sums of columns 2c and 2c + 1 of row r,
// then of row r + 8, where r is lane / 4 and c is lane % 4.
template <typename T>
__device__ __forceinline__ void multiply(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                         unsigned b0, unsigned b1) {
#define QDIFF_MULTIPLY(type)                                                          \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<T, Bf16>) {
    QDIFF_MULTIPLY("bf16");
  } else {
    QDIFF_MULTIPLY("f16");
  }
#undef QDIFF_MULTIPLY
}

// Starts the copy of a piece of a row from `source`, or of zeros.
__device__ __forceinline__ void start_piece(unsigned char* to, const void* source, bool zero) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(source),
               "r"(zero ? 0 : 16)
               : "memory");
}

// Two operands b of 16 keys and eight columns each, from `address` of this lane's row on.
__device__ __forceinline__ void load_values(unsigned (&b)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

// What one warp leaves of its keys for the block, where its values were: of each head the highest score in powers of
// two, the sum of the weights relative to it, and the weighted values.
template <int kHeadDim>
struct WarpResult {
  float maximum[kMostHeads];
  float sum[kMostHeads];
  float out[kMostHeads][kHeadDim];
};

// What a warp without keys leaves.
template <int kHeadDim>
__device__ __forceinline__ void leave_nothing(unsigned char* tile) {
  auto* result = reinterpret_cast<WarpResult<kHeadDim>*>(tile);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane < kMostHeads) {
    result->maximum[lane] = kMinusInfinity;
    result->sum[lane] = 0.0F;
  }
  auto* out = reinterpret_cast<float4*>(result->out);
  for (int i = lane; i < kMostHeads * kHeadDim / 4; i += 32) out[i] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
}

// `count` keys and values, kKeys at most, from slot `base` of the row on, by one warp. The first `ready` of them are
// there before the kernel in front has ended; this step's own is its.
template <typename T, int kHeadDim, int kKeys>
__device__ __forceinline__ void attend(const AttentionParams& p, int b, int kv_head, int base, int count, int ready,
                                       unsigned char* tile) {
  using Tile = Values<T, kHeadDim, kKeys>;
  static_assert(sizeof(WarpResult<kHeadDim>) <= Tile::kWarpBytes);
  constexpr int kRowBytes = Tile::kRowBytes;
  constexpr int kKeyGroups = kKeys / 8;  // columns of a product of scores
  constexpr int kGroups = 4;             // so many as the registers hold the keys of
  constexpr int kRounds = kKeyGroups / kGroups;
  constexpr int kSteps = kKeys / 16;  // of the product with the values
  constexpr int kPieces = kHeadDim * static_cast<int>(sizeof(T)) / 16;
  constexpr int kPacks = kHeadDim / 32;  // of a row, for each of the four lanes that share it
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = lane / 4;  // of the group; also a key of eight
  const int quarter = lane % 4;
  const int group_size = p.num_q_heads / p.num_kv_heads;
  const std::int64_t plane = p.layout.offset(p.layer, b, kv_head, base, 0);
  const T* key_plane = static_cast<const T*>(p.key_cache) + plane;
  const T* value_plane = static_cast<const T*>(p.value_cache) + plane;
  // Behind the last there are zeros: a weight of zero times what a free slot holds may be NaN.
#pragma unroll
  for (int n = 0; n < kKeys * kPieces / 32; ++n) {
    const int row = (lane + n * 32) / kPieces;
    const int piece = (lane + n * 32) % kPieces;
    if (row >= ready && row < count) continue;
    const T* from = value_plane + (row < count ? row : 0) * kHeadDim + piece * kPackSize<T>;
    start_piece(tile + row * kRowBytes + piece * 16, from, row >= count);
  }
  // Which 16 dimensions a product takes is free, as long as queries and keys agree: each lane takes those of its packs.
  uint4 key[kGroups][kPacks];
  const auto load_keys = [&](int round, int begin, int end) {
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int row = (round * kGroups + j) * 8 + lane / 4;
      if (row < begin || row >= end) continue;
      const auto* packs = reinterpret_cast<const uint4*>(key_plane + row * kHeadDim) + quarter;
#pragma unroll
      for (int i = 0; i < kPacks; ++i) key[j][i] = packs[4 * i];
    }
  };
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) key[j][i] = uint4{0, 0, 0, 0};
  }
  load_keys(0, 0, ready);
  wait_for_predecessor();
  if (ready < count && lane < kPieces) {
    start_piece(tile + ready * kRowBytes + lane * 16, value_plane + ready * kHeadDim + lane * kPackSize<T>, false);
  }
  load_keys(0, ready, count);
  uint4 query[kPacks];
  const std::int64_t row_of_q = static_cast<std::int64_t>(b) * p.num_q_heads + kv_head * group_size + head;
  const auto* q = reinterpret_cast<const uint4*>(static_cast<const T*>(p.q) + row_of_q * kHeadDim) + quarter;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) query[i] = head < group_size ? q[4 * i] : uint4{0, 0, 0, 0};

  float score[kKeyGroups][4] = {};
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) load_keys(round, 0, count);  // what lies behind keeps the keys of the round before, and is masked
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        float(&sums)[4] = score[round * kGroups + j];
        multiply<T>(sums, query[i].x, 0, query[i].y, 0, key[j][i].x, key[j][i].y);
        multiply<T>(sums, query[i].z, 0, query[i].w, 0, key[j][i].z, key[j][i].w);
      }
    }
  }

  if (count < kKeys) {
#pragma unroll
    for (int j = 0; j < kKeyGroups; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (j * 8 + quarter * 2 + c >= count) score[j][c] = kMinusInfinity;
      }
    }
  }
  float even = score[0][0];
  float odd = score[0][1];
#pragma unroll
  for (int j = 1; j < kKeyGroups; ++j) {
    even = fmaxf(even, score[j][0]);
    odd = fmaxf(odd, score[j][1]);
  }
  const float factor = p.scale * kLog2OfE;
  const float maximum = row_max(fmaxf(even, odd)) * factor;
  const float reference = reference_of(maximum);
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kKeyGroups; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float weight = power_of_two(fmaf(score[j][c], factor, -reference));
      sum += weight;
      score[j][c] = weight * kShift<T>;
    }
  }
  sum = row_sum(sum);

  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  float out[kHeadDim / 8][4] = {};
  const int row_of_lane = lane / 8 % 2 * 8 + lane % 8;  // ldmatrix: eight keys, the next eight, then the next columns
  const unsigned address = shared_address(tile + row_of_lane * kRowBytes + lane / 16 * 8 * static_cast<int>(sizeof(T)));
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    float(&early)[4] = score[2 * step];
    float(&late)[4] = score[2 * step + 1];
    unsigned early_parts[3];
    unsigned late_parts[3];
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      early_parts[part] = take_part<T>(early[0], early[1]);
      late_parts[part] = take_part<T>(late[0], late[1]);
    }
#pragma unroll
    for (int columns = 0; columns < kHeadDim; columns += 16) {
      unsigned value[4];
      load_values(value, address + step * 16 * kRowBytes + columns * static_cast<int>(sizeof(T)));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&sums)[4] = out[columns / 8 + half];
        if constexpr (std::is_same_v<T, Bf16>) {
          multiply<T>(sums, early_parts[2], 0, late_parts[2], 0, value[2 * half], value[2 * half + 1]);
        }
        multiply<T>(sums, early_parts[0], early_parts[1], late_parts[0], late_parts[1], value[2 * half],
                    value[2 * half + 1]);
      }
    }
  }
  __syncwarp();  // all lanes have read the values, and the result may take their place
  auto* result = reinterpret_cast<WarpResult<kHeadDim>*>(tile);
  if (quarter == 0) {
    result->maximum[head] = maximum;
    result->sum[head] = sum;
  }
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
    *reinterpret_cast<float2*>(&result->out[head][8 * n + quarter * 2]) =
        make_float2((out[n][0] + out[n][2]) / kShift<T>, (out[n][1] + out[n][3]) / kShift<T>);
  }
}

// Four columns of one head over several sets of keys.
struct Columns {
  float maximum;
  float sum;
  float4 out;
};

// Those of kSets sets, in order: head(i) is a set's maximum and sum, out(i) its columns.
template <int kSets, typename Head, typename Out>
__device__ __forceinline__ Columns combine(Head&& head, Out&& out) {
  float2 heads[kSets];
  Columns all{kMinusInfinity, 0.0F, make_float4(0.0F, 0.0F, 0.0F, 0.0F)};
#pragma unroll
  for (int i = 0; i < kSets; ++i) {
    heads[i] = head(i);
    all.maximum = fmaxf(all.maximum, heads[i].x);
  }
  const float reference = reference_of(all.maximum);
#pragma unroll
  for (int i = 0; i < kSets; ++i) {
    const float weight = power_of_two(heads[i].x - reference);
    const float4 columns = out(i);
    all.sum = fmaf(weight, heads[i].y, all.sum);
    all.out.x = fmaf(weight, columns.x, all.out.x);
    all.out.y = fmaf(weight, columns.y, all.out.y);
    all.out.z = fmaf(weight, columns.z, all.out.z);
    all.out.w = fmaf(weight, columns.w, all.out.w);
  }
  return all;
}

// Those of a block's warps.
template <int kHeadDim, int kWarps, int kTileBytes>
__device__ __forceinline__ Columns combine_warps(const unsigned char* tiles, int head, int column) {
  const auto result_of = [tiles](int warp) -> const WarpResult<kHeadDim>& {
    return *reinterpret_cast<const WarpResult<kHeadDim>*>(tiles + warp * kTileBytes);
  };
  return combine<kWarps>(
      [&](int warp) { return make_float2(result_of(warp).maximum[head], result_of(warp).sum[head]); },
      [&](int warp) { return *reinterpret_cast<const float4*>(&result_of(warp).out[head][column]); });
}

}  // namespace qdiff::optimized::cuda
