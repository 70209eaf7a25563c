#include "harness/diagnose/value_search.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <stdexcept>

#include "harness/contract/error.h"
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

// The largest that a whole number can be and still show in this row: a window or a tile beyond all slots, a block wider
// than the operands, another layer than there are.
std::int64_t largest_number(const RowJudgement& row, const VariantFacts& facts, const ModelConfig& config) {
  if (std::ranges::any_of(facts.changes, [](const Change& c) { return c.parameter == Parameter::kWeightLayer; })) {
    return config.num_layers - 1;
  }
  const Step& step = row.step();
  std::int64_t largest = 2;
  const auto widest = [&](Op op) {
    const Shape shape = output_shape(op, config, step.batch(), step.num_tokens(), step.valid_length());
    largest = std::max(largest, shape.back());
  };
  for (Op op : facts.ops) {
    widest(op);
    for (const Input& input : qdiff::row(op).inputs) widest(input.op);
  }
  // A tile that reaches beyond the last slot shows by what lies there.
  largest = std::max(largest, 2 * step.valid_length());
  return row.is_long() ? std::min(largest, kLargestNumberOfSpan) : largest;
}

// Numbers that a program may hold: all small ones, then those that are round, then sizes of the model and how far they
// are apart.
std::vector<std::int64_t> whole_numbers(const RowJudgement& row, const VariantFacts& facts, const ModelConfig& config) {
  constexpr std::int64_t kAllBelow = 64;
  const std::int64_t largest = largest_number(row, facts, config);
  const std::vector<std::int64_t> sizes = {
      config.hidden,       config.q_width(),        config.kv_width(),        config.head_dim,
      config.intermediate, row.step().num_tokens(), row.step().valid_length()};
  std::set<std::int64_t> numbers;
  for (std::int64_t n = 1; n <= std::min(kAllBelow, largest); ++n) numbers.insert(n);
  for (std::int64_t n = kAllBelow, step = 8; n <= largest; n += step) {
    numbers.insert(n);
    if (n >= 32 * step) step *= 2;
  }
  for (std::int64_t a : sizes) {
    numbers.insert(a);
    if (facts.takes != Takes::kShift) continue;
    for (std::int64_t b : sizes) numbers.insert(a - b);
  }
  if (facts.takes == Takes::kShift) {
    const std::set<std::int64_t> ahead = numbers;
    for (std::int64_t n : ahead) numbers.insert(-n);
  }
  std::vector<std::int64_t> left;
  for (std::int64_t n : numbers) {
    const bool is_listed = std::ranges::find(facts.values, static_cast<double>(n)) != facts.values.end();
    const bool fits = n != 0 && std::abs(n) <= largest && (facts.takes == Takes::kShift || n > 0);
    if (fits && !is_listed) left.push_back(n);
  }
  // Of numbers that compute the same, a person has written the one of the fewest binary digits.
  const auto rank = [](std::int64_t n) {
    const auto size = static_cast<std::uint64_t>(std::abs(n));
    return std::pair(std::bit_width(size) - std::countr_zero(size), size);
  };
  std::ranges::stable_sort(left, {}, rank);
  return left;
}

}  // namespace

bool takes_whole_number(const VariantFacts& facts) {
  const bool rounds = std::ranges::any_of(facts.changes, [](const Change& c) { return c.law == Law::kInBF16; });
  return (facts.takes == Takes::kCount || facts.takes == Takes::kShift) && !facts.right_value && !rounds;
}

std::vector<Variant> nearest_whole_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts) {
  const auto error_of = [&](const Supposition& supposition) {
    const double rms = oracle.distance_beside(row, supposition).rms;
    return std::isfinite(rms) ? rms : HUGE_VAL;
  };
  const double right = error_of({});
  double least = HUGE_VAL;
  std::vector<Variant> nearest;
  for (std::int64_t number : whole_numbers(row, facts, oracle.config())) {
    const Variant variant{facts.id, static_cast<double>(number)};
    try {
      const double error = error_of({&variant});
      if (!(error <= least) || error == right) continue;  // with the latter the bug computes what right code does
      if (error < least) nearest.clear();
      least = error;
      if (nearest.size() < kMostEqualValues) nearest.push_back(variant);
    } catch (const NotEvaluable&) {
      return {};
    } catch (const InputError&) {  // no number that these operands allow
    } catch (const std::invalid_argument&) {
    }
  }
  return nearest;
}

// Searched over logarithms: the best of a grid around the listed and the right values by RMS error, or beyond its ends
// while that comes nearer, refined between its neighbours, and once more by the largest excess. That is convex near the
// truth and, where results are rounded to 16 bits, far sharper than the RMS, which the rounding dominates.
std::vector<Variant> fitted_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts) {
  const auto distance_at = [&](double log_value) {
    const Variant variant{facts.id, std::exp(log_value)};
    return row.is_long() ? oracle.distance_beside(row, {&variant})
                         : oracle.distance_to(row, oracle.evaluate(row, {&variant}));
  };
  const auto finite = [](double error) { return std::isfinite(error) ? error : HUGE_VAL; };
  const auto rms_at = [&](double log_value) { return finite(distance_at(log_value).rms); };
  const auto excess_at = [&](double log_value) { return finite(distance_at(log_value).max_excess); };
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
  const double near_enough = row.is_long() ? 0.0 : kNearEnough;
  if (!(rms_at(best) <= std::max(kLargestShareLeftByValue * rms_at(right_log), near_enough))) return {};
  const double fitted = std::exp(golden_section(best - kSearchByExcess, best + kSearchByExcess, 1e-9, excess_at));
  // Rounding of the candidate leaves the fit a little off, and somebody typed the value: short numbers come first.
  std::vector<Variant> variants;
  for (int digits = 2; digits <= 7; ++digits) variants.push_back({facts.id, to_digits(fitted, digits)});
  variants.push_back({facts.id, fitted});
  return variants;
}

std::vector<std::int64_t> likely_capacities(const CaseInput& input) {
  constexpr std::int64_t kAllBeyond = 32, kLargestUnit = 1 << 15;
  const std::int64_t filled = input.steps.back().valid_length();
  std::set<std::int64_t> capacities;
  for (std::int64_t more = 1; more <= kAllBeyond; ++more) capacities.insert(filled + more);
  for (const std::int64_t base : {2, 10}) {
    for (std::int64_t unit = base; unit <= kLargestUnit; unit *= base) capacities.insert((filled / unit + 1) * unit);
  }
  return {capacities.begin(), capacities.end()};
}

}  // namespace qdiff::diagnose
