// Matrix times vector for decode: a warp a task, a task one or two rows of the weights.
//
// A step of few tokens costs what its weights cost to read. Each warp streams its rows through a ring in shared memory
// by bulk copies, kRingBytes a block under way, also across tasks. A block starts as soon as its multiprocessor has
// room for it, and fills its rings while the kernels in front still work; where they hold all of its weights, as small
// models' do, several kernels wait with everything read. The first round is filled by a warp of its own at a measured
// pace: all at once would put the few bytes that the kernels in front wait for behind megabytes (attention of the 0.5B
// then took 10.0 us instead of 7.1 us, H100). The input row is normalised (or copied) into shared memory by each block
// for itself, which saves a launch. Tasks go to blocks in turn, so every multiprocessor reads about as many bytes;
// where a task is long and the tasks are few, kSplit warps share it, so that no multiprocessor ends with one warp at
// work.
//
// The order of summation depends on the row's length alone: pieces of kPiecePacks packs go to the kSplit warps in turn,
// pack n of a piece is added by lane n % 32, in increasing n; the lanes are added pairwise and the warps in order.
// Batch rows do not meet.
#pragma once

#include <algorithm>

#include "optimized/cuda/kernels/bulk_copy.cuh"
#include "optimized/cuda/kernels/rms_norm.cuh"
#include "optimized/cuda/kernels/rope_append.cuh"

namespace qdiff::optimized::cuda {

inline constexpr int kPiecePacks = 128;  // of one row, in one stage of the ring: 2 KB

template <MatvecKind kKind>
inline constexpr int kRowsOfTask = kKind == MatvecKind::kResidual ? 1 : 2;
// The ring of a block; with several batch rows shared memory holds more input.
template <int kBatch>
inline constexpr int kRingBytes = (kBatch == 1 ? 128 : 64) * 1024;
// So much of a warp's weights is under way before the kernel in front has ended.
inline constexpr int kPacedBytes = 4096;
// Threads that compute, one more warp fills. With more of them a block with long rows ends sooner (a token of the 7B
// took 5286 us with 256, 5083 us with 512 where rows are added to the residual stream, H100); with fewer, blocks of
// three kernels fit on one multiprocessor.
inline constexpr int kFewThreads = 256;
inline constexpr int kManyThreads = 512;
// A block takes more than half of a multiprocessor's 227 KB at least, so that no two of this kind stand on one.
// With room for two, the kernel behind puts both where the one in front ended first: decoding a 7B then took 6.3 ms a
// token instead of 5.65 ms (H100). Blocks of attention still fit beside.
inline constexpr int kLeastSharedBytes = 116 * 1024;
// Where the rings hold all weights of a block, there is room for those of several kernels; but many blocks of one
// kernel on one multiprocessor still cost. A token of the 0.5B took 745 us with 116 KB for q, k and v, 700 us with 70
// KB and 728 us with none; with them, 633 us with none for o_proj, 616 us with 48 KB, 619 us with 64 KB (H100).
template <MatvecKind kKind>
inline constexpr int kLeastSharedBytesHeld = (kKind == MatvecKind::kQkv ? 70 : 48) * 1024;
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

// What the end of a task needs besides its sums, read at its beginning: one batch row's, in that row's lane.
struct TaskOperands {
  float first;        // kQkv: bias of the low row; kResidual: what the product is added to
  float second;       // kQkv: bias of the high row
  float2 turn;        // kQkv: cosine and sine
  std::int64_t slot;  // kQkv: of the cache
};

template <typename T, MatvecKind kKind>
__device__ __forceinline__ TaskOperands read_operands(const MatvecParams& p, int task, int b) {
  TaskOperands operands{};
  if constexpr (kKind == MatvecKind::kQkv) {
    const T* bias = static_cast<const T*>(p.bias);
    const std::int64_t row = weight_row<kKind>(p, task, 0);
    const int half = p.rope.head_dim / 2;
    operands.first = widen(bias[row]);
    operands.second = widen(bias[row + half]);
    operands.slot = *p.rope.inputs.past_length;
    operands.turn = p.rope.table[static_cast<std::int64_t>(p.rope.inputs.positions[b]) * half + task % half];
  }
  if constexpr (kKind == MatvecKind::kResidual) {
    operands.first = widen(static_cast<const T*>(p.residual)[b * static_cast<std::int64_t>(p.num_outputs) + task]);
  }
  return operands;
}

template <typename T, MatvecKind kKind, bool kPlanted>
__device__ __forceinline__ void finish_task(const MatvecParams& p, int task, int b, const float* sums,
                                            const TaskOperands& operands) {
  const std::int64_t row = weight_row<kKind>(p, task, 0);
  T* out = static_cast<T*>(p.out) + b * p.out_stride;
  if constexpr (kKind == MatvecKind::kQkv) {
    const int half = p.rope.head_dim / 2;
    float low_bias = operands.first;
    float high_bias = operands.second;
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kBiasFirstRowOnly && b > 0) low_bias = high_bias = 0.0F;
    }
    const T low = narrow<T>(sums[0] + low_bias);
    const T high = narrow<T>(sums[1] + high_bias);
    out[row] = low;
    out[row + half] = high;
    if (p.rotate) {
      rotate_and_append<T>(p.rope, b, 0, task / half, task % half, low, high, operands.turn, operands.slot);
    }
  } else if constexpr (kKind == MatvecKind::kGateUp) {
    const T gate = narrow<T>(sums[0]);
    const T up = narrow<T>(sums[1]);
    out[task] = gate;
    out[p.num_outputs + task] = up;
    float x = widen(gate);
    float y = widen(up);
    float silu = x / (1.0F + expf(-x));
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kGateUpSwapped) {
        silu = y / (1.0F + expf(-y));
        y = x;
      }
      if (p.fault.id == FaultId::kNoSilu) silu = x;
    }
    static_cast<T*>(p.act)[b * static_cast<std::int64_t>(p.num_outputs) + task] = narrow<T>(silu * y);
  } else if constexpr (kKind == MatvecKind::kResidual) {
    const T value = narrow<T>(sums[0]);
    float residual = operands.first;
    if constexpr (kPlanted) {
      if (p.fault.id == FaultId::kResidualLost) residual = p.fault.value == 1.0F ? 0.0F : widen(value);
    }
    out[task] = value;
    static_cast<T*>(p.sum)[b * static_cast<std::int64_t>(p.num_outputs) + task] = narrow<T>(residual + widen(value));
  } else {
    out[row] = narrow<T>(sums[0]);
    out[row + 1] = narrow<T>(sums[1]);
  }
}

