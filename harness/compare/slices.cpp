#include "harness/compare/slices.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "harness/compare/mutants.h"

namespace qdiff::compare {
namespace {

constexpr std::array<std::int64_t, 3> kTileColumns = {16, 64, 128};

// The largest of so many Gaussian draws grows like this; the ten keeps it near 2 for a handful.
double growth(double count) { return std::sqrt(2.0 * std::log(count + 10.0)); }

// Keeps the worst of many slices; the name is made only for a new worst one.
class WorstSlice {
 public:
  WorstSlice(std::int64_t num_slices, int significant_bits)
      : chance_(std::log(static_cast<double>(num_slices) + 10.0)),
        growth_(growth(static_cast<double>(num_slices))),
        rounding_bias_(12.0 * std::ldexp(1.0, -2 * (significant_bits + 2))) {}

  double rms_score(const SliceSums& slice, double chance) const {
    const double mean = slice.z_squared / slice.count;
    const double together = slice.shared_share / slice.count;
    const double inverse_count = std::min(1.0, together * together + (1.0 - together * together) / slice.count);
    return std::sqrt(mean / (1.0 + 2.0 * std::sqrt(chance * inverse_count) + 2.0 * chance * inverse_count));
  }

  double bias(const SliceSums& slice) const {
    const double variance = slice.independent / slice.count * (1.0 / slice.count + rounding_bias_);
    return std::fabs(slice.error / slice.count) / std::sqrt(variance + slice.shared / slice.count);
  }

  template <typename Name>
  void consider(const SliceSums& slice, const Name& slice_name) {
    if (slice.count == 0.0) return;
    const double score = rms_score(slice, chance_);
    if (!(score <= score_)) {
      score_ = score;
      rms_ = std::sqrt(slice.z_squared / slice.count);
      name_ = slice_name();
    }
    const double this_bias = bias(slice);
    if (!(this_bias <= bias_)) bias_ = this_bias;
  }

  void write(Statistics& statistics) const {
    statistics.worst_slice_rms = rms_;
    statistics.worst_slice = name_;
    statistics.bias = bias_;
    statistics.normalised[static_cast<std::size_t>(Statistic::kSliceRms)] = score_;
    statistics.normalised[static_cast<std::size_t>(Statistic::kBias)] = bias_ / growth_;
  }

 private:
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

SliceSums sum_columns(const ColumnSums& columns, std::int64_t first, std::int64_t end, std::int64_t stride = 1) {
  SliceSums sums;
  for (std::int64_t c = first; c < end; c += stride) sums.add(columns.at(static_cast<std::size_t>(c)));
  return sums;
}

void consider_columns(const Layout& layout, const ColumnSums& columns, WorstSlice& worst) {
  const std::int64_t width = layout.num_columns();
  for (std::int64_t c = 0; c < width; ++c) {
    worst.consider(columns.at(static_cast<std::size_t>(c)), [&] { return "column " + std::to_string(c); });
  }
  for (const std::int64_t tile : kTileColumns) {
    for (std::int64_t first = 0; first < width; first += tile) {
      const std::int64_t end = std::min(first + tile, width);
      worst.consider(sum_columns(columns, first, end), [&] { return columns_name(first, end - 1); });
    }
  }
  const std::int64_t head_dim = layout.head_columns();
  if (head_dim == 0) return;
  for (std::int64_t head = 0; head < layout.num_heads(); ++head) {
    worst.consider(sum_columns(columns, head * head_dim, (head + 1) * head_dim),
                   [&] { return "head " + std::to_string(head); });
  }
  for (std::int64_t i = 0; i < head_dim; ++i) {
    worst.consider(sum_columns(columns, i, width, head_dim),
                   [&] { return "dimension " + std::to_string(i) + " of every head"; });
  }
}

void consider_rows(const Layout& layout, const std::vector<SliceSums>& rows, WorstSlice& worst) {
  const std::int64_t positions = layout.num_positions();
  const std::int64_t heads = layout.is_scores() ? layout.num_heads() : 1;
  std::vector<SliceSums> by_head(static_cast<std::size_t>(heads));
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    SliceSums batch_row;
    std::vector<SliceSums> by_position(layout.is_scores() ? static_cast<std::size_t>(positions) : 0);
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t p = 0; p < positions; ++p) {
        const std::int64_t r = (b * heads + h) * positions + p;
        const SliceSums& sums = rows[static_cast<std::size_t>(r)];
        worst.consider(sums, [&] { return layout.row_name(r); });
        batch_row.add(sums);
        by_head[static_cast<std::size_t>(h)].add(sums);
        if (layout.is_scores()) by_position[static_cast<std::size_t>(p)].add(sums);
      }
    }
    worst.consider(batch_row, [&] { return "batch row " + std::to_string(b); });
    for (std::size_t p = 0; p < by_position.size(); ++p) {
      worst.consider(by_position[p], [&] {
        return "every head of token row " + std::to_string(p) + " of batch row " + std::to_string(b);
      });
    }
  }
  if (!layout.is_scores()) return;
  for (std::int64_t h = 0; h < heads; ++h) {
    worst.consider(by_head[static_cast<std::size_t>(h)], [&] { return "head " + std::to_string(h); });
  }
}

double slope_of(const TensorSums& total) {
  // The common factor 1 / sum of g^2 / (v + w) of the slope and of its deviation cancels.
  const double rounding_bias = total.spacing_squared / 8.0;
  const double variance =
      total.gold_independent + total.gold_shared * total.gold_shared + rounding_bias * rounding_bias;
  return variance == 0.0 ? 0.0 : std::fabs(total.gold_error) / std::sqrt(variance);
}

}  // namespace

Statistics statistics_of(const Layout& layout, const std::vector<SliceSums>& rows, const ColumnSums& columns,
                         const TensorSums& total, int significant_bits) {
  Statistics result;
  SliceSums whole;
  for (const SliceSums& sums : rows) whole.add(sums);
  if (whole.count == 0.0) return result;
  const std::int64_t width = layout.num_columns();
  const std::int64_t num_slices = layout.num_rows() + width + width / 8 + 2;  // tiles and heads add about an eighth

  WorstSlice worst(num_slices, significant_bits);
  if (!mutated(Mutant::kSlicesForgotten)) {
    consider_columns(layout, columns, worst);
    consider_rows(layout, rows, worst);
  }
  worst.consider(whole, [] { return std::string("the whole tensor"); });
  worst.write(result);

  result.max_excess = total.max_excess_squared < 0.0 ? 0.0 : std::sqrt(total.max_excess_squared);  // NaN stays NaN
  result.rms = std::sqrt(whole.z_squared / whole.count);
  result.slope = slope_of(total);
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
  set(Statistic::kRms, worst.rms_score(whole, std::log(10.0)));
  set(Statistic::kSlope, result.slope);
  set(Statistic::kShareBeyond, total.beyond_spacing / (expected_beyond + 6.0 * std::sqrt(expected_beyond) + 6.0));
  return result;
}

}  // namespace qdiff::compare
