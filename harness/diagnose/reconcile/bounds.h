// How far the log-probabilities of a correct engine may stray, in units of what its roundings do to them
// (log_probabilities.h): the worst that honest twins showed (harness/calibration/pairs.h), times a margin.
// bounds_table.inc holds what was measured and names the command that measured it; `--verify` of the same command
// judges other pairs.
#pragma once

#include <array>
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

// The mean over fewer tokens than this is bounded as a token is: of 30 honest pairs one had a single token in common,
// which erred by 4.2 where the mean of dozens stays below 2.1 and one token below 7.7.
inline constexpr std::size_t kLeastTokensOfMean = 16;

// What a trace of other models and inputs may have beyond that.
inline constexpr double kLogProbabilityMargin = 1.5;

// Pairs on seeds that did not set the bounds, reconciled as the command does it, and how many of them were accused
// (`qdiff_calibrate --pairs --first-seed 21 --verify 201`).
inline constexpr std::int64_t kVerifiedPairs = 201, kAccusedPairs = 0;

inline WorstHonestLogProbabilities log_probability_bounds(const Precision& precision) {
  const auto& worst = kWorstHonestLogProbabilities[static_cast<std::size_t>(row_precision(precision))];
  return {kLogProbabilityMargin * worst.all, kLogProbabilityMargin * worst.worst};
}

}  // namespace qdiff::diagnose
