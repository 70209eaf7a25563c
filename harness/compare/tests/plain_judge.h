// The judge's statistics once more, straight from the formulas in slices.h and sums.h: each slice as a list of
// elements, nothing summed in passing, no block of columns, no sample taken twice. Slow, and written without a look at
// the judge's own code, so that a mistake in one of the two shows as a difference.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {

// What is judged, with what a Sample does not hold.
struct DrawnComparison {
  Sample sample;
  std::vector<TensorKey> operations;

  Judgement judge() const;
  std::string describe() const;
};

// Honest or wrong by some factor, of any operation, type and shape, with pads, repeated rows, elements of which nothing
// is expected, declared points and long spans. No gate closes one.
DrawnComparison draw_comparison(std::uint64_t seed);

struct PlainJudgement {
  std::int64_t elements_compared = 0;
  double max_excess = 0.0, rms = 0.0, bias = 0.0, slope = 0.0, max_abs_error = 0.0, relative_rms_error = 0.0,
         share_beyond = 0.0;
  std::array<double, kNumStatistics> normalised{}, ratio{};
  std::map<std::string, double> slice_score, slice_rms;  // by name; the first of a name
  std::int64_t worst_element = -1;                       // in the candidate; -1: none has an excess
};
PlainJudgement plain_judgement(const DrawnComparison& comparison);

// The probability that two elements drawn from `values` are equal to 8 significant bits, zeros and non-finite left out.
double plain_probability_of_equal(const std::vector<double>& values);

}  // namespace qdiff::compare
