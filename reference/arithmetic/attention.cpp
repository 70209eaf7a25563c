#include <algorithm>
#include <cmath>

#include "reference/arithmetic/arithmetic.h"
#include "reference/arithmetic/scores.h"
#include "reference/arithmetic/softmax.h"
#include "reference/arithmetic/weighted_sum.h"

namespace qdiff::reference {
namespace {

using enum Op;

// Query rows of attention are taken some at a time, so that scores of a long prefill never stand whole in memory.
constexpr std::int64_t kScoresAtOnce = std::int64_t{1} << 23;

// Keys or values as they are attended to. A declared kv_cache.prefill takes those of a prefill step's own tokens before
// the cache; where they are not recorded, the cache stands for them.
at::Tensor attended(const at::Tensor& cache, Op op, const Parameters& parameters, const Setting& setting) {
  if (parameters.attention.slots) return parameters.attention.slots(cache, op, setting);
  const bool own = setting.precision.points.contains(RoundingPoint::kKvCachePrefill) && setting.around != nullptr &&
                   setting.step.phase == Phase::kPrefill;
  if (!own) return cache;
  try {
    const at::Tensor now = setting.tensor(op == kScores ? kKRope : kVProj);
    const at::Tensor taken = setting.rounding.at(RoundingPoint::kKvCachePrefill, now);
    const at::Tensor heads = taken.dim() == 4 ? taken : split_heads(taken, setting.config());
    return at::cat({cache.narrow(1, 0, setting.step.past_length), heads.to(cache.scalar_type())}, 1);
  } catch (const MissingTensor&) {
    return cache;
  }
}

// Query rows [first, first + count) of what one unit takes.
struct Block {
  std::int64_t first, count;
};

// Where a weight other than 0 meets a value that is no number: [B, T, H*d]. Memory behind a weight of exactly 0 may
// hold anything, and engines skip it.
at::Tensor spoilt_outputs(const at::Tensor& probs, const at::Tensor& values, const std::vector<std::int64_t>& kv_head) {
  const at::Tensor spoilt = repeat_kv(at::isfinite(values).logical_not(), kv_head).to(probs.scalar_type());
  return at::matmul(probs.ne(0.0).to(probs.scalar_type()), spoilt).gt(0.0).transpose(1, 2).flatten(2);
}

struct AttentionPart {
  AttentionValues values;  // what the noise needs
  at::Tensor result;       // of the unit's last row, for these query rows
  at::Tensor unknown;      // bool, [B, H, T, 1]: rows of which nothing is expected; undefined: none
};

AttentionPart attend(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting, const Block& block) {
  const std::int64_t first = block.first, count = block.count;
  AttentionPart part;
  AttentionValues& a = part.values;
  const Parameters p = setting.parameters(unit.first == kAttnOutput ? kAttnOutput : kScores);
  const AttentionRule& rule = p.attention;
  const bool hides = std::isinf(rule.hidden_score);
  at::Tensor visible;
  auto see = [&](std::int64_t num_slots) {
    visible = visible_slots(setting.step, rule, setting.copies, first, count, num_slots);
    a.visible = (hides ? visible : at::ones_like(visible)).unsqueeze(1);
  };
  if (unit.first == kScores) {
    const at::Tensor query = inputs[0].narrow(1, first, count);
    const at::Tensor keys = attended(inputs[1], kScores, p, setting);
    see(keys.size(1));
    a.scale = rule.scale;
    a.query = query.transpose(1, 2);
    // A hidden score is a constant, whatever the key is.
    a.keys = repeat_kv(hides ? keys : hide_unseen(keys, visible), rule.kv_head);
    a.scores = attention_scores(query, keys, rule.kv_head, rule.scale, visible, setting.rounding);
    if (!hides) a.scores = a.scores.masked_fill(visible.logical_not().unsqueeze(1), rule.hidden_score);
    part.result = a.scores.narrow(-1, 0, setting.step.valid_length());
  } else if (unit.first == kProbs) {
    a.scores = inputs[0].narrow(2, first, count);
    see(a.scores.size(-1));
  } else {
    // Handed out as softmax gave them, they may be rounded on their way into P·V; twice is as once.
    a.probs = setting.rounding.at(RoundingPoint::kAttentionProbs, inputs[0].narrow(2, first, count));
    see(a.probs.size(-1));
  }
  if (unit.first != kAttnOutput && unit.last != kScores) {
    const Parameters of_probs = setting.parameters(kProbs);
    a.sum_type = of_probs.attention.sum_type;
    const SoftmaxPlace place{setting.step, setting.copies, first, setting.precision.accumulate};
    const Softmaxed softmaxed = of_probs.attention.softmax ? of_probs.attention.softmax(a.scores, place)
                                                           : Softmaxed{softmax(a.scores, setting.rounding), {}};
    a.probs = softmaxed.probs;
    part.unknown = softmaxed.unknown;
    // Where a narrow type has taken every score that is seen to -inf, engines compute exp(-inf + inf).
    if (unit.first == kScores && hides && setting.precision.points.contains(RoundingPoint::kAttentionScores)) {
      const at::Tensor overflowed =
          at::isneginf(at::amax(a.scores, -1, /*keepdim=*/true)).logical_and(a.visible.any(-1, /*keepdim=*/true));
      a.probs = a.probs.masked_fill(overflowed, std::nan(""));
    }
    if (of_probs.attention.scale_after != 1.0) a.probs = a.probs * of_probs.attention.scale_after;
    part.result = a.probs.narrow(-1, 0, setting.step.valid_length());
  }
  if (unit.last == kAttnOutput) {
    const Parameters of_output = setting.parameters(kAttnOutput);
    at::Tensor values = attended(inputs.back(), kAttnOutput, of_output, setting).narrow(1, 0, a.probs.size(-1));
    const at::Tensor seen = hides ? visible : at::ones_like(visible);
    const std::vector<std::int64_t>& kv_head = of_output.attention.kv_head;
    at::Tensor spoilt;
    if (!hides) {  // pads are summed too, with the weight of their score
      spoilt = spoilt_outputs(a.probs, values, kv_head);
      values = values.masked_fill(at::isfinite(values).logical_not(), 0.0);
    }
    part.result = attention_output(a.probs, values, kv_head, seen, setting.rounding);
    if (spoilt.defined()) part.result = part.result.masked_fill(spoilt, std::nan(""));
    a.values = repeat_kv(hide_unseen(values, seen), kv_head);
    a.output = part.result.view({part.result.size(0), count, -1, setting.config().head_dim}).transpose(1, 2);
  }
  return part;
}

Noise attention_noise(const Unit& unit, const AttentionPart& part, const Setting& setting, const Block& block,
                      const NoiseModel& model) {
  const AttentionValues& a = part.values;
  const std::int64_t slots = setting.step.valid_length();
  Noise noise;
  if (unit.last == kAttnOutput) {
    noise = attention_output_noise(a, model);  // [B, H, T, d]
    noise = {noise.independent.transpose(1, 2).flatten(2), noise.shared.transpose(1, 2).flatten(2)};
  } else {
    noise = unit.last == kScores ? scores_noise(a, model) : probs_noise(a, model);
    const at::Tensor& full = unit.last == kScores ? a.scores : a.probs;
    noise = {noise.independent.expand_as(full).narrow(-1, 0, slots), noise.shared.expand_as(full).narrow(-1, 0, slots)};
  }
  noise = {noise.independent.expand_as(part.result), noise.shared.expand_as(part.result)};
  if (setting.variant == nullptr || unit.last == kScores) return noise;
  if (unit.last == kProbs) {
    // Where weights overflow, the others are divided by infinity: 0, and nothing to round.
    const at::Tensor exact = at::isnan(part.result).any(-1, true).logical_and(part.result.eq(0.0));
    noise = {noise.independent.masked_fill(exact, 0.0), noise.shared.masked_fill(exact, 0.0)};
  }
  // Where a wrong mask leaves a real query nothing to see, engines put out what they like.
  const at::Tensor should_see = visible_slots(setting.step, {}, setting.copies, block.first, block.count, slots);
  at::Tensor unknown = a.visible.any(-1, true).logical_not().logical_and(should_see.any(-1, true).unsqueeze(1));
  if (part.unknown.defined()) unknown = unknown.logical_or(part.unknown);  // [B, H or 1, T, 1]
  if (unit.last == kProbs) return {noise.independent.masked_fill(unknown, HUGE_VAL), noise.shared};
  const std::int64_t heads = setting.config().num_q_heads, d = setting.config().head_dim;
  const at::Tensor by_row = unknown.expand({-1, heads, -1, d}).transpose(1, 2).flatten(2);
  return {noise.independent.masked_fill(by_row, HUGE_VAL), noise.shared};
}

}  // namespace

Evaluated evaluate_attention(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                             const NoiseModel* model) {
  const std::int64_t tokens = setting.step.num_tokens();
  const std::int64_t row_size =
      setting.copies * setting.step.batch() * setting.config().num_q_heads * setting.step.valid_length();
  const std::int64_t at_once = std::clamp<std::int64_t>(kScoresAtOnce / row_size, 1, tokens);
  const std::int64_t token_dim = unit.last == kAttnOutput ? 1 : 2;
  Tensors values, independent, shared;
  for (std::int64_t first = 0; first < tokens; first += at_once) {
    const Block block{first, std::min(at_once, tokens - first)};
    const AttentionPart part = attend(unit, inputs, setting, block);
    values.push_back(part.result);
    if (model == nullptr) continue;
    const Noise noise = attention_noise(unit, part, setting, block, *model);
    independent.push_back(noise.independent);
    shared.push_back(noise.shared);
  }
  Evaluated all;
  all.value = at::cat(values, token_dim);
  if (model != nullptr) all.noise = {at::cat(independent, token_dim), at::cat(shared, token_dim)};
  return all;
}

}  // namespace qdiff::reference
