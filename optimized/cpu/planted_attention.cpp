// Attention that goes wrong: the slots that a query sees (docs/faults.md, H08 and H10) and the softmax (H02).
#include <cmath>
#include <limits>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();
// exp of this is near float32's largest number, and of its negative near the smallest normal one.
constexpr float kLargestExponent = 88.0F;

// Keys and values of one head of row b from slot `first` on, widened: [num_slots, width].
struct WideCache {
  std::int64_t first = 0;
  std::int64_t num_slots = 0;
  std::int64_t width = 0;
  std::vector<float> keys;
  std::vector<float> values;
};

WideCache widen_cache(const LayerContext& s, const Planting<true>& planting, std::int64_t b, std::int64_t kv_head) {
  const std::int64_t d = s.config.head_dim;
  const std::int64_t pad = s.left_padding[static_cast<std::size_t>(b)];
  const std::int64_t length = s.step.valid_length();
  WideCache wide;
  wide.first = planting.is(FaultId::kFiniteFp16) ? 0 : pad;
  wide.width = round_up_to_lanes(d);
  wide.num_slots = std::max<std::int64_t>(length - wide.first, 0);
  wide.keys.resize(static_cast<std::size_t>(wide.num_slots * wide.width));
  wide.values.resize(wide.keys.size());
  for (std::int64_t j = 0; j < wide.num_slots; ++j) {
    const std::int64_t element = s.cache.layout.offset(s.layer, b, kv_head, wide.first + j, 0);
    s.kernels.widen(s.storage, at(s.cache.keys.data(), s.storage, element), wide.keys.data() + j * wide.width, d);
    s.kernels.widen(s.storage, at(s.cache.values.data(), s.storage, element), wide.values.data() + j * wide.width, d);
  }
  return wide;
}

// How many zeros with which the last tile is filled up a query in slot `own` sees: all, if it stands in that tile
// itself.
std::int64_t tail_seen(const LayerContext& s, const Planting<true>& planting, std::int64_t pad, std::int64_t own) {
  if (!planting.is(FaultId::kTailZero)) return 0;
  const std::int64_t tile = planting.whole_value();
  const std::int64_t num_slots = s.step.valid_length() - pad;
  const bool in_last_tile = (own - pad) / tile == (num_slots - 1) / tile;
  return in_last_tile ? (num_slots + tile - 1) / tile * tile - num_slots : 0;
}

// The scores of query q [width] in slot `own`, one for each slot of the cache; kHidden for what it does not see.
std::vector<float> scores_of(const LayerContext& s, const Planting<true>& planting, const WideCache& cache,
                             const float* q, std::int64_t pad, std::int64_t own, float scale) {
  std::vector<float> scores(static_cast<std::size_t>(cache.num_slots));
  multiply_rows(s.kernels, cache.keys.data(), cache.num_slots, q, cache.width, scores.data());
  const auto hidden = static_cast<float>(planting.value_or(FaultId::kFiniteFp16, kHidden));
  std::int64_t rounded_otherwise = 0;
  for (std::int64_t j = 0; j < cache.num_slots; ++j) {
    const std::int64_t slot = cache.first + j;
    float& score = scores[static_cast<std::size_t>(j)];
    if (slot < pad || slot > own) {
      score = hidden;
      continue;
    }
    if (planting.is(FaultId::kQkFp16)) {
      const float rounded = f16_to_float(float_to_f16(score));
      rounded_otherwise += rounded != score ? 1 : 0;
      score = rounded;
    }
    score *= scale;
  }
  planting.count(rounded_otherwise);
  return scores;
}

// out += weights . values, slot after slot.
void add_values(const float* weights, const float* values, std::int64_t n, std::int64_t width, float* out) {
  for (std::int64_t j = 0; j < n; ++j) {
    if (weights[j] == 0.0F) continue;  // hidden, and perhaps never written
    for (std::int64_t i = 0; i < width; ++i) out[i] += weights[j] * values[j * width + i];
  }
}

