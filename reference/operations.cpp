#include "reference/operations.h"

#include <limits>

namespace qdiff::reference {

using enum RoundingPoint;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const Rounding& rounding) {
  const at::Tensor mean_square = rounding.accumulated(x.square().mean(-1, /*keepdim=*/true));
  const at::Tensor normalized = x * at::rsqrt(mean_square + eps);
  return weight * rounding.at(kRmsNormNormalized, normalized);
}

at::Tensor matmul(const at::Tensor& x, const at::Tensor& weight) { return at::matmul(x, weight.t()); }

at::Tensor add_bias(const at::Tensor& x, const at::Tensor& bias) { return x + bias; }

at::Tensor rope_angles(const at::Tensor& positions, std::int64_t head_dim, double theta, at::ScalarType compute) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, of_type(compute)) / head_dim;
  const at::Tensor inverse_frequency = 1.0 / at::pow(theta, exponents);               // [d/2]
  const at::Tensor angles = positions.to(compute).unsqueeze(-1) * inverse_frequency;  // [B, T, d/2]
  return at::cat({angles, angles}, -1);
}

at::Tensor rotate_half(const at::Tensor& x) {
  const std::int64_t half = x.size(-1) / 2;
  return at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
}

at::Tensor rope(const at::Tensor& x, const at::Tensor& angles, const Rounding& rounding) {
  const at::Tensor cosine = rounding.at(kRopeTable, at::cos(angles)).unsqueeze(2);  // the same for all heads
  const at::Tensor sine = rounding.at(kRopeTable, at::sin(angles)).unsqueeze(2);
  return rounding.at(kRopeProducts, x * cosine) + rounding.at(kRopeProducts, rotate_half(x) * sine);
}

at::Tensor append_to_cache(const at::Tensor& past, const at::Tensor& now, const Rounding& rounding) {
  const at::Tensor stored = rounding.at(kKvCache, now);
  return past.defined() ? at::cat({past, stored}, 1) : stored;
}

at::Tensor repeat_kv(const at::Tensor& x, const std::vector<std::int64_t>& kv_head) {
  return x.index_select(2, at::tensor(kv_head, of_type(at::kLong))).transpose(1, 2);
}

at::Tensor hide_unseen(const at::Tensor& values, const at::Tensor& visible) {
  const at::Tensor unseen = visible.any(1).logical_not();  // [B, S]
  return values.masked_fill(unseen.unsqueeze(-1).unsqueeze(-1), 0.0);
}

at::Tensor attention_scores(const at::Tensor& query, const at::Tensor& keys, const std::vector<std::int64_t>& kv_head,
                            double scale, const at::Tensor& visible, const Rounding& rounding) {
  const at::Tensor q = rounding.at(kAttentionQuery, query).transpose(1, 2);  // [B, H, T, d]
  const at::Tensor k = repeat_kv(keys, kv_head).transpose(2, 3);             // [B, H, d, S]
  const at::Tensor products = rounding.at(kAttentionAccumulate, rounding.accumulated(at::matmul(q, k)));
  const at::Tensor scaled = rounding.at(kAttentionScaledScores, rounding.at(kAttentionScores, products) * scale);
  return scaled.masked_fill(visible.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity());
}

at::Tensor softmax(const at::Tensor& scores, const Rounding& rounding) {
  const at::Tensor maximum = at::amax(scores, -1, /*keepdim=*/true);
  const at::Tensor nothing_visible = at::isneginf(maximum);
  const at::Tensor weights = at::exp(scores - maximum.masked_fill(nothing_visible, 0.0));
  const at::Tensor sum = rounding.accumulated(weights.sum(-1, /*keepdim=*/true));
  const at::Tensor divisor = sum.masked_fill(nothing_visible, 1.0);
  if (rounding.divides_last()) return rounding.at(kAttentionProbs, weights) / divisor;
  return rounding.at(kAttentionProbs, weights / divisor);
}

at::Tensor attention_output(const at::Tensor& probs, const at::Tensor& values, const std::vector<std::int64_t>& kv_head,
                            const at::Tensor& visible, const Rounding& rounding) {
  const at::Tensor v = repeat_kv(hide_unseen(values, visible), kv_head);  // [B, H, S, d]
  const at::Tensor heads = rounding.at(kAttentionAccumulate, rounding.accumulated(at::matmul(probs, v)));
  return heads.transpose(1, 2).flatten(2);  // [B, T, H*d]
}

at::Tensor silu_times(const at::Tensor& gate, const at::Tensor& up, const Rounding& rounding) {
  return rounding.at(kMlpSilu, at::silu(gate)) * up;
}

at::Tensor add_residual(const at::Tensor& residual, const at::Tensor& x) { return residual + x; }

}  // namespace qdiff::reference
