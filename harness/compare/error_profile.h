// How the error of one wrong tensor is spread, for a person to look at: by token, head and column, as a histogram, and
// the worst elements. Nothing is decided by it.
//
// The error of an element is z = |actual - expected| / deviation, with the deviation that correct rounding has there
// (sums.h): 1 is what rounding makes of it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/compare/judge.h"

namespace qdiff::compare {

struct ErrorProfile {
  struct Axis {
    std::string name;                // "token row", "cache slot", "head", "column"
    std::vector<double> rms;         // root mean square of z by index; infinite where a value is not finite
    std::int64_t indices_a_bar = 1;  // neighbouring indices that share an entry of `rms`
  };
  struct Element {
    std::vector<std::int64_t> index;
    double actual = 0.0;
    double expected = 0.0;
    double error = 0.0;  // z
  };
  static constexpr std::size_t kHistogramBins = 24;
  static constexpr std::string_view kHistogramNote =
      "Share of elements. The first bar counts those below 1/8 of the expected rounding; each further bar doubles.";

  std::vector<Axis> axes;
  std::array<double, kHistogramBins> histogram{};  // share of the elements compared
  std::vector<Element> worst;                      // the largest z first
};

// Shapes must fit (shape_fits): a tensor of another shape has no profile. Elements of padding, of which nothing is
// expected, or whose expectation is not finite are left out.
ErrorProfile error_profile(const Comparison& comparison);

}  // namespace qdiff::compare
