#include "reference/arithmetic/weighted_sum.h"

#include "reference/arithmetic/softmax.h"

namespace qdiff::reference {

using enum RoundingPoint;

at::Tensor attention_output(const at::Tensor& probs, const at::Tensor& values, const std::vector<std::int64_t>& kv_head,
                            const at::Tensor& visible, const Rounding& rounding) {
  const at::Tensor v = repeat_kv(hide_unseen(values, visible), kv_head);  // [B, H, S, d]
  const at::Tensor heads = rounding.at(kAttentionAccumulate, rounding.accumulated(at::matmul(probs, v)));
  return heads.transpose(1, 2).flatten(2);  // [B, T, H*d]
}

// o = sum_j p_j v_j. Errors of the weights arrive as do = sum_j p_j r_j (v_j - o), to first order: what all weights
// have in common cancels in the softmax. Then the sum's own rounding, that of P where it is declared, and 1/sum.
Noise attention_output_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor& o = a.output;
  const at::Tensor v2 = a.values.square();
  const at::Tensor squares = at::matmul(a.probs.square(), v2);
  const at::Tensor slots = slots_visible(a);
  at::Tensor independent = dot_variance(o, squares, slots, model.attention_unit()) + rounding_of(o, model.unit());
  if (model.matrix_units()) {
    independent = independent + cut_off_noise(o, squares, slots, model.attention_unit()).independent;
  }
  if (model.declares(kAttentionProbs)) {
    // Recorded probs that the declared type holds already are rounded no more.
    at::Tensor rounding = model.at(kAttentionProbs, a.probs);
    if (!a.scores.defined()) {
      rounding = rounding.masked_fill(model.holds(kAttentionProbs, a.probs), 0.0);
    }
    independent = independent + at::matmul(rounding, v2);
  }
  if (!a.scores.defined()) return {independent, zeros_like_result(o)};

  // p_j^2 r_j^2; no weight moves by more than 1.
  const at::Tensor weights = (a.probs.square() * weight_variance(a, model)).clamp_max(1.0);
  const at::Tensor spread =
      at::matmul(weights, v2) - 2.0 * o * at::matmul(weights, a.values) + o.square() * weights.sum(-1, true);
  at::Tensor shared = o.square() * softmax_sum_variance(a, model) + spread.clamp_min(0.0);
  if (a.query.defined()) {
    const at::Tensor weighted = a.probs * seen(a.scores, a.visible);
    const at::Tensor slope = at::matmul(weighted, a.values) - o * weighted.sum(-1, true);
    shared = shared + slope.square() * scale_variance(model);
  }
  return {independent, shared};
}

}  // namespace qdiff::reference
