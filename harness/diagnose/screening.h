// Cheap looks before dear ones. The rounding of a span of several operations is measured on an ensemble, which costs
// some twenty plain evaluations, and nearly all of a hundred variants are nowhere near the candidate.
#pragma once

#include <map>
#include <tuple>

#include "harness/diagnose/attribution.h"

namespace qdiff::diagnose {

// Whether this row's expected rounding is measured on an ensemble.
bool is_long_span(const RowJudgement& row);

class Screening {
 public:
  Screening(Oracle& oracle, const Precision& precision) : oracle_(oracle), precision_(precision) {}

  // False where the reference under this supposition stays clearly as far from a wrong row as right code is, measured
  // by what rounding does to right code. Always true for rows whose full judgement costs little. Throws NotEvaluable.
  bool may_reproduce(const RowJudgement& row, const Supposition& supposition);

  // What is asked more than once of a row: what right code computes, and how far from the candidate a bug (null: right
  // code) alone lies, measured by that.
  const Expectation& right(const RowJudgement& row);
  double distance_of(const RowJudgement& row, const Variant* variant);

 private:
  Oracle& oracle_;
  const Precision& precision_;
  std::map<const RowJudgement*, Expectation> right_;
  using Asked = std::tuple<const RowJudgement*, std::string, std::optional<double>>;
  std::map<Asked, double> distances_;
};

// How the candidate lies to gold under a variant, in units of `right`'s expected rounding: gold alone is evaluated.
compare::Statistics statistics_beside(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                      const Supposition& supposition, const Expectation& right);

}  // namespace qdiff::diagnose
