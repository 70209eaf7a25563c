#include "harness/compare/sums.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "harness/compare/mutants.h"

namespace qdiff::compare {
namespace {

// Gold is fp64 and carries a few roundings of its own: an error that is half a spacing but for those is no excess.
// 2^-24 of half a float32 spacing is 32 roundings of fp64.
constexpr double kHalfSpacing = 0.5 * (1.0 + 0x1p-24);
constexpr double kOneSpacing = 1.0 + 0x1p-24;

// Results that would be subnormal in float32 may be flushed to zero (GPU and SIMD units do, for float32 and bfloat16
// alike), so no spacing is taken smaller than the smallest normal float32. float16 subnormals are never flushed.
constexpr double kFlushFloor = 0x1p-126;
// Squares of float64 spacings must not underflow.
constexpr double kSquareFloor = 0x1p-500;

// Sums run in four lanes, always the same ones, so that a report is the same on every machine.
constexpr std::size_t kLanes = 4;
double sum(const double* values, std::size_t size) {
  std::array<double, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane];
  }
  for (; i < size; ++i) lanes[0] += values[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

template <typename Term>
double sum_of(std::size_t size, const Term& term) {
  std::array<double, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (; i < size; ++i) lanes[0] += term(i);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// Without excess there is nothing to explain; with excess and nothing that explains it the quotient is infinite.
inline double excess_squared_of(double size_of_error, double half_spacing, double explained) {
  const double excess = std::max(0.0, size_of_error - half_spacing);
  const double quotient = excess * excess / explained;
  return excess > 0.0 ? quotient : 0.0;
}

void add_columns(std::vector<double>& into, std::size_t first, const double* values, std::size_t size) {
  double* target = into.data() + first;
  for (std::size_t i = 0; i < size; ++i) target[i] += values[i];
}

}  // namespace

void SliceSums::add(const SliceSums& other) {
  count += other.count;
  z_squared += other.z_squared;
  error += other.error;
  independent += other.independent;
  shared += other.shared;
  shared_share += other.shared_share;
}

ColumnSums::ColumnSums(std::size_t n) : count(n), z_squared(n), error(n), independent(n), shared(n), shared_share(n) {}

SliceSums ColumnSums::at(std::size_t c) const {
  return {count[c], z_squared[c], error[c], independent[c], shared[c], shared_share[c]};
}

SpacingRule::SpacingRule(DType dtype, int roundings)
    : scale_(std::ldexp(1.0, 1 - facts(dtype).significant_bits)), floor_(spacing(dtype, 0.0)), roundings_(roundings) {
  if (dtype == DType::kF32 || dtype == DType::kBF16) floor_ = kFlushFloor;
  if (dtype == DType::kF64) floor_ = kSquareFloor;
  if (mutated(Mutant::kNoSubnormalFloor)) floor_ = 0.0;
}

double excess_of(double actual, double gold, double sigma_independent, double sigma_shared,
                 const SpacingRule& spacing) {
  const double s = spacing.at(std::max(std::fabs(gold), std::fabs(actual)));
  const double explained = sigma_independent * sigma_independent + sigma_shared * sigma_shared;
  return std::sqrt(excess_squared_of(std::fabs(actual - gold), kHalfSpacing * spacing.roundings() * s, explained));
}

void accumulate(const Segment& segment, const SpacingRule& spacing, std::size_t first_column, SliceSums& row,
                ColumnSums& columns, TensorSums& total) {
  using Scratch = std::array<double, kSegmentColumns>;
  Scratch error, z_squared, independent, shared, shared_share, excess_squared;
  Scratch inverse, spacing_squared, beyond, expected_beyond;
  const std::size_t size = segment.size;
  const double* gold = segment.gold;
  const double* weight = segment.weight;
  const bool ignore_shared = mutated(Mutant::kSharedSigmaForgotten);
  const bool ignore_cast = mutated(Mutant::kCastForgotten);
  const bool zero_sigma_passes = mutated(Mutant::kZeroSigmaPasses);

  const double half_spacing = kHalfSpacing * spacing.roundings();
  const double cast_variance = spacing.roundings() / 12.0;

  for (std::size_t i = 0; i < size; ++i) {
    const double g = gold[i];
    const double a = segment.actual[i];
    const double e = a - g;
    const double s = ignore_cast ? 0.0 : spacing.at(std::max(std::fabs(g), std::fabs(a)));
    const double given_sigma = static_cast<double>(segment.sigma_independent[i]);
    const double given_shared = static_cast<double>(segment.sigma_shared[i]);
    const double sigma = weight[i] > 0.0 ? given_sigma : 0.0;  // where an element does not count it may be anything
    const double sigma_shared = (weight[i] > 0.0) & !ignore_shared ? given_shared : 0.0;
    const double s2 = s * s;
    const double before_cast = sigma * sigma;
    const double v = before_cast + s2 * cast_variance;
    const double w = sigma_shared * sigma_shared;
    const double size_of_error = std::fabs(e);
    const double explained = before_cast + w;
    double ratio = excess_squared_of(size_of_error, half_spacing * s, explained);
    if (zero_sigma_passes && explained == 0.0) ratio = 0.0;
    // Beyond one spacing means that rounding before the cast moved the value by more than half a spacing, h. For a
    // Gaussian of variance x, P(|noise| > h) <= 3 x^2 / h^4 (Markov's inequality on the fourth power).
    const double in_spacings = explained / s2;
    error[i] = e;
    inverse[i] = weight[i] / (v + w);
    z_squared[i] = e * e * inverse[i];
    independent[i] = v * weight[i];
    shared[i] = w * weight[i];
    shared_share[i] = w * inverse[i];
    excess_squared[i] = ratio * weight[i];
    spacing_squared[i] = s2;
    beyond[i] = size_of_error > kOneSpacing * s ? weight[i] : 0.0;
    expected_beyond[i] = std::min(1.0, 48.0 * in_spacings * in_spacings) * weight[i];
  }

  add_columns(columns.count, first_column, weight, size);
  add_columns(columns.z_squared, first_column, z_squared.data(), size);
  add_columns(columns.error, first_column, error.data(), size);
  add_columns(columns.independent, first_column, independent.data(), size);
  add_columns(columns.shared, first_column, shared.data(), size);
  add_columns(columns.shared_share, first_column, shared_share.data(), size);

  row.add({sum(weight, size), sum(z_squared.data(), size), sum(error.data(), size), sum(independent.data(), size),
           sum(shared.data(), size), sum(shared_share.data(), size)});

  total.error_squared += sum_of(size, [&](std::size_t i) { return error[i] * error[i]; });
  total.gold_squared += sum_of(size, [&](std::size_t i) { return gold[i] * gold[i] * weight[i]; });
  total.beyond_spacing += sum(beyond.data(), size);
  total.expected_beyond_spacing += sum(expected_beyond.data(), size);
  total.gold_error += sum_of(size, [&](std::size_t i) { return gold[i] * error[i] * inverse[i]; });
  total.gold_gold += sum_of(size, [&](std::size_t i) { return gold[i] * gold[i] * inverse[i]; });
  total.gold_independent +=
      sum_of(size, [&](std::size_t i) { return gold[i] * inverse[i] * (gold[i] * inverse[i]) * independent[i]; });
  total.gold_shared +=
      sum_of(size, [&](std::size_t i) { return std::fabs(gold[i]) * std::sqrt(shared[i]) * inverse[i]; });
  total.spacing_squared += sum_of(size, [&](std::size_t i) { return spacing_squared[i] * inverse[i]; });

  // `!(x <= y)`, so that a ratio that came out NaN is kept and seen.
  double largest_error = 0.0;
  double largest_excess = -1.0;
  for (std::size_t i = 0; i < size; ++i) {
    const double here = excess_squared[i];
    const double candidate = weight[i] > 0.0 ? here : -1.0;
    const double size_of_error = std::fabs(error[i]);
    largest_error = size_of_error <= largest_error ? largest_error : size_of_error;
    largest_excess = candidate <= largest_excess ? largest_excess : candidate;
  }
  total.max_abs_error = std::max(total.max_abs_error, largest_error);
  const bool further = !(largest_excess <= total.max_excess_squared);
  // Blocks of columns are walked before rows, so an equal value may turn up later and still stand earlier.
  const bool tie = largest_excess == total.max_excess_squared && largest_excess > 0.0 &&
                   segment.first_element < total.max_excess_element;
  if (further || tie) {
    total.max_excess_squared = largest_excess;
    for (std::size_t i = 0; i < size; ++i) {
      if (weight[i] != 0.0 && !(excess_squared[i] < largest_excess)) {
        total.max_excess_element = segment.first_element + static_cast<std::int64_t>(i);
        break;
      }
    }
  }
}

}  // namespace qdiff::compare