// Turns scores into exp(score - maximum); returns their sum.
float weigh(const LayerContext& s, float* scores, std::int64_t n, float maximum) {
  for (std::int64_t j = 0; j < n; ++j) scores[j] -= maximum;
  s.kernels.exp(scores, scores, n);
  const std::vector<float> ones(static_cast<std::size_t>(n), 1.0F);
  return dot(s.kernels, scores, ones.data(), n);
}

// An online softmax over tiles of keys which keeps what it summed under a lower maximum. Returns the denominator.
float softmax_without_rescale(const LayerContext& s, const Planting<true>& planting, const WideCache& cache,
                              std::vector<float>& scores, float* out) {
  const std::int64_t tile = planting.whole_value();
  float maximum = kHidden;
  float sum = 0.0F;
  bool grew = false;
  for (std::int64_t first = 0; first < cache.num_slots; first += tile) {
    const std::int64_t n = std::min(tile, cache.num_slots - first);
    float* tile_scores = scores.data() + first;
    const float highest = *std::max_element(tile_scores, tile_scores + n);
    if (highest == kHidden) break;  // nothing but later tokens
    grew = grew || (first > 0 && highest > maximum);
    maximum = std::max(maximum, highest);
    sum += weigh(s, tile_scores, n, maximum);
    add_values(tile_scores, cache.values.data() + first * cache.width, n, cache.width, out);
  }
  if (grew) planting.count(1);
  return sum;
}

// The whole row at once, with `tail` more slots of score 0 and value 0. Returns the denominator.
float softmax_of_row(const LayerContext& s, const Planting<true>& planting, const WideCache& cache,
                     std::vector<float>& scores, std::int64_t tail, float* out) {
  float maximum = *std::ranges::max_element(scores);
  if (tail > 0) {
    maximum = std::max(maximum, 0.0F);
    planting.count(1);
  }
  if (planting.is(FaultId::kNoMax)) {
    if (!(std::fabs(maximum) <= kLargestExponent)) planting.count(1);
    maximum = 0.0F;
  }
  float sum = weigh(s, scores.data(), cache.num_slots, maximum);
  if (tail > 0) sum += static_cast<float>(tail) * std::exp(-maximum);  // all alike, and as many as a tile is large
  if (planting.is(FaultId::kSumFp16)) {
    const float right = sum;
    sum = 0.0F;
    for (float weight : scores) sum = f16_to_float(float_to_f16(sum + weight));
    if (sum != right) planting.count(1);
  }
  add_values(scores.data(), cache.values.data(), cache.num_slots, cache.width, out);
  return sum;
}

// Slots that are hidden from the query in slot `own` and weigh something all the same.
bool weighs_hidden(const WideCache& cache, const std::vector<float>& weights, std::int64_t pad, std::int64_t own) {
  for (std::int64_t j = 0; j < cache.num_slots; ++j) {
    const std::int64_t slot = cache.first + j;
    if ((slot < pad || slot > own) && weights[static_cast<std::size_t>(j)] != 0.0F) return true;
  }
  return false;
}

}  // namespace

Range planted_visible_slots(const LayerContext& s, std::int64_t b, std::int64_t t) {
  const Planting<true> planting(s.fault, s.layer);
  const std::int64_t past = s.step.past_length;
  const std::int64_t length = s.step.valid_length();
  Range seen{s.left_padding[static_cast<std::size_t>(b)], past + t + 1};
  if (planting.is(FaultId::kNoMask)) seen.end = length;
  if (planting.is(FaultId::kOneAhead)) seen.end = std::min(seen.end + 1, length);
  if (planting.is(FaultId::kTopLeft)) seen.end = t + 1;
  if (planting.is(FaultId::kChunkOnly)) seen.begin = std::max(seen.begin, past);
  if (planting.is_any({FaultId::kPadVisible, FaultId::kPadQueryAxis})) seen.begin = 0;
  if (planting.is(FaultId::kWindow)) seen.begin = std::max(seen.begin, seen.end - planting.whole_value());
  if (s.step.phase == Phase::kPrefill) {
    if (planting.is(FaultId::kStrict)) --seen.end;
    return seen;
  }
  if (planting.is(FaultId::kReadMinusOne) || (planting.is(FaultId::kFirstToken) && s.first_decode)) --seen.end;
  if (planting.is(FaultId::kReadMinusFirst)) seen.begin = std::max<std::int64_t>(seen.begin, 1);
  if (planting.is_any({FaultId::kReadPlusOne, FaultId::kLengthCountsCurrent})) {
    seen.end = std::min(seen.end + 1, s.cache.layout.capacity);
  }
  return seen;
}

