#include "reference/arithmetic/scores.h"

#include <limits>

namespace qdiff::reference {

using enum RoundingPoint;

at::Tensor repeat_kv(const at::Tensor& x, const std::vector<std::int64_t>& kv_head) {
  return x.index_select(2, at::tensor(kv_head, of_type(at::kLong))).transpose(1, 2);
}

at::Tensor hide_unseen(const at::Tensor& values, const at::Tensor& visible) {
  const at::Tensor unseen = visible.any(1).logical_not();  // [B, S]
  return values.masked_fill(unseen.unsqueeze(-1).unsqueeze(-1), 0.0);
}

at::Tensor visible_slots(const Step& step, const AttentionRule& rule, std::int64_t copies, std::int64_t first,
                         std::int64_t count, std::int64_t num_slots) {
  std::vector<std::int64_t> first_seen, last_seen;
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    for (std::int64_t t = first; t < first + count; ++t) {
      const SlotRange range = rule.visible
                                  ? rule.visible(b, t)
                                  : SlotRange{step.left_padding[static_cast<std::size_t>(b)], step.past_length + t};
      first_seen.push_back(range.first);
      last_seen.push_back(range.last);
    }
  }
  const at::Tensor slots = at::arange(num_slots, of_type(at::kLong));
  const auto column = [&](const std::vector<std::int64_t>& bounds) {
    return at::tensor(bounds, of_type(at::kLong)).view({step.batch(), count, 1});
  };
  const at::Tensor inside = slots.ge(column(first_seen)).logical_and(slots.le(column(last_seen)));
  return (rule.inverted ? inside.logical_not() : inside).repeat({copies, 1, 1});
}

at::Tensor attention_scores(const at::Tensor& query, const at::Tensor& keys, const std::vector<std::int64_t>& kv_head,
                            double scale, const at::Tensor& visible, const Rounding& rounding) {
  const at::Tensor q = rounding.at(kAttentionQuery, query).transpose(1, 2);  // [B, H, T, d]
  const at::Tensor k = repeat_kv(keys, kv_head).transpose(2, 3);             // [B, H, d, S]
  const at::Tensor products = rounding.at(kAttentionAccumulate, rounding.accumulated(at::matmul(q, k)));
  const at::Tensor scaled = rounding.at(kAttentionScaledScores, rounding.at(kAttentionScores, products) * scale);
  return scaled.masked_fill(visible.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity());
}

at::Tensor seen(const at::Tensor& x, const at::Tensor& visible) { return x.masked_fill(visible.logical_not(), 0.0); }

at::Tensor score_variance(const AttentionValues& a, const NoiseModel& model) {
  if (!a.query.defined()) return at::zeros({}, of_type(at::kDouble));
  const double u = model.attention_unit();
  const double scale2 = a.scale * a.scale;
  const at::Tensor s = seen(a.scores, a.visible);
  const at::Tensor squared_keys = a.keys.square().transpose(2, 3);
  const at::Tensor squares = at::matmul(a.query.square(), squared_keys) * scale2;
  const at::Tensor length = at::scalar_tensor(static_cast<double>(a.query.size(-1)), of_type(at::kDouble));
  at::Tensor variance = dot_variance(s, squares, length, u) + rounding_of(s, model.unit());
  if (model.matrix_units()) variance = variance + cut_off_noise(s, squares, length, u).independent;
  if (model.declares(kAttentionQuery)) {
    variance = variance + at::matmul(model.at(kAttentionQuery, a.query), squared_keys) * scale2;
  }
  if (model.declares(kAttentionScores) && a.scale != 0.0) {
    variance = variance + model.at(kAttentionScores, s / a.scale) * scale2;
  }
  return seen(variance, a.visible);
}

double scale_variance(const NoiseModel& model) { return kOneRounding * model.unit() * model.unit(); }

Noise scores_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor s = seen(a.scores, a.visible);
  return {score_variance(a, model) + seen(model.at_last(kAttentionScaledScores, s), a.visible),
          s.square() * scale_variance(model)};
}

}  // namespace qdiff::reference
