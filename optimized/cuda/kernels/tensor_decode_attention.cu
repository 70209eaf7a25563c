// Attention of one query a row in 16-bit storage, on the tensor cores: flash decoding (Dao et al. 2023). A warp takes
// 64 keys of one key/value head and all query heads of its group, eight at most; a block's four warps put their splits
// together, and the last block of a group to finish does so with the blocks', in order of the keys. Splits and blocks
// have a fixed length and start at the row's first real slot, so the sums do not depend on what else runs.
#include <algorithm>

#include "optimized/cuda/kernels/split_attention.cuh"
#include "optimized/cuda/kernels/warp_attention.cuh"

namespace qdiff::optimized::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

template <typename T, int kHeadDim>
constexpr int kTileBytes = Values<T, kHeadDim, kKeyTile>::kWarpBytes;

// The block's splits put together, in order, as one of the group's.
template <typename T, int kHeadDim>
__device__ __forceinline__ void combine_block(const AttentionParams& p, std::int64_t first_row, int group_size,
                                              const unsigned char* tiles) {
  for (int i = static_cast<int>(threadIdx.x); i < group_size * kHeadDim / 4; i += kThreads) {
    const int head = i / (kHeadDim / 4);
    const int column = i % (kHeadDim / 4) * 4;
    const Columns all = combine_warps<kHeadDim, kWarps, kTileBytes<T, kHeadDim>>(tiles, head, column);
    const std::int64_t to = (first_row + head) * p.num_splits + blockIdx.x;
    *reinterpret_cast<float4*>(p.partial_out + to * kHeadDim + column) = all.out;
    if (column == 0) {
      p.partial_max[to] = all.maximum;
      p.partial_sum[to] = all.sum;
    }
  }
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 3) tensor_decode_attention_kernel(const AttentionParams p) {
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
    attend<T, kHeadDim, kKeyTile>(p, b, kv_head, base, count, max(0, min(count, range.last - base)),
                                  shared + warp * kTileBytes<T, kHeadDim>);
  } else {
    leave_nothing<kHeadDim>(shared + warp * kTileBytes<T, kHeadDim>);
    wait_for_predecessor();
  }
  if (static_cast<int>(blockIdx.x) >= num_blocks) return;
  const int group_size = p.num_q_heads / p.num_kv_heads;
  const std::int64_t first_row = static_cast<std::int64_t>(b) * p.num_q_heads + kv_head * group_size;
  __syncthreads();
  combine_block<T, kHeadDim>(p, first_row, group_size, shared);
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
    combine_splits<T, kHeadDim, false, BinaryExponential>(p, first_row + g, num_blocks, weights + g * num_blocks);
  }
}

template <typename T>
void launch_storage(const AttentionParams& params, const Launch& launch) {
  with_head_dim(params.head_dim, [&]<int kHeadDim>() {
    const dim3 grid((params.num_splits + kWarps - 1) / kWarps, params.num_kv_heads, params.batch);
    const std::size_t weights =
        static_cast<std::size_t>(params.num_q_heads / params.num_kv_heads) * grid.x * sizeof(float);
    const std::size_t values = kWarps * kTileBytes<T, kHeadDim>;
    launch_kernel(tensor_decode_attention_kernel<T, kHeadDim>, grid, dim3(kThreads), std::max(values, weights), launch,
                  params);
  });
}

}  // namespace

bool tensor_decode_attention_takes(const AttentionParams& params, DType dtype) {
  return dtype != DType::kF32 && params.num_q_heads / params.num_kv_heads <= kMostHeads;
}

void launch_tensor_decode_attention(const AttentionParams& params, const Launch& launch) {
  with_16_bit_storage(launch.dtype, [&]<typename T>() { launch_storage<T>(params, launch); });
}

}  // namespace qdiff::optimized::cuda
