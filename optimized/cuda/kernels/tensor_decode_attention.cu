// Attention of one query a row in 16-bit storage, on the tensor cores: flash decoding (Dao et al. 2023). A warp takes
// 64 keys of one key/value head and all query heads of its group, eight at most; a block's four warps put their splits
// together, and the last block of a group to finish does so with the blocks', in order of the keys. Splits and blocks
// have a fixed length and start at the row's first real slot, so the sums do not depend on what else runs.
//
// A product has 16 rows and a group no more than eight heads. The scores leave the lower eight rows empty; the product
// with the values has a second part of the weights there. The weights are taken in parts of the storage type that
// together have float32's 24 bits (22 for float16), as in tensor_attention.cu.
#include <algorithm>
#include <type_traits>

#include "optimized/cuda/kernels/bulk_copy.cuh"
#include "optimized/cuda/kernels/split_attention.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeyGroups = kKeyTile / 8;  // columns of a product of scores
constexpr int kSteps = kKeyTile / 16;     // of the product with the values
constexpr int kMostHeads = 8;             // of a group

// Lest the second part of a float16 underflow.
template <typename T>
constexpr float kShift = std::is_same_v<T, Bf16> ? 1.0F : 0x1p10F;

template <typename T, int kHeadDim>
struct Values {
  static constexpr int kRowBytes = kHeadDim * static_cast<int>(sizeof(T)) + 16;  // neighbours differ in bank
  static constexpr int kWarpBytes = kKeyTile * kRowBytes;
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

// The first part of two numbers, taken off them; exact.
template <typename T>
__device__ __forceinline__ unsigned take_part(float& low, float& high) {
  union {
    T items[2];
    unsigned word;
  } part{{narrow<T>(low), narrow<T>(high)}};
  low -= widen(part.items[0]);
  high -= widen(part.items[1]);
  return part.word;
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

// The four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFU, x, 2);
}

// What one warp leaves of its split for the block: of each head the highest score, the sum of the weights relative to
// it, and the weighted values.
template <int kHeadDim>
struct SplitResult {
  float maximum[kMostHeads];
  float sum[kMostHeads];
  float out[kMostHeads][kHeadDim];
};

// One split: `count` keys and values from slot `base` of the row on, by one warp. The first `ready` of them are there
// before the kernel in front has ended; this step's own is its.
template <typename T, int kHeadDim>
__device__ __forceinline__ void attend(const AttentionParams& p, int b, int kv_head, int base, int count, int ready,
                                       unsigned char* tile) {
  constexpr int kRowBytes = Values<T, kHeadDim>::kRowBytes;
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
  for (int n = 0; n < kKeyTile * kPieces / 32; ++n) {
    const int row = (lane + n * 32) / kPieces;
    const int piece = (lane + n * 32) % kPieces;
    if (row >= ready && row < count) continue;
    const T* from = value_plane + (row < count ? row : 0) * kHeadDim + piece * kPackSize<T>;
    start_piece(tile + row * kRowBytes + piece * 16, from, row >= count);
  }
  // In two halves, so many as the registers hold. Which 16 dimensions a product takes is free, as long as queries and
  // keys agree: each lane takes those of its packs.
  uint4 key[kKeyGroups / 2][kPacks];
  const auto load_keys = [&](int half, int begin, int end) {
#pragma unroll
    for (int j = 0; j < kKeyGroups / 2; ++j) {
      const int row = (half * kKeyGroups / 2 + j) * 8 + lane / 4;
      if (row < begin || row >= end) continue;
      const auto* packs = reinterpret_cast<const uint4*>(key_plane + row * kHeadDim) + quarter;
#pragma unroll
      for (int i = 0; i < kPacks; ++i) key[j][i] = packs[4 * i];
    }
  };
#pragma unroll
  for (int j = 0; j < kKeyGroups / 2; ++j) {
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
  for (int half = 0; half < 2; ++half) {
    if (half == 1) load_keys(1, 0, count);  // what lies behind keeps the first half's, and is masked
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int j = 0; j < kKeyGroups / 2; ++j) {
        float(&sums)[4] = score[half * kKeyGroups / 2 + j];
        multiply<T>(sums, query[i].x, 0, query[i].y, 0, key[j][i].x, key[j][i].y);
        multiply<T>(sums, query[i].z, 0, query[i].w, 0, key[j][i].z, key[j][i].w);
      }
    }
  }

  float maximum = kMinusInfinity;
#pragma unroll
  for (int j = 0; j < kKeyGroups; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const bool visible = j * 8 + quarter * 2 + c < count;
      score[j][c] = visible ? scaled_score<false>(p, score[j][c]) : kMinusInfinity;
      maximum = fmaxf(maximum, score[j][c]);
    }
  }
  maximum = row_max(maximum);
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kKeyGroups; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float weight = score[j][c] == kMinusInfinity ? 0.0F : expf(score[j][c] - maximum);
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
  auto* result = reinterpret_cast<SplitResult<kHeadDim>*>(tile);
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

