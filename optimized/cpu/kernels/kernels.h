// The engine's inner loops, as a table of functions: one table for each instruction set, chosen at run time.
//
// The functions take raw pointers and sizes, validate nothing and include nothing but <cstdint>: their source,
// kernel_set.cpp, is compiled once for each instruction set, and an inline function of a shared header that was
// emitted there would be a function full of AVX-512 which the linker may hand to every caller.
//
// Order of summation. A dot product runs in 16 lanes, lane j adding the elements k = j (mod 16) in increasing k, and
// the lanes are then added pairwise: (i, i+8), (i, i+4), (i, i+2), (i, i+1). This order depends on k alone, never on
// how many rows or tokens are computed together, so that one token alone, a chunk and a whole prefill give equal bits.
#pragma once

#include <cstdint>

namespace qdiff::optimized::cpu {

enum class Storage : std::uint8_t { kF32, kBF16, kF16 };

constexpr std::int64_t storage_bytes(Storage storage) { return storage == Storage::kF32 ? 4 : 2; }

// Fixed key tile of attention: keys [0, 64), [64, 128), ... of a sequence, whatever the step's length.
inline constexpr std::int64_t kKeyTile = 64;
// Every fp32 scratch row is padded to a multiple of this many elements.
inline constexpr std::int64_t kLanes = 16;
constexpr std::int64_t round_up_to_lanes(std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
// Weight rows that matmul() widens at a time.
inline constexpr std::int64_t kPanelRows = 4;

// c[t][r] = sum over i of weights[r][i] * x[t][i], in fp32.
struct MatmulParams {
  const void* weights = nullptr;    // [rows, k], rows `weight_stride` elements apart
  Storage storage = Storage::kF32;  // of the weights
  std::int64_t weight_stride = 0;
  std::int64_t rows = 0;
  const float* x = nullptr;  // [tokens, k], rows `x_stride` apart
  std::int64_t x_stride = 0;
  std::int64_t tokens = 0;
  std::int64_t k = 0;
  float* c = nullptr;  // [tokens, rows], rows `c_stride` apart
  std::int64_t c_stride = 0;
  float* panel = nullptr;  // scratch, kPanelRows * round_up_to_lanes(k); written before it is read
};

struct RmsNormParams {
  const void* x = nullptr;        // [hidden], in storage
  const float* weight = nullptr;  // [hidden]
  void* y = nullptr;              // [hidden], in storage
  float* y_wide = nullptr;        // [round_up_to_lanes(hidden)]: the same rounded values, zeros behind them
  std::int64_t hidden = 0;
  float eps = 0.0F;
};

// A tile of matmul results on its way to a named tensor: bias added, rounded once, stored.
struct StoreTileParams {
  float* c = nullptr;  // [tokens, rows]; holds the rounded values afterwards
  std::int64_t c_stride = 0;
  const float* bias = nullptr;  // [rows] or null
  void* out = nullptr;          // [tokens, rows], rows `out_stride` elements apart, in storage
  std::int64_t out_stride = 0;
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
};

// Online softmax over one key tile for several query rows of one token, which all see the first num_keys keys.
struct AttendTileParams {
  const float* q = nullptr;  // [rows, width]
  const float* k = nullptr;  // [num_keys, width]
  const float* v = nullptr;  // the same
  float* maximum = nullptr;  // [rows], running
  float* sum = nullptr;      // [rows], running, relative to `maximum`
  float* out = nullptr;      // [rows, width], running, relative to `maximum`
  float* scores = nullptr;   // scratch, [rows, kKeyTile]; written before it is read
  std::int64_t rows = 0;
  std::int64_t width = 0;     // head_dim padded to a multiple of kLanes, padding zero
  std::int64_t num_keys = 0;  // 1 to kKeyTile
  float scale = 0.0F;
};

struct KernelSet {
  const char* name;

  void (*widen)(Storage storage, const void* x, float* y, std::int64_t n);
  void (*narrow)(Storage storage, const float* x, void* y, std::int64_t n);  // to nearest, ties to even
  void (*matmul)(const MatmulParams& params);
  // y = x / sqrt(mean(x^2) + eps) * weight; squares summed in fp32.
  void (*rms_norm)(Storage storage, const RmsNormParams& params);
  void (*store_tile)(Storage storage, const StoreTileParams& params);
  // (low, high) = (low*cos - high*sin, high*cos + low*sin), n pairs.
  void (*rotate)(float* low, float* high, const float* cosine, const float* sine, std::int64_t n);
  // gate = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
  void (*silu_mul)(float* gate, const float* up, std::int64_t n);
  // out = residual + c, n elements; residual and out in storage.
  void (*add_residual)(Storage storage, const void* residual, const float* c, void* out, std::int64_t n);
  void (*attend_tile)(const AttendTileParams& params);
  // y = out / sum, n elements.
  void (*divide)(const float* x, float divisor, float* y, std::int64_t n);
  // y = exp(x), within 2 ulp. Softmax and silu use the same inline function.
  void (*exp)(const float* x, float* y, std::int64_t n);
};

// The sets that this machine can run, best first; the baseline is always there.
struct KernelSets {
  const KernelSet* sets[3] = {};
  int count = 0;
  const KernelSet* const* begin() const { return sets; }
  const KernelSet* const* end() const { return sets + count; }
};
KernelSets available_kernel_sets();
inline const KernelSet& best_kernel_set() { return *available_kernel_sets().sets[0]; }

}  // namespace qdiff::optimized::cpu
