#include "harness/matcher/tests/kernels.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/splitmix64.h"

namespace qdiff::matcher {
namespace {

// sum term(0) … term(n - 1) as the kernel's float32 does it.
template <typename Left, typename Right>
float dot(std::int64_t n, const Kernel& kernel, Left&& left, Right&& right) {
  n -= kernel.left_out;
  float total = 0.0F;
  for (std::int64_t first = 0; first < n; first += kernel.block) {
    float sum = 0.0F;
    const std::int64_t end = std::min(n, first + kernel.block);
    for (std::int64_t i = first; i < end; ++i) {
      const std::int64_t k = kernel.backwards ? n - 1 - i : i;
      if (kernel.fused) {
        sum = std::fma(left(k), right(k), sum);
      } else {
        const float product = left(k) * right(k);
        sum = sum + product;
      }
      if (kernel.bf16_sums) sum = static_cast<float>(round_to(DType::kBF16, sum));
    }
    total += sum;
    if (kernel.bf16_sums) total = static_cast<float>(round_to(DType::kBF16, total));
  }
  return total * static_cast<float>(kernel.factor);
}

}  // namespace

Matrix random_matrix(std::int64_t rows, std::int64_t columns, DType dtype, double deviation, std::uint64_t seed,
                     bool massive) {
  Matrix matrix{rows, columns, {}};
  SplitMix64 random(seed);
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    double sum = 0.0;
    for (int part = 0; part < 12; ++part) sum += random.uniform();
    const double of_column = massive && i % columns == columns / 3 ? 300.0 : 1.0;
    matrix.values.push_back(static_cast<float>(round_to(dtype, (sum - 6.0) * deviation * of_column)));
  }
  return matrix;
}

Matrix multiply(const Matrix& x, const Matrix& weight, const Kernel& kernel) {
  Matrix y{x.rows, weight.rows, {}};
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t o = 0; o < weight.rows; ++o) {
      y.values.push_back(dot(
          x.columns, kernel, [&](std::int64_t k) { return x.at(r, k); },
          [&](std::int64_t k) { return weight.at(o, k); }));
    }
  }
  return y;
}

std::vector<double> multiply(const Matrix& x, const Matrix& weight, Rounding& rounding) {
  std::vector<double> y;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t o = 0; o < weight.rows; ++o) {
      y.push_back(rounding.sum(x.columns, [&](std::int64_t k) { return double{x.at(r, k)} * weight.at(o, k); }));
    }
  }
  return y;
}

Matrix rms_norm(const Matrix& x, const Matrix& weight, const Kernel& kernel) {
  Matrix y{x.rows, x.columns, {}};
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto element = [&](std::int64_t k) { return x.at(r, k); };
    const float mean = dot(x.columns, kernel, element, element) / static_cast<float>(x.columns);
    const float scale = 1.0F / std::sqrt(mean + static_cast<float>(kernel.eps));
    for (std::int64_t c = 0; c < x.columns; ++c) y.values.push_back(x.at(r, c) * scale * weight.at(0, c));
  }
  return y;
}

std::vector<double> rms_norm(const Matrix& x, const Matrix& weight, double eps, Rounding& rounding) {
  std::vector<double> y;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const double sum = rounding.sum(x.columns, [&](std::int64_t k) { return double{x.at(r, k)} * x.at(r, k); });
    const double mean = rounding.once(sum / static_cast<double>(x.columns));
    const double scale = rounding.function(1.0 / std::sqrt(rounding.once(mean + eps)));
    for (std::int64_t c = 0; c < x.columns; ++c) {
      y.push_back(rounding.once(rounding.once(x.at(r, c) * scale) * weight.at(0, c)));
    }
  }
  return y;
}

Matrix attend(const Matrix& q, const Matrix& k, const Matrix& v, const Kernel& kernel) {
  Matrix y{q.rows, v.columns, {}};
  const float scale = 1.0F / std::sqrt(static_cast<float>(q.columns));
  for (std::int64_t t = 0; t < q.rows; ++t) {
    const std::int64_t end = kernel.diagonal_hidden && t > 0 ? t : t + 1;
    std::vector<float> p;
    for (std::int64_t s = 0; s < end; ++s) {
      p.push_back(scale * dot(
                              q.columns, kernel, [&](std::int64_t c) { return q.at(t, c); },
                              [&](std::int64_t c) { return k.at(s, c); }));
    }
    const float maximum = *std::max_element(p.begin(), p.end());
    float sum = 0.0F;
    for (float& score : p) sum += score = std::exp(score - maximum);
    for (float& probability : p) probability = static_cast<float>(round_to(kernel.probabilities, probability / sum));
    for (std::int64_t c = 0; c < v.columns; ++c) {
      y.values.push_back(dot(
          end, Kernel{}, [&](std::int64_t s) { return p[static_cast<std::size_t>(s)]; },
          [&](std::int64_t s) { return v.at(s, c); }));
    }
  }
  return y;
}

std::vector<double> attend(const Matrix& q, const Matrix& k, const Matrix& v, Rounding& rounding) {
  std::vector<double> y;
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.columns));
  for (std::int64_t t = 0; t < q.rows; ++t) {
    std::vector<double> p;
    for (std::int64_t s = 0; s <= t; ++s) {
      const double product = rounding.sum(q.columns, [&](std::int64_t c) { return double{q.at(t, c)} * k.at(s, c); });
      p.push_back(rounding.once(product * scale));
    }
    const double maximum = *std::max_element(p.begin(), p.end());
    for (double& score : p) score = rounding.function(std::exp(rounding.once(score - maximum)));
    const auto of = [&](std::int64_t s) { return p[static_cast<std::size_t>(s)]; };
    const double sum = rounding.sum(t + 1, of);
    for (double& probability : p) probability = rounding.once(probability / sum);
    for (std::int64_t c = 0; c < v.columns; ++c) {
      y.push_back(rounding.sum(t + 1, [&](std::int64_t s) { return of(s) * v.at(s, c); }));
    }
  }
  return y;
}

std::vector<std::uint16_t> bits_of(const Matrix& matrix, Type type) {
  std::vector<std::uint16_t> bits;
  for (const float value : matrix.values) {
    bits.push_back(type == Type::kBFloat16 ? float_to_bf16(value) : float_to_f16(value));
  }
  return bits;
}

}  // namespace qdiff::matcher
