#include "harness/compare/distinct.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "harness/contract/splitmix64.h"

namespace qdiff::compare {
namespace {

// The value to the 8 significant bits of a bfloat16: its sign, its exponent and the seven bits behind, rounded to even.
// The rows of a repeated token differ by what their positions leave: parts in a million, and where the inputs were
// rounded to bfloat16 and the products cancel, parts in a thousand. Most of their products are the same none the less,
// and so are most of their errors.
std::uint32_t significand_kept(double value) {
  constexpr int kBitsLost = 52 - 7;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  constexpr std::uint64_t kBelowHalf = (std::uint64_t{1} << (kBitsLost - 1)) - 1;
  return static_cast<std::uint32_t>((bits + kBelowHalf + (bits >> kBitsLost & 1U)) >> kBitsLost);
}

// How often each of up to kDistinctSample values came. Sorting them took six times as long, and most of a judge's time.
class Counts {
 public:
  explicit Counts(std::int64_t most) : slots_(std::bit_ceil(2 * static_cast<std::uint32_t>(most))) {
    std::fill_n(times_.begin(), slots_, 0U);
  }
  void add(std::uint32_t value) {
    std::uint32_t slot = value * 2654435769U >> 7 & (slots_ - 1);  // multiplied by 2^32 over the golden ratio
    while (times_[slot] != 0 && values_[slot] != value) slot = (slot + 1) & (slots_ - 1);
    values_[slot] = value;
    equal_pairs_ += 2.0 * static_cast<double>(times_[slot]++);
    ++total_;
  }
  // Among the ordered pairs of two of them.
  double share_of_equal_pairs() const {
    const auto n = static_cast<double>(total_);
    return total_ < 2 ? 0.0 : equal_pairs_ / (n * (n - 1.0));
  }

 private:
  static constexpr std::size_t kMostSlots = 2 * kDistinctSample;
  std::uint32_t slots_;
  std::array<std::uint32_t, kMostSlots> values_;  // of slots whose times are not zero
  std::array<std::uint32_t, kMostSlots> times_;
  double equal_pairs_ = 0.0;  // whole numbers
  std::int64_t total_ = 0;
};

}  // namespace

double probability_of_equal(const Block& block, const Layout& layout, const TensorView& actual) {
  const std::int64_t elements = block.num_rows * block.num_columns;
  Counts counts(std::min(elements, kDistinctSample));
  const auto count = [&](std::int64_t i, std::int64_t j) {
    const std::int64_t row = block.first_row + i * block.row_stride;
    if (!layout.counts(row)) return;
    const std::int64_t column = block.first_column + j * block.column_stride;
    const double value =
        load_element(actual.data, actual.dtype, static_cast<std::size_t>(row * layout.num_columns() + column));
    if (std::isfinite(value) && value != 0.0) counts.add(significand_kept(value));
  };
  if (elements <= kDistinctSample) {
    for (std::int64_t i = 0; i < block.num_rows; ++i) {
      for (std::int64_t j = 0; j < block.num_columns; ++j) count(i, j);
    }
  } else {
    SplitMix64 sample(0);  // the same sample every time
    for (std::int64_t n = 0; n < kDistinctSample; ++n) {
      const std::int64_t pick = sample.below(elements);
      count(pick / block.num_columns, pick % block.num_columns);
    }
  }
  return counts.share_of_equal_pairs();
}

}  // namespace qdiff::compare