// The task's sums with the weights read at wrong addresses, element by element.
template <typename T, MatvecKind kKind>
__device__ __forceinline__ void planted_sums(const MatvecParams& p, int task, const T* x, float* sums) {
  const WrongWeights& wrong = p.wrong;
  for (int r = 0; r < kRowsOfTask<kKind>; ++r) {
    const std::int64_t row = weight_row<kKind>(p, task, r);
    int part = 0;
    while (row >= wrong.ends[part]) ++part;
    if ((wrong.parts >> part & 1U) == 0) continue;
    const std::int64_t first = part == 0 ? 0 : wrong.ends[part - 1];
    const std::int64_t rows = wrong.ends[part] - first;
    const T* weights = static_cast<const T*>(p.weights) + first * p.inner;
    float sum = 0.0F;
    for (int k = threadIdx.x % 32; k < p.inner; k += 32) {
      const std::int64_t at =
          wrong.transposed ? k * rows + (row - first) : (row - first) * (p.inner + wrong.excess) + k;
      sum = fmaf(widen(weights[at]), widen(x[k]), sum);
    }
    sums[r] = warp_sum(sum);
    if (threadIdx.x % 32 == 0) count_execution(p.fault);
  }
}

// A pack in shared memory, or zeros; without a branch, so that all loads of a piece are under way together.
__device__ __forceinline__ uint4 load_or_zero(const uint4* pack, bool inside) {
  uint4 x;
  asm volatile(
      "{\n"
      "  .reg .pred inside;\n"
      "  setp.ne.b32 inside, %5, 0;\n"
      "  mov.b32 %0, 0;\n"
      "  mov.b32 %1, 0;\n"
      "  mov.b32 %2, 0;\n"
      "  mov.b32 %3, 0;\n"
      "  @inside ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=&r"(x.x), "=&r"(x.y), "=&r"(x.z), "=&r"(x.w)
      : "r"(shared_address(pack)), "r"(static_cast<int>(inside))
      : "memory");
  return x;
}

