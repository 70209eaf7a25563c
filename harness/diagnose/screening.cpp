#include "harness/diagnose/screening.h"

#include <algorithm>

#include "harness/diagnose/fitting.h"

namespace qdiff::diagnose {

bool is_long_span(const RowJudgement& row) { return !compare::is_usual_fusion(row.span); }

const Expectation& Screening::right(const RowJudgement& row) {
  const auto found = right_.find(&row);
  return found != right_.end() ? found->second
                               : right_.emplace(&row, evaluate(oracle_, row, precision_, {})).first->second;
}

double Screening::distance_of(const RowJudgement& row, const Variant* variant) {
  const Asked asked = variant == nullptr ? Asked{&row, "", std::nullopt} : Asked{&row, variant->id, variant->value};
  const auto found = distances_.find(asked);
  if (found != distances_.end()) return found->second;
  return distances_.emplace(asked, distance(oracle_, row, precision_, {variant, {}}, right(row))).first->second;
}

bool Screening::may_reproduce(const RowJudgement& row, const Supposition& supposition) {
  if (!row.wrong() || !is_long_span(row)) return true;
  // The unit is what rounding does to right code, so honest engines are about 1 from the reference that rounds; a bug
  // may make rounding a few times larger than that, and one that is the candidate's takes most of the distance away.
  constexpr double kNear = 0.5;
  constexpr double kHonest = 4.0;
  const double reached = supposition.points.empty() ? distance_of(row, supposition.variant)
                                                    : distance(oracle_, row, precision_, supposition, right(row));
  return reached <= std::max(kNear * distance_of(row, nullptr), kHonest);
}

compare::Statistics statistics_beside(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                      const Supposition& supposition, const Expectation& right) {
  Expectation expected = right;
  expected.value = evaluate(oracle, row, precision, supposition, false).value;
  return judge_against(row, row.actual(), expected, precision, oracle.config()).statistics;
}

}  // namespace qdiff::diagnose
