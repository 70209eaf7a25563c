// Attention: the query heads of a group together, over fixed key tiles, online softmax in fp32. A token's result
// depends on its own row of the cache alone, so it does not matter which tokens are computed with it.
#include <cmath>
#include <limits>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

// Query heads [first_head, first_head + num_heads) of row b, tokens [tokens.begin, tokens.end), all reading kv_head.
struct Block {
  std::int64_t b;
  std::int64_t first_head;
  std::int64_t num_heads;
  std::int64_t kv_head;
  Range tokens;
};

// [rows, d] in storage to [rows, width] floats, zeros behind each row.
void widen_rows(const LayerContext& s, const std::byte* rows, std::int64_t num_rows, std::int64_t width, float* out) {
  const std::int64_t d = s.config.head_dim;
  if (width == d) return s.kernels.widen(s.storage, rows, out, num_rows * d);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    s.kernels.widen(s.storage, at(rows, s.storage, r * d), out + r * width, d);
    std::fill(out + r * width + d, out + (r + 1) * width, 0.0F);
  }
}

void attend_block(const LayerContext& s, const ThreadScratch& scratch, const Block& block, float scale) {
  const ModelConfig& config = s.config;
  const std::int64_t d = config.head_dim;
  const std::int64_t width = round_up_to_lanes(d);
  const std::int64_t num_tokens = s.step.num_tokens();
  const std::int64_t past = s.step.past_length;
  const std::int64_t pad = s.left_padding[static_cast<std::size_t>(block.b)];
  const std::byte* q = s.arena.tensor(Op::kQRope);
  const std::int64_t num_rows = (block.tokens.end - block.tokens.begin) * block.num_heads;

  for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
    const std::int64_t element = ((block.b * num_tokens + t) * config.num_q_heads + block.first_head) * d;
    const std::int64_t first_row = (t - block.tokens.begin) * block.num_heads;
    widen_rows(s, at(q, s.storage, element), block.num_heads, width, scratch.q + first_row * width);
  }
  std::fill_n(scratch.maximum, num_rows, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.sum, num_rows, 0.0F);
  std::fill_n(scratch.out, num_rows * width, 0.0F);

  // Token t stands in slot past + t and sees the slots [pad, past + t]. Tiles are counted from the row's first real
  // slot, so that padding moves no boundary.
  const std::int64_t end = past + block.tokens.end;
  for (std::int64_t tile = pad; tile < end; tile += kKeyTile) {
    const std::int64_t last = std::min(tile + kKeyTile, end);
    const std::int64_t element = s.cache.layout.offset(s.layer, block.b, block.kv_head, tile, 0);
    widen_rows(s, at(s.cache.keys.data(), s.storage, element), last - tile, width, scratch.k);
    widen_rows(s, at(s.cache.values.data(), s.storage, element), last - tile, width, scratch.v);
    for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
      const std::int64_t visible = std::min(last, past + t + 1);
      if (visible <= tile) continue;
      const std::int64_t row = (t - block.tokens.begin) * block.num_heads;
      AttendTileParams p;
      p.q = scratch.q + row * width;
      p.k = scratch.k;
      p.v = scratch.v;
      p.maximum = scratch.maximum + row;
      p.sum = scratch.sum + row;
      p.out = scratch.out + row * width;
      p.scores = scratch.scores;
      p.rows = block.num_heads;
      p.width = width;
      p.num_keys = visible - tile;
      p.scale = scale;
      s.kernels.attend_tile(p);
    }
  }

  std::byte* out = s.arena.tensor(Op::kAttnOutput);
  for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
    for (std::int64_t h = 0; h < block.num_heads; ++h) {
      const std::int64_t row = (t - block.tokens.begin) * block.num_heads + h;
      float* values = scratch.out + row * width;
      // A pad token sees nothing; its row stays at zero.
      if (!s.is_pad(block.b, t)) s.kernels.divide(values, scratch.sum[row], values, d);
      const std::int64_t element = ((block.b * num_tokens + t) * config.num_q_heads + block.first_head + h) * d;
      s.kernels.narrow(s.storage, values, at(out, s.storage, element), d);
    }
  }
}