// The block's splits put together, in order, as one of the group's.
template <typename T, int kHeadDim>
__device__ __forceinline__ void combine_block(const AttentionParams& p, std::int64_t first_row, int group_size,
                                              int count, const unsigned char* tiles) {
  const auto result_of = [tiles](int split) -> const SplitResult<kHeadDim>& {
    return *reinterpret_cast<const SplitResult<kHeadDim>*>(tiles + split * Values<T, kHeadDim>::kWarpBytes);
  };
  for (int i = static_cast<int>(threadIdx.x); i < group_size * kHeadDim / 4; i += kThreads) {
    const int head = i / (kHeadDim / 4);
    const int column = i % (kHeadDim / 4) * 4;
    float maximum = kMinusInfinity;
    for (int split = 0; split < count; ++split) maximum = fmaxf(maximum, result_of(split).maximum[head]);
    float sum = 0.0F;
    float4 out = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    for (int split = 0; split < count; ++split) {
      const SplitResult<kHeadDim>& result = result_of(split);
      const float weight = maximum == kMinusInfinity ? 0.0F : expf(result.maximum[head] - maximum);
      const float4 part = *reinterpret_cast<const float4*>(&result.out[head][column]);
      sum = fmaf(weight, result.sum[head], sum);
      out.x = fmaf(weight, part.x, out.x);
      out.y = fmaf(weight, part.y, out.y);
      out.z = fmaf(weight, part.z, out.z);
      out.w = fmaf(weight, part.w, out.w);
    }
    const std::int64_t to = (first_row + head) * p.num_splits + blockIdx.x;
    *reinterpret_cast<float4*>(p.partial_out + to * kHeadDim + column) = out;
    if (column == 0) {
      p.partial_max[to] = maximum;
      p.partial_sum[to] = sum;
    }
  }
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 3) tensor_decode_attention_kernel(const AttentionParams p) {
  static_assert(sizeof(SplitResult<kHeadDim>) <= Values<T, kHeadDim>::kWarpBytes);
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ bool is_last;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int kv_head = blockIdx.y;
  const int b = blockIdx.z;
  // Lengths are the step's; no kernel of the step changes them before its end.
  const SlotRange range = visible_slots<false>(p, b, 0);
  const int length = range.last - range.first + 1;
  const int num_splits = max(1, (length + kKeyTile - 1) / kKeyTile);
  const int num_blocks = (num_splits + kWarps - 1) / kWarps;
  release_successor();
  const int split = static_cast<int>(blockIdx.x) * kWarps + warp;
  if (split < num_splits) {
    const int base = range.first + split * kKeyTile;
    const int count = max(0, min(kKeyTile, length - split * kKeyTile));
    attend<T, kHeadDim>(p, b, kv_head, base, count, max(0, min(count, range.last - base)),
                        shared + warp * Values<T, kHeadDim>::kWarpBytes);
  } else {
    wait_for_predecessor();
  }
  if (static_cast<int>(blockIdx.x) >= num_blocks) return;
  const int group_size = p.num_q_heads / p.num_kv_heads;
  const std::int64_t first_row = static_cast<std::int64_t>(b) * p.num_q_heads + kv_head * group_size;
  __syncthreads();
  combine_block<T, kHeadDim>(p, first_row, group_size, min(kWarps, num_splits - static_cast<int>(blockIdx.x) * kWarps),
                             shared);
  __syncthreads();
  unsigned* tickets = p.tickets + static_cast<std::int64_t>(b) * p.num_q_heads + kv_head;
  if (threadIdx.x == 0) {
    is_last = take_ticket(tickets) == static_cast<unsigned>(num_blocks - 1);
    if (is_last) *tickets = 0;
  }
  __syncthreads();
  if (!is_last) return;
  auto* weights = reinterpret_cast<float*>(shared);  // [G][blocks]
  for (int g = warp; g < group_size; g += kWarps) {
    combine_splits<T, kHeadDim, false>(p, first_row + g, num_blocks, weights + g * num_blocks);
  }
}

template <typename T>
void launch_storage(const AttentionParams& params, const Launch& launch) {
  with_head_dim(params.head_dim, [&]<int kHeadDim>() {
    const dim3 grid((params.num_splits + kWarps - 1) / kWarps, params.num_kv_heads, params.batch);
    const std::size_t weights =
        static_cast<std::size_t>(params.num_q_heads / params.num_kv_heads) * grid.x * sizeof(float);
    const std::size_t values = kWarps * Values<T, kHeadDim>::kWarpBytes;
    launch_kernel(tensor_decode_attention_kernel<T, kHeadDim>, grid, dim3(kThreads), std::max(values, weights), launch,
                  params);
  });
}

}  // namespace

bool tensor_decode_attention_takes(const AttentionParams& params, DType dtype) {
  return dtype != DType::kF32 && params.num_q_heads / params.num_kv_heads <= kMostHeads;
}

void launch_tensor_decode_attention(const AttentionParams& params, const Launch& launch) {
  switch (launch.dtype) {
    case DType::kBF16:
      return launch_storage<Bf16>(params, launch);
    case DType::kF16:
      return launch_storage<F16>(params, launch);
    default:
      throw std::logic_error("tensor decode attention takes 16-bit storage");
  }
}

}  // namespace qdiff::optimized::cuda