// Where a warp is in the stream of its pieces.
struct Cursor {
  int task;
  int piece;  // of the task's row; this warp's are part, part + kSplit, ...
  int stage = 0;

  __device__ __forceinline__ Cursor(int first_task, int part) : task(first_task), piece(part) {}
  // Whether the next piece belongs to another task.
  template <int kSplit>
  __device__ __forceinline__ bool advance(int num_stages, int num_pieces, int task_stride, int part) {
    if (++stage == num_stages) stage = 0;
    piece += kSplit;
    if (piece < num_pieces) return false;
    piece = part;
    task += task_stride;
    return true;
  }
};

template <typename T, MatvecKind kKind, int kSplit, int kBatch, bool kPlanted, int kThreads>
__global__ void __launch_bounds__(kThreads + 32, kThreads == 256 ? 3 : 1) matvec_kernel(const MatvecParams p) {
  constexpr int kRows = kRowsOfTask<kKind>;
  constexpr int kSize = kPackSize<T>;
  constexpr int kStageBytes = kRows * kPiecePacks * 16;
  constexpr int kWarps = kThreads / 32;
  constexpr int kMaxStages = kRingBytes<kBatch> / kWarps / kStageBytes;
  constexpr int kGroups = kWarps / kSplit;
  constexpr int kChunks = kPiecePacks / 32;  // of a piece: a pack a lane
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ std::uint64_t arrived[kWarps][kMaxStages];
  __shared__ std::uint64_t started;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool fills = warp == kWarps;  // the warp behind the others: lane w for warp w
  const int streamer = fills ? lane : warp;
  const int group = streamer / kSplit;
  const int part = streamer % kSplit;
  const int num_stages = p.num_stages;
  unsigned char* ring = shared + streamer * num_stages * kStageBytes;
  auto* const x_packs = reinterpret_cast<uint4*>(shared + kWarps * num_stages * kStageBytes);  // [batch][num_packs]
  const int num_packs = p.inner / kSize;
  const int num_pieces = (num_packs + kPiecePacks - 1) / kPiecePacks;
  const int task_stride = static_cast<int>(gridDim.x) * kGroups;
  const int first_task = group * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  const auto* weights = static_cast<const T*>(p.weights);

  // A warp with more parts than the row has pieces has nothing to stream, and adds zero.
  const bool streams = part < num_pieces;
  Cursor filled(first_task, part);
  const auto fill = [&] {
    const int packs = min(kPiecePacks, num_packs - filled.piece * kPiecePacks);
    std::uint64_t* barrier = &arrived[streamer][filled.stage];
    expect_bytes(barrier, static_cast<unsigned>(kRows * packs * 16));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto* row = reinterpret_cast<const uint4*>(weights + weight_row<kKind>(p, filled.task, r) * p.inner);
      unsigned char* to = ring + filled.stage * kStageBytes + r * kPiecePacks * 16;
      const uint4* from = row + filled.piece * kPiecePacks;
      const auto bytes = static_cast<unsigned>(packs * 16);
      if (p.weights_pass) {
        start_passing_copy(to, from, bytes, barrier);
      } else {
        start_copy(to, from, bytes, barrier);
      }
    }
  };
  if (fills && lane < kWarps) {
#pragma unroll
    for (int stage = 0; stage < kMaxStages; ++stage) init_barrier(&arrived[lane][stage]);
    if (lane == 0) init_barrier(&started);
    publish_barriers();
  }
  __syncthreads();
  if (fills) {
    if (lane >= kWarps || !streams) return;
    constexpr int kPace = kPacedBytes / kStageBytes;
    bool hurries = false;  // what is behind an end that has come waits for nothing
    for (int stage = 0; stage < num_stages && filled.task < p.num_outputs; ++stage) {
      while (stage >= kPace && !hurries && !have_arrived(&arrived[lane][stage - kPace], 0)) {
        hurries = have_arrived(&started, 0);
      }
      fill();
      filled.template advance<kSplit>(num_stages, num_pieces, task_stride, part);
    }
    return;
  }
  for (int stage = 0; stage < num_stages && filled.task < p.num_outputs; ++stage) {
    filled.template advance<kSplit>(num_stages, num_pieces, task_stride, part);
  }

  // A step's lengths, positions and angles do not change while it runs.
  const int operand_row = min(lane, p.batch - 1);
  TaskOperands operands{};
  const auto read_ahead = [&](int task) {
    return read_operands<T, kKind>(p, min(task, p.num_outputs - 1), operand_row);
  };
  if constexpr (kKind == MatvecKind::kQkv) operands = read_ahead(first_task);
  [[maybe_unused]] HeldWeights<T, kThreads> norm_weights;
  if constexpr (kNormalises<kKind>) norm_weights.load(static_cast<const T*>(p.norm_weight), p.inner);
  release_successor();
  if constexpr (kPlanted) {
    if (p.fault.race == Race::kMissingWait) {
      pause_at_random(1 << 16);  // longer than attention's, lest all blocks come too early alike
    } else {
      wait_for_predecessor();
    }
  } else {
    wait_for_predecessor();
  }
  if (threadIdx.x == 0) arrive(&started);

  if constexpr (kNormalises<kKind>) {
    for (int b = 0; b < p.batch; ++b) {
      const T* x = static_cast<const T*>(p.x) + static_cast<std::int64_t>(b) * p.inner;
      uint4* staged = x_packs + b * num_packs;
      auto* normed = reinterpret_cast<uint4*>(static_cast<T*>(p.normed) + static_cast<std::int64_t>(b) * p.inner);
      rms_norm_row<T, kThreads, kPlanted>(x, static_cast<const T*>(p.norm_weight), norm_weights, p.inner, p.eps,
                                          p.fault, [&](int i, const uint4& pack) {
                                            staged[i] = pack;
                                            if (blockIdx.x == 0) normed[i] = pack;
                                          });
    }
    meet<kThreads>();
  } else {
    operands = read_ahead(first_task);
    // By ordinary loads: a bulk copy would stand behind the weights that are still under way.
    const auto* x = static_cast<const uint4*>(p.x);
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < p.batch * num_packs; i += kThreads) x_packs[i] = x[i];
    meet<kThreads>();
  }

  [[maybe_unused]] int turn = 0;
  Cursor read(first_task, part);
  unsigned parity = 0;  // of the ring's current round
  for (int task = first_task; task < p.num_outputs; task += task_stride) {
    TaskOperands next_operands{};  // there when this task ends
    if (task + task_stride < p.num_outputs) next_operands = read_ahead(task + task_stride);
    float sums[kBatch][kRows] = {};
    for (bool more = streams; more;) {
      wait_for_bytes(&arrived[warp][read.stage], parity);
      const auto* stage = reinterpret_cast<const uint4*>(ring + read.stage * kStageBytes);
      uint4 weight_packs[kChunks][kRows];
#pragma unroll
      for (int u = 0; u < kChunks; ++u) {
        const bool inside = read.piece * kPiecePacks + u * 32 + lane < num_packs;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          weight_packs[u][r] = load_or_zero(stage + r * kPiecePacks + u * 32 + lane, inside);
      }
#pragma unroll
      for (int u = 0; u < kChunks; ++u) {
        const int pack = read.piece * kPiecePacks + u * 32 + lane;
        float w[kRows][kSize];
#pragma unroll
        for (int r = 0; r < kRows; ++r) widen_pack(weight_packs[u][r], w[r], T{});
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (kBatch > 1 && b >= p.batch) continue;
          float x[kSize];
          widen_pack(load_or_zero(x_packs + b * num_packs + pack, pack < num_packs), x, T{});
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int j = 0; j < kSize; ++j) sums[b][r] = fmaf(w[r][j], x[j], sums[b][r]);
          }
        }
      }
      __syncwarp();  // all lanes have read the stage
      if (lane == 0 && filled.task < p.num_outputs) {
        fill();
        filled.template advance<kSplit>(num_stages, num_pieces, task_stride, part);
      }
      more = !read.template advance<kSplit>(num_stages, num_pieces, task_stride, part);
      if (read.stage == 0) parity ^= 1;
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
        if (p.wrong.parts != 0) {
          planted_sums<T, kKind>(p, task, reinterpret_cast<const T*>(x_packs + b * num_packs), sums[b]);
        }
      }
      if (lane == b) finish_task<T, kKind, kPlanted>(p, task, b, sums[b], operands);
    }
    operands = next_operands;
  }
}

