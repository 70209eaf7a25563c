// Attention of many queries in 16-bit storage, on the tensor cores: online softmax over key tiles (Milakov and
// Gimelshein 2018; Dao et al. 2022, FlashAttention), with scores, weights and sums in float32.
//
// A block takes 128 queries of one head, 64 for each of its two warpgroups, which share the tiles of keys and values in
// shared memory: three stages, so that one warpgroup may be a tile ahead of the other. Key tiles start at the row's
// first real slot, so that a row's tiles, and with them its bits, depend neither on its padding nor on how the prompt
// was cut into steps.
//
// The product with the values takes the softmax's weights in parts of the storage type, whose sum has the 24 bits of
// float32: a weight rounded to bfloat16 would be off by 2^-9, which is a rounding that the engine would have to
// declare.
#include "optimized/cuda/kernels/attention.cuh"
#include "optimized/cuda/kernels/warpgroup_product.cuh"
#include "optimized/cuda/kernels/weight_parts.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpgroupQueries = 64;
constexpr int kQueries = 2 * kWarpgroupQueries;
constexpr int kKeys = 128;          // of a tile
constexpr int kSteps = kKeys / 16;  // of the product with the values
constexpr int kStages = 3;          // of keys and values
constexpr int kRowBytes = 128;
constexpr int kPanelBytes = kKeys * kRowBytes;
constexpr int kAlignment = 1024;
static_assert(kQueries == kKeys);  // one size of panel

// Two parts of float16 hold 22 bits, and weights below one are multiplied by 2^kShift, lest small parts underflow;
// three of bfloat16 hold 24.
template <typename T>
constexpr int kParts = std::is_same_v<T, Bf16> ? 3 : 2;
template <typename T>
constexpr float kShift = std::is_same_v<T, Bf16> ? 0.0F : 10.0F;

// Columns come in panels of 64; a head dim of 32 fills half of one.
template <int kHeadDim>
constexpr int kPanels = (kHeadDim + 63) / 64;
template <int kHeadDim>
constexpr int kTileBytes = kPanels<kHeadDim>* kPanelBytes;

template <typename T>
__device__ __forceinline__ unsigned pack(T low, T high) {
  union {
    T items[2];
    unsigned word;
  } pair{{low, high}};
  return pair.word;
}

// Starts the copy of a tile's rows: `count` from memory, the rest zero.
template <typename T, int kHeadDim>
__device__ __forceinline__ void start_tile(const T* source, std::int64_t row_stride, int count, unsigned char* tile) {
  constexpr int kPieces = kHeadDim * static_cast<int>(sizeof(T)) / 16;
  constexpr int kRowsAtOnce = kThreads / kPieces;
  static_assert(kKeys % kRowsAtOnce == 0 && kRowsAtOnce % 8 == 0);  // a thread's rows are swizzled alike
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const unsigned to = shared_address(tile) + piece / 8 * kPanelBytes + row * kRowBytes + (piece % 8 ^ row % 8) * 16;
  const T* from = source + row * row_stride + piece * kPackSize<T>;
  const auto copy = [&](int n, const T* at, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + n * kRowsAtOnce * kRowBytes), "l"(at),
                 "r"(bytes)
                 : "memory");
  };
  if (count >= kKeys) {
#pragma unroll
    for (int n = 0; n < kKeys / kRowsAtOnce; ++n) copy(n, from + n * kRowsAtOnce * row_stride, 16);
    return;
  }
#pragma unroll
  for (int n = 0; n < kKeys / kRowsAtOnce; ++n) {
    const bool inside = row + n * kRowsAtOnce < count;
    copy(n, inside ? from + n * kRowsAtOnce * row_stride : source, inside ? 16 : 0);
  }
}

// All copies that this warp started are there, and will be seen by products of those that wait for `barrier`.
__device__ __forceinline__ void finish_tiles(std::uint64_t* barrier) {
  asm volatile("cp.async.wait_all;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x % 32 == 0) arrive(barrier);
}

// The warpgroups score in turn: while one is at its scores and weights, the other keeps the tensor cores at work.
__device__ __forceinline__ void take_turn(int warpgroup) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup), "n"(kThreads) : "memory");
}
__device__ __forceinline__ void give_turn(int warpgroup) {
  asm volatile("bar.arrive %0, %1;" ::"r"(1 + warpgroup), "n"(kThreads) : "memory");
}

