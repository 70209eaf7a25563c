// The hard gates: what no statistic may speak about. NaN, infinities and masks must stand where gold has them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/compare/layout.h"

namespace qdiff::compare {

struct GateFailure {
  std::string gate;  // "non_finite", "mask", "all_zero", "unknown_rounding"
  Outcome outcome = Outcome::kDiverged;
  std::int64_t element = 0;  // index within the candidate, row-major
  std::string reason;        // ends where " at [index]: ..." may follow
};

// Which numbers stand for -inf among masked scores: those of which a softmax in this type sees nothing.
class MaskRule {
 public:
  explicit MaskRule(DType accumulate);
  // Whether exp(score - top) is 0. `top` is the largest real score of the row. Never NaN nor +inf.
  bool hides(double score, double top) const { return score - top < exp_underflow_; }

 private:
  double exp_underflow_;  // half the smallest subnormal is the exponential of this
};

// Sees every element of every row that counts, a segment at a time, and takes out those that statistics cannot speak
// about. Of several failures the one with the smallest index is kept, in whatever order segments come.
//
// Rules beyond "NaN where gold has NaN, the same infinity where gold has one":
// - Masked scores (gold -inf): any stand-in x is right if exp(x - row maximum of the real scores) is 0 in the declared
//   accumulate precision, so -inf, finfo.min and -1e30 are, and -1e4 in a row of scores below -9900 is not.
// - A row of scores that are all -inf, or of probabilities that are all 0, is fully masked: never looked at.
// - Gold near the end of the stored type's range: where honest rounding (16 sigma) may land on either side of
//   overflow, infinity of the right sign and a finite value are both right.
// - Gold exactly 0 with no rounding expected (a masked probability): 0 of either sign is right and says nothing, so
//   the statistics do not see it; anything else is infinite excess.
class Gates {
 public:
  // `gold_row` gives the expectation's row beside a candidate's row.
  Gates(const Comparison& comparison, const Layout& layout, std::function<std::int64_t(std::int64_t)> gold_row);

  // Fills weight with 1 where statistics may look and 0 elsewhere, where it also sets gold and actual to 0. False where
  // the row is fully masked: none of it was looked at.
  bool pass(std::span<double> actual, std::span<double> gold, const float* sigma_independent, const float* sigma_shared,
            double* weight, std::int64_t row, std::int64_t first_element);

  std::int64_t elements_seen() const { return elements_seen_; }
  const std::optional<GateFailure>& failure() const { return failure_; }
  // An element whose expected rounding is not a number: nothing can be said about it.
  const std::optional<GateFailure>& doubt() const { return doubt_; }
  // After all segments: every element zero, though gold is far from zero somewhere.
  std::optional<GateFailure> all_zero() const;

 private:
  bool accepts(double actual, double gold, double sigma, std::int64_t row, std::int64_t element);
  bool accepts_masked_score(double actual, std::int64_t row) const;
  // Not where gold is NaN, as where a softmax overflows.
  bool is_fully_masked(std::int64_t row) const;
  // Largest real (finite) gold of a row of scores.
  double row_maximum(std::int64_t row);
  void fail(const char* gate, std::int64_t element, const char* reason);

  const Comparison& comparison_;
  const Layout& layout_;
  std::function<std::int64_t(std::int64_t)> gold_row_;
  double near_overflow_;  // gold below this is far from overflow
  double overflow_;       // rounds to infinity from here on
  MaskRule mask_;
  std::vector<double> row_maximum_;  // NaN: not yet known. Of scores only
  std::int64_t elements_seen_ = 0;
  bool any_nonzero_ = false;
  std::optional<GateFailure> failure_;
  std::optional<GateFailure> doubt_;
};

}  // namespace qdiff::compare
