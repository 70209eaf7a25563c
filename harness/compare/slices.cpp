#include "harness/compare/slices.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "harness/compare/distinct.h"
#include "harness/compare/mutants.h"

namespace qdiff::compare {
namespace {

constexpr std::array<std::int64_t, 3> kTileColumns = {16, 64, 128};

// 1 / (number of independent errors) among a slice's own, shared ones aside.
double inverse_distinct(double count, double together, double equal) {
  const double inverse = std::min(1.0, together / count);
  return inverse + (1.0 - inverse) * equal;
}

// Elements of a block that bring one error.
double elements_together(const Coherence& coherence, const Block& block) {
  const bool adjacent = block.column_stride == 1 || coherence.columns > block.column_stride;
  const std::int64_t neighbours = adjacent ? block.num_columns : 1;
  const std::int64_t columns = std::min(coherence.columns, neighbours);
  return static_cast<double>(columns * (coherence.rows ? block.num_rows : 1));
}

// Means are not taken to average more errors than this: a bfloat16 operand has 2^8 significands, so a constant factor
// (1/rms of a row, a declared table) meets no more than that many, each with its own error.
constexpr double kLeastInverseDistinct = 0x1p-8;

double rms_score(const SliceSums& slice, double distinct, double chance) {
  const double together = slice.shared_share / slice.count;
  const double inverse_count = std::min(1.0, together * together + (1.0 - together * together) * distinct);
  const double allowed = 1.0 + 2.0 * std::sqrt(chance * inverse_count) + 2.0 * chance * inverse_count;
  return std::sqrt(slice.z_squared / slice.count / allowed);
}

// Keeps the worst of many slices. What costs (names, counting equal values) is done for a new worst one only: counting
// equal values can only lower a score.
class WorstSlice {
 public:
  WorstSlice(const Measured& measured, std::int64_t num_slices)
      : measured_(measured),
        chance_(std::log(static_cast<double>(num_slices) + 10.0)),
        growth_(growth(static_cast<double>(num_slices))),
        rounding_bias_(12.0 * std::ldexp(1.0, -2 * (facts(measured.actual.dtype).significant_bits + 2))) {}

  template <typename Name>
  void consider(const SliceSums& slice, const Block& block, const Name& slice_name) {
    if (slice.count == 0.0) return;
    const double together = elements_together(measured_.coherence, block);
    double distinct = inverse_distinct(slice.count, together, 0.0);
    double score = rms_score(slice, distinct, chance_);
    double slice_bias = bias(slice, distinct);
    if (score <= score_ && slice_bias <= bias_) return;
    distinct = inverse_distinct(slice.count, together, probability_of_equal(block, measured_.layout, measured_.actual));
    score = rms_score(slice, distinct, chance_);
    slice_bias = bias(slice, distinct);
    if (!(score <= score_)) {
      score_ = score;
      rms_ = std::sqrt(slice.z_squared / slice.count);
      name_ = slice_name();
    }
    if (!(slice_bias <= bias_)) bias_ = slice_bias;
  }

  void write(Statistics& statistics) const {
    statistics.worst_slice_rms = rms_;
    statistics.worst_slice = name_;
    statistics.bias = bias_;
    statistics.normalised[static_cast<std::size_t>(Statistic::kSliceRms)] = score_;
    statistics.normalised[static_cast<std::size_t>(Statistic::kBias)] = bias_ / growth_;
  }

 private:
  double bias(const SliceSums& slice, double distinct) const {
    const double variance =
        slice.independent / slice.count * (std::max(distinct, kLeastInverseDistinct) + rounding_bias_);
    return std::fabs(slice.error / slice.count) / std::sqrt(variance + slice.shared / slice.count);
  }

