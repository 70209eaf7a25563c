// The activation buffers of a session: one allocation, in which every named tensor of a layer has a place of its own,
// so that what is handed out is what the next operation reads and nothing is overwritten within a layer.
//
// All of it is poisoned before each layer: a value that shows in a result and was never computed is then a NaN or a
// huge number, never a leftover that happens to be right.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/operation_table.h"
#include "optimized/cpu/aligned_buffer.h"
#include "optimized/cpu/kernels/kernels.h"

namespace qdiff::optimized::cpu {

// Rows of a weight matrix that one thread takes at a time.
inline constexpr std::int64_t kRowUnit = 16;
// Query tokens for which attention widens a key tile once.
inline constexpr std::int64_t kQueryBlock = 16;

// Tokens whose activations of length k stay in a core's cache while weight rows pass by, between 24 and 384.
std::int64_t token_block(std::int64_t k);

void fill(Storage storage, float value, std::byte* data, std::int64_t elements);
void fill_poison(Storage storage, Poison poison, std::byte* data, std::int64_t elements);

// fp32 scratch of one thread. Row strides: c 2 * kRowUnit; q, k, v and out head_dim padded to kLanes.
struct ThreadScratch {
  float* panel = nullptr;    // [kPanelRows, widest k]
  float* c = nullptr;        // [token_block, 2 * kRowUnit]
  float* q = nullptr;        // [kQueryBlock * G, width]
  float* out = nullptr;      // [kQueryBlock * G, width]
  float* k = nullptr;        // [kKeyTile, width]
  float* v = nullptr;        // [kKeyTile, width]
  float* scores = nullptr;   // [G, kKeyTile]
  float* maximum = nullptr;  // [kQueryBlock * G]
  float* sum = nullptr;      // [kQueryBlock * G]
};

class Arena {
 public:
  Arena(const ModelConfig& config, Storage storage, Poison poison, int num_threads);

  // Makes room for a step of B*T = num_tokens; contents are lost when it grows.
  void fit(std::int64_t num_tokens);

  // [num_tokens, width of the row]. Op::kOutput has two places, of which `other_than` is not given back: the layer
  // before may have left its input in one, and an output should start poisoned.
  std::byte* tensor(Op op) const;
  std::byte* output(const void* other_than) const;
  // Wide enough for any row of activations: [num_tokens, round_up_to_lanes(k)].
  float* wide() const { return wide_; }
  ThreadScratch thread(int index) const { return threads_[static_cast<std::size_t>(index)]; }

  // Everything but `keep`, which may be one of the tensors.
  void poison(std::int64_t num_tokens, const void* keep);

 private:
  static constexpr std::size_t kNumPlaces = kNumOps + 1;

  const ModelConfig& config_;
  Storage storage_;
  Poison poison_;
  int num_threads_;
  std::int64_t fits_ = 0;  // tokens
  AlignedBuffer memory_;
  std::array<std::int64_t, kNumPlaces> widths_{};  // elements of one token; 0: no place
  std::array<std::byte*, kNumPlaces> places_{};    // the last one: the second kOutput
  float* wide_ = nullptr;
  std::int64_t wide_width_ = 0;
  std::int64_t thread_floats_ = 0;
  std::vector<ThreadScratch> threads_;
};

}  // namespace qdiff::optimized::cpu
