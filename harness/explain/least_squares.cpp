#include "harness/explain/least_squares.h"

#include <cmath>

namespace qdiff::explain {

std::optional<std::vector<double>> factored(std::vector<double> lower, std::size_t n) {
  constexpr double kWellDetermined = 1e-6;  // of a column's squared length: what is left beside the columns before
  for (std::size_t j = 0; j < n; ++j) {
    const double whole = lower[j * n + j];
    for (std::size_t c = 0; c <= j; ++c) {
      double sum = lower[j * n + c];
      for (std::size_t i = 0; i < c; ++i) sum -= lower[j * n + i] * lower[c * n + i];
      if (c == j && !(sum > kWellDetermined * whole)) return std::nullopt;
      lower[j * n + c] = c == j ? std::sqrt(sum) : sum / lower[c * n + c];
    }
  }
  return lower;
}

void substitute(const std::vector<double>& lower, std::vector<double>& b, std::size_t n, std::size_t k) {
  for (std::size_t c = 0; c < k; ++c) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = b[j * k + c];
      for (std::size_t i = 0; i < j; ++i) sum -= lower[j * n + i] * b[i * k + c];
      b[j * k + c] = sum / lower[j * n + j];
    }
    for (std::size_t j = n; j-- > 0;) {
      double sum = b[j * k + c];
      for (std::size_t i = j + 1; i < n; ++i) sum -= lower[i * n + j] * b[i * k + c];
      b[j * k + c] = sum / lower[j * n + j];
    }
  }
}

// By Householder's QR (Golub and Van Loan, "Matrix Computations", 5.2).
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
    // All columns at once, row by row as they lie in memory.
    const auto reflect = [&](std::vector<double>& matrix, std::size_t columns, std::size_t first) {
      std::vector<double> dots(columns);
      for (std::size_t i = j; i < m; ++i) {
        const double* row = matrix.data() + i * columns;
        for (std::size_t c = first; c < columns; ++c) dots[c] += v[i - j] * row[c];
      }
      for (double& dot : dots) dot *= 2.0 / length;
      for (std::size_t i = j; i < m; ++i) {
        double* row = matrix.data() + i * columns;
        for (std::size_t c = first; c < columns; ++c) row[c] -= dots[c] * v[i - j];
      }
    };
    reflect(a, n, j);
    reflect(b, k, 0);
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
