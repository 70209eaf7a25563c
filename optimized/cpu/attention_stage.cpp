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

// Slots that token t of row b, which stands in slot past + t, sees.
template <bool kPlanted>
Range visible_slots(const LayerContext& s, std::int64_t b, std::int64_t t) {
  if constexpr (kPlanted) return planted_visible_slots(s, b, t);
  return {s.left_padding[static_cast<std::size_t>(b)], s.step.past_length + t + 1};
}

// Slots that any token of the block sees. Tiles are counted from the row's first real slot, so that padding moves no
// boundary.
template <bool kPlanted>
Range walked_slots(const LayerContext& s, const Block& block) {
  Range walked{s.left_padding[static_cast<std::size_t>(block.b)], s.step.past_length + block.tokens.end};
  if constexpr (kPlanted) {
    for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
      const Range seen = visible_slots<kPlanted>(s, block.b, t);
      walked = {std::min(walked.begin, seen.begin), std::max(walked.end, seen.end)};
    }
  }
  return walked;
}

// The cached keys and values of the slots, widened.
template <bool kPlanted>
void widen_tile(const LayerContext& s, const ThreadScratch& scratch, const Block& block, Range slots) {
  const std::int64_t width = round_up_to_lanes(s.config.head_dim);
  std::int64_t element = 0;
  if constexpr (kPlanted) {
    const Planting<kPlanted> planting(s.fault, s.layer);
    element = planted_read_offset(planting, s.cache.layout, s.layer, block.b, block.kv_head, slots.begin);
  } else {
    element = s.cache.layout.offset(s.layer, block.b, block.kv_head, slots.begin, 0);
  }
  const std::int64_t num_slots = slots.end - slots.begin;
  widen_rows(s, at(s.cache.keys.data(), s.storage, element), num_slots, width, scratch.k);
  widen_rows(s, at(s.cache.values.data(), s.storage, element), num_slots, width, scratch.v);
  if constexpr (kPlanted) planted_replace_keys(s, block.b, block.kv_head, slots, scratch.k);
}

template <bool kPlanted>
void attend_block(const LayerContext& s, const ThreadScratch& scratch, const Block& block,
                  const SoftmaxScales& scales) {
  const ModelConfig& config = s.config;
  const std::int64_t d = config.head_dim;
  const std::int64_t width = round_up_to_lanes(d);
  const std::int64_t num_tokens = s.step.num_tokens();
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

  const Range walked = walked_slots<kPlanted>(s, block);
  for (std::int64_t tile = walked.begin; tile < walked.end; tile += kKeyTile) {
    const std::int64_t last = std::min(tile + kKeyTile, walked.end);
    widen_tile<kPlanted>(s, scratch, block, {tile, last});
    for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
      const Range seen = visible_slots<kPlanted>(s, block.b, t);
      const std::int64_t first = std::max(tile, seen.begin);
      const std::int64_t end = std::min(last, seen.end);
      if (end <= first) continue;
      const std::int64_t row = (t - block.tokens.begin) * block.num_heads;
      AttendTileParams p;
      p.q = scratch.q + row * width;
      p.k = scratch.k + (first - tile) * width;
      p.v = scratch.v + (first - tile) * width;
      p.maximum = scratch.maximum + row;
      p.sum = scratch.sum + row;
      p.out = scratch.out + row * width;
      p.scores = scratch.scores;
      p.rows = block.num_heads;
      p.width = width;
      p.num_keys = end - first;
      p.scale = scales.scores;
      s.kernels.attend_tile(p);
    }
  }

  std::byte* out = s.arena.tensor(Op::kAttnOutput);
  for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
    for (std::int64_t h = 0; h < block.num_heads; ++h) {
      const std::int64_t row = (t - block.tokens.begin) * block.num_heads + h;
      float* values = scratch.out + row * width;
      // A pad token sees nothing; its row stays at zero.
      const bool sees = !s.is_pad(block.b, t);
      if constexpr (kPlanted) {
        const Range seen = visible_slots<kPlanted>(s, block.b, t);
        if (!sees || seen.end <= seen.begin) {
          std::fill_n(values, d, 0.0F);
        } else {
          s.kernels.divide(values, scratch.sum[row], values, d);
          for (std::int64_t i = 0; i < d; ++i) values[i] *= scales.probs;
        }
      } else if (sees) {
        s.kernels.divide(values, scratch.sum[row], values, d);
      }
      const std::int64_t element = ((block.b * num_tokens + t) * config.num_q_heads + block.first_head + h) * d;
      s.kernels.narrow(s.storage, values, at(out, s.storage, element), d);
    }
  }
}