// A thread holds two rows, 8 apart; of each eight columns n, elements 4n and 4n+1 of the upper row, 4n+2 and 4n+3 of
// the lower one.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) tensor_attention_kernel(const AttentionParams p) {
  constexpr int kTile = kTileBytes<kHeadDim>;
  constexpr int kSums = kPanels<kHeadDim> * 32;
  extern __shared__ unsigned char unaligned[];
  unsigned char* queries = unaligned + (kAlignment - shared_address(unaligned) % kAlignment) % kAlignment;
  unsigned char* keys = queries + kTile;           // [kStages]
  unsigned char* values = keys + kStages * kTile;  // [kStages]
  // By warp: its copies into the stage are there; it has read the stage.
  __shared__ std::uint64_t arrived[kStages], used[kStages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&arrived[i], kThreads / 32);
      init_barrier(&used[i], kThreads / 32);
    }
    publish_barriers();
  }
  __syncthreads();
  wait_for_predecessor();
  const int tile_index = static_cast<int>(gridDim.y - 1 - blockIdx.y);  // of all heads the long rows first
  const int head = static_cast<int>(blockIdx.x) % p.num_q_heads;
  const int b = static_cast<int>(blockIdx.x) / p.num_q_heads;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int t_begin = tile_index * kQueries;
  const int t_count = min(kQueries, p.num_tokens - t_begin);
  const std::int64_t plane = plane_offset<false>(p, b, kv_head_of<false>(p, head));
  const T* key_plane = static_cast<const T*>(p.key_cache) + plane;
  const T* value_plane = static_cast<const T*>(p.value_cache) + plane;
  const std::int64_t row_begin = static_cast<std::int64_t>(b) * p.num_tokens + t_begin;  // of [M,H,d]
  const std::int64_t row_stride = static_cast<std::int64_t>(p.num_q_heads) * kHeadDim;

  const SlotRange range = visible_slots<false>(p, b, t_begin);
  const int first = range.first;
  const int end = range.last + t_count;                                     // behind the last query's own slot
  const int group_first_last = range.last + warpgroup * kWarpgroupQueries;  // last slot of the warpgroup's first query
  const int row = warpgroup * kWarpgroupQueries + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const auto start_stage = [&](int base, int stage) {
    const int count = min(kKeys, end - base);
    const std::int64_t offset = static_cast<std::int64_t>(base) * kHeadDim;
    start_tile<T, kHeadDim>(key_plane + offset, kHeadDim, count, keys + stage * kTile);
    start_tile<T, kHeadDim>(value_plane + offset, kHeadDim, count, values + stage * kTile);
  };
  start_tile<T, kHeadDim>(static_cast<const T*>(p.q) + row_begin * row_stride + head * kHeadDim, row_stride, t_count,
                          queries);
  const int num_tiles = max(0, (end - first + kKeys - 1) / kKeys);
  if (num_tiles > 0) start_stage(first, 0);
  finish_tiles(&arrived[0]);
  if (num_tiles > 1) start_stage(first + kKeys, 1);

  const float factor = p.scale * kLog2OfE;
  float maximum[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {0.0F, 0.0F};
  float out[kSums];
#pragma unroll
  for (int i = 0; i < kSums; ++i) out[i] = 0.0F;

  if (warpgroup == 1) give_turn(0);
  int stage = 0;
  unsigned parity = 0;  // of the stages' current round
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int base = first + tile * kKeys;
    const int next = stage + 1 == kStages ? 0 : stage + 1;
    const int after_next = next + 1 == kStages ? 0 : next + 1;
    const auto yield = [&] {
      give_turn(1 - warpgroup);
      if (tile + 1 < num_tiles) finish_tiles(&arrived[next]);
    };
    wait_for_bytes(&arrived[stage], parity);
    take_turn(warpgroup);
    if (base <= group_first_last + kWarpgroupQueries - 1) {
      float score[64];
      {
        const std::uint64_t q = tile_descriptor(queries + warpgroup * kWarpgroupQueries * kRowBytes, 16);
        const std::uint64_t k = tile_descriptor(keys + stage * kTile, 16);
        order_before_products();
#pragma unroll
        for (int step = 0; step < kHeadDim / 16; ++step) {
          const unsigned at = step / 4 * kPanelBytes + step % 4 * 32;
          start_product<T>(score, advanced(q, at), advanced(k, at), step > 0);
        }
        commit_products();
        wait_for_products();
        pin_sums(score);
      }

      if (base + kKeys - 1 > group_first_last) {
#pragma unroll
        for (int i = 0; i < 64; ++i) {
          const int slot = base + i / 4 * 8 + lane % 4 * 2 + i % 2;
          if (slot > range.last + row + i % 4 / 2 * 8) score[i] = kMinusInfinity;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float even = score[2 * half];
        float odd = score[2 * half + 1];
#pragma unroll
        for (int n = 1; n < 16; ++n) {
          even = fmaxf(even, score[4 * n + 2 * half]);
          odd = fmaxf(odd, score[4 * n + 2 * half + 1]);
        }
        const float highest = fmaxf(maximum[half], row_max(fmaxf(even, odd)) * factor);
        const float reference = reference_of(highest);
        const float correction = power_of_two(maximum[half] - reference);
        maximum[half] = highest;
        float total = 0.0F;
#pragma unroll
        for (int n = 0; n < 16; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float& x = score[4 * n + 2 * half + j];
            x = power_of_two(fmaf(x, factor, kShift<T> - reference));
            total += x;
          }
        }
        sum[half] = fmaf(sum[half], correction, total);
#pragma unroll
        for (int n = 0; n < kSums / 4; ++n) {
          out[4 * n + 2 * half] *= correction;
          out[4 * n + 2 * half + 1] *= correction;
        }
      }

      yield();
      // In two batches: while the tensor cores work at the first, the second is rounded.
      const std::uint64_t v = tile_descriptor(values + stage * kTile, kPanelBytes);
      pin_sums(out);
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        unsigned weights[kSteps / 2][kParts<T>][4];
#pragma unroll
        for (int step = 0; step < kSteps / 2; ++step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& low = score[8 * (batch * kSteps / 2 + step) + 2 * i];
            float& high = score[8 * (batch * kSteps / 2 + step) + 2 * i + 1];
#pragma unroll
            for (int part = 0; part < kParts<T>; ++part) weights[step][part][i] = take_part<T>(low, high);
          }
        }
        order_before_products();
#pragma unroll
        for (int step = 0; step < kSteps / 2; ++step) {
#pragma unroll
          for (int part = 0; part < kParts<T>; ++part) {
            start_weighted<T>(out, weights[step][part], advanced(v, (batch * kSteps / 2 + step) * 16 * kRowBytes));
          }
        }
        commit_products();
      }
      wait_for_products();
      pin_sums(out);
    } else {  // behind every query of the warpgroup
      yield();
    }
    if (tile + 2 < num_tiles) {
      // Where the tile before this one was.
      if (tile > 0) wait_for_bytes(&used[after_next], stage == 0 ? parity ^ 1 : parity);
      start_stage(base + 2 * kKeys, after_next);
    }
    if (lane == 0) arrive(&used[stage]);
    stage = next;
    if (stage == 0) parity ^= 1;
  }
  if (warpgroup == 0) take_turn(0);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = row_sum(sum[half]);
    const int query = row + 8 * half;
    if (query >= t_count) continue;
    T* to = static_cast<T*>(p.out) + (row_begin + query) * row_stride + head * kHeadDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      const float low = total == 0.0F ? 0.0F : out[4 * n + 2 * half] / total;
      const float high = total == 0.0F ? 0.0F : out[4 * n + 2 * half + 1] / total;
      *reinterpret_cast<unsigned*>(to + 8 * n) = pack(narrow<T>(low), narrow<T>(high));
    }
  }
}

template <typename T, int kHeadDim>
void launch_head_dim(const AttentionParams& params, const Launch& launch) {
  const dim3 grid(params.num_q_heads * params.batch, (params.num_tokens + kQueries - 1) / kQueries);
  constexpr std::size_t kBytes = (1 + 2 * kStages) * kTileBytes<kHeadDim> + kAlignment;
  launch_kernel(tensor_attention_kernel<T, kHeadDim>, grid, dim3(kThreads), kBytes, launch, params);
}

template <typename T>
void launch_storage(const AttentionParams& params, const Launch& launch) {
  with_head_dim(params.head_dim, [&]<int kHeadDim>() { launch_head_dim<T, kHeadDim>(params, launch); });
}

}  // namespace

void launch_tensor_attention(const AttentionParams& params, const Launch& launch) {
  with_16_bit_storage(launch.dtype, [&]<typename T>() { launch_storage<T>(params, launch); });
}

}  // namespace qdiff::optimized::cuda
