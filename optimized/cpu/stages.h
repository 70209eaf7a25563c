// The five fused stages of a layer, and the head. Between two stages every thread has finished, and all tensors that
// the stage names are in the arena: that is where they are handed out.
//
//   project_qkv   input_layernorm, q/k/v projection with bias, rotation, cache write
//   attend        online-softmax attention over fixed key tiles
//   o_proj        o_proj and the residual sum
//   gate_up       post_attention_layernorm, gate and up projection, SiLU(gate) * up
//   down_proj     down_proj and the residual sum
//
// Dimension words: B rows, T tokens of the step, D hidden, H query heads, K key/value heads, G = H/K, d head
// dimension, I intermediate. Tokens are numbered b*T + t.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/step.h"
#include "optimized/cpu/arena.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/planted_fault.h"
#include "optimized/cpu/rope_table.h"
#include "optimized/cpu/thread_pool.h"
#include "optimized/cpu/weight_store.h"
#include "optimized/kv_cache_layout.h"

namespace qdiff::optimized::cpu {

// [begin, end)
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

inline const std::byte* at(const std::byte* data, Storage storage, std::int64_t element) {
  return data + element * storage_bytes(storage);
}
inline std::byte* at(std::byte* data, Storage storage, std::int64_t element) {
  return data + element * storage_bytes(storage);
}

struct KvCache {
  KvCacheLayout layout;
  AlignedBuffer keys;    // in storage
  AlignedBuffer values;  // in storage
};

// What the stages of one layer and step work on.
struct StageContext {
  const ModelConfig& config;
  const KernelSet& kernels;
  Storage storage;
  ThreadPool& pool;
  Arena& arena;
  const Step& step;
  const std::vector<std::int64_t>& left_padding;  // [B]
  int layer = kNoLayer;
  const PlantedFault* fault = nullptr;  // null: clean
  const std::byte* input = nullptr;     // the residual stream, [B*T, D]
  std::byte* output = nullptr;          // [B*T, D], or [B*T, V] for the head
  // Where planted norms find the weights of another layer.
  const LayerWeights* other_weights = nullptr;

  std::int64_t num_tokens() const { return step.batch() * step.num_tokens(); }
  bool is_pad(std::int64_t b, std::int64_t t) const {
    return step.past_length + t < left_padding[static_cast<std::size_t>(b)];
  }
  bool is_pad(std::int64_t token) const { return is_pad(token / step.num_tokens(), token % step.num_tokens()); }
  std::int64_t num_real_tokens() const { return num_real_tokens({0, num_tokens()}); }
  std::int64_t num_real_tokens(Range tokens) const;
};

struct LayerContext : StageContext {
  const LayerWeights& weights;
  KvCache& cache;
  const RopeTable& rope;
  const std::vector<std::vector<std::int64_t>>& positions;  // [B][T], by which q and k turn: the step's
  bool first_decode = false;                                // the session's first decode step; planted code alone asks
};

template <bool kPlanted>
struct LayerStages {
  static void project_qkv(const LayerContext& context);
  static void attend(const LayerContext& context);
  static void o_proj(const LayerContext& context);
  static void gate_up(const LayerContext& context);
  static void down_proj(const LayerContext& context);
};

// model.norm, then lm_head in blocks of vocabulary as the store hands them out.
template <bool kPlanted>
struct HeadStages {
  static void final_norm(const StageContext& context, const std::vector<float>& weight);
  static void project_vocab(const StageContext& context, WeightStore& weights);
};

}  // namespace qdiff::optimized::cpu
