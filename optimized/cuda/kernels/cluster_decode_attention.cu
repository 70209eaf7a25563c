// Attention of one query of few rows in 16-bit storage: flash decoding (Dao et al. 2023) by clusters of eight blocks,
// for a step of few rows waits for its kernels' latency more than for anything else. A warp takes 32 keys of one
// key/value head and all query heads of its group, eight at most. A block's warps put theirs together and send each
// head to the shared memory of the block that finishes it, so that up to 2048 keys meet without a way through global
// memory; of more, the last cluster to finish adds the clusters up.
//
// Keys go to blocks in turn, 32 at a time from the row's first real slot on, and are added up by warp, by block and by
// cluster, each in order, so the sums do not depend on what else runs.
#include "optimized/cuda/kernels/split_attention.cuh"
#include "optimized/cuda/kernels/warp_attention.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kBlocks = 8;  // of a cluster
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpKeys = 32;
constexpr int kPortions = kBlocks * kWarps;  // of a cluster's keys, one a warp
constexpr int kClusterKeys = kPortions * kWarpKeys;
static_assert(kMostHeads <= kBlocks);  // a block finishes one head
// Blocks of a multiprocessor, as registers allow. An H200 has room for 30 clusters where they are two: with 32000 keys
// of two heads, the last two of 32 clusters began when the first had ended, 4 us late in each layer, and a token of the
// 0.5B took 710 us for 659.
template <int kHeadDim>
constexpr int kBlocksAtOnce = kHeadDim <= 64 ? 3 : 2;

template <typename T, int kHeadDim>
constexpr int kTileBytes = Values<T, kHeadDim, kWarpKeys>::kWarpBytes;

// What a block sends of one head.
template <int kHeadDim>
struct Sent {
  float out[kHeadDim];
  float2 maximum_and_sum;
  float2 unused;  // the size is a multiple of 16 bytes
};

// All blocks of a cluster meet: what was written to another's shared memory before `arrive` is there after `wait`.
__device__ __forceinline__ void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where `pointer` into this block's shared memory lies in block `rank`'s.
__device__ __forceinline__ unsigned address_in_block(const void* pointer, int rank) {
  unsigned address = 0;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(pointer)), "r"(rank));
  return address;
}
__device__ __forceinline__ void send(unsigned address, const float4& x) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x.x), "f"(x.y), "f"(x.z),
               "f"(x.w)
               : "memory");
}
__device__ __forceinline__ void send(unsigned address, float x, float y) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}

// Each head of this block's warps to the block of that rank.
template <typename T, int kHeadDim>
__device__ __forceinline__ void send_heads(const unsigned char* tiles, int group_size, const Sent<kHeadDim>& place) {
  for (int i = static_cast<int>(threadIdx.x); i < group_size * kHeadDim / 4; i += kThreads) {
    const int head = i / (kHeadDim / 4);
    const int column = i % (kHeadDim / 4) * 4;
    const Columns all = combine_warps<kHeadDim, kWarps, kTileBytes<T, kHeadDim>>(tiles, head, column);
    send(address_in_block(&place.out[column], head), all.out);
    if (column == 0) send(address_in_block(&place.maximum_and_sum, head), all.maximum, all.sum);
  }
}

// What blocks without keys would have sent here.
template <int kHeadDim>
__device__ __forceinline__ void receive_nothing(Sent<kHeadDim>* received, int first) {
  for (int i = static_cast<int>(threadIdx.x); i < (kBlocks - first) * kHeadDim; i += kThreads) {
    Sent<kHeadDim>& place = received[first + i / kHeadDim];
    place.out[i % kHeadDim] = 0.0F;
    place.maximum_and_sum = make_float2(kMinusInfinity, 0.0F);
  }
}

