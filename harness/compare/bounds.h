// How far a correct engine may stray: for each arithmetic, stored type and statistic the worst value seen on honest
// implementations, times a margin. What one operation of an arithmetic reached, another can.
//
// The honest implementations ("twins", harness/calibration) differ from each other in everything that a correct engine
// may choose: order of sums, tiles, split K, fused multiply-add, one- or two-pass softmax, declared rounding points,
// accuracy of exp and rsqrt. bounds_table.inc holds what was measured and names the command that measured it; run that
// command again after any change to the statistics, to the reference's expected rounding or to the table of operations.
#pragma once

#include <array>
#include <cstddef>

#include "harness/compare/judge.h"
#include "harness/contract/dtype.h"
#include "harness/contract/operation_table.h"

namespace qdiff::compare {

// Room above the worst honest value. Within the bound is a match. Another thousand twins pass the worst of the first
// by a third now and then (sums of equal terms, models of one channel); small doses of real mistakes lie beyond the
// bounds by factors of ten and more (harness/calibration/tests/experiments_test.cpp).
inline constexpr double kMargin = 2.0;
// An ensemble of sixteen gives each deviation to 18 %, so the largest of many quotients has a longer tail (Student's t
// of sixteen degrees of freedom: 6.3 where a Gaussian has 4.4, of 1e5). A trace of few tensors must not alarm for that.
inline constexpr double kEnsembleMargin = 3.0;
// Beyond the bound by more than this ratio is a divergence; in between an engine can be asked again on other inputs, a
// trace cannot, and the outcome is inconclusive.
inline constexpr double kDivergedRatio = 2.0;

using WorstHonest = std::array<double, kNumStatistics>;  // by Statistic, normalised as slices.h says

// What an engine reaches whose errors are Gaussian and exactly as large as expected, once in about 1e5 tensors: of so
// many draws the largest passes its normalisation by 30 %, an rms by 20 %, the mean of a small slice by 40 %, and a
// slope, a single draw, 4. No bound is set below these, however far the twins stay inside what the oracle allows.
inline constexpr WorstHonest kLeastWorst = {1.3, 1.2, 1.4, 1.4, 4.0, 0.7};

struct BoundsRow {
  Arithmetic arithmetic;
  std::array<WorstHonest, 3> by_dtype;  // float32, bfloat16, float16
};

// kWorstHonest, by Arithmetic; and kWorstHonestEnsemble where the expected rounding is measured on an ensemble (long
// spans, inputs used before they were rounded), whatever the arithmetic.
#include "harness/compare/bounds_table.inc"

constexpr bool bounds_are_in_enum_order() {
  for (std::size_t i = 0; i < kNumArithmetics; ++i) {
    if (static_cast<std::size_t>(kWorstHonest[i].arithmetic) != i) return false;
  }
  return true;
}
static_assert(bounds_are_in_enum_order(), "bounds_table.inc must stand in the order of enum Arithmetic");

// Column of the table. No engine stores float64; a reference that does is judged as float32 is.
constexpr std::size_t bounds_column(DType stored) { return stored == DType::kBF16 ? 1 : stored == DType::kF16 ? 2 : 0; }

constexpr double bound_from(const WorstHonest& measured, Statistic statistic, double margin) {
  const auto i = static_cast<std::size_t>(statistic);
  return margin * (measured[i] > kLeastWorst[i] ? measured[i] : kLeastWorst[i]);
}

constexpr double bound(Op op, DType stored, Statistic statistic) {
  const auto arithmetic = static_cast<std::size_t>(arithmetic_of(op));
  return bound_from(kWorstHonest[arithmetic].by_dtype[bounds_column(stored)], statistic, kMargin);
}

constexpr double ensemble_bound(DType stored, Statistic statistic) {
  return bound_from(kWorstHonestEnsemble[bounds_column(stored)], statistic, kEnsembleMargin);
}

}  // namespace qdiff::compare
