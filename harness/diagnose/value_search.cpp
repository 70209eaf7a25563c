#include "harness/diagnose/value_search.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/number_text.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

// The minimum of `error` between `left` and `right`, where it falls and then rises, to within `precision` (Kiefer
// 1953).
template <typename Error>
double golden_section(double left, double right, double precision, Error error) {
  const double golden = 0.6180339887498949;
  double inner_left = right - golden * (right - left);
  double inner_right = left + golden * (right - left);
  double error_left = error(inner_left);
  double error_right = error(inner_right);
  while (right - left > precision) {
    if (error_left < error_right) {
      right = inner_right;
      inner_right = inner_left;
      error_right = error_left;
      inner_left = right - golden * (right - left);
      error_left = error(inner_left);
    } else {
      left = inner_left;
      inner_left = inner_right;
      error_left = error_right;
      inner_right = left + golden * (right - left);
      error_right = error(inner_right);
    }
  }
  return 0.5 * (left + right);
}

}  // namespace

// Searched over logarithms: the best of a grid around the listed and the right values by RMS error, or beyond its ends
// while that comes nearer, refined between its neighbours, and once more by the largest excess. That is convex near the
// truth and, where results are rounded to 16 bits, far sharper than the RMS, which the rounding dominates.
std::vector<Variant> fitted_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts) {
  const auto statistics_at = [&](double log_value) {
    const Variant variant{facts.id, std::exp(log_value)};
    return row.is_long() ? oracle.statistics_beside(row, {&variant}) : oracle.judge(row, {&variant}).statistics;
  };
  const auto finite = [](double error) { return std::isfinite(error) ? error : HUGE_VAL; };
  const auto rms_at = [&](double log_value) { return finite(statistics_at(log_value).rms); };
  const auto excess_at = [&](double log_value) { return finite(statistics_at(log_value).max_excess); };
  // An epsilon may be 0 by the file; there is no logarithm of that, and listed values alone say where to search.
  const bool has_log = *facts.right_value > 0.0;
  double low = has_log ? std::log(*facts.right_value) : HUGE_VAL;
  double high = has_log ? low : -HUGE_VAL;
  for (double value : facts.values) {
    if (!(value > 0.0)) continue;
    low = std::min(low, std::log(value));
    high = std::max(high, std::log(value));
  }
  const double step = (high - low + 2.0 * kSearchedBeyondListed) / kSearchGrid;
  if (!(low <= high)) return {};
  const double right_log = has_log ? std::log(*facts.right_value) : -HUGE_VAL;  // whose exponential is 0
  double best = has_log ? right_log : low;  // small doses lie near the right value, where the grid may be too coarse
  double best_error = rms_at(best);
  const auto nearer = [&](double candidate) {
    const double error = rms_at(candidate);
    if (!(error < best_error)) return false;
    best_error = error;
    best = candidate;
    return true;
  };
  const double first = low - kSearchedBeyondListed, last = first + kSearchGrid * step;
  for (int i = 0; i <= kSearchGrid; ++i) nearer(first + i * step);
  // What somebody typed may lie far from every value listed.
  const double onward = best == last ? step : best == first ? -step : 0.0;
  for (int i = 0; onward != 0.0 && i < kSearchStepsBeyond && nearer(best + onward); ++i) {
  }
  best = golden_section(best - step, best + step, kSearchByExcess / 10.0, rms_at);
  if (row.is_long() && !(rms_at(best) <= kLargestShareLeftByValue * rms_at(right_log))) return {};
  const double fitted = std::exp(golden_section(best - kSearchByExcess, best + kSearchByExcess, 1e-9, excess_at));
  // Rounding of the candidate leaves the fit a little off, and somebody typed the value: short numbers come first.
  std::vector<Variant> variants;
  for (int digits = 2; digits <= 7; ++digits) variants.push_back({facts.id, to_digits(fitted, digits)});
  variants.push_back({facts.id, fitted});
  return variants;
}

}  // namespace qdiff::diagnose
