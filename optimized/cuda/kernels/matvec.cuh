// Matrix times vector for decode: a warp a task, a task one or two rows of the weights.
//
// A step of few tokens costs what its weights cost to read. Each warp keeps kPacksAhead 16-byte loads a lane under way:
// a register that has been multiplied is loaded again at once, also across tasks, and the first loads start before the
// kernel in front has ended. One block a multiprocessor, of at most half its registers, leaves room for the kernel
// behind to do the same. The input row is normalised (or copied) into shared memory by each block for itself, which
// saves a launch. Tasks go to blocks in turn, so every multiprocessor reads about as many bytes.
//
// Where a task is long and the tasks are few, kSplit warps share it, so that no multiprocessor ends with one warp at
// work.
//
// The order of summation depends on the row's length alone: pack n of a row is added by lane n % 32 of warp
// n / 32 % kSplit, in increasing n; the lanes are added pairwise and the warps in order. Batch rows do not meet.
#pragma once

#include "optimized/cuda/kernels/rms_norm.cuh"
#include "optimized/cuda/kernels/rope_append.cuh"

namespace qdiff::optimized::cuda {

inline constexpr int kMatvecThreads = 384;
inline constexpr int kMatvecWarps = kMatvecThreads / 32;
inline constexpr int kPacksAhead = 8;

template <MatvecKind kKind>
inline constexpr int kRowsOfTask = kKind == MatvecKind::kResidual ? 1 : 2;
template <MatvecKind kKind>
inline constexpr bool kNormalises = kKind != MatvecKind::kResidual;

// Row of the weights that a task multiplies; kQkv: a task is a rotary pair, kGateUp: a gate row and its up row.
template <MatvecKind kKind>
__device__ __forceinline__ std::int64_t weight_row(const MatvecParams& p, int task, int r) {
  if constexpr (kKind == MatvecKind::kQkv) {
    const int half = p.rope.head_dim / 2;
    return static_cast<std::int64_t>(task / half) * p.rope.head_dim + task % half + r * half;
  }
  if constexpr (kKind == MatvecKind::kGateUp) return static_cast<std::int64_t>(r) * p.num_outputs + task;
  return static_cast<std::int64_t>(task) * kRowsOfTask<kKind> + r;
}

template <typename T, MatvecKind kKind, bool kPlanted>
__device__ __forceinline__ void finish_task(const MatvecParams& p, int task, int b, const float* sums) {
  const std::int64_t row = weight_row<kKind>(p, task, 0);
  T* out = static_cast<T*>(p.out) + b * p.out_stride;
  if constexpr (kKind == MatvecKind::kQkv) {
    const T* bias = static_cast<const T*>(p.bias);
    const int half = p.rope.head_dim / 2;
    const T low = narrow<T>(sums[0] + widen(bias[row]));
    const T high = narrow<T>(sums[1] + widen(bias[row + half]));
    out[row] = low;
    out[row + half] = high;
    if (p.rotate) rotate_and_append<T>(p.rope, b, 0, task / half, task % half, low, high);
  } else if constexpr (kKind == MatvecKind::kGateUp) {
    const T gate = narrow<T>(sums[0]);
    const T up = narrow<T>(sums[1]);
    out[task] = gate;
    out[p.num_outputs + task] = up;
    float x = widen(gate);
    float y = widen(up);
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kGateUpSwapped) {
        const float swapped = x;
        x = y;
        y = swapped;
      }
      if (p.fault.id == FaultId::kNoSilu) {
        static_cast<T*>(p.act)[b * static_cast<std::int64_t>(p.num_outputs) + task] = narrow<T>(x * y);
        return;
      }
    }
    static_cast<T*>(p.act)[b * static_cast<std::int64_t>(p.num_outputs) + task] = narrow<T>(x / (1.0F + expf(-x)) * y);
  } else if constexpr (kKind == MatvecKind::kResidual) {
    const T value = narrow<T>(sums[0]);
    const std::int64_t index = b * static_cast<std::int64_t>(p.num_outputs) + task;
    out[task] = value;
    static_cast<T*>(p.sum)[index] = narrow<T>(widen(static_cast<const T*>(p.residual)[index]) + widen(value));
  } else {
    out[row] = narrow<T>(sums[0]);
    out[row + 1] = narrow<T>(sums[1]);
  }
}

