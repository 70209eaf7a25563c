#include "harness/compare/gates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "harness/compare/mutants.h"
#include "harness/compare/sums.h"

namespace qdiff::compare {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Honest errors stay within this many deviations; used only where overflow and all-zero outputs are told apart.
constexpr double kHonestDeviations = 16.0;

double first_overflowing(DType dtype) {
  const DTypeFacts f = facts(dtype);
  if (dtype == DType::kF64) return kInfinity;
  return std::ldexp(1.0, f.max_exponent + 1) - std::ldexp(1.0, f.max_exponent - f.significant_bits);
}

double deviation(float independent, float shared) {
  return std::hypot(static_cast<double>(independent), static_cast<double>(shared));
}

}  // namespace

MaskRule::MaskRule(DType accumulate) {
  const DTypeFacts f = facts(accumulate);
  exp_underflow_ = (f.min_exponent - f.significant_bits) * std::log(2.0);
}

Gates::Gates(const Comparison& comparison, const Layout& layout, std::function<std::int64_t(std::int64_t)> gold_row)
    : comparison_(comparison),
      layout_(layout),
      gold_row_(std::move(gold_row)),
      near_overflow_(first_overflowing(comparison.actual.dtype) / 4.0),
      overflow_(first_overflowing(comparison.actual.dtype)),
      mask_(comparison.precision.accumulate) {
  if (comparison.op == Op::kScores) {
    row_maximum_.assign(static_cast<std::size_t>(layout.num_rows()), std::numeric_limits<double>::quiet_NaN());
  }
}

bool Gates::is_fully_masked(std::int64_t row) const {
  const double masked = comparison_.op == Op::kProbs ? 0.0 : -kInfinity;
  const double* gold = comparison_.expected.value.data() + gold_row_(row) * layout_.num_columns();
  return std::all_of(gold, gold + layout_.num_columns(), [masked](double value) { return value == masked; });
}

double Gates::row_maximum(std::int64_t row) {
  double& known = row_maximum_[static_cast<std::size_t>(row)];
  if (!std::isnan(known)) return known;
  known = -kInfinity;
  const double* gold = comparison_.expected.value.data() + gold_row_(row) * layout_.num_columns();
  for (std::int64_t c = 0; c < layout_.num_columns(); ++c) {
    if (std::isfinite(gold[c]) && gold[c] > known) known = gold[c];
  }
  return known;
}

void Gates::fail(const char* gate, std::int64_t element, const char* reason) {
  if (failure_ && failure_->element <= element) return;
  failure_ = GateFailure{gate, Outcome::kDiverged, element, reason};
}

bool Gates::accepts_masked_score(double actual, std::int64_t row) const {
  if (mutated(Mutant::kAnyStandInAccepted) && std::isfinite(actual)) return true;
  return mask_.hides(actual, row_maximum_[static_cast<std::size_t>(row)]);
}