// The kv head that query head h reads: h / G. The planted instance holds the wrong maps.
template <bool kPlanted>
std::int64_t kv_head_of(const LayerContext& s, std::int64_t h) {
  const std::int64_t num_kv_heads = s.config.num_kv_heads;
  const std::int64_t group = s.config.group_size();
  if constexpr (kPlanted) {
    const Planting<kPlanted> planting(s.fault, s.layer);
    const bool decode = s.step.phase == Phase::kDecode;
    if (planting.is(FaultId::kModulo)) return h % num_kv_heads;
    if (planting.is(FaultId::kDecodeOnly) && decode) return h % num_kv_heads;
    if (planting.is(FaultId::kPrefillOnly) && !decode) return h % num_kv_heads;
    if (planting.is(FaultId::kDivideByKv)) return std::min(h / num_kv_heads, num_kv_heads - 1);
    if (planting.is(FaultId::kGroupOffByOne)) {
      const std::int64_t wrong_group = std::max<std::int64_t>(1, group + planting.whole_value());
      return std::min(h / wrong_group, num_kv_heads - 1);
    }
    if (planting.is(FaultId::kHeadZero)) return 0;
  }
  return h / group;
}

// Queries of the block that read another head or see other slots than they should.
std::int64_t num_misled(const LayerContext& s, const Block& block, std::int64_t right_head) {
  std::int64_t count = 0;
  for (std::int64_t t = block.tokens.begin; t < block.tokens.end; ++t) {
    if (s.is_pad(block.b, t)) continue;
    const Range seen = visible_slots<true>(s, block.b, t);
    const Range right = visible_slots<false>(s, block.b, t);
    count += block.kv_head != right_head || seen.begin != right.begin || seen.end != right.end ? 1 : 0;
  }
  return count;
}

// All query heads of the group read one kv head in a clean engine; in a planted one each may read another.
template <bool kPlanted>
void attend_group(const LayerContext& s, const ThreadScratch& scratch, Block block, const SoftmaxScales& scales) {
  if constexpr (!kPlanted) {
    block.kv_head = kv_head_of<kPlanted>(s, block.first_head);
    attend_block<kPlanted>(s, scratch, block, scales);
  } else {
    const std::int64_t right = block.first_head / s.config.group_size();
    const std::int64_t end = block.first_head + block.num_heads;
    block.num_heads = 1;
    for (; block.first_head < end; ++block.first_head) {
      if (plants_softmax(s)) {
        planted_attend_head(s, block.b, block.first_head, block.tokens, scales.scores);
        continue;
      }
      block.kv_head = kv_head_of<kPlanted>(s, block.first_head);
      Planting<kPlanted>(s.fault, s.layer).count(num_misled(s, block, right));
      attend_block<kPlanted>(s, scratch, block, scales);
    }
  }
}

}  // namespace

template <bool kPlanted>
void LayerStages<kPlanted>::attend(const LayerContext& s) {
  SoftmaxScales scales{static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.config.head_dim)))};
  if constexpr (kPlanted) scales = planted_scales(s);

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
    attend_group<kPlanted>(s, s.arena.thread(thread), block, scales);
  });
}

template void LayerStages<false>::attend(const LayerContext&);
template void LayerStages<true>::attend(const LayerContext&);

}  // namespace qdiff::optimized::cpu
