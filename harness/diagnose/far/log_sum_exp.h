// The logarithm of what a softmax divides by.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace qdiff::diagnose {

// ln of the sum of exp(logit), without overflow; of at least one logit.
inline double log_sum_exp(std::span<const double> logits) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (double x : logits) sum += std::exp(x - top);
  return top + std::log(sum);
}

}  // namespace qdiff::diagnose
