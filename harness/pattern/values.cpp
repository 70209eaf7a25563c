#include "harness/pattern/values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "harness/compare/gates.h"

namespace qdiff::pattern {
namespace {

// Honest errors stay within so many deviations: the judge's bounds on single elements lie below it.
constexpr double kAllowedDeviations = 8.0;

// The rule is that of float32, the widest type in which engines sum.
const compare::MaskRule kMask(DType::kF32);

}  // namespace

Values::Values(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
               const ModelConfig& config)
    : op_(op),
      actual_(actual),
      expected_(expected),
      step_(step),
      config_(config),
      layout_(op, actual.shape, step, config),
      expected_layout_(op, expected.shape, step, config),
      spacing_(actual.dtype),
      marks_(static_cast<std::size_t>(num_elements(actual.shape)), Mark::kNotCompared) {
  const auto rows = static_cast<std::size_t>(num_rows());
  wrong_in_row_.assign(rows, 0);
  row_error_squared_.assign(rows, 0.0);
  row_gold_squared_.assign(rows, 0.0);
  if (op_ == Op::kScores) row_maximum_.assign(rows, -std::numeric_limits<double>::infinity());
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    if (layout_.counts(row)) mark_row(row);
  }
}

double Values::sigma(std::int64_t row, std::int64_t column) const {
  const std::size_t i = index(row, column);
  const double independent = i < expected_.sigma_independent.size() ? expected_.sigma_independent[i] : 0.0;
  const double shared = i < expected_.sigma_shared.size() ? expected_.sigma_shared[i] : 0.0;
  return std::sqrt(independent * independent + shared * shared);
}

double Values::allowance(double actual, double value, double sigma) const {
  return 0.5 * spacing_.at(std::max(std::fabs(actual), std::fabs(value))) + kAllowedDeviations * sigma;
}

bool Values::explains(double value, double sigma, double actual) const {
  if (std::isnan(value)) return std::isnan(actual);
  if (std::isinf(value) || !std::isfinite(actual)) return actual == value;
  return std::fabs(actual - value) <= allowance(actual, value, sigma);
}

bool Values::vanishes(double score, std::int64_t row) const {
  return kMask.hides(score, row_maximum_[static_cast<std::size_t>(row)]);
}

Mark Values::judge(double actual, double value, double sigma, std::int64_t row) const {
  const bool masked = op_ == Op::kScores && std::isinf(value) && value < 0.0;
  const bool right = masked ? actual == value || vanishes(actual, row) : explains(value, sigma, actual);
  return right ? Mark::kRight : Mark::kWrong;
}

void Values::mark_row(std::int64_t row) {
  const auto r = static_cast<std::size_t>(row);
  if (op_ == Op::kScores) {
    for (std::int64_t c = 0; c < num_columns(); ++c) {
      const double value = expected(row, c);
      if (std::isfinite(value)) row_maximum_[r] = std::max(row_maximum_[r], value);
    }
  }
  for (std::int64_t c = 0; c < num_columns(); ++c) {
    const std::size_t i = index(row, c);
    if (i < expected_.unknown.size() && expected_.unknown[i] != 0) continue;
    const double a = actual(row, c);
    const double value = expected_.value[i];
    const Mark found = judge(a, value, sigma(row, c), row);
    marks_[static_cast<std::size_t>(row * num_columns() + c)] = found;
    const std::int64_t wrong = found == Mark::kWrong ? 1 : 0;
    ++num_compared_;
    wrong_in_row_[r] += wrong;
    if (!std::isfinite(value)) continue;
    Binade& binade = binades_[std::bit_cast<std::uint64_t>(value) >> 52U & (kNumBinades - 1)];
    ++binade.compared;
    binade.wrong += wrong;
    if (!std::isfinite(a)) continue;
    row_error_squared_[r] += (a - value) * (a - value);
    row_gold_squared_[r] += value * value;
  }
  num_wrong_ += wrong_in_row_[r];
}

std::int64_t Values::padding_of(std::int64_t row) const {
  const auto b = static_cast<std::size_t>(layout_.batch_of(row));
  return b < step_.left_padding.size() ? step_.left_padding[b] : 0;
}

std::int64_t Values::sequence_position(std::int64_t row) const {
  if (is_cache()) return layout_.position_of(row) - padding_of(row);
  const auto b = static_cast<std::size_t>(layout_.batch_of(row));
  const auto t = static_cast<std::size_t>(token_of(row));
  if (b < step_.positions.size() && t < step_.positions[b].size()) return step_.positions[b][t];
  return step_.past_length + token_of(row) - padding_of(row);
}

std::vector<std::int64_t> sample_of_wrong_rows(const Values& values, std::int64_t most_elements) {
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < values.num_rows(); ++row) {
    if (values.wrong_in_row(row) > 0) rows.push_back(row);
  }
  const std::int64_t most_rows = std::max<std::int64_t>(2, most_elements / values.num_columns());
  const auto found = static_cast<std::int64_t>(rows.size());
  if (found <= most_rows) return rows;
  std::vector<std::int64_t> picked;
  for (std::int64_t i = 0; i < most_rows; ++i) picked.push_back(rows[static_cast<std::size_t>(i * found / most_rows)]);
  return picked;
}

std::vector<Element> wrong_elements(const Values& values, const std::vector<std::int64_t>& rows) {
  std::vector<Element> elements;
  for (const std::int64_t row : rows) {
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (!values.wrong(row, c)) continue;
      elements.push_back({values.actual(row, c), values.expected(row, c), values.sigma(row, c),
                          static_cast<std::int32_t>(row), static_cast<std::int32_t>(c)});
    }
  }
  return elements;
}

}  // namespace qdiff::pattern
