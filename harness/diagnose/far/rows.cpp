#include "harness/diagnose/far/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/diagnose/far/bounds.h"

namespace qdiff::diagnose {
namespace {

// An error of so many directions or fewer is as likely all scale as none.
constexpr double kDirectionsByChance = 4.0;
constexpr double kMedianOfGaussian = 0.6744897501960817;  // of |x|, in deviations

double median(std::vector<double>& values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

bool has_heads(const Target& target) { return target.layout().head_columns() > 0; }

}  // namespace

double RowErrors::rms() const { return count > 0 ? std::sqrt(square / static_cast<double>(count)) : 0.0; }

double RowErrors::rms_beside_scale() const {
  const double left = square - scale() * product;
  return count > 0 ? std::sqrt(std::max(left, 0.0) / static_cast<double>(count)) : 0.0;
}

RowErrors row_errors(std::span<const double> values, std::span<const double> center, bool of_heads) {
  RowErrors errors;
  std::vector<double> sizes;
  sizes.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(center[i]) && values[i] == center[i]) continue;
    const double error = values[i] - center[i];
    const double size = std::isnan(error) ? HUGE_VAL : std::abs(error);
    sizes.push_back(size);
    errors.square += size * size;
    errors.center_square += center[i] * center[i];
    errors.product += error * center[i];
    if (!(size > errors.peak)) continue;
    errors.peak = size;
    errors.peak_column = static_cast<std::int64_t>(i);
  }
  errors.count = static_cast<std::int64_t>(sizes.size());
  errors.typical = of_heads ? errors.rms() : median(sizes) / kMedianOfGaussian;
  return errors;
}

void RowRounding::add(const Target& target, std::span<const double> values) {
  std::vector<OfRow>& rows = rows_[target.key()];
  rows.resize(static_cast<std::size_t>(target.num_rows()));
  for (std::int64_t r = 0; r < target.num_rows(); ++r) {
    if (!target.counts(r)) continue;
    rows[static_cast<std::size_t>(r)].passes.push_back(
        row_errors(target.row_of(values, r), target.row_of(target.gold(), r), has_heads(target)));
  }
}

// A row is given what its like show in the mean, relative to their size, where that is more: a few passes may all miss
// what a rounding does to it now and then.
void RowRounding::close() {
  double relative = 0.0, cosines = 0.0, elements = 0.0;
  std::int64_t drawn = 0, width = 0;
  for (auto& [key, rows] : rows_) {
    for (OfRow& row : rows) {
      for (const RowErrors& errors : row.passes) {
        row.mean_square += errors.square / static_cast<double>(errors.count * std::ssize(row.passes));
        width = std::max(width, errors.count);
        elements += static_cast<double>(errors.count);
        if (errors.square <= 0.0 || errors.center_square <= 0.0) continue;
        relative += errors.square / errors.center_square;
        cosines += errors.product * errors.product / (errors.square * errors.center_square);
        ++drawn;
      }
    }
  }
  if (drawn > 0) relative /= static_cast<double>(drawn);
  relative = std::max(relative, of_sums_ * of_sums_);
  // Errors have no more directions than the residual stream.
  directions_ = static_cast<double>(std::max<std::int64_t>(1, std::min(hidden_, width)));
  cosine_ = std::sqrt(std::max(drawn > 0 ? cosines / static_cast<double>(drawn) : 0.0, 1.0 / directions_));
  // The largest of so many Gaussian errors.
  peak_ = std::sqrt(2.0 * std::log(elements + 10.0));
  for (auto& [key, rows] : rows_) {
    for (OfRow& row : rows) {
      if (row.passes.empty()) continue;
      const RowErrors& any = row.passes.front();
      row.mean_square = std::max({row.mean_square, relative * any.center_square / static_cast<double>(any.count),
                                  std::numeric_limits<double>::min()});
      for (const RowErrors& errors : row.passes) {
        peak_ = std::max(peak_, errors.peak / std::max(errors.typical, std::sqrt(row.mean_square)));
      }
    }
  }
}

RowFigures RowRounding::figures(const Target& target, std::span<const double> candidate,
                                const Supposed& supposed) const {
  RowFigures figures;
  if (!judged_by_rows(target.key().id.op)) return figures;
  const auto keep_worst = [&](RowStatistic statistic, double measured, double expected, std::int64_t element) {
    RowFigure& worst = figures[static_cast<std::size_t>(statistic)];
    const double ratio = measured == 0.0 ? 0.0 : std::abs(measured) / expected;
    const double value = std::isnan(ratio) ? HUGE_VAL : ratio;
    if (value > worst.value) worst = {value, measured, expected, element};
  };
  for (std::int64_t r = 0; r < target.num_rows(); ++r) {
    if (!target.counts(r)) continue;
    const RowErrors errors =
        row_errors(target.row_of(candidate, r), target.row_of(supposed.center, r), has_heads(target));
    if (errors.count == 0) continue;
    const double rounding = of_row(target.key(), r) * std::sqrt(supposed.roundings);
    const std::int64_t element = r * target.width() + errors.peak_column;
    keep_worst(RowStatistic::kRow, errors.rms(), rounding, element);
    // The elements of a row err alike only where each is a product with the whole of the stream.
    if (target.key().id.op == Op::kLmHead)
      keep_worst(RowStatistic::kElement, errors.peak / std::max(errors.typical, rounding), peak_, element);
    if (errors.center_square <= 0.0) continue;
    const RowErrors rounded = row_errors(target.row_of(candidate, r), target.row_of(supposed.rounded, r));
    const RowErrors& nearer = rounded.rms_beside_scale() < errors.rms_beside_scale() ? rounded : errors;
    const double size = std::sqrt(nearer.center_square / static_cast<double>(nearer.count));
    // Where errors have few directions, what is left beside the scale may vanish by chance.
    const double by_chance = rounding * std::sqrt(kDirectionsByChance / directions_);
    const double stored = unit_roundoff(target.recorded().dtype) / std::sqrt(3.0);
    const double of_errors = cosine_ * std::max(std::hypot(nearer.rms_beside_scale(), by_chance) / size, stored);
    keep_worst(RowStatistic::kScale, nearer.scale(), std::hypot(of_errors, of_sums_), element);
  }
  return figures;
}

RowVerdict verdict_of(const RowFigures& figures, const Precision& precision) {
  RowVerdict verdict;
  for (std::size_t i = 0; i < kNumRowStatistics; ++i) {
    const auto statistic = static_cast<RowStatistic>(i);
    const double ratio = figures[i].value / row_bound(statistic, row_precision(precision));
    if (ratio > verdict.ratio_to_bound) verdict = {statistic, ratio};
  }
  return verdict;
}

}  // namespace qdiff::diagnose