void planted_replace_keys(const LayerContext& s, std::int64_t b, std::int64_t kv_head, Range slots, float* tile) {
  const Planting<true> planting(s.fault, s.layer);
  if (!planting.is(FaultId::kAfterCache)) return;
  const std::int64_t past = s.step.past_length;
  for (std::int64_t slot = std::max(slots.begin, past); slot < slots.end; ++slot) {
    const std::int64_t token = b * s.step.num_tokens() + slot - past;
    const std::int64_t element = (token * s.config.num_kv_heads + kv_head) * s.config.head_dim;
    s.kernels.widen(s.storage, at(s.arena.tensor(Op::kKRope), s.storage, element),
                    tile + (slot - slots.begin) * round_up_to_lanes(s.config.head_dim), s.config.head_dim);
  }
}

SoftmaxScales planted_scales(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  const auto d = static_cast<double>(s.config.head_dim);
  const double right = 1.0 / std::sqrt(d);
  double scores = right * planting.value_or(FaultId::kScale, 1.0);
  double probs = 1.0;
  if (planting.is(FaultId::kNoScale)) scores = 1.0;
  if (planting.is(FaultId::kScaleHidden)) scores = 1.0 / std::sqrt(static_cast<double>(s.config.hidden));
  if (planting.is(FaultId::kScaleTwice)) scores = 1.0 / d;
  if (planting.is(FaultId::kScaleAfter)) {
    scores = 1.0;
    probs = right;
  }
  const SoftmaxScales scales{static_cast<float>(scores), static_cast<float>(probs)};
  if (scales.scores != static_cast<float>(right)) planting.count(s.num_real_tokens() * s.config.num_q_heads);
  return scales;
}

bool plants_softmax(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  return planting.is_any({FaultId::kNoMax, FaultId::kSumFp16, FaultId::kQkFp16, FaultId::kTileMax, FaultId::kTailZero,
                          FaultId::kFiniteFp16});
}

void planted_attend_head(const LayerContext& s, std::int64_t b, std::int64_t head, Range tokens, float scale) {
  const Planting<true> planting(s.fault, s.layer);
  const std::int64_t d = s.config.head_dim;
  const std::int64_t pad = s.left_padding[static_cast<std::size_t>(b)];
  const WideCache cache = widen_cache(s, planting, b, head / s.config.group_size());
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
    const std::int64_t element = ((b * s.step.num_tokens() + t) * s.config.num_q_heads + head) * d;
    std::vector<float> out(static_cast<std::size_t>(cache.width));
    if (!s.is_pad(b, t)) {
      const std::int64_t own = s.step.past_length + t;
      std::vector<float> q(out.size());
      s.kernels.widen(s.storage, at(s.arena.tensor(Op::kQRope), s.storage, element), q.data(), d);
      std::vector<float> scores = scores_of(s, planting, cache, q.data(), pad, own, scale);
      const float sum = planting.is(FaultId::kTileMax)
                            ? softmax_without_rescale(s, planting, cache, scores, out.data())
                            : softmax_of_row(s, planting, cache, scores, tail_seen(s, planting, pad, own), out.data());
      if (planting.is(FaultId::kFiniteFp16) && weighs_hidden(cache, scores, pad, own)) planting.count(1);
      s.kernels.divide(out.data(), sum, out.data(), d);
    }
    s.kernels.narrow(s.storage, out.data(), at(s.arena.tensor(Op::kAttnOutput), s.storage, element), d);
  }
}

}  // namespace qdiff::optimized::cpu