// One head of the whole cluster, by one warp: the result, or where there are several clusters its part of it.
template <typename T, int kHeadDim>
__device__ __forceinline__ void finish_head(const AttentionParams& p, std::int64_t head_row, int cluster,
                                            int num_clusters, const Sent<kHeadDim>* received, float* weights) {
  const int lane = static_cast<int>(threadIdx.x);
  const bool has_columns = lane < kHeadDim / 4;
  const int column = has_columns ? lane * 4 : 0;
  const Columns all =
      combine<kBlocks>([&](int block) { return received[block].maximum_and_sum; },
                       [&](int block) { return *reinterpret_cast<const float4*>(&received[block].out[column]); });
  if (num_clusters == 1) {
    if (!has_columns) return;
    const float factor = all.sum == 0.0F ? 0.0F : __frcp_rn(all.sum);
    union {
      T items[4];
      uint2 raw;
    } out{{narrow<T>(all.out.x * factor), narrow<T>(all.out.y * factor), narrow<T>(all.out.z * factor),
           narrow<T>(all.out.w * factor)}};
    *reinterpret_cast<uint2*>(static_cast<T*>(p.out) + head_row * kHeadDim + column) = out.raw;
    return;
  }
  const std::int64_t to = head_row * p.num_splits + cluster;
  if (has_columns) *reinterpret_cast<float4*>(p.partial_out + to * kHeadDim + column) = all.out;
  if (lane == 0) {
    p.partial_max[to] = all.maximum;
    p.partial_sum[to] = all.sum;
  }
  __syncwarp();
  unsigned ticket = 0;
  if (lane == 0) ticket = take_ticket(p.tickets + head_row);
  ticket = __shfl_sync(0xFFFFFFFFU, ticket, 0);
  if (ticket != static_cast<unsigned>(num_clusters - 1)) return;
  if (lane == 0) p.tickets[head_row] = 0;
  __syncwarp();
  combine_splits<T, kHeadDim, false, BinaryExponential>(p, head_row, num_clusters, weights);
}

template <typename T, int kHeadDim>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, kBlocksAtOnce<kHeadDim>)
    cluster_decode_attention_kernel(const AttentionParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* received = reinterpret_cast<Sent<kHeadDim>*>(shared + kWarps * kTileBytes<T, kHeadDim>);  // [kBlocks]
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int rank = static_cast<int>(blockIdx.x) % kBlocks;
  const int cluster = static_cast<int>(blockIdx.x) / kBlocks;
  const int kv_head = blockIdx.y;
  const int b = blockIdx.z;
  // Lengths are the step's; no kernel of the step changes them before its end.
  const SlotRange range = visible_slots<false>(p, b, 0);
  const int length = range.last - range.first + 1;
  const int num_portions = max(1, (length + kWarpKeys - 1) / kWarpKeys);
  const int num_clusters = (num_portions + kPortions - 1) / kPortions;
  release_successor();
  if (cluster >= num_clusters) {
    wait_for_predecessor();
    return;
  }
  const int portions = min(kPortions, num_portions - cluster * kPortions);
  const int active_warps = (portions - rank + kBlocks - 1) / kBlocks;
  receive_nothing(received, min(kBlocks, portions));
  arrive_at_cluster();
  if (warp < active_warps) {
    const int portion = cluster * kPortions + warp * kBlocks + rank;
    const int base = range.first + portion * kWarpKeys;
    const int count = max(0, min(kWarpKeys, length - portion * kWarpKeys));
    attend<T, kHeadDim, kWarpKeys>(p, b, kv_head, base, count, max(0, min(count, range.last - base)),
                                   shared + warp * kTileBytes<T, kHeadDim>);
  } else {
    leave_nothing<kHeadDim>(shared + warp * kTileBytes<T, kHeadDim>);
    wait_for_predecessor();
  }
  __syncthreads();
  wait_for_cluster();  // all blocks have begun, and their shared memory is there
  const int group_size = p.num_q_heads / p.num_kv_heads;
  if (active_warps > 0) send_heads<T, kHeadDim>(shared, group_size, received[rank]);
  arrive_at_cluster();
  wait_for_cluster();
  if (warp != 0 || rank >= group_size) return;
  const std::int64_t head_row = static_cast<std::int64_t>(b) * p.num_q_heads + kv_head * group_size + rank;
  finish_head<T, kHeadDim>(p, head_row, cluster, num_clusters, received, reinterpret_cast<float*>(shared));
}

template <typename T>
void launch_storage(const AttentionParams& params, const Launch& launch) {
  with_head_dim(params.head_dim, [&]<int kHeadDim>() {
    const int clusters = (params.num_splits * kKeyTile + kClusterKeys - 1) / kClusterKeys;
    const std::size_t bytes = kWarps * kTileBytes<T, kHeadDim> + kBlocks * sizeof(Sent<kHeadDim>);
    launch_kernel(cluster_decode_attention_kernel<T, kHeadDim>,
                  dim3(clusters * kBlocks, params.num_kv_heads, params.batch), dim3(kThreads), bytes, launch, params);
  });
}

}  // namespace

void launch_cluster_decode_attention(const AttentionParams& params, const Launch& launch) {
  with_16_bit_storage(launch.dtype, [&]<typename T>() { launch_storage<T>(params, launch); });
}

}  // namespace qdiff::optimized::cuda
