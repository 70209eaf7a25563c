// Attention of one query a row: flash decoding (Dao et al. 2023). A block takes 64 keys of one key/value head and all
// query heads of its group; the last block of a group to finish adds the splits up, in order of the keys. Splits have
// a fixed length and start at the row's first real slot, so the sums do not depend on what else runs.
//
// It serves float32, groups of more than eight heads, and all planted attention; the others are on tensor cores.
#include "optimized/cuda/kernels/split_attention.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeadsAtOnce = 8;
constexpr int kThreadsOfKey = kThreads / kKeyTile;

template <typename T, int kHeadDim>
struct Shared {
  static constexpr int kKeyBytes = kHeadDim * static_cast<int>(sizeof(T)) + 16;  // a key row; neighbours differ in bank
  static constexpr int kValueBytes = kHeadDim * static_cast<int>(sizeof(T));
  static constexpr int kKeyGroups = kThreads / kHeadDim;  // of the product with the values

  static std::size_t bytes(int group_size, int num_splits) {
    const std::size_t tiles = kKeyTile * (kKeyBytes + kValueBytes);
    const std::size_t floats = static_cast<std::size_t>(group_size) *
                               (kHeadDim + kKeyTile + kThreads + num_splits);  // q, scores, partial sums, weights
    return tiles + floats * sizeof(float);
  }
};