// Handles one element that is not ordinary; returns whether the statistics should see it.
bool Gates::accepts(double actual, double gold, double sigma, std::int64_t row, std::int64_t element) {
  if (mutated(Mutant::kNanValuesIgnored) && std::isnan(actual)) return false;
  if (std::isnan(gold)) {
    if (!std::isnan(actual)) fail("non_finite", element, "a number where NaN is expected");
    return false;
  }
  if (std::isinf(gold)) {
    if (comparison_.op == Op::kScores && gold < 0.0) {
      row_maximum(row);
      if (!accepts_masked_score(actual, row)) fail("mask", element, "a masked score that softmax would see");
      return false;
    }
    const bool right_sign = actual == gold || (mutated(Mutant::kInfinitySignIgnored) && actual == -gold);
    if (!right_sign && !(mutated(Mutant::kFiniteForInfinity) && std::isfinite(actual))) {
      fail("non_finite", element, "not the infinity that is expected");
    }
    return false;
  }
  if (!std::isfinite(sigma)) {
    if (!std::isfinite(actual)) {
      fail("non_finite", element, "not a finite number where one is expected");
    } else if (!doubt_ || element < doubt_->element) {
      doubt_ =
          GateFailure{"unknown_rounding", Outcome::kInconclusive, element, "the expected rounding is not a number"};
    }
    return false;
  }
  const double magnitude = std::fabs(gold);
  const double slack = kHonestDeviations * sigma;
  const bool may_overflow = magnitude + slack >= overflow_;
  const bool must_overflow = magnitude - slack >= overflow_;
  if (std::isinf(actual)) {
    const bool right_sign = (actual > 0.0) == (gold > 0.0) || mutated(Mutant::kInfinitySignIgnored);
    if (!may_overflow || !right_sign)
      fail("non_finite", element, "an infinity where the stored type holds what is expected");
    return false;
  }
  if (std::isnan(actual)) {
    fail("non_finite", element, "NaN where a number is expected");
    return false;
  }
  if (must_overflow) {
    if (!mutated(Mutant::kFiniteForInfinity))
      fail("non_finite", element, "finite where what is expected overflows the stored type");
    return false;
  }
  if (gold == 0.0 && sigma == 0.0) return actual != 0.0;
  return true;
}

bool Gates::pass(std::span<double> actual, std::span<double> gold, const float* sigma_independent,
                 const float* sigma_shared, double* weight, std::int64_t row, std::int64_t first_element) {
  const std::size_t size = actual.size();
  const auto element_of = [&](std::size_t i) { return first_element + static_cast<std::int64_t>(i); };
  bool ordinary = true;
  bool nonzero = false;
  for (std::size_t i = 0; i < size; ++i) {
    const float sigma = std::fabs(sigma_independent[i]) + std::fabs(sigma_shared[i]);
    ordinary &= (std::fabs(gold[i]) < near_overflow_) & (std::fabs(actual[i]) < kInfinity) &
                (sigma < std::numeric_limits<float>::infinity()) & !((gold[i] == 0.0) & (sigma == 0.0F));
    nonzero |= actual[i] != 0.0;
    weight[i] = 1.0;
  }
  if (!ordinary && layout_.is_scores() && is_fully_masked(row)) {
    std::fill_n(weight, size, 0.0);
    std::ranges::fill(actual, 0.0);
    std::ranges::fill(gold, 0.0);
    return false;
  }
  any_nonzero_ = any_nonzero_ || nonzero;
  elements_seen_ += static_cast<std::int64_t>(size);
  if (ordinary) return true;
  for (std::size_t i = 0; i < size; ++i) {
    const double sigma = deviation(sigma_independent[i], sigma_shared[i]);
    const bool plain = std::fabs(gold[i]) < near_overflow_ && std::isfinite(actual[i]) && std::isfinite(sigma) &&
                       !(gold[i] == 0.0 && sigma == 0.0);
    if (plain || accepts(actual[i], gold[i], sigma, row, element_of(i))) continue;
    weight[i] = 0.0;
    actual[i] = 0.0;
    gold[i] = 0.0;
  }
  return true;
}

std::optional<GateFailure> Gates::all_zero() const {
  if (any_nonzero_ || mutated(Mutant::kAllZeroAccepted)) return std::nullopt;
  const Expectation& expected = comparison_.expected;
  const SpacingRule spacing(comparison_.actual.dtype);
  const std::int64_t width = layout_.num_columns();
  for (std::int64_t r = 0; r < layout_.num_rows(); ++r) {
    if (!layout_.counts(r)) continue;
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(gold_row_(r) * width + c);
      const double magnitude = std::fabs(expected.value[i]);
      const double honest = kHonestDeviations * deviation(expected.sigma_independent[i], expected.sigma_shared[i]);
      if (magnitude < kInfinity && magnitude > 2.0 * spacing.at(magnitude) + honest) {
        return GateFailure{"all_zero", Outcome::kDiverged, r * width + c,
                           "every element is zero, and not all should be"};
      }
    }
  }
  return std::nullopt;
}

}  // namespace qdiff::compare
