// How far the log-probabilities of a correct engine may stray, in units of what its roundings do to them
// (log_probabilities.h): the worst that honest twins showed (harness/calibration/pairs.h), times a margin.
// bounds_table.inc holds what was measured and names the command that measured it; `--verify` of the same command
// judges other pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "harness/diagnose/far/bounds.h"

namespace qdiff::diagnose {

struct WorstHonestLogProbabilities {
  double all = 0.0;    // root mean square over the tokens of a trace
  double worst = 0.0;  // of one token
};

// kWorstHonestLogProbabilities, by RowPrecision.
#include "harness/diagnose/reconcile/bounds_table.inc"

// What a trace of other models and inputs may have beyond that.
inline constexpr double kLogProbabilityMargin = 1.5;

// Pairs on seeds that did not set the bounds, reconciled as the command does it, and how many of them were accused
// (`qdiff_calibrate --pairs --first-seed 21 --verify 201`).
inline constexpr std::int64_t kVerifiedPairs = 201, kAccusedPairs = 0;

inline WorstHonestLogProbabilities log_probability_bounds(const Precision& precision) {
  const auto& worst = kWorstHonestLogProbabilities[static_cast<std::size_t>(row_precision(precision))];
  return {kLogProbabilityMargin * worst.all, kLogProbabilityMargin * worst.worst};
}

// The mean over so many tokens. One of few may be the worst of all, which makes w / sqrt(n) of their mean. Of the twins
// that the table was measured on ("worst mean over few"), any 1, 2, 4, 8, 16 and 32 tokens in a row of one in bfloat16
// erred by up to 17.5, 13.4, 9.5, 6.8, 4.8 and 3.5, where a whole trace is bounded by 2.2; this stays above the worst
// of each precision by a third at least.
inline double bound_of_mean(const WorstHonestLogProbabilities& bounds, std::size_t tokens) {
  return std::max(bounds.all, bounds.worst / std::sqrt(static_cast<double>(tokens)));
}

}  // namespace qdiff::diagnose
