#include "reference/arithmetic/softmax.h"

namespace qdiff::reference {

using enum RoundingPoint;

at::Tensor softmax(const at::Tensor& scores, const Rounding& rounding) {
  const at::Tensor maximum = at::amax(scores, -1, /*keepdim=*/true);
  const at::Tensor nothing_visible = at::isneginf(maximum);
  const at::Tensor weights = at::exp(scores - maximum.masked_fill(nothing_visible, 0.0));
  const at::Tensor sum = rounding.accumulated(weights.sum(-1, /*keepdim=*/true));
  const at::Tensor divisor = sum.masked_fill(nothing_visible, 1.0);
  if (rounding.divides_last()) return rounding.at(kAttentionProbs, weights) / divisor;
  return rounding.at(kAttentionProbs, weights / divisor);
}

at::Tensor slots_visible(const AttentionValues& a) { return a.visible.sum(-1, /*keepdim=*/true).to(at::kDouble); }

namespace {

// Mean square of e^r - 1 for an error r ~ N(0, variance) of the exponent: the variance itself while that is small.
// Scores of hundreds in 16 bits are off by whole units.
at::Tensor of_exponential(const at::Tensor& variance) {
  constexpr double kMost = 40.0;  // far beyond what a weight between 0 and 1 can show
  const at::Tensor v = variance.clamp_max(kMost);
  return at::expm1(2.0 * v) - 2.0 * at::expm1(0.5 * v);
}

}  // namespace

at::Tensor weight_variance(const AttentionValues& a, const NoiseModel& model) {
  const double u = model.unit();
  // A recorded score may be -inf where it should not be: its weight is 0, and so is that of any far below the maximum.
  // Where all are, nothing weighs anything.
  const at::Tensor maximum = at::amax(a.scores, -1, true);
  const at::Tensor below_maximum =
      seen(a.scores - maximum.masked_fill(at::isneginf(maximum), 0.0), a.visible).clamp_min(-1e4);
  at::Tensor variance =
      score_variance(a, model) + rounding_of(below_maximum, u) * kExponentRoundings + kTwoUlps * u * u;
  if (a.query.defined()) variance = variance + model.at(kAttentionScaledScores, seen(a.scores, a.visible));
  return of_exponential(variance);
}

at::Tensor softmax_sum_variance(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor slots = slots_visible(a);
  const at::Tensor variance = positive_sum(slots, model.unit()) + kOneRounding * model.unit() * model.unit();
  if (!a.sum_type) return variance;
  const double spacing = 2.0 * unit_roundoff(*a.sum_type);
  return variance + spacing * spacing / 12.0;
}

// p = w / sum w, so dp_j = p_j (r_j - sum_i p_i r_i) for relative errors r of the weights, to first order. The sum is
// common to the row; one weight that outgrows the others moves it alone.
Noise probs_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor r2 = weight_variance(a, model);
  const at::Tensor p2 = a.probs.square();
  const at::Tensor row = (p2 * r2).sum(-1, /*keepdim=*/true);
  const at::Tensor own = (r2 * (1.0 - 2.0 * a.probs)).clamp_min(0.0);
  const at::Tensor relative = (r2 * (1.0 - 2.0 * a.probs) + row).clamp_min(0.0);
  const at::Tensor independent = (p2 * at::minimum(own, relative)).clamp_max(1.0);
  at::Tensor shared = softmax_sum_variance(a, model) + (relative - own).clamp_min(0.0);
  if (a.query.defined()) {
    const at::Tensor s = seen(a.scores, a.visible);
    shared = shared + (s - (a.probs * s).sum(-1, true)).square() * scale_variance(model);
  }
  return {independent + rounding_of(a.probs, model.unit()) + model.at_last(kAttentionProbs, a.probs),
          (p2 * shared).clamp_max(1.0)};
}

}  // namespace qdiff::reference
