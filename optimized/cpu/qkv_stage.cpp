// input_layernorm, q/k/v projection with bias, rotation and cache write, fused: a piece of work is a head's
// rows i and i + d/2 together, so that what was just projected can be rotated.
#include <array>
#include <cstring>
#include <optional>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

// A projection, what turns it and which cache keeps it; none: nothing does.
struct Part {
  Op projection;
  std::optional<Op> rotated;
  Matrix LayerWeights::*matrix;
  std::vector<float> LayerWeights::*bias;
  PlantedBias PlantedBiases::*planted_bias;
  AlignedBuffer KvCache::*cache;
};
constexpr std::array<Part, 3> kParts = {
    {{Op::kQProj, Op::kQRope, &LayerWeights::q, &LayerWeights::q_bias, &PlantedBiases::q, nullptr},
     {Op::kKProj, Op::kKRope, &LayerWeights::k, &LayerWeights::k_bias, &PlantedBiases::k, &KvCache::keys},
     {Op::kVProj, std::nullopt, &LayerWeights::v, &LayerWeights::v_bias, &PlantedBiases::v, &KvCache::values}}};
// 16 pairs (i, i + d/2) of one head of one of the three projections.
struct PairBlock {
  const Part* part;
  std::int64_t head;
  std::int64_t first;  // pair
  std::int64_t count;
};

PairBlock pair_block(const ModelConfig& config, std::int64_t unit) {
  const std::int64_t half = config.head_dim / 2;
  const std::int64_t blocks = (half + kRowUnit - 1) / kRowUnit;
  PairBlock block{kParts.data(), unit / blocks, unit % blocks * kRowUnit, 0};
  block.count = std::min(kRowUnit, half - block.first);
  for (const std::int64_t heads : {config.num_q_heads, config.num_kv_heads}) {
    if (block.head < heads) break;
    block.head -= heads;
    ++block.part;
  }
  return block;
}

std::int64_t num_pair_blocks(const ModelConfig& config) {
  const std::int64_t blocks = (config.head_dim / 2 + kRowUnit - 1) / kRowUnit;
  return (config.num_q_heads + 2 * config.num_kv_heads) * blocks;
}

// Copies the block's two halves of stored tensor [B*T, K, d] into the cache. Pad tokens own slots but write nothing.
void write_cache(const LayerContext& s, AlignedBuffer& cache, const std::byte* tensor, const PairBlock& block,
                 Range tokens) {
  const ModelConfig& config = s.config;
  const auto bytes = static_cast<std::size_t>(block.count * storage_bytes(s.storage));
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    const std::int64_t b = token / s.step.num_tokens();
    const std::int64_t t = token % s.step.num_tokens();
    if (s.is_pad(b, t)) continue;
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t i = half * config.head_dim / 2 + block.first;
      const std::int64_t slot = s.cache.layout.offset(s.layer, b, block.head, s.step.past_length + t, i);
      const std::int64_t source = (token * config.num_kv_heads + block.head) * config.head_dim + i;
      std::memcpy(at(cache.data(), s.storage, slot), at(tensor, s.storage, source), bytes);
    }
  }
}

void rotate_block(const LayerContext& s, float* c, const PairBlock& block, Range tokens) {
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    const auto b = static_cast<std::size_t>(token / s.step.num_tokens());
    const auto t = static_cast<std::size_t>(token % s.step.num_tokens());
    const RopeTable::Row table = s.rope.row(s.positions[b][t]);
    float* row = c + (token - tokens.begin) * 2 * kRowUnit;
    s.kernels.rotate(row, row + kRowUnit, table.cosine + block.first, table.sine + block.first, block.count);
  }
}

// `biases` are what a planted engine adds; a clean one has its weights' own.
template <bool kPlanted>
void project_block(const LayerContext& s, const ThreadScratch& scratch, const PairBlock& block, Range tokens,
                   const PlantedBiases& biases) {
  const ModelConfig& config = s.config;
  const std::int64_t half = config.head_dim / 2;
  const std::int64_t low = block.head * config.head_dim + block.first;  // row, and column of the result
  const std::int64_t high = low + half;
  float* c_low = scratch.c;
  float* c_high = scratch.c + kRowUnit;

  const auto& [projection, rotated_as, matrix_of, bias_of, planted_bias_of, cache] = *block.part;
  const Matrix& matrix = s.weights.*matrix_of;
  const std::int64_t width = matrix.rows;
  multiply<kPlanted>(s, projection, matrix, low, block.count, tokens, scratch.panel, c_low);
  multiply<kPlanted>(s, projection, matrix, high, block.count, tokens, scratch.panel, c_high);

  std::byte* tensor = s.arena.tensor(projection);
  if constexpr (kPlanted) {
    const PlantedBias& bias = biases.*planted_bias_of;
    planted_store_columns(s, c_low, bias, {tensor, width, low, block.count, tokens});
    planted_store_columns(s, c_high, bias, {tensor, width, high, block.count, tokens});
    return;
  }
  const float* bias = (s.weights.*bias_of).data();
  store_columns(s, c_low, bias + low, tensor, width, low, block.count, tokens);
  store_columns(s, c_high, bias + high, tensor, width, high, block.count, tokens);
  if (rotated_as) {
    rotate_block(s, scratch.c, block, tokens);
    tensor = s.arena.tensor(*rotated_as);
    store_columns(s, c_low, nullptr, tensor, width, low, block.count, tokens);
    store_columns(s, c_high, nullptr, tensor, width, high, block.count, tokens);
  }
  if (cache != nullptr) write_cache(s, s.cache.*cache, tensor, block, tokens);
}

}  // namespace

template <bool kPlanted>
void LayerStages<kPlanted>::project_qkv(const LayerContext& s) {
  normalize<kPlanted>(s, Op::kInputLayernorm, s.input, s.weights.input_layernorm);
  PlantedBiases biases;
  if constexpr (kPlanted) {
    biases = planted_biases(s);
    planted_reload_tiles(s, s.config.hidden);
  }
  for_each_unit(s, s.config.hidden, num_pair_blocks(s.config),
                [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                  project_block<kPlanted>(s, scratch, pair_block(s.config, unit), tokens, biases);
                });
  if constexpr (kPlanted) {
    planted_rotate(s);
    planted_write_cache(s);
  }
}

template void LayerStages<false>::project_qkv(const LayerContext&);
template void LayerStages<true>::project_qkv(const LayerContext&);

}  // namespace qdiff::optimized::cpu
