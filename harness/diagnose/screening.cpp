#include "harness/diagnose/screening.h"

#include <algorithm>

#include "harness/diagnose/fitting.h"

namespace qdiff::diagnose {

bool is_long_span(const RowJudgement& row) { return !compare::is_usual_fusion(row.span); }

const Screening::Yardstick& Screening::yardstick(const RowJudgement& row) {
  const auto found = yardsticks_.find(&row);
  if (found != yardsticks_.end()) return found->second;
  Yardstick yardstick{evaluate(oracle_, row, precision_, {})};
  yardstick.distance = distance(oracle_, row, precision_, {}, yardstick.right);
  return yardsticks_.emplace(&row, std::move(yardstick)).first->second;
}

bool Screening::may_reproduce(const RowJudgement& row, const Supposition& supposition) {
  if (!row.wrong() || !is_long_span(row)) return true;
  // The unit is what rounding does to right code, so honest engines are about 1 from the reference that rounds; a bug
  // may make rounding a few times larger than that, and one that is the candidate's takes most of the distance away.
  constexpr double kNear = 0.5;
  constexpr double kHonest = 4.0;
  const Yardstick& known = yardstick(row);
  const double reached = distance(oracle_, row, precision_, supposition, known.right);
  return reached <= std::max(kNear * known.distance, kHonest);
}

compare::Statistics statistics_beside(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                      const Supposition& supposition, const Expectation& right) {
  Expectation expected = right;
  expected.value = evaluate(oracle, row, precision, supposition, false).value;
  return judge_against(row, row.actual(), expected, precision, oracle.config()).statistics;
}

}  // namespace qdiff::diagnose
