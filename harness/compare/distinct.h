// How many different errors a set of elements can show.
#pragma once

#include <cstdint>

#include "harness/compare/layout.h"
#include "harness/contract/tensor.h"

namespace qdiff::compare {

// Rows first_row, first_row + row_stride, ... and of each the columns first_column, first_column + column_stride, ...
struct Block {
  std::int64_t first_row = 0;
  std::int64_t row_stride = 1;
  std::int64_t num_rows = 1;
  std::int64_t first_column = 0;
  std::int64_t column_stride = 1;
  std::int64_t num_columns = 1;
};

// The probability that two elements of the block, drawn at random from the rows that count, hold values equal to 8
// bits; 0 for fewer than two elements. Exact for small blocks, else from a fixed sample of kDistinctSample
// elements. Zeros and non-finite values are left out: they stand where masks do and say nothing.
inline constexpr std::int64_t kDistinctSample = 1024;
double probability_of_equal(const Block& block, const Layout& layout, const TensorView& actual);

}  // namespace qdiff::compare
