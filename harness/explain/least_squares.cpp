#include "harness/explain/least_squares.h"

#include <cmath>
#include <utility>

namespace qdiff::explain {
namespace {

// A^T B [n, k] of A [m, n] and B [m, k], row by row as they lie in memory.
std::vector<double> products_of(const std::vector<double>& a, const std::vector<double>& b, std::size_t m,
                                std::size_t n, std::size_t k) {
  std::vector<double> products(n * k);
  for (std::size_t i = 0; i < m; ++i) {
    const double* row = b.data() + i * k;
    for (std::size_t j = 0; j < n; ++j) {
      double* sums = products.data() + j * k;
      for (std::size_t c = 0; c < k; ++c) sums[c] += a[i * n + j] * row[c];
    }
  }
  return products;
}

// A^T A [n, n], its lower triangle alone.
std::vector<double> squares_of(const std::vector<double>& a, std::size_t m, std::size_t n) {
  std::vector<double> squares(n * n);
  for (std::size_t i = 0; i < m; ++i) {
    const double* row = a.data() + i * n;
    for (std::size_t j = 0; j < n; ++j) {
      double* sums = squares.data() + j * n;
      const double x = row[j];
      for (std::size_t c = 0; c <= j; ++c) sums[c] += x * row[c];
    }
  }
  return squares;
}

// By the normal equations, refined once: m n^2 / 2 steps that the processor takes several at a time. Nothing where a
// column is so nearly a sum of others that the square of its condition would be felt.
std::optional<std::vector<double>> by_normal_equations(const std::vector<double>& a, const std::vector<double>& b,
                                                       std::size_t m, std::size_t n, std::size_t k) {
  const auto lower = factored(squares_of(a, m, n), n);
  if (!lower) return std::nullopt;
  std::vector<double> x = products_of(a, b, m, n, k);
  substitute(*lower, x, n, k);
  std::vector<double> left = b;
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t c = 0; c < k; ++c) left[i * k + c] -= a[i * n + j] * x[j * k + c];
    }
  }
  std::vector<double> correction = products_of(a, left, m, n, k);
  substitute(*lower, correction, n, k);
  for (std::size_t j = 0; j < x.size(); ++j) x[j] += correction[j];
  return x;
}

// By Householder's QR (Golub and Van Loan, "Matrix Computations", 5.2).
std::optional<std::vector<double>> by_reflections(std::vector<double> a, std::vector<double> b, std::size_t m,
                                                  std::size_t n, std::size_t k) {
  constexpr double kDependent = 1e-10;  // of a column's length: what is left of it beside the columns before
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

}  // namespace

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

std::optional<std::vector<double>> least_squares(std::vector<double> a, std::vector<double> b, std::size_t m,
                                                 std::size_t n, std::size_t k) {
  constexpr std::size_t kTall = 16;  // rows for each column, from where on the squares cost a fraction of reflections
  if (m < n || n == 0) return std::nullopt;
  if (m >= kTall * n) {
    if (auto x = by_normal_equations(a, b, m, n, k)) return x;
  }
  return by_reflections(std::move(a), std::move(b), m, n, k);
}

}  // namespace qdiff::explain