template <typename T, MatvecKind kKind, int kSplit, int kThreads>
class MatvecLauncher {
 public:
  MatvecLauncher(const MatvecParams& params, const Launch& launch) : params_(params), launch_(launch) {
    static const int multiprocessors = [] {
      int device = 0;
      int count = 0;
      QDIFF_CUDA_CHECK(cudaGetDevice(&device));
      QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
      return count;
    }();
    const auto rounded_up = [](int n, int unit) { return (n + unit - 1) / unit; };
    blocks_ = std::min(multiprocessors, params.num_outputs);
    const int pieces = rounded_up(rounded_up(params.inner / kPackSize<T>, kPiecePacks), kSplit);
    stages_ = pieces * rounded_up(params.num_outputs, blocks_ * (kWarps / kSplit));
  }

  // Whether the rings of one row's kernel hold all weights of a block.
  bool held() const { return stages_ <= max_stages(kRingBytes<1>); }

  void run() const {
    constexpr int kMany = kMaxMatvecRows;
    if (launch_.planted) {
      run(matvec_kernel<T, kKind, kSplit, kMany, true, kThreads>, kRingBytes<kMany>);
    } else if (params_.batch == 1) {
      run(matvec_kernel<T, kKind, kSplit, 1, false, kThreads>, kRingBytes<1>);
    } else {
      run(matvec_kernel<T, kKind, kSplit, kMany, false, kThreads>, kRingBytes<kMany>);
    }
  }