template <typename T, int kHeadDim, bool kPlanted>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const AttentionParams p) {
  using Layout = Shared<T, kHeadDim>;
  constexpr int kSize = kPackSize<T>;
  constexpr int kPacks = kHeadDim / kSize;
  constexpr int kKeyGroups = Layout::kKeyGroups;
  constexpr int kPacksOfThread = kKeyTile * kPacks / kThreads;
  static_assert(kPacksOfThread >= 1 && kPacks % kThreadsOfKey == 0);
  const int group_size = kPlanted ? 1 : p.num_q_heads / p.num_kv_heads;
  extern __shared__ __align__(16) unsigned char shared[];
  unsigned char* keys = shared;
  unsigned char* values = keys + kKeyTile * Layout::kKeyBytes;
  auto* queries = reinterpret_cast<float*>(values + kKeyTile * Layout::kValueBytes);  // [G][d]
  float* scores = queries + group_size * kHeadDim;                                    // [G][64]
  float* sums = scores + group_size * kKeyTile;                                       // [G][kKeyGroups][d]
  float* weights = sums + group_size * kThreads;                                      // [G][splits]
  __shared__ bool is_last;

  const int split = blockIdx.x;
  const int group = blockIdx.y;
  const int b = blockIdx.z;
  const int first_head = group * group_size;
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  // Lengths are the step's; no kernel of the step changes them before its end.
  const SlotRange range = visible_slots<kPlanted>(p, b, 0);
  const int length = range.last - range.first + 1;
  const int num_splits = max(1, (length + kKeyTile - 1) / kKeyTile);
  if (split >= num_splits) {
    release_successor();
    wait_for_predecessor();
    return;
  }
  const int base = range.first + split * kKeyTile;
  const int count = max(0, min(kKeyTile, length - split * kKeyTile));
  const std::int64_t plane =
      plane_offset<kPlanted>(p, b, kv_head_of<kPlanted>(p, first_head)) + static_cast<std::int64_t>(base) * kHeadDim;
  const auto* key_packs = reinterpret_cast<const uint4*>(static_cast<const T*>(p.key_cache) + plane);
  const auto* value_packs = reinterpret_cast<const uint4*>(static_cast<const T*>(p.value_cache) + plane);

  // What earlier steps put into the cache is read before the kernel in front has ended; only this step's slot is its.
  const int ready = kPlanted ? 0 : min(count, range.last - base);
  uint4 key_pack[kPacksOfThread];
  uint4 value_pack[kPacksOfThread];
  const auto load = [&](int begin, int end) {
#pragma unroll
    for (int n = 0; n < kPacksOfThread; ++n) {
      const int i = thread + n * kThreads;
      const int key = i / kPacks;
      if (key < begin || key >= end) continue;
      key_pack[n] = key_packs[i];
      value_pack[n] = value_packs[i];
    }
  };
#pragma unroll
  for (int n = 0; n < kPacksOfThread; ++n) key_pack[n] = value_pack[n] = uint4{0, 0, 0, 0};
  load(0, ready);
  release_successor();
  wait_for_predecessor();
  if constexpr (kPlanted) {
    if (thread == 0 && split == 0 && planted_differs(p, b, 0, first_head)) count_execution(p.fault);
  }
  load(ready, count);
  const T* q = static_cast<const T*>(p.q) + (static_cast<std::int64_t>(b) * p.num_q_heads + first_head) * kHeadDim;
  for (int i = thread; i < group_size * kHeadDim; i += kThreads) queries[i] = widen(q[i]);
#pragma unroll
  for (int n = 0; n < kPacksOfThread; ++n) {
    const int i = thread + n * kThreads;
    *reinterpret_cast<uint4*>(keys + i / kPacks * Layout::kKeyBytes + i % kPacks * 16) = key_pack[n];
    *reinterpret_cast<uint4*>(values + i * 16) = value_pack[n];
  }
  __syncthreads();

  // Four threads a key, each every fourth pack of the dimensions.
  {
    const int key = thread / kThreadsOfKey;
    const int part = thread % kThreadsOfKey;
    for (int g0 = 0; g0 < group_size; g0 += kHeadsAtOnce) {
      float products[kHeadsAtOnce] = {};
#pragma unroll
      for (int pack = part; pack < kPacks; pack += kThreadsOfKey) {
        float k[kSize];
        widen_pack(*reinterpret_cast<const uint4*>(keys + key * Layout::kKeyBytes + pack * 16), k, T{});
#pragma unroll
        for (int g = 0; g < kHeadsAtOnce; ++g) {
          if (g0 + g >= group_size) continue;
          const auto* query = reinterpret_cast<const float4*>(queries + (g0 + g) * kHeadDim + pack * kSize);
#pragma unroll
          for (int j = 0; j < kSize; j += 4) {
            const float4 x = query[j / 4];
            products[g] = fmaf(x.x, k[j], products[g]);
            products[g] = fmaf(x.y, k[j + 1], products[g]);
            products[g] = fmaf(x.z, k[j + 2], products[g]);
            products[g] = fmaf(x.w, k[j + 3], products[g]);
          }
        }
      }
#pragma unroll
      for (int g = 0; g < kHeadsAtOnce; ++g) {
        float product = products[g] + __shfl_xor_sync(0xFFFFFFFFU, products[g], 1);
        product += __shfl_xor_sync(0xFFFFFFFFU, product, 2);
        if (part != 0 || g0 + g >= group_size) continue;
        float score = key < count ? scaled_score<kPlanted>(p, product) : kMinusInfinity;
        if constexpr (kPlanted) {
          if (p.fault.id == FaultId::kTailZero && key >= count) score = 0.0F;
        }
        scores[(g0 + g) * kKeyTile + key] = score;
      }
    }
  }
  __syncthreads();

  if constexpr (kPlanted) {
    if (p.fault.race != Race::kNone) pause_at_random(1 << 13);
  }
  // A warp a head: scores to weights relative to the split's maximum.
  const std::int64_t first_row = static_cast<std::int64_t>(b) * p.num_q_heads + first_head;
  for (int g = warp; g < group_size; g += kWarps) {
    float* score = scores + g * kKeyTile;
    const float low = score[lane];
    const float high = score[lane + 32];
    float maximum = warp_max(fmaxf(low, high));
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kNoMax) maximum = 0.0F;
    }
    const float low_weight = low == kMinusInfinity ? 0.0F : expf(low - maximum);
    const float high_weight = high == kMinusInfinity ? 0.0F : expf(high - maximum);
    score[lane] = low_weight;
    score[lane + 32] = high_weight;
    const float sum = warp_sum(low_weight + high_weight);
    if (lane == 0) {
      p.partial_max[(first_row + g) * p.num_splits + split] = maximum;
      p.partial_sum[(first_row + g) * p.num_splits + split] = sum;
    }
  }
  if constexpr (kPlanted) {
    if (p.fault.race != Race::kMissingBarrier) __syncthreads();
  } else {
    __syncthreads();
  }

  // A thread a column, and the keys in kKeyGroups runs. Slots behind `count` weigh zero and hold zeros.
  {
    constexpr int kKeysOfGroup = kKeyTile / kKeyGroups;
    const int column = thread % kHeadDim;
    const int key_group = thread / kHeadDim;
    const auto* value = reinterpret_cast<const T*>(values) + key_group * kKeysOfGroup * kHeadDim + column;
    for (int g0 = 0; g0 < group_size; g0 += kHeadsAtOnce) {
      float out[kHeadsAtOnce] = {};
#pragma unroll 2
      for (int key = 0; key < kKeysOfGroup; key += 4) {
        float v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = widen(value[(key + j) * kHeadDim]);
#pragma unroll
        for (int g = 0; g < kHeadsAtOnce; ++g) {
          if (g0 + g >= group_size) continue;
          const float4 w =
              *reinterpret_cast<const float4*>(scores + (g0 + g) * kKeyTile + key_group * kKeysOfGroup + key);
          out[g] = fmaf(w.x, v[0], out[g]);
          out[g] = fmaf(w.y, v[1], out[g]);
          out[g] = fmaf(w.z, v[2], out[g]);
          out[g] = fmaf(w.w, v[3], out[g]);
        }
      }
#pragma unroll
      for (int g = 0; g < kHeadsAtOnce; ++g) {
        if (g0 + g < group_size) sums[((g0 + g) * kKeyGroups + key_group) * kHeadDim + column] = out[g];
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < group_size * kHeadDim; i += kThreads) {
    const int g = i / kHeadDim;
    const int column = i % kHeadDim;
    float out = 0.0F;
#pragma unroll
    for (int k = 0; k < kKeyGroups; ++k) out += sums[(g * kKeyGroups + k) * kHeadDim + column];
    p.partial_out[((first_row + g) * p.num_splits + split) * kHeadDim + column] = out;
  }

  __syncthreads();
  unsigned* tickets = p.tickets + static_cast<std::int64_t>(b) * p.num_q_heads + group;
  if (thread == 0) {
    is_last = take_ticket(tickets) == static_cast<unsigned>(num_splits - 1);
    if (is_last) *tickets = 0;
  }
  __syncthreads();
  if (!is_last) return;
  for (int g = warp; g < group_size; g += kWarps) {
    combine_splits<T, kHeadDim, kPlanted, NaturalExponential>(p, first_row + g, num_splits, weights + g * p.num_splits);
  }
  __syncthreads();
}

template <typename T, int kHeadDim>
void launch_head_dim(const AttentionParams& params, const Launch& launch) {
  const int groups = launch.planted ? params.num_q_heads : params.num_kv_heads;
  const dim3 grid(params.num_splits, groups, params.batch);
  const std::size_t bytes = Shared<T, kHeadDim>::bytes(params.num_q_heads / groups, params.num_splits);
  launch_kernel(
      launch.planted ? decode_attention_kernel<T, kHeadDim, true> : decode_attention_kernel<T, kHeadDim, false>, grid,
      dim3(kThreads), bytes, launch, params);
}

}  // namespace

void launch_decode_attention(const AttentionParams& params, const Launch& launch) {
  with_storage(launch.dtype, [&]<typename T>() {
    with_head_dim(params.head_dim, [&]<int kHeadDim>() { launch_head_dim<T, kHeadDim>(params, launch); });
  });
}

}  // namespace qdiff::optimized::cuda