// The kv head that query head h reads: h / G. The planted instance holds the wrong maps.
template <bool kPlanted>
std::int64_t kv_head_of(const LayerContext& s, const Planting<kPlanted>& planting, std::int64_t h) {
  const std::int64_t num_kv_heads = s.config.num_kv_heads;
  const std::int64_t group = s.config.group_size();
  if constexpr (kPlanted) {
    const bool decode = s.step.phase == Phase::kDecode;
    if (planting.is(FaultId::kHeadMapModulo)) return h % num_kv_heads;
    if (planting.is(FaultId::kHeadMapDecodeOnly) && decode) return h % num_kv_heads;
    if (planting.is(FaultId::kHeadMapPrefillOnly) && !decode) return h % num_kv_heads;
    if (planting.is(FaultId::kHeadMapDivideByKv)) return std::min(h / num_kv_heads, num_kv_heads - 1);
    if (planting.is(FaultId::kHeadMapGroupOffByOne)) {
      const auto wrong_group =
          group + static_cast<std::int64_t>(planting.value_or(FaultId::kHeadMapGroupOffByOne, 0.0));
      return std::min(h / std::max<std::int64_t>(1, wrong_group), num_kv_heads - 1);
    }
    if (planting.is(FaultId::kHeadMapZero)) return 0;
  }
  return h / group;
}

std::int64_t num_real_tokens_of(const LayerContext& s, const Block& block) {
  std::int64_t count = 0;
  for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) count += s.is_pad(block.b, t) ? 0 : 1;
  return count;
}

// All query heads of the group read one kv head in a clean engine; in a planted one each may read another.
template <bool kPlanted>
void attend_group(const LayerContext& s, const ThreadScratch& scratch, Block block, float scale) {
  const Planting<kPlanted> planting(s.fault, s.layer);
  if constexpr (!kPlanted) {
    block.kv_head = kv_head_of(s, planting, block.first_head);
    attend_block(s, scratch, block, scale);
  } else {
    const std::int64_t right = block.first_head / s.config.group_size();
    const std::int64_t end = block.first_head + block.num_heads;
    block.num_heads = 1;
    for (; block.first_head < end; ++block.first_head) {
      block.kv_head = kv_head_of(s, planting, block.first_head);
      if (block.kv_head != right) planting.count(num_real_tokens_of(s, block));
      attend_block(s, scratch, block, scale);
    }
  }
}

}  // namespace

template <bool kPlanted>
void LayerStages<kPlanted>::attend(const LayerContext& s) {
  const Planting<kPlanted> planting(s.fault, s.layer);
  const double right_scale = 1.0 / std::sqrt(static_cast<double>(s.config.head_dim));
  const auto scale = static_cast<float>(right_scale * planting.value_or(FaultId::kSoftmaxScale, 1.0));
  if (planting.is(FaultId::kSoftmaxScale) && scale != static_cast<float>(right_scale)) {
    planting.count(s.num_real_tokens() * s.config.num_q_heads);
  }

  const std::int64_t num_tokens = s.step.num_tokens();
  const std::int64_t num_blocks = (num_tokens + kQueryBlock - 1) / kQueryBlock;
  const std::int64_t num_groups = s.config.num_kv_heads;
  const std::int64_t num_units = s.step.batch() * num_groups * num_blocks;
  s.pool.for_each(num_units, [&](std::int64_t unit, int thread) {
    // The last blocks first: they see the most keys, and nobody should be left with one of them at the end.
    const std::int64_t first = (num_blocks - 1 - unit / num_groups % num_blocks) * kQueryBlock;
    Block block;
    block.b = unit / (num_groups * num_blocks);
    block.num_heads = s.config.group_size();
    block.first_head = unit % num_groups * block.num_heads;
    block.kv_head = 0;
    block.tokens = {first, std::min(first + kQueryBlock, num_tokens)};
    attend_group<kPlanted>(s, s.arena.thread(thread), block, scale);
  });
}

template void LayerStages<false>::attend(const LayerContext&);
template void LayerStages<true>::attend(const LayerContext&);

}  // namespace qdiff::optimized::cpu
