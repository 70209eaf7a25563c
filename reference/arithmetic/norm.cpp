#include "reference/arithmetic/norm.h"

#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {

using enum RoundingPoint;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const Rounding& rounding) {
  const at::Tensor mean_square = rounding.accumulated(x.square().mean(-1, /*keepdim=*/true));
  const at::Tensor normalized = x * at::rsqrt(mean_square + eps);
  return weight * rounding.at(kRmsNormNormalized, normalized);
}

namespace {

// y = w (x r) with r = 1/sqrt(mean x^2 + eps), one r for the row. Shared: half the relative error of the mean (a sum of
// positive terms, the rounding of its largest square, the division by n and the addition of eps), and the inverse
// square root's own. Independent: the two products. Beside a massive channel the other squares are no larger than a few
// spacings of the sum. They are then not rounded at random: summed one after the other, most are lost the same way, and
// the error is a share of what they add up to.
Noise rms_norm_noise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y, const NormRule& rule,
                     const NoiseModel& model) {
  const double u = model.unit();
  const at::Tensor n = at::scalar_tensor(static_cast<double>(x.size(-1)), of_type(at::kDouble));
  const at::Tensor squares = x.square();
  const at::Tensor sum = squares.sum(-1, /*keepdim=*/true);
  const at::Tensor half_spacing = sum * u;
  const at::Tensor lost = at::minimum(squares, half_spacing).masked_fill(squares.ge(half_spacing * 4.0), 0.0);
  const at::Tensor lost_share = lost.sum(-1, true) / sum.masked_fill(sum.eq(0.0), 1.0);
  const at::Tensor mean = positive_sum(n, u) + 3 * kSumRounding * u * u + lost_share.square() / 3.0;
  const at::Tensor inverse_root = mean * (rule.power * rule.power) + kTwoUlps * u * u;
  const at::Tensor inverse_rms = at::rsqrt(sum / n + rule.eps);
  const at::Tensor declared = model.at(kRmsNormNormalized, x * inverse_rms) * weight.square();
  at::Tensor shared = y.square() * inverse_root;
  if (rule.subtract_mean) {  // an error of the mean moves every x of the row alike
    const at::Tensor mean_variance = dot_variance(x.sum(-1, true), sum, n, u) / n.square();
    shared = shared + weight.square() * inverse_rms.square() * mean_variance;
  }
  return {2.0 * rounding_of(y, u) + declared, shared};
}

}  // namespace

Evaluated evaluate_norm(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                        const NoiseModel* model) {
  const Parameters parameters = setting.parameters(unit.last);
  const at::Tensor weight = weight_of(unit.last, parameters, setting);
  const NormRule& rule = parameters.norm;
  const at::Tensor& x = inputs[0];
  const at::Tensor value =
      rule.norm ? rule.norm(x, weight, rule, setting.rounding) : rms_norm(x, weight, rule.eps, setting.rounding);
  if (model == nullptr) return {value, {}};
  return {value, rms_norm_noise(x, weight, value, rule, *model)};
}

}  // namespace qdiff::reference