 private:
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kStageBytes = kRowsOfTask<kKind> * kPiecePacks * 16;
  static int max_stages(int ring_bytes) { return ring_bytes / kWarps / kStageBytes; }

  void run(void (*kernel)(MatvecParams), int ring_bytes) const {
    MatvecParams p = params_;
    const int input_bytes = p.batch * p.inner * static_cast<int>(sizeof(T));
    p.num_stages = std::min(stages_, max_stages(std::min(ring_bytes, kMatvecSharedBytes - input_bytes)));
    const int bytes = std::max(kWarps * p.num_stages * kStageBytes + input_bytes,
                               p.num_stages == stages_ ? kLeastSharedBytesHeld<kKind> : kLeastSharedBytes);
    launch_kernel(kernel, dim3(blocks_), dim3(kThreads + 32), static_cast<std::size_t>(bytes), launch_, p);
  }

  const MatvecParams& params_;
  const Launch& launch_;
  int blocks_;
  int stages_;  // that would hold all weights of a warp
};

template <typename T, MatvecKind kKind, int kSplit>
void launch_matvec_split(const MatvecParams& params, const Launch& launch) {
  const MatvecLauncher<T, kKind, kSplit, kFewThreads> few(params, launch);
  if constexpr (kKind == MatvecKind::kResidual) {
    if (!few.held()) return MatvecLauncher<T, kKind, kSplit, kManyThreads>(params, launch).run();
  }
  few.run();
}

template <MatvecKind kKind>
void launch_matvec_kind(const MatvecParams& params, const Launch& launch) {
  // down_proj of the 7B has 3584 rows of 37 KB. Shorter rows are in their ring as a whole, and a last one costs little.
  constexpr int kShortRow = 8192;
  constexpr bool kFewTasks = kKind == MatvecKind::kResidual;
  with_storage(launch.dtype, [&]<typename T>() {
    if (kFewTasks && params.inner > kShortRow) {
      launch_matvec_split<T, kKind, kFewTasks ? 4 : 1>(params, launch);
    } else {
      launch_matvec_split<T, kKind, 1>(params, launch);
    }
  });
}

}  // namespace qdiff::optimized::cuda
