#include "harness/diagnose/beyond_rounding.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {

void Moved::add(const Moved& other) {
  so_far += other.so_far;
  expected += other.expected;
  rows += other.rows;
  quiet_rows += other.quiet_rows;
  most_of_a_row = std::max(most_of_a_row, other.most_of_a_row);
  in_small_rows += other.in_small_rows;
  in_quiet_small_rows += other.in_quiet_small_rows;
}

bool Moved::as_many() const {
  const auto is_share = [](std::int64_t part, double share, std::int64_t whole) {
    return static_cast<double>(part) <= share * static_cast<double>(whole);
  };
  return static_cast<double>(so_far) >= kLeastShareOfMoved * static_cast<double>(expected) &&
         is_share(quiet_rows, kLargestShareOfQuietRows, rows) &&
         (in_small_rows < kEnoughMoved || is_share(in_quiet_small_rows, kShareOfQuietRowsThatDenies, in_small_rows));
}

bool Moved::tells() const {
  const std::int64_t others = so_far - most_of_a_row;
  return expected >= kEnoughMoved && others >= kEnoughMoved && as_many();
}

bool Moved::denies() const {
  return static_cast<double>(quiet_rows) > kShareOfQuietRowsThatDenies * static_cast<double>(rows);
}

bool BeyondRounding::is_predicted() const {
  const auto few = static_cast<double>(elements.so_far);
  return of_right > 0.0 && of_fit <= kLargestShareLeft * kLargestShareLeft * of_right &&
         (elements.so_far >= kEnoughMoved || of_fit <= few * kBeyondRounding * kBeyondRounding);
}

std::optional<BeyondRounding> beyond_rounding(RowOracle& oracle, const RowJudgement& row, const Fit& fit) {
  const Expectation& right = oracle.right(row);
  const TensorView actual = row.actual();
  const compare::Layout layout(row.key.id.op, actual.shape, row.step(), oracle.config());
  if (right.exact || right.shape != actual.shape) return std::nullopt;
  const Tensor planted = oracle.emulate(row, fit.supposition());
  BeyondRounding result;
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (!layout.counts(r)) continue;
    Moved of_row;
    for (std::int64_t i = r * layout.num_columns(); i < (r + 1) * layout.num_columns(); ++i) {
      const auto e = static_cast<std::size_t>(i);
      const double gold = right.value[e];
      const double unit =
          compare::deviation(right.sigma_independent[e], right.sigma_shared[e], spacing(actual.dtype, gold));
      const double candidate = load_element(actual.data, actual.dtype, e);
      const double error = std::fabs(candidate - gold) / unit;
      of_row.expected += std::fabs(planted.at(i) - gold) / unit > kBeyondRounding ? 1 : 0;
      if (!(error > kBeyondRounding)) continue;
      ++of_row.so_far;
      const double left = (candidate - planted.at(i)) / unit;
      result.of_right += error * error;
      result.of_fit += left * left;
    }
    of_row.most_of_a_row = of_row.so_far;
    const bool is_quiet = !of_row.as_many();
    if (of_row.expected >= kEnoughMoved) {
      of_row.rows = 1;
      of_row.quiet_rows = is_quiet ? 1 : 0;
    } else {
      of_row.in_small_rows = of_row.expected;
      of_row.in_quiet_small_rows = is_quiet ? of_row.expected : 0;
    }
    result.elements.add(of_row);
  }
  return result;
}

}  // namespace qdiff::diagnose
