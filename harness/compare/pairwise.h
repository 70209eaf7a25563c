// Two recordings of the same steps side by side, without a model: which tensors both have, and how far they lie apart.
//
// No rounding is known here, so nothing is judged: bits are equal or they differ, and `within` is the caller's own
// tolerance. Pads are not compared; what only one of the two takes for a pad is.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/compare/verdict.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"

namespace qdiff::compare {

enum class PairOutcome : std::uint8_t {
  kEqual,    // every bit that counts
  kWithin,   // not equal, but finite in the same places and no further apart than `within`
  kDiffers,  // anything else, NaN included
  kNothing,  // no element counts: pads alone
};
constexpr std::string_view name(PairOutcome outcome) {
  constexpr std::array<std::string_view, 4> kNames = {"equal", "within", "differs", "nothing"};
  return kNames[static_cast<std::size_t>(outcome)];
}

struct TensorDifference {
  TensorKey key;
  PairOutcome outcome = PairOutcome::kNothing;
  DType actual_dtype = DType::kF32, expected_dtype = DType::kF32;
  Shape actual_shape, expected_shape;
  // All of the following are 0 where the shapes differ: then no two elements belong together.
  std::int64_t elements_compared = 0;
  std::int64_t bits_equal = 0;            // of these elements; across element types, those of equal value
  std::int64_t nan_mismatches = 0;        // NaN on one side, or two NaNs of different bits
  std::int64_t inf_mismatches = 0;        // an infinity against anything but the same one
  std::int64_t nan_on_both = 0;           // of equal bits
  double max_abs_error = 0.0;             // of the other elements
  double relative_rms_error = 0.0;        // ||actual - expected|| / ||expected|| of the other elements
  std::vector<std::int64_t> worst_index;  // the first mismatch, else the largest error; empty: nothing differs
  double actual = 0.0, expected = 0.0;    // there

  bool same_dtype() const { return actual_dtype == expected_dtype; }
  bool same_shape() const { return actual_shape == expected_shape; }
};

// The relative error of the residual stream from one recorded layer output to the next, where it grows most. An error
// below the element type's own rounding counts as that rounding: growth out of nothing is no jump.
struct ErrorJump {
  TensorKey from, to;
  double from_error = 0.0, to_error = 0.0;  // infinite where NaN or infinities do not match
  double ratio = 0.0;
};

struct PairwiseResult {
  Verdict verdict = Verdict::kInconclusive;  // inconclusive: nothing in common
  std::optional<double> within;
  std::vector<TensorDifference> tensors;  // what both have, by step, then in execution order
  std::vector<TensorKey> only_actual, only_expected;
  std::vector<std::string> notes;  // where the two did not run the same steps
  std::optional<ErrorJump> jump;

  std::int64_t count(PairOutcome outcome) const;
  const TensorDifference* first_difference() const;  // null where nothing differs
};

struct PairSide {
  const TensorStore& tensors;
  std::vector<TensorKey> keys;  // by step, then in execution order
  const std::vector<Step>& steps;
};

// `actual` and `expected` are host views of the tensor `key`.
TensorDifference difference_of(const TensorKey& key, const TensorView& actual, const Step& actual_step,
                               const TensorView& expected, const Step& expected_step, std::optional<double> within);

// `done` is called after each tensor with how many there are, and may free what the stores hold.
PairwiseResult compare_pairwise(const PairSide& actual, const PairSide& expected, std::optional<double> within,
                                const std::function<void(std::size_t done, std::size_t total)>& done);

}  // namespace qdiff::compare
