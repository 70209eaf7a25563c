#include "harness/calibration/sums.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace qdiff::calibration {
namespace {

constexpr std::size_t kMaxLanes = 32;

// The product of two floats is exact in double, and so the sum is rounded to float once but for a double rounding in
// one case of 2^29: a fused multiply-add without needing the instruction.
template <bool kFused>
float add_product(float sum, float a, float b) {
  if constexpr (kFused) {
    return static_cast<float>(static_cast<double>(sum) + static_cast<double>(a) * static_cast<double>(b));
  } else {
    const float product = a * b;
    return sum + product;
  }
}

template <bool kFused>
float sum_in_lanes(const float* a, const float* b, std::size_t n, std::size_t lanes) {
  std::array<float, kMaxLanes> partial{};
  std::size_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      partial[lane] = add_product<kFused>(partial[lane], a[k + lane], b[k + lane]);
    }
  }
  for (std::size_t lane = 0; k < n; ++k, ++lane) partial[lane] = add_product<kFused>(partial[lane], a[k], b[k]);
  for (std::size_t width = lanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  }
  return partial[0];
}

template <bool kFused>
float sum_pairwise(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t kLeaf = 8;
  if (n > kLeaf) return sum_pairwise<kFused>(a, b, n / 2) + sum_pairwise<kFused>(a + n / 2, b + n / 2, n - n / 2);
  float result = 0.0F;
  for (std::size_t k = 0; k < n; ++k) result = add_product<kFused>(result, a[k], b[k]);
  return result;
}

// x without what lies behind the last bit of a float32 whose leading bit is 2^exponent.
double cut_off(double x, int exponent) {
  const double unit = std::ldexp(1.0, exponent - 23);
  return std::trunc(x / unit) * unit;
}

float sum_in_matrix_unit(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t kTerms = 16;
  double result = 0.0;
  for (std::size_t first = 0; first < n; first += kTerms) {
    const std::size_t last = std::min(first + kTerms, n);
    double largest = std::abs(result);
    for (std::size_t k = first; k < last; ++k) {
      largest = std::max(largest, std::abs(static_cast<double>(a[k]) * static_cast<double>(b[k])));
    }
    if (largest == 0.0 || !std::isfinite(largest)) {
      for (std::size_t k = first; k < last; ++k) result += static_cast<double>(a[k]) * static_cast<double>(b[k]);
      continue;
    }
    const int exponent = std::ilogb(largest);
    double sum = cut_off(result, exponent);
    for (std::size_t k = first; k < last; ++k) {
      sum += cut_off(static_cast<double>(a[k]) * static_cast<double>(b[k]), exponent);
    }
    result = sum == 0.0 ? 0.0 : cut_off(sum, std::ilogb(sum));
  }
  return static_cast<float>(result);
}

template <bool kFused>
float sum_part(const float* a, const float* b, std::size_t n, const SumStyle& style) {
  float result = 0.0F;
  switch (style.order) {
    case Order::kForward:
      for (std::size_t k = 0; k < n; ++k) result = add_product<kFused>(result, a[k], b[k]);
      return result;
    case Order::kBackward:
      for (std::size_t k = n; k-- > 0;) result = add_product<kFused>(result, a[k], b[k]);
      return result;
    case Order::kLanes:
      return sum_in_lanes<kFused>(a, b, n, static_cast<std::size_t>(style.lanes));
    case Order::kMatrixUnit:
      return sum_in_matrix_unit(a, b, n);
    case Order::kPairwise:
      break;
  }
  return sum_pairwise<kFused>(a, b, n);
}

float sum_one(const float* a, const float* b, std::size_t n, const SumStyle& style) {
  return style.fused ? sum_part<true>(a, b, n, style) : sum_part<false>(a, b, n, style);
}

}  // namespace

SumStyle draw_sum_style(Random& random, bool matrix_unit) {
  return {.order = matrix_unit && random.chance(0.25)
                       ? Order::kMatrixUnit
                       : random.one_of({Order::kForward, Order::kBackward, Order::kLanes, Order::kPairwise}),
          .lanes = random.one_of({std::int64_t{4}, std::int64_t{8}, std::int64_t{16}, std::int64_t{32}}),
          .splits = random.chance(0.4) ? random.between(2, 8) : 1,
          .fused = random.chance(0.5),
          .bias_first = random.chance(0.25),
          .block = random.one_of({std::int64_t{256}, std::int64_t{384}, std::int64_t{512}})};
}

float dot(std::span<const float> a, std::span<const float> b, const SumStyle& style) {
  const std::size_t n = a.size();
  const auto splits = static_cast<std::size_t>(style.splits);
  if (splits == 1) return sum_one(a.data(), b.data(), n, style);
  const std::size_t part = (n + splits - 1) / splits;
  float result = 0.0F;
  for (std::size_t first = 0; first < n; first += part) {
    result += sum_one(a.data() + first, b.data() + first, std::min(part, n - first), style);
  }
  return result;
}

float dot_with_bias(std::span<const float> a, std::span<const float> b, float bias, const SumStyle& style) {
  if (!style.bias_first) return dot(a, b, style) + bias;
  const auto block = static_cast<std::size_t>(style.block);
  float result = bias;
  for (std::size_t first = 0; first < a.size(); first += block) {
    const std::size_t size = std::min(block, a.size() - first);
    result += sum_one(a.data() + first, b.data() + first, size, style);
  }
  return result;
}

float sum(std::span<const float> values, const SumStyle& style) {
  thread_local std::vector<float> ones;
  if (ones.size() < values.size()) ones.assign(values.size(), 1.0F);
  return dot(values, {ones.data(), values.size()}, style);
}

}  // namespace qdiff::calibration
