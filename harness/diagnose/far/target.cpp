#include "harness/diagnose/far/target.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/decode.h"
#include "harness/compare/gates.h"
#include "harness/diagnose/far/log_sum_exp.h"

namespace qdiff::diagnose {
namespace {

bool has_nan(std::span<const double> row) {
  return std::ranges::any_of(row, [](double x) { return std::isnan(x); });
}

}  // namespace

Target::Target(const TensorKey& key, const TensorView& recorded, const Step& step, const ModelConfig& config)
    : key_(key),
      recorded_(recorded),
      layout_(key.id.op, recorded.shape, step, config),
      candidate_(to_doubles(recorded)) {
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    const bool nan = layout_.counts(row) && has_nan(row_of(candidate_, row));
    compared_.push_back(layout_.counts(row) && !nan);
    rows_compared_ += compared_.back() ? 1 : 0;
    rows_with_nan_ += nan ? 1 : 0;
  }
}

void Target::take_gold(const TensorView& whole, DType accumulate) {
  gold_ = same_rows(whole);
  if (const Op op = key_.id.op; op == Op::kScores || op == Op::kProbs) {
    const double masked = op == Op::kScores ? -HUGE_VAL : 0.0;
    const compare::MaskRule mask(accumulate);
    for (std::int64_t row = 0; row < num_rows(); ++row) {
      const double top = *std::ranges::max_element(row_of(gold_, row));
      for (std::int64_t i = row * width(); i < (row + 1) * width(); ++i) {
        double& value = candidate_[static_cast<std::size_t>(i)];
        const bool stands_in = op == Op::kScores && mask.hides(value, top);
        if (gold_[static_cast<std::size_t>(i)] == masked && (top == masked || stands_in)) value = masked;
      }
    }
  }
  std::vector<double> nothing = gold_;  // masked scores are as they must be
  std::ranges::replace_if(
      nothing, [](double x) { return std::isfinite(x); }, 0.0);
  norm_ = distance(gold_, nothing);
}

std::vector<double> Target::same_rows(const TensorView& whole) const {
  if (whole.shape == recorded_.shape) return to_doubles(whole);
  const std::int64_t tokens = whole.shape[1];
  std::vector<double> rows(candidate_.size());
  for (std::int64_t b = 0; b < layout_.batch(); ++b) {
    compare::load_elements(
        whole, static_cast<std::size_t>((b * tokens + tokens - 1) * width()),
        std::span(rows).subspan(static_cast<std::size_t>(b * width()), static_cast<std::size_t>(width())));
  }
  return rows;
}

std::vector<double> Target::as_recorded(const TensorView& whole) const {
  std::vector<double> rows = same_rows(whole);
  if (facts(recorded_.dtype).significant_bits >= facts(whole.dtype).significant_bits) return rows;
  for (double& value : rows) value = round_to(recorded_.dtype, value);
  return rows;
}

double Target::distance(std::span<const double> a, std::span<const double> b) const {
  double sum = 0.0;
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    if (!counts(row)) continue;
    for (std::int64_t i = row * width(); i < (row + 1) * width(); ++i) {
      const double x = a[static_cast<std::size_t>(i)], y = b[static_cast<std::size_t>(i)];
      if (x != y) sum += (x - y) * (x - y);  // masked scores are -inf in both
    }
  }
  return std::isnan(sum) ? HUGE_VAL : std::sqrt(sum);
}

double Target::divergence(std::span<const double> other) const {
  double result = 0.0;
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    if (!counts(row)) continue;
    const std::span<const double> p = row_of(candidate_, row), q = row_of(other, row);
    const double p_sum = log_sum_exp(p), q_sum = log_sum_exp(q);
    double of_row = 0.0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double log_p = p[i] - p_sum;
      of_row += std::exp(log_p) * (log_p - (q[i] - q_sum));
    }
    result += of_row;
  }
  return result;
}

std::int64_t Target::same_top_tokens(std::span<const double> other) const {
  std::int64_t same = 0;
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    const std::span<const double> p = row_of(candidate_, row), q = row_of(other, row);
    if (!counts(row) || has_nan(q)) continue;
    same += std::ranges::max_element(p) - p.begin() == std::ranges::max_element(q) - q.begin() ? 1 : 0;
  }
  return same;
}

}  // namespace qdiff::diagnose