  const Measured& measured_;
  double chance_;
  double growth_;
  double rounding_bias_;
  double score_ = 0.0;
  double rms_ = 0.0;
  double bias_ = 0.0;
  std::string name_;
};

std::string columns_name(std::int64_t first, std::int64_t last) {
  return "columns " + std::to_string(first) + ".." + std::to_string(last);
}

void consider_columns(const Measured& m, WorstSlice& worst) {
  const Layout& layout = m.layout;
  const std::int64_t width = layout.num_columns();
  const auto consider = [&](std::int64_t first, std::int64_t stride, std::int64_t count, const auto& slice_name) {
    SliceSums sums;
    for (std::int64_t i = 0; i < count; ++i) sums.add(m.columns.at(static_cast<std::size_t>(first + i * stride)));
    worst.consider(sums, {0, 1, layout.num_rows(), first, stride, count}, slice_name);
  };
  // A column of one row is an element, and an element is max_excess' business.
  const std::int64_t single_columns = layout.num_rows() > 1 ? width : 0;
  for (std::int64_t c = 0; c < single_columns; ++c) consider(c, 1, 1, [c] { return "column " + std::to_string(c); });
  for (const std::int64_t tile : kTileColumns) {
    for (std::int64_t first = 0; first < width; first += tile) {
      const std::int64_t count = std::min(tile, width - first);
      consider(first, 1, count, [=] { return columns_name(first, first + count - 1); });
    }
  }
  const std::int64_t d = layout.head_columns();
  if (d == 0) return;
  const std::int64_t heads = layout.num_heads();
  for (std::int64_t h = 0; h < heads; ++h) consider(h * d, 1, d, [h] { return "head " + std::to_string(h); });
  for (std::int64_t i = 0; i < d; ++i) {
    consider(i, d, heads, [i] { return "dimension " + std::to_string(i) + " of every head"; });
  }
}

void consider_rows(const Measured& m, WorstSlice& worst) {
  const Layout& layout = m.layout;
  const std::int64_t batch = layout.batch(), positions = layout.num_positions();
  const std::int64_t heads = layout.is_scores() ? layout.num_heads() : 1;
  const auto consider = [&](std::int64_t first, std::int64_t stride, std::int64_t count, const auto& slice_name) {
    SliceSums sums;
    for (std::int64_t i = 0; i < count; ++i) sums.add(m.rows[static_cast<std::size_t>(first + i * stride)]);
    worst.consider(sums, {first, stride, count, 0, 1, layout.num_columns()}, slice_name);
  };
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) consider(r, 1, 1, [&layout, r] { return layout.row_name(r); });
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::string of_batch_row = " of batch row " + std::to_string(b);
    consider(b * heads * positions, 1, heads * positions, [b] { return "batch row " + std::to_string(b); });
    if (!layout.is_scores()) continue;
    for (std::int64_t h = 0; h < heads; ++h) {
      consider((b * heads + h) * positions, 1, positions, [&] { return "head " + std::to_string(h) + of_batch_row; });
    }
    for (std::int64_t p = 0; p < positions; ++p) {
      consider(b * heads * positions + p, positions, heads,
               [&] { return "every head of token row " + std::to_string(p) + of_batch_row; });
    }
  }
}

// The common factor 1 / sum of g^2 / (v + w) of the slope and of its deviation cancels.
double slope_of(const TensorSums& total, double count, double distinct, DType accumulate) {
  const double rounding_bias = total.spacing_squared / 8.0;
  const double rounded_constant = unit_roundoff(accumulate) * total.gold_gold;
  const double variance = total.gold_independent * count * std::max(distinct, kLeastInverseDistinct) +
                          total.gold_shared * total.gold_shared + rounding_bias * rounding_bias +
                          rounded_constant * rounded_constant / 3.0;
  return variance == 0.0 ? 0.0 : std::fabs(total.gold_error) / std::sqrt(variance);
}

}  // namespace

double rms_of(const std::vector<SliceSums>& rows) {
  SliceSums whole;
  for (const SliceSums& sums : rows) whole.add(sums);
  return whole.count == 0.0 ? 0.0 : std::sqrt(whole.z_squared / whole.count);
}

double growth(double count) { return std::sqrt(2.0 * std::log(count + 10.0)); }

double max_excess_of(const TensorSums& total) {
  return total.max_excess_squared < 0.0 ? 0.0 : std::sqrt(total.max_excess_squared);  // NaN stays NaN
}

Statistics statistics_of(const Measured& m) {
  Statistics result;
  const TensorSums& total = m.total;
  SliceSums whole;
  for (const SliceSums& sums : m.rows) whole.add(sums);
  if (whole.count == 0.0) return result;
  const std::int64_t width = m.layout.num_columns(), num_rows = m.layout.num_rows();
  const std::int64_t num_slices = num_rows + width + width / 8 + 2;  // tiles and heads add about an eighth
  const Block everything{0, 1, num_rows, 0, 1, width};

  WorstSlice worst(m, num_slices);
  if (!mutated(Mutant::kSlicesForgotten)) {
    consider_columns(m, worst);
    consider_rows(m, worst);
  }
  worst.consider(whole, everything, [] { return std::string("the whole tensor"); });
  worst.write(result);

  const double distinct = inverse_distinct(whole.count, elements_together(m.coherence, everything),
                                           probability_of_equal(everything, m.layout, m.actual));
  result.max_excess = max_excess_of(total);
  result.rms = rms_of(m.rows);
  result.slope = slope_of(total, whole.count, distinct, m.accumulate);
  result.max_abs_error = total.max_abs_error;
  result.relative_rms_error = total.error_squared == 0.0 ? 0.0 : std::sqrt(total.error_squared / total.gold_squared);
  result.share_beyond_one_spacing = total.beyond_spacing / whole.count;
  if (mutated(Mutant::kBiasForgotten)) result.normalised[static_cast<std::size_t>(Statistic::kBias)] = 0.0;
  if (mutated(Mutant::kSlopeForgotten)) result.slope = 0.0;

  const auto set = [&](Statistic statistic, double value) {
    result.normalised[static_cast<std::size_t>(statistic)] = value;
  };
  const double expected_beyond = total.expected_beyond_spacing;
  set(Statistic::kMaxExcess, result.max_excess / growth(whole.count));
  set(Statistic::kRms, rms_score(whole, distinct, std::log(10.0)));
  set(Statistic::kSlope, result.slope);
  set(Statistic::kShareBeyond, total.beyond_spacing / (expected_beyond + 6.0 * std::sqrt(expected_beyond) + 6.0));
  return result;
}

}  // namespace qdiff::compare
