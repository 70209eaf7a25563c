#include "harness/selftest/rivals.h"

#include <cmath>

namespace qdiff::selftest {
namespace {

// NaN where any error is.
double largest_error(std::span<const double> actual, std::span<const double> expected) {
  double largest = 0.0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // infinities too
    const double error = std::fabs(actual[i] - expected[i]);
    if (!(error <= largest)) largest = error;
    if (std::isnan(largest)) return largest;
  }
  return largest;
}

}  // namespace

bool cosine_finds(std::span<const double> actual, std::span<const double> expected) {
  double product = 0.0, actual_squares = 0.0, expected_squares = 0.0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    product += actual[i] * expected[i];
    actual_squares += actual[i] * actual[i];
    expected_squares += expected[i] * expected[i];
  }
  return !(product / std::sqrt(actual_squares * expected_squares) > 0.999);
}

bool nmse_finds(std::span<const double> actual, std::span<const double> expected) {
  double errors = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    errors += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    squares += expected[i] * expected[i];
  }
  return !(errors / squares < 1e-4);
}

bool assert_close_finds(std::span<const double> actual, std::span<const double> expected, DType dtype) {
  // torch/testing/_comparison.py, _DTYPE_PRECISIONS.
  struct Tolerances {
    double rtol, atol;
  };
  const Tolerances tolerances = dtype == DType::kF16    ? Tolerances{1e-3, 1e-5}
                                : dtype == DType::kBF16 ? Tolerances{1.6e-2, 1e-5}
                                : dtype == DType::kF32  ? Tolerances{1.3e-6, 1e-5}
                                                        : Tolerances{1e-7, 1e-7};
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double stored = round_to(dtype, expected[i]);
    if (actual[i] == stored) continue;
    if (!(std::fabs(actual[i] - stored) <= tolerances.atol + tolerances.rtol * std::fabs(stored))) return true;
  }
  return false;
}

bool twice_naive_finds(std::span<const double> actual, std::span<const double> expected,
                       std::span<const double> naive) {
  return !(largest_error(actual, expected) <= 2.0 * largest_error(naive, expected));
}

bool finds(Rival rival, std::span<const double> actual, std::span<const double> expected, std::span<const double> naive,
           DType dtype) {
  switch (rival) {
    case Rival::kCosine:
      return cosine_finds(actual, expected);
    case Rival::kNmse:
      return nmse_finds(actual, expected);
    case Rival::kAssertClose:
      return assert_close_finds(actual, expected, dtype);
    case Rival::kTwiceNaive:
      break;
  }
  return twice_naive_finds(actual, expected, naive);
}

}  // namespace qdiff::selftest
