// How a wrong tensor is wrong, in words and as data: where, by how much, and what its values are instead.
//
// Nothing here is a verdict: the judge has found the tensor wrong before. An element counts as wrong beyond half a
// spacing of the stored type plus eight of the expectation's own deviations. Another value explains an element where
// the two agree to within that same allowance, taken at the other value; no tolerance is absolute.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"

namespace qdiff::pattern {

struct Pattern {
  // One phrase, the most telling facts first, at most about 160 characters. Empty where no element is wrong, or where
  // shapes do not fit.
  std::string text;

  // One axis as a reader knows it: "head", "batch row", "token row" or "slot", "dimension", "column" or "key slot".
  struct AxisFacts {
    std::string axis;
    std::vector<std::int64_t> wrong;  // indices with a wrong element; empty where the axis has one index
    std::int64_t size = 0;
    bool all = false;  // every index that was compared is wrong
  };
  std::vector<AxisFacts> axes;

  // actual = ratio * expected explains the wrong elements. Not set where all of them are zero.
  std::optional<double> ratio;
  // "a constant ratio in each token row": as above, with a factor for each row, head or column.
  std::optional<std::string> grouped_ratio;
  // "a constant for each column": actual - expected does not depend on what the phrase leaves out.
  std::optional<std::string> offset;
  std::optional<DType> rounded_to;          // every value is one of this coarser type
  std::optional<double> power_of_position;  // the relative error grows as this power of the position
  std::optional<std::string> hypothesis;    // "H05": positive evidence, never place alone
  std::string evidence;                     // the sentence that says why
  double share_wrong = 0.0;                 // of the elements compared
  bool holds_no_number = false;             // each element compared is NaN
};

// O(elements): what has to be fitted or searched for is so on a bounded sample of the wrong elements.
// Throws nothing for any content of `actual`. `actual` and `expected` may be lm_head's last row alone.
Pattern find_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                     const ModelConfig& config);

// find_pattern(...).text
std::string describe_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                             const ModelConfig& config);

}  // namespace qdiff::pattern
