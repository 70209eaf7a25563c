#include "harness/pattern/trend.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "harness/contract/number_text.h"

namespace qdiff::pattern {
namespace {

double largest_finite(DType dtype) {
  const DTypeFacts f = facts(dtype);
  return std::ldexp(2.0 - std::ldexp(1.0, 1 - f.significant_bits), f.max_exponent);
}

// "29952 where wrong": nearly all wrong elements hold one value, though not all expected values are one, too. Memory
// that nobody wrote often looks like this.
std::string describe_one_value(std::span<const Element> wrong) {
  if (static_cast<std::int64_t>(wrong.size()) < kLeastSpare) return "";
  const double value = wrong[wrong.size() / 2].actual;
  const double expected = wrong[wrong.size() / 2].expected;
  const auto share = [&](auto predicate) {
    return static_cast<double>(std::ranges::count_if(wrong, predicate)) / static_cast<double>(wrong.size());
  };
  if (share([&](const Element& e) { return e.actual == value; }) < kNearlyAll) return "";
  if (share([&](const Element& e) { return e.expected == expected; }) >= kMost) return "";
  return digits(value, 6) + " where wrong";
}

// Ranks, ties sharing their mean.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i + 1;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    const double shared = 0.5 * static_cast<double>(i + end - 1);
    for (; i < end; ++i) ranks[order[i]] = shared;
  }
  return ranks;
}

struct Line {
  double slope = 0.0;
  double correlation = 0.0;
};

Line line_through(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xx = 0.0;
  double xy = 0.0;
  double yy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
  }
  if (!(xx > 0.0 && yy > 0.0)) return {};
  return {xy / xx, xy / std::sqrt(xx * yy)};
}

}  // namespace

std::string describe_special_values(const Values& values, std::span<const Element> wrong) {
  std::int64_t zero = 0;
  std::int64_t nan = 0;
  std::int64_t infinite = 0;
  std::int64_t at_fp16 = 0;
  std::int64_t at_stored = 0;
  const double fp16 = largest_finite(DType::kF16);
  const double stored = largest_finite(values.stored());
  for (const Element& e : wrong) {
    const double size = std::fabs(e.actual);
    zero += size == 0.0 ? 1 : 0;
    nan += std::isnan(size) ? 1 : 0;
    infinite += std::isinf(size) ? 1 : 0;
    at_fp16 += size == fp16 ? 1 : 0;
    at_stored += size == stored ? 1 : 0;
  }
  const auto nearly_all = [&](std::int64_t count) {
    return static_cast<double>(count) >= kNearlyAll * static_cast<double>(wrong.size());
  };
  if (nearly_all(nan)) return "NaN only";
  if (nearly_all(infinite)) return "infinite";
  if (nearly_all(at_fp16)) return "saturated at +-65504";
  if (nearly_all(at_stored)) return "saturated at the largest " + std::string(name(values.stored()));
  if (!nearly_all(zero)) return describe_one_value(wrong);
  for (std::int64_t row = 0; row < values.num_rows(); ++row) {
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (values.compared(row, c) && values.actual(row, c) != 0.0) return "zero where wrong";
    }
  }
  return "all zero";
}

std::optional<DType> find_coarser_type(const Values& values, std::span<const Element> wrong) {
  const auto all_are = [&](DType coarse) {
    for (std::int64_t row = 0; row < values.num_rows(); ++row) {
      for (std::int64_t c = 0; c < values.num_columns(); ++c) {
        if (!values.compared(row, c)) continue;
        const double a = values.actual(row, c);
        if (std::isfinite(a) && round_to(coarse, a) != a) return false;
      }
    }
    return true;
  };
  const auto expected_are_not = [&](DType coarse) {
    // Neither do wrong elements count that hold zero or infinity, which are of every type.
    std::int64_t finer = 0;
    for (const Element& e : wrong) {
      const double right = round_to(values.stored(), e.expected);
      if (std::isfinite(e.actual) && e.actual != 0.0 && round_to(coarse, right) != right) ++finer;
    }
    return finer >= kLeastSpare && 2 * finer > static_cast<std::int64_t>(wrong.size());
  };
  for (const DType coarse : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (facts(coarse).significant_bits >= facts(values.stored()).significant_bits) continue;
    if (expected_are_not(coarse) && all_are(coarse)) return coarse;
  }
  return std::nullopt;
}

std::optional<Growth> find_growth(const Values& values) {
  std::map<std::int64_t, std::pair<double, double>> sums;  // position -> squares of errors, of expected values
  for (std::int64_t row = 0; row < values.num_rows(); ++row) {
    if (!values.layout().counts(row)) continue;
    auto& [error, gold] = sums[values.sequence_position(row)];
    error += values.row_error_squared(row);
    gold += values.row_gold_squared(row);
  }
  std::vector<double> positions, errors;
  for (const auto& [position, sum] : sums) {
    if (!(sum.second > 0.0) || !std::isfinite(sum.first) || !std::isfinite(sum.second)) continue;
    positions.push_back(static_cast<double>(position));
    errors.push_back(std::sqrt(sum.first / sum.second));
  }
  if (positions.size() < 5) return std::nullopt;
  const double rank_correlation = line_through(ranks_of(positions), ranks_of(errors)).correlation;
  // By chance a rank correlation has deviation 1 / sqrt(n - 1); five or more positions in perfect order come once in
  // 120 orders at most.
  const bool in_order = rank_correlation > 1.0 - 1e-9;
  const bool correlated = rank_correlation * std::sqrt(static_cast<double>(positions.size() - 1)) >= 3.0;
  const std::size_t quarter = (positions.size() + 3) / 4;
  const auto mean = [quarter](auto first) {
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(quarter), 0.0) / static_cast<double>(quarter);
  };
  const bool grows = mean(errors.end() - static_cast<std::ptrdiff_t>(quarter)) > 2.0 * mean(errors.begin());
  if (!(in_order || correlated) || !grows) return std::nullopt;

  std::vector<double> log_position, log_error;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (!(positions[i] > 0.0 && errors[i] > 0.0)) continue;
    log_position.push_back(std::log(positions[i]));
    log_error.push_back(std::log(errors[i]));
  }
  Growth growth;
  if (log_position.size() >= 5) {
    const Line line = line_through(log_position, log_error);
    // A power law leaves less than a fiftieth of the logarithm's variance; an error that levels off leaves more.
    if (line.correlation * line.correlation >= 0.98) growth.power = line.slope;
  }
  return growth;
}

std::optional<double> find_least_wrong_size(const Values& values) {
  // Signs share a bin: the field's upper bit of binades() is the exponent's, the sign lies above it.
  const auto& binades = values.binades();
  std::size_t first = 0;
  while (first < binades.size() && binades[first].wrong == 0) ++first;
  if (first == 0 || first >= binades.size()) return std::nullopt;
  std::int64_t below = 0;
  std::int64_t above = 0;
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < binades.size(); ++i) {
    (i < first ? below : above) += binades[i].compared;
    wrong += binades[i].wrong;
  }
  if (wrong < kLeastSpare || 2 * below < values.num_compared() ||
      static_cast<double>(wrong) < kMost * static_cast<double>(above)) {
    return std::nullopt;
  }
  return std::ldexp(1.0, static_cast<int>(first) - 1023);
}

}  // namespace qdiff::pattern
