// exp(s - max s) / sum.
#pragma once

#include "reference/arithmetic/scores.h"

namespace qdiff::reference {

// exp(s - max s) / sum over the last dimension. A row with nothing visible gives zeros.
at::Tensor softmax(const at::Tensor& scores, const Rounding& rounding);

// Relative variance of exp(s - max): the score's, the subtraction's u |s - max|, and the exponential to two units.
at::Tensor weight_variance(const AttentionValues& a, const NoiseModel& model);
// The softmax sum's relative error, one for a query row and head, and the division by it.
// A running sum in a narrow type is rounded after every slot. Two engines whose weights differ by their own rounding
// store the same there but now and then, and are then a spacing apart: room for one such step, uniform.
at::Tensor softmax_sum_variance(const AttentionValues& a, const NoiseModel& model);
// The number of slots that each query sees.
at::Tensor slots_visible(const AttentionValues& a);
Noise probs_noise(const AttentionValues& a, const NoiseModel& model);

}  // namespace qdiff::reference
