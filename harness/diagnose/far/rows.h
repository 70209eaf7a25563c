// Rows and elements of a far tensor, each held against what rounding does there. One norm over the whole tensor lets
// pass a token whose logits are all scaled, and one logit that holds anything.
//
// What rounding does is measured on passes of right code that round each in a way of its own, beside gold:
//
//   row      the root mean square error of a row, in units of what the passes have there
//   scale    the factor by which the row is too large or too small (the regression of its error on gold), in units of
//            its deviation: the passes' mean cosine between error and gold, times the row's error that is no scale, and
//            the rounding of the sum in a norm. It is measured beside gold or beside the pass that rounds as declared,
//            whichever is nearer: an engine that rounds at the same places stays close to the latter
//   element  of logits, the largest error of a row in units of the row's own typical one, beside the largest that any
//   row of any
//            pass has: channels that are massive, and tokens that rounding moves more than others, show in the passes
//            as they do in the candidate
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "harness/contract/precision.h"
#include "harness/diagnose/far/target.h"

namespace qdiff::diagnose {

enum class RowStatistic : std::uint8_t { kRow, kScale, kElement };
inline constexpr std::size_t kNumRowStatistics = 3;
constexpr std::string_view name(RowStatistic statistic) {
  constexpr std::array<std::string_view, kNumRowStatistics> kNames = {"free_run_row", "free_run_scale",
                                                                      "free_run_element"};
  return kNames[static_cast<std::size_t>(statistic)];
}

// Of the row in which it is largest.
struct RowFigure {
  double value = 0.0;        // what is held against a bound: measured / expected
  double measured = 0.0;     // the error of a row or an element; of a scale, the factor less 1
  double expected = 0.0;     // what rounding makes of that
  std::int64_t element = 0;  // the row's largest error, row-major
};
using RowFigures = std::array<RowFigure, kNumRowStatistics>;  // by RowStatistic

// The error of one row beside a centre. Elements that are infinite in both are left out.
struct RowErrors {
  std::int64_t count = 0;
  double square = 0.0;         // sum of e^2
  double center_square = 0.0;  // sum of c^2
  double product = 0.0;        // sum of e c
  double typical = 0.0;  // the deviation of a Gaussian with the same median of |e|; of heads, which err apart, rms
  double peak = 0.0;     // largest |e|
  std::int64_t peak_column = 0;

  double rms() const;
  double scale() const { return center_square > 0.0 ? product / center_square : 0.0; }
  double rms_beside_scale() const;  // of what is no scale
};
RowErrors row_errors(std::span<const double> values, std::span<const double> center, bool of_heads = false);

// What a tensor is held against.
struct Supposed {
  std::span<const double> center;   // gold, or a pass that rounds by itself
  std::span<const double> rounded;  // a pass that rounds: the same one, or of right code
  double roundings = 1.0;           // that lie between the candidate and the centre: two beside a pass that rounds
};

// Of all recorded tensors of one name, in whatever steps.
//
// The passes sum in one order, which rounds little. An engine that adds one product after the other errs by
// u sqrt(n / 3) of a sum of n products: no row is given less.
class RowRounding {
 public:
  RowRounding(std::int64_t hidden, DType accumulate)
      : hidden_(hidden), of_sums_(unit_roundoff(accumulate) * std::sqrt(static_cast<double>(hidden) / 3.0)) {}
  // What a pass of right code holds there, as the candidate would have recorded it.
  void add(const Target& target, std::span<const double> values);
  void close();  // when all passes have been added
  // `candidate`, in the place of the target's own values, beside what is supposed to be right.
  RowFigures figures(const Target& target, std::span<const double> candidate, const Supposed& supposed) const;
  // The root mean square error that rounding makes in a row.
  double of_row(const TensorKey& key, std::int64_t index) const {
    return std::sqrt(rows_.at(key)[static_cast<std::size_t>(index)].mean_square);
  }

 private:
  struct OfRow {
    double mean_square = 0.0;
    std::vector<RowErrors> passes = {};
  };
  std::int64_t hidden_;
  double of_sums_;  // relative
  std::map<TensorKey, std::vector<OfRow>> rows_;
  double directions_ = 1.0;  // that errors may have
  double cosine_ = 0.0;      // root mean square
  double peak_ = 0.0;        // largest error in units of the row's typical one
};

// The worst of the figures beside its bound.
struct RowVerdict {
  RowStatistic statistic = RowStatistic::kRow;
  double ratio_to_bound = 0.0;
};
RowVerdict verdict_of(const RowFigures& figures, const Precision& precision);

// Whether rows of this operation are judged so. Scores and probabilities have errors of their own size in every
// element.
constexpr bool judged_by_rows(Op op) { return op != Op::kScores && op != Op::kProbs; }

}  // namespace qdiff::diagnose
