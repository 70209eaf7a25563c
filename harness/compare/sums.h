// One pass over a tensor: every sum that the statistics of slices.h are made of, by row, by column and for the whole.
//
// For an element with gold g, candidate a, error e = a - g, and s the wider of the two values' spacings (a candidate
// just above a power of two rounds on the coarser side of it):
//   v = sigma_independent^2 + s^2 / 12    the final rounding is uniform over one spacing: variance s^2 / 12
//   w = sigma_shared^2
//   z^2 = e^2 / (v + w)
//   excess = max(0, |e| - s / 2) / sqrt(sigma_independent^2 + w)    the final rounding is bounded, so what it explains
//                                                                   is subtracted, not averaged
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness/contract/dtype.h"

namespace qdiff::compare {

// sqrt(v + w).
inline double deviation(double sigma_independent, double sigma_shared, double spacing) {
  return std::sqrt(sigma_independent * sigma_independent + sigma_shared * sigma_shared + spacing * spacing / 12.0);
}

// Sums over a set of elements that may be wrong together.
struct SliceSums {
  double count = 0.0;
  double z_squared = 0.0;
  double error = 0.0;
  double independent = 0.0;   // v
  double shared = 0.0;        // w
  double shared_share = 0.0;  // w / (v + w)

  void add(const SliceSums& other);
};

// The same for many columns at once, one array a field.
struct ColumnSums {
  std::vector<double> count, z_squared, error, independent, shared, shared_share;

  explicit ColumnSums(std::size_t num_columns);
  SliceSums at(std::size_t column) const;
};

struct TensorSums {
  double error_squared = 0.0;
  double gold_squared = 0.0;
  double max_abs_error = 0.0;
  double beyond_spacing = 0.0;           // elements with |e| > s
  double expected_beyond_spacing = 0.0;  // upper bound of what rounding alone puts there
  // The regression of e on g with weights 1 / (v + w) takes these.
  double gold_error = 0.0;              // sum of g e / (v + w)
  double gold_gold = 0.0;               // sum of g^2 / (v + w)
  double gold_independent = 0.0;        // sum of g^2 v / (v + w)^2
  double gold_shared = 0.0;             // sum of |g| sigma_shared / (v + w)
  double spacing_squared = 0.0;         // sum of s^2 / (v + w)
  double max_excess_squared = -1.0;     // -1: no element
  std::int64_t max_excess_element = 0;  // its index within the candidate, row-major; the first among equals
};

// Spacing of `dtype` with a floor, for many elements at once: the power of two of the magnitude, scaled.
class SpacingRule {
 public:
  // `roundings`: how many final roundings lie between gold and the candidate, 1 but for caches judged over a span.
  explicit SpacingRule(DType dtype, int roundings = 1);
  // At magnitude m >= 0, finite.
  double at(double magnitude) const {
    constexpr std::uint64_t kExponentField = 0x7FF0000000000000ULL;
    const double power_of_two = std::bit_cast<double>(std::bit_cast<std::uint64_t>(magnitude) & kExponentField);
    return std::max(power_of_two * scale_, floor_);
  }
  double roundings() const { return roundings_; }

 private:
  double scale_;  // 2^(1 - significant bits)
  double floor_;
  double roundings_;
};

// The excess of one element.
double excess_of(double actual, double gold, double sigma_independent, double sigma_shared, const SpacingRule& spacing);

// At most this many columns of one row are handled at a time, so that all scratch stays in the first cache.
inline constexpr std::size_t kSegmentColumns = 512;

struct Segment {
  const double* gold;  // all arrays have `size` elements
  const double* actual;
  const float* sigma_independent;
  const float* sigma_shared;
  const double* weight;  // 1: counts; 0: seen by the gates and left out here (gold and actual are then equal, finite)
  std::size_t size;
  std::int64_t first_element;  // index of the first one within the candidate
};

void accumulate(const Segment& segment, const SpacingRule& spacing, std::size_t first_column, SliceSums& row,
                ColumnSums& columns, TensorSums& total);

}  // namespace qdiff::compare
