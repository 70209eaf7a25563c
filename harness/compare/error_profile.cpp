#include "harness/compare/error_profile.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/contract/dtype.h"

namespace qdiff::compare {
namespace {

constexpr std::int64_t kMostBars = 128;  // as many as a person tells apart in a drawing
constexpr std::size_t kMostWorst = 8;

// Mean squares of neighbouring indices, at most kMostBars of them.
class Bars {
 public:
  Bars(std::string name, std::int64_t size)
      : indices_a_bar_((size + kMostBars - 1) / kMostBars), name_(std::move(name)) {
    const auto bars = static_cast<std::size_t>((size + indices_a_bar_ - 1) / indices_a_bar_);
    squares_.resize(bars);
    counts_.resize(bars);
  }
  void add(std::int64_t index, double z) {
    const auto bar = static_cast<std::size_t>(index / indices_a_bar_);
    squares_[bar] += z * z;
    counts_[bar] += 1.0;
  }
  ErrorProfile::Axis axis() const {
    ErrorProfile::Axis axis{name_, {}, indices_a_bar_};
    for (std::size_t i = 0; i < squares_.size(); ++i) {
      axis.rms.push_back(counts_[i] > 0.0 ? std::sqrt(squares_[i] / counts_[i]) : 0.0);
    }
    return axis;
  }

 private:
  std::int64_t indices_a_bar_;
  std::string name_;
  std::vector<double> squares_, counts_;
};

std::size_t bin_of(double z) {
  constexpr double kFirstBin = 0.125;
  if (!(z >= kFirstBin)) return z < kFirstBin ? 0 : ErrorProfile::kHistogramBins - 1;  // NaN counts as beyond all
  const double bin = 1.0 + std::floor(std::log2(z / kFirstBin));
  return static_cast<std::size_t>(std::min(bin, static_cast<double>(ErrorProfile::kHistogramBins - 1)));
}

// Keeps the largest, the first of equals before the others.
void keep_worst(std::vector<ErrorProfile::Element>& worst, ErrorProfile::Element element) {
  const auto place =
      std::ranges::find_if(worst, [&](const ErrorProfile::Element& known) { return element.error > known.error; });
  if (place == worst.end() && worst.size() == kMostWorst) return;
  worst.insert(place, std::move(element));
  if (worst.size() > kMostWorst) worst.pop_back();
}

}  // namespace

ErrorProfile error_profile(const Comparison& c) {
  const Layout actual(c.op, c.actual.shape, c.step, c.config), whole(c.op, c.expected.shape, c.step, c.config);
  const SpacingRule spacing(c.actual.dtype);
  const std::int64_t columns = actual.num_columns();
  const bool heads_in_columns = actual.head_columns() > 0;
  Bars by_position(actual.position_word(), actual.num_positions()),
      by_head("head", std::max<std::int64_t>(1, actual.num_heads())), by_batch("batch row", actual.batch()),
      by_column(actual.is_scores() ? "key slot"
                : heads_in_columns ? "dimension of the head"
                                   : "column",
                heads_in_columns ? actual.head_columns() : columns);
  ErrorProfile profile;
  double compared = 0.0;
  for (std::int64_t row = 0; row < actual.num_rows(); ++row) {
    if (!actual.counts(row)) continue;
    for (std::int64_t column = 0; column < columns; ++column) {
      const auto gold = static_cast<std::size_t>(actual.row_in(whole, row) * columns + column);
      const double expected = c.expected.value[gold];
      if (!std::isfinite(expected) || (!c.expected.unknown.empty() && c.expected.unknown[gold] != 0)) continue;
      const std::int64_t element = row * columns + column;
      const double value = load_element(c.actual.data, c.actual.dtype, static_cast<std::size_t>(element));
      double z = HUGE_VAL;
      if (std::isfinite(value)) {
        const bool has_noise = !c.expected.sigma_independent.empty();
        const double scale = deviation(has_noise ? c.expected.sigma_independent[gold] : 0.0,
                                       has_noise ? c.expected.sigma_shared[gold] : 0.0,
                                       spacing.at(std::max(std::fabs(expected), std::fabs(value))));
        z = value == expected ? 0.0 : std::fabs(value - expected) / scale;
      }
      compared += 1.0;
      profile.histogram[bin_of(z)] += 1.0;
      by_batch.add(actual.batch_of(row), z);
      by_position.add(actual.position_of(row), z);
      by_head.add(actual.is_scores() ? actual.head_of(row) : heads_in_columns ? column / actual.head_columns() : 0, z);
      by_column.add(heads_in_columns ? column % actual.head_columns() : column, z);
      if (profile.worst.size() < kMostWorst || z > profile.worst.back().error) {
        keep_worst(profile.worst, {unravel(element, c.actual.shape), value, expected, z});
      }
    }
  }
  for (double& share : profile.histogram) share = compared > 0.0 ? share / compared : 0.0;
  if (actual.batch() > 1) profile.axes.push_back(by_batch.axis());
  if (actual.num_positions() > 1) profile.axes.push_back(by_position.axis());
  if (actual.num_heads() > 1) profile.axes.push_back(by_head.axis());
  profile.axes.push_back(by_column.axis());
  return profile;
}

}  // namespace qdiff::compare
