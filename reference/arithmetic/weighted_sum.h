// Probabilities times values.
#pragma once

#include "reference/arithmetic/scores.h"

namespace qdiff::reference {

// probs v, heads side by side: [B, T, H*d]. probs [B, H, T, S], values [B, S, K, d]. Slots that no token sees are taken
// as zero: they may hold anything.
at::Tensor attention_output(const at::Tensor& probs, const at::Tensor& values, const std::vector<std::int64_t>& kv_head,
                            const at::Tensor& visible, const Rounding& rounding);

Noise attention_output_noise(const AttentionValues& a, const NoiseModel& model);  // [B, H, T, d]

}  // namespace qdiff::reference