// The task's sums with the weights read at wrong addresses, element by element.
template <typename T, MatvecKind kKind>
__device__ __forceinline__ void planted_sums(const MatvecParams& p, int task, int b, const T* x, float* sums) {
  const T* weights = static_cast<const T*>(p.weights);
  for (int r = 0; r < kRowsOfTask<kKind>; ++r) {
    const std::int64_t row = weight_row<kKind>(p, task, r);
    if (row >= p.faulty_rows) continue;
    float sum = 0.0F;
    for (int k = threadIdx.x % 32; k < p.inner; k += 32) {
      sum = fmaf(widen(weights[row * p.weight_row + k * p.weight_column]), widen(x[b * p.inner + k]), sum);
    }
    sums[r] = warp_sum(sum);
    if (threadIdx.x % 32 == 0) count_execution(p.fault);
  }
}

template <typename T, MatvecKind kKind, int kSplit, int kBatch, bool kPlanted>
__global__ void __launch_bounds__(kMatvecThreads, kBatch == 1 ? 2 : 1) matvec_kernel(const MatvecParams p) {
  constexpr int kRows = kRowsOfTask<kKind>;
  constexpr int kUnroll = kPacksAhead / kRows;
  constexpr int kSize = kPackSize<T>;
  extern __shared__ uint4 shared[];  // x: [batch][inner]
  const int lane = threadIdx.x % 32;
  const int num_packs = p.inner / kSize;
  constexpr int kGroups = kMatvecWarps / kSplit;
  const int group = static_cast<int>(threadIdx.x) / 32 / kSplit;
  const int part = static_cast<int>(threadIdx.x) / 32 % kSplit;
  const int num_chunks = (num_packs + 32 * kUnroll * kSplit - 1) / (32 * kUnroll * kSplit);
  const int task_stride = static_cast<int>(gridDim.x) * kGroups;
  int task = group * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  const auto* weights = static_cast<const T*>(p.weights);

  // Packs ((chunk*kUnroll + u)*kSplit + part)*32 + lane of the task's rows. `ahead` holds a chunk.
  uint4 ahead[kRows][kUnroll];
  const auto row_of = [&](int of_task, int r) {
    return reinterpret_cast<const uint4*>(weights + weight_row<kKind>(p, of_task, r) * p.inner);
  };
  const auto load = [&](const uint4* row, int chunk, int u) {
    const int pack = ((chunk * kUnroll + u) * kSplit + part) * 32 + lane;
    return pack < num_packs ? load_weights(row + pack) : uint4{0, 0, 0, 0};
  };
  if (task < p.num_outputs) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) ahead[r][u] = load(row_of(task, r), 0, u);
    }
  }
  [[maybe_unused]] HeldWeights<T, kMatvecThreads> norm_weights;
  if constexpr (kNormalises<kKind>) norm_weights.load(static_cast<const T*>(p.norm_weight), p.inner);
  release_successor();
  wait_for_predecessor();

  for (int b = 0; b < p.batch; ++b) {
    const T* x = static_cast<const T*>(p.x) + static_cast<std::int64_t>(b) * p.inner;
    uint4* staged = shared + b * num_packs;
    if constexpr (kNormalises<kKind>) {
      auto* normed = reinterpret_cast<uint4*>(static_cast<T*>(p.normed) + static_cast<std::int64_t>(b) * p.inner);
      rms_norm_row<T, kMatvecThreads, kPlanted>(x, static_cast<const T*>(p.norm_weight), norm_weights, p.inner, p.eps,
                                                p.fault, [&](int i, const uint4& pack) {
                                                  staged[i] = pack;
                                                  if (blockIdx.x == 0) normed[i] = pack;
                                                });
    } else {
      for (int i = threadIdx.x; i < num_packs; i += kMatvecThreads) {
        staged[i] = reinterpret_cast<const uint4*>(x)[i];
      }
    }
  }
  __syncthreads();

  [[maybe_unused]] int turn = 0;
  while (task < p.num_outputs) {
    float sums[kBatch][kRows] = {};
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      // What is loaded next: this task's next chunk, or the first of the next task.
      const bool more = chunk + 1 < num_chunks;
      const int next_task = more ? task : task + task_stride;
      const int next_chunk = more ? chunk + 1 : 0;
      const bool any = next_task < p.num_outputs;
      const uint4* next_rows[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) next_rows[r] = row_of(any ? next_task : task, r);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int pack = ((chunk * kUnroll + u) * kSplit + part) * 32 + lane;
        float w[kRows][kSize];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          widen_pack(ahead[r][u], w[r], T{});
          if (any) ahead[r][u] = load(next_rows[r], next_chunk, u);
        }
        if (pack >= num_packs) continue;
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (b >= p.batch) continue;
          float x[kSize];
          widen_pack(shared[b * num_packs + pack], x, T{});
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int j = 0; j < kSize; ++j) sums[b][r] = fmaf(w[r][j], x[j], sums[b][r]);
          }
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[b][r] = warp_sum(sums[b][r]);
    }
    if constexpr (kSplit > 1) {
      // Two sets of places in turn: whoever writes to one has met the reader of it at the barrier between.
      __shared__ float parts[2][kGroups][kSplit][kBatch][kRows];
      if (lane == 0) {
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) parts[turn][group][part][b][r] = sums[b][r];
        }
      }
      asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(32 * kSplit) : "memory");
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          sums[b][r] = parts[turn][group][0][b][r];
#pragma unroll
          for (int s = 1; s < kSplit; ++s) sums[b][r] += parts[turn][group][s][b][r];
        }
      }
      turn ^= 1;
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (b >= p.batch || part != 0) continue;
      if constexpr (kPlanted) {
        if (!p.right_weights) {
          planted_sums<T, kKind>(p, task, b, reinterpret_cast<const T*>(shared), sums[b]);
        }
      }
      if (lane == b) finish_task<T, kKind, kPlanted>(p, task, b, sums[b]);
    }
    task += task_stride;
  }
}

