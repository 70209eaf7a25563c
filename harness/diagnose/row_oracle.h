// The oracle, asked of rows that a candidate recorded: what each should hold under a supposition, and how far the
// candidate is from that.
//
// A long span's rounding is measured on an ensemble, some twenty plain evaluations, and nearly all of a hundred
// variants are nowhere near the candidate: may_reproduce() is the cheap look before the dear one.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

class RowOracle {
 public:
  // Remembers by address what is asked more than once of a row: rows stand still as long as it lives.
  RowOracle(Oracle& oracle, const Precision& declared) : oracle_(oracle), declared_(declared) {}

  const ModelConfig& config() const { return oracle_.config(); }
  const std::vector<VariantFacts>& catalogue() const { return oracle_.catalogue(); }
  // The variant must be one that the catalogue lists.
  const VariantFacts& facts_of(const Variant& variant) const { return *find_variant(catalogue(), variant.id); }
  const Precision& declared() const { return declared_; }

  // All evaluations throw NotEvaluable where the variant needs what is not recorded.
  Expectation evaluate(const RowJudgement& row, const Supposition& supposition, bool with_noise = true) const;
  // Calls use(queries) with those that ask what right code computes of these rows, in their order.
  void with_queries(std::span<const RowJudgement> rows,
                    const std::function<void(std::span<const Query> queries)>& use) const;
  // What right code computes, for several tensors of one operation.
  std::vector<Expectation> evaluate_all(std::span<const RowJudgement> rows) const;
  compare::Judgement judge(const RowJudgement& row, const Supposition& supposition) const;
  // Judges `actual`, in the place of the row's own tensor, against an expectation of the row.
  compare::Judgement judge_against(const RowJudgement& row, const TensorView& actual, const Expectation& expected,
                                   std::span<const DeclarablePoint> points = {}) const;
  // How the candidate lies to such an expectation, which costs a fraction of a judgement.
  compare::Distance distance_to(const RowJudgement& row, const Expectation& expected,
                                std::span<const DeclarablePoint> points = {}) const;
  // What an engine that really rounds at the declared and the supposed points would put out.
  Tensor emulate(const RowJudgement& row, const Supposition& supposition, bool divides_last = false) const;
  // How the candidate lies to gold under the supposition, in units of right code's rounding: gold alone is evaluated.
  compare::Distance distance_beside(const RowJudgement& row, const Supposition& supposition);

  // How far the candidate is from the reference that really rounds, and really has the bug, under a supposition: the
  // root mean square error in units of `scale`'s deviations and the stored type's spacing. Infinite where a hard gate
  // tells them apart.
  double distance(const RowJudgement& row, const Supposition& supposition, const Expectation& scale) const;
  // The same in units of right code's rounding; of right code without a supposition.
  double distance(const RowJudgement& row, const Supposition& supposition = {});
  const Expectation& right(const RowJudgement& row);

  // False where the reference under this supposition stays clearly as far from a wrong row of a long span as right code
  // is. Always true for rows whose full judgement costs little.
  bool may_reproduce(const RowJudgement& row, const Supposition& supposition);

 private:
  Oracle& oracle_;
  Precision declared_;
  std::map<const RowJudgement*, Expectation> right_;
  using Asked = std::pair<const RowJudgement*, std::optional<Variant>>;
  std::map<Asked, double> distances_;  // of suppositions without roundings
};

Precision declaring(Precision precision, std::span<const DeclarablePoint> points);

// Whether so much of right code's error is taken away, or so little is left, that a full judgement may be worth its
// cost. Beside right code that is infinitely far everything is.
bool comes_near(double error, double right);

}  // namespace qdiff::diagnose
