#include "harness/compare/distinct.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/contract/splitmix64.h"

namespace qdiff::compare {
namespace {

// The value to the 8 significant bits of a bfloat16. The rows of a repeated token differ by what their positions leave:
// parts in a million, and where the inputs were rounded to bfloat16 and the products cancel, parts in a thousand. Most
// of their products are the same none the less, and so are most of their errors.
double significand_kept(double value) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(fraction * 0x1p8), exponent - 8);
}

}  // namespace

double probability_of_equal(const Block& block, const Layout& layout, const TensorView& actual) {
  const std::int64_t elements = block.num_rows * block.num_columns;
  const bool all = elements <= kDistinctSample;
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(std::min(elements, kDistinctSample)));
  SplitMix64 sample(0);  // the same sample every time
  for (std::int64_t i = 0; i < std::min(elements, kDistinctSample); ++i) {
    const std::int64_t pick = all ? i : sample.below(elements);
    const std::int64_t row = block.first_row + pick / block.num_columns * block.row_stride;
    const std::int64_t column = block.first_column + pick % block.num_columns * block.column_stride;
    if (!layout.counts(row)) continue;
    const double value =
        load_element(actual.data, actual.dtype, static_cast<std::size_t>(row * layout.num_columns() + column));
    if (std::isfinite(value) && value != 0.0) values.push_back(significand_kept(value));
  }
  if (values.size() < 2) return 0.0;
  std::sort(values.begin(), values.end());
  double equal_pairs = 0.0;
  std::size_t run = 1;
  for (std::size_t i = 1; i <= values.size(); ++i) {
    if (i < values.size() && values[i] == values[i - 1]) {
      ++run;
      continue;
    }
    equal_pairs += static_cast<double>(run) * static_cast<double>(run - 1);
    run = 1;
  }
  const auto n = static_cast<double>(values.size());
  return equal_pairs / (n * (n - 1.0));
}

}  // namespace qdiff::compare
