// q k^T, scaled and masked, and what a stretch of attention has in common.
#pragma once

#include "reference/setting.h"

namespace qdiff::reference {

// q k^T * scale, -inf where `visible` is false: [B, H, T, S] (Vaswani et al. 2017, eq. 1; eager_attention_forward).
// query [B, T, H, d], keys [B, S, K, d], kv_head [H], visible [B, T, S].
at::Tensor attention_scores(const at::Tensor& query, const at::Tensor& keys, const std::vector<std::int64_t>& kv_head,
                            double scale, const at::Tensor& visible, const Rounding& rounding);
// Keys or values laid out for query heads: [B, S, K, d] -> [B, H, S, d] (repeat_kv).
at::Tensor repeat_kv(const at::Tensor& x, const std::vector<std::int64_t>& kv_head);
// Values with the slots that no token sees set to zero.
at::Tensor hide_unseen(const at::Tensor& values, const at::Tensor& visible);
// Slots [0, num_slots) that the tokens [first, first + count) see: [copies * B, count, num_slots]. Right: not after the
// token (s <= past_length + t), and no pad.
at::Tensor visible_slots(const Step& step, const AttentionRule& rule, std::int64_t copies, std::int64_t first,
                         std::int64_t count, std::int64_t num_slots);

// A stretch of attention, from recorded q and k (`query` is defined), from recorded scores, or from recorded probs
// (`scores` is not). Head-major and repeated for query heads.
struct AttentionValues {
  at::Tensor query;    // [B, H, T, d]
  at::Tensor keys;     // [B, H, S, d]
  at::Tensor scores;   // [B, H, T, S], scaled and masked
  at::Tensor probs;    // [B, H, T, S]
  at::Tensor values;   // [B, H, S, d]
  at::Tensor output;   // [B, H, T, d]
  at::Tensor visible;  // [B, 1, T, S]
  double scale = 0.0;
  std::optional<DType> sum_type;  // of a softmax sum kept in a narrower type than accumulate
};

// x where it is visible, 0 elsewhere.
at::Tensor seen(const at::Tensor& x, const at::Tensor& visible);
// For s = scale q.k: the dot product and its declared roundings, then the product with the scale. 0 where the scores
// are recorded.
at::Tensor score_variance(const AttentionValues& a, const NoiseModel& model);
// The scale is one rounded constant: it moves every score by the same factor.
double scale_variance(const NoiseModel& model);
Noise scores_noise(const AttentionValues& a, const NoiseModel& model);

}  // namespace qdiff::reference
