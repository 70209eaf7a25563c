// Sums of products in float32 in every order that a correct engine may choose.
#pragma once

#include <cstdint>
#include <span>

#include "harness/calibration/random.h"

namespace qdiff::calibration {

enum class Order : std::uint8_t {
  kForward,
  kBackward,
  kLanes,
  kPairwise,
  // As matrix units do: 16 products are aligned to the largest of them and the sum so far, cut off behind float32's
  // last bit and added exactly; the result is cut off, not rounded. Such errors all go one way. Fasi, Higham, Mikaitis
  // and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330 (2021). For stored types of
  // 16 bits, whose products are exact.
  kMatrixUnit,
};

struct SumStyle {
  Order order = Order::kForward;
  std::int64_t lanes = 8;    // partial sums side by side, of kLanes
  std::int64_t splits = 1;   // split K: the range in so many parts, each summed by itself, then together
  bool fused = false;        // one rounding for product and sum
  bool bias_first = false;   // the bias starts the sum and blocks of K are added to it, as BLAS does with beta = 1
  std::int64_t block = 384;  // of K, where bias_first
};

// `matrix_unit`: whether that order may be drawn, too.
SumStyle draw_sum_style(Random& random, bool matrix_unit);

// Sum of a[k] * b[k]; both of equal size.
float dot(std::span<const float> a, std::span<const float> b, const SumStyle& style);
float dot_with_bias(std::span<const float> a, std::span<const float> b, float bias, const SumStyle& style);
float sum(std::span<const float> values, const SumStyle& style);

}  // namespace qdiff::calibration
