#include "harness/explain/least_squares.h"

#include <cmath>

namespace qdiff::explain {

std::optional<std::vector<double>> least_squares(std::vector<double> a, std::vector<double> b, std::size_t m,
                                                 std::size_t n, std::size_t k) {
  constexpr double kDependent = 1e-10;  // of a column's length: what is left of it beside the columns before
  if (m < n || n == 0) return std::nullopt;
  for (std::size_t j = 0; j < n; ++j) {
    double whole = 0.0, below = 0.0;
    for (std::size_t i = 0; i < m; ++i) {
      const double x = a[i * n + j];
      whole += x * x;
      if (i >= j) below += x * x;
    }
    if (!(below > kDependent * kDependent * whole)) return std::nullopt;
    const double alpha = a[j * n + j] > 0.0 ? -std::sqrt(below) : std::sqrt(below);
    std::vector<double> v(m - j);
    for (std::size_t i = j; i < m; ++i) v[i - j] = a[i * n + j];
    v[0] -= alpha;
    double length = 0.0;
    for (double x : v) length += x * x;
    if (!(length > 0.0)) continue;
    const auto reflect = [&](std::vector<double>& matrix, std::size_t columns, std::size_t column) {
      double dot = 0.0;
      for (std::size_t i = j; i < m; ++i) dot += v[i - j] * matrix[i * columns + column];
      for (std::size_t i = j; i < m; ++i) matrix[i * columns + column] -= 2.0 * dot / length * v[i - j];
    };
    for (std::size_t c = j; c < n; ++c) reflect(a, n, c);
    for (std::size_t c = 0; c < k; ++c) reflect(b, k, c);
  }
  std::vector<double> x(n * k);
  for (std::size_t c = 0; c < k; ++c) {
    for (std::size_t j = n; j-- > 0;) {
      double sum = b[j * k + c];
      for (std::size_t i = j + 1; i < n; ++i) sum -= a[j * n + i] * x[i * k + c];
      x[j * k + c] = sum / a[j * n + j];
    }
  }
  return x;
}

}  // namespace qdiff::explain