template <typename T, MatvecKind kKind, int kSplit>
void launch_matvec_split(const MatvecParams& params, const Launch& launch) {
  static const int multiprocessors = [] {
    int device = 0;
    int count = 0;
    QDIFF_CUDA_CHECK(cudaGetDevice(&device));
    QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
  }();
  const std::size_t bytes = static_cast<std::size_t>(params.batch) * params.inner * sizeof(T);
  void (*kernel)(MatvecParams) = params.batch == 1 ? matvec_kernel<T, kKind, kSplit, 1, false>
                                                   : matvec_kernel<T, kKind, kSplit, kMaxMatvecRows, false>;
  if (launch.planted) kernel = matvec_kernel<T, kKind, kSplit, kMaxMatvecRows, true>;
  launch_kernel(kernel, dim3(min(multiprocessors, params.num_outputs)), dim3(kMatvecThreads), bytes, launch, params);
}

template <MatvecKind kKind>
void launch_matvec_kind(const MatvecParams& params, const Launch& launch) {
  // Rows of up to 2 KB are one load of a warp's lanes each or little more; gate_up and lm_head have tasks enough.
  constexpr int kShortRow = 1024;
  constexpr bool kFewTasks = kKind == MatvecKind::kQkv || kKind == MatvecKind::kResidual;
  with_storage(launch.dtype, [&]<typename T>() {
    if (kFewTasks && params.inner > kShortRow) {
      launch_matvec_split<T, kKind, kFewTasks ? 4 : 1>(params, launch);
    } else {
      launch_matvec_split<T, kKind, 1>(params, launch);
    }
  });
}

}  // namespace qdiff::optimized::cuda
