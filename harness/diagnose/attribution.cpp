#include "harness/diagnose/attribution.h"

#include <algorithm>

namespace qdiff::diagnose {

using compare::Outcome;

Expectation evaluate(Oracle& oracle, const Subject& subject, const RowJudgement& row, const Precision& precision,
                     const Variant* variant) {
  return oracle.evaluate({.operations = row.span,
                          .recorded = *subject.inputs,
                          .steps = subject.input->steps,
                          .precision = precision,
                          .stored = subject.candidate->get(row.key).dtype,
                          .variant = variant});
}

bool concerns(const VariantFacts& facts, std::span<const TensorKey> span) {
  return std::any_of(span.begin(), span.end(), [&](const TensorKey& key) {
    return std::find(facts.ops.begin(), facts.ops.end(), key.id.op) != facts.ops.end();
  });
}

namespace {

bool reproduces(Oracle& oracle, const RowJudgement& row, const Precision& precision, const Variant& variant) {
  const Expectation wrong = evaluate(oracle, *row.subject, row, precision, &variant);
  const TensorView actual = row.subject->candidate->get(row.key);
  const Step& step = row.subject->input->steps[static_cast<std::size_t>(row.key.step)];
  const compare::Comparison comparison{.op = row.key.id.op,
                                       .actual = actual,
                                       .expected = wrong,
                                       .step = step,
                                       .precision = precision,
                                       .config = oracle.config()};
  return compare::judge(comparison).outcome == Outcome::kMatch;
}

bool fits_everywhere(Oracle& oracle, const std::vector<const RowJudgement*>& rows, const Precision& precision,
                     const VariantFacts& facts) {
  const Variant variant{facts.id, std::nullopt};
  return std::all_of(rows.begin(), rows.end(), [&](const RowJudgement* row) {
    // A row that the variant leaves alone must simply be right.
    if (!concerns(facts, row->span)) return row->judgement.outcome == Outcome::kMatch;
    return reproduces(oracle, *row, precision, variant);
  });
}

}  // namespace

std::vector<Variant> fitting_variants(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                      const Precision& precision) {
  // The diverged rows first: they refute most variants at once.
  std::vector<const RowJudgement*> ordered;
  for (const RowJudgement& row : rows) {
    if (row.judgement.outcome == Outcome::kDiverged) ordered.push_back(&row);
  }
  for (const RowJudgement& row : rows) {
    if (row.judgement.outcome == Outcome::kMatch) ordered.push_back(&row);
  }
  std::vector<Variant> fits;
  if (ordered.empty() || ordered.front()->judgement.outcome != Outcome::kDiverged) return fits;
  for (const VariantFacts& facts : oracle.catalogue()) {
    if (fits_everywhere(oracle, ordered, precision, facts)) fits.push_back({facts.id, std::nullopt});
  }
  std::sort(fits.begin(), fits.end(), [](const Variant& a, const Variant& b) { return a.id < b.id; });
  return fits;
}

std::string hypothesis_of(const std::string& variant_id) {
  return variant_id.starts_with('H') ? variant_id.substr(0, variant_id.find('.')) : std::string();
}

compare::Explanation explanation_of(const std::vector<Variant>& fits) {
  compare::Explanation explanation;
  if (fits.empty()) return explanation;
  const std::string hypothesis = hypothesis_of(fits.front().id);
  const bool tie =
      std::any_of(fits.begin(), fits.end(), [&](const Variant& fit) { return hypothesis_of(fit.id) != hypothesis; });
  if (!hypothesis.empty()) explanation.hypothesis = hypothesis;
  explanation.variant = fits.front().id;
  explanation.value = fits.front().value;
  explanation.verdict = tie ? compare::HypothesisVerdict::kConsistent : compare::HypothesisVerdict::kConfirmed;
  for (std::size_t i = 1; i < fits.size(); ++i) explanation.alternatives.push_back(fits[i].id);
  return explanation;
}

}  // namespace qdiff::diagnose
