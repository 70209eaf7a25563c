#include "harness/diagnose/row_oracle.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "harness/compare/layout.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

// A variant may ask for any tensor of the case; one that was handed out in a wrong shape is as good as not recorded.
class WellShaped final : public TensorStore {
 public:
  WellShaped(const Subject& subject, const ModelConfig& config) : subject_(subject), config_(config) {}
  bool has(const TensorKey& key) const override {
    return subject_.inputs->has(key) &&
           compare::shape_fits(key.id.op, get(key).shape, subject_.step(key.step), config_);
  }
  TensorView get(const TensorKey& key) const override { return subject_.inputs->get(key); }

 private:
  const Subject& subject_;
  const ModelConfig& config_;
};

// The query of a row under a supposition; what it refers to lives here.
struct RowQuery {
  Precision precision;
  WellShaped recorded;
  Query query;

  RowQuery(const RowJudgement& row, const Precision& declared, const Supposition& supposition,
           const ModelConfig& config)
      : precision(declaring(declared, supposition.points)),
        recorded(*row.subject, config),
        query{.operations = row.span,
              .recorded = recorded,
              .steps = row.subject->input->steps,
              .precision = precision,
              .stored = row.actual().dtype,
              .variant = supposition.variant,
              .capacity = supposition.capacity > 0 ? supposition.capacity : row.subject->input->capacity,
              .unwritten = row.subject->unwritten,
              .beside = supposition.beside,
              .mistakes = supposition.mistakes} {}
};

// It refers to all that it is given.
compare::Comparison comparison(const RowJudgement& row, const TensorView& actual, const Expectation& expected,
                               const Precision& precision, const ModelConfig& config) {
  return {.op = row.key.id.op,
          .actual = actual,
          .expected = expected,
          .step = row.step(),
          .precision = precision,
          .config = config,
          .operations = row.span};
}

// Whether a softmax inside the span rounds, where no tensor shows if it divides before that or after P·V.
bool may_divide_last(const RowJudgement& row, const Precision& precision) {
  const bool inside = row.key.id.op != Op::kProbs &&
                      std::ranges::any_of(row.span, [](const TensorKey& key) { return key.id.op == Op::kProbs; });
  return inside && precision.points.contains(RoundingPoint::kAttentionProbs);
}

}  // namespace

Expectation RowOracle::evaluate(const RowJudgement& row, const Supposition& supposition, bool with_noise) const {
  RowQuery asked(row, declared_, supposition, config());
  asked.query.with_noise = with_noise;
  return oracle_.evaluate(asked.query);
}

void RowOracle::with_queries(std::span<const RowJudgement> rows,
                             const std::function<void(std::span<const Query>)>& use) const {
  std::deque<RowQuery> kept;  // queries refer to what lives there
  std::vector<Query> queries;
  for (const RowJudgement& row : rows) {
    kept.emplace_back(row, declared_, Supposition{}, config());
    queries.push_back(kept.back().query);
  }
  use(queries);
}

std::vector<Expectation> RowOracle::evaluate_all(std::span<const RowJudgement> rows) const {
  std::vector<Expectation> expectations;
  with_queries(rows, [&](std::span<const Query> queries) { expectations = oracle_.evaluate_all(queries); });
  return expectations;
}

compare::Judgement RowOracle::judge(const RowJudgement& row, const Supposition& supposition) const {
  return judge_against(row, row.actual(), evaluate(row, supposition), supposition.points);
}

compare::Judgement RowOracle::judge_against(const RowJudgement& row, const TensorView& actual,
                                            const Expectation& expected,
                                            std::span<const DeclarablePoint> points) const {
  const Precision precision = declaring(declared_, points);
  return compare::judge(comparison(row, actual, expected, precision, config()));
}

compare::Distance RowOracle::distance_to(const RowJudgement& row, const Expectation& expected,
                                         std::span<const DeclarablePoint> points) const {
  const Precision precision = declaring(declared_, points);
  const TensorView actual = row.actual();
  return compare::distance_of(comparison(row, actual, expected, precision, config()));
}

Tensor RowOracle::emulate(const RowJudgement& row, const Supposition& supposition, bool divides_last) const {
  RowQuery asked(row, declared_, supposition, config());
  asked.query.divides_last = divides_last;
  const TensorView actual = row.actual();
  return Tensor::rounded(actual.dtype, actual.shape, oracle_.emulate(asked.query));
}

compare::Distance RowOracle::distance_beside(const RowJudgement& row, const Supposition& supposition) {
  Expectation expected = right(row);
  expected.value = evaluate(row, supposition, /*with_noise=*/false).value;
  return distance_to(row, expected);
}

double RowOracle::distance(const RowJudgement& row, const Supposition& supposition, const Expectation& scale) const {
  Expectation expected = scale;
  expected.exact = false;
  const auto to_planted = [&](const Tensor& planted) {
    expected.value = to_doubles(planted.view());
    const compare::Distance distance = distance_to(row, expected, supposition.points);
    return distance.beyond_numbers || !std::isfinite(distance.rms) ? HUGE_VAL : distance.rms;
  };
  const double nearest = to_planted(emulate(row, supposition));
  if (!may_divide_last(row, declaring(declared_, supposition.points))) return nearest;
  return std::min(nearest, to_planted(emulate(row, supposition, /*divides_last=*/true)));
}

double RowOracle::distance(const RowJudgement& row, const Supposition& supposition) {
  const bool plain = supposition.points.empty() && supposition.beside == nullptr && supposition.mistakes.empty() &&
                     supposition.capacity == 0;
  if (!plain) return distance(row, supposition, right(row));
  const Variant* variant = supposition.variant;
  const Asked asked{&row, variant == nullptr ? std::nullopt : std::optional(*variant)};
  const auto found = distances_.find(asked);
  if (found != distances_.end()) return found->second;
  return distances_.emplace(asked, distance(row, supposition, right(row))).first->second;
}

const Expectation& RowOracle::right(const RowJudgement& row) {
  const auto found = right_.find(&row);
  return found != right_.end() ? found->second : right_.emplace(&row, evaluate(row, {})).first->second;
}

bool RowOracle::may_reproduce(const RowJudgement& row, const Supposition& supposition) {
  if (!row.wrong() || !row.is_long()) return true;
  return comes_near(distance(row, supposition), distance(row));
}

Precision declaring(Precision precision, std::span<const DeclarablePoint> points) {
  for (const DeclarablePoint& declared : points) declared.declare(precision);
  return precision;
}

bool comes_near(double error, double right) {
  return error <= std::max(std::isfinite(right) ? kLargestShareLeft * right : HUGE_VAL, kNearEnough);
}

}  // namespace qdiff::diagnose
