#include <algorithm>
#include <iterator>
#include <set>

#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/run.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Explanation;
using findings::Finding;
using findings::HypothesisVerdict;

// What one model's cases say of the catalogue.
struct Testimony {
  std::set<FaultId> exercised;  // variants that these inputs would have shown
  std::set<FaultId> named;      // variants that fit some wrong tensor

  explicit Testimony(const findings::RunResult& result) {
    for (const auto& hypothesis : result.hypotheses) {
      exercised.insert(hypothesis.exercised_variants.begin(), hypothesis.exercised_variants.end());
    }
    for (const Finding& finding : result.findings) {
      if (finding.explanation.variant) named.insert(*finding.explanation.variant);
      named.insert(finding.explanation.alternatives.begin(), finding.explanation.alternatives.end());
    }
  }
  bool refutes(FaultId variant) const { return exercised.contains(variant) && !named.contains(variant); }
};

// A variant must fit every case that could show it: where several fit a tensor, those leave that another model's cases
// would have shown and did not.
void break_ties(Explanation& explanation, const std::vector<VariantFacts>& catalogue,
                const std::vector<Testimony>& testimonies) {
  if (!explanation.variant || explanation.alternatives.empty()) return;
  std::vector<Variant> fits = {{*explanation.variant, explanation.value}};
  for (std::size_t i = 0; i < explanation.alternatives.size(); ++i) {
    fits.push_back({explanation.alternatives[i], explanation.alternative_values[i]});
  }
  std::vector<Variant> left;
  for (const Variant& fit : fits) {
    if (std::ranges::none_of(testimonies, [&](const Testimony& t) { return t.refutes(fit.id); })) left.push_back(fit);
  }
  if (left.empty() || left.size() == fits.size()) return;
  Explanation narrowed = explanation_of(left, catalogue);
  narrowed.layers = explanation.layers;
  narrowed.phase = explanation.phase;
  narrowed.pattern = explanation.pattern;
  narrowed.where = explanation.where;
  narrowed.points = explanation.points;
  if (!explanation.evidence.empty() && narrowed.variant == explanation.variant) {  // still in doubt
    narrowed.evidence = explanation.evidence;
    narrowed.verdict = explanation.verdict;
  }
  explanation = std::move(narrowed);
}

// Evidence for a hypothesis without a variant becomes the variant that is confirmed of it elsewhere.
void strengthen(std::vector<Finding>& findings) {
  for (Finding& finding : findings) {
    if (findings::is_explained(finding.explanation) || !finding.explanation.hypothesis) continue;
    const auto confirmed = std::ranges::find_if(findings, [&](const Finding& other) {
      return other.explanation.hypothesis == finding.explanation.hypothesis && other.explanation.variant &&
             other.explanation.verdict == HypothesisVerdict::kConfirmed;
    });
    if (confirmed == findings.end()) continue;
    Explanation explanation = confirmed->explanation;
    explanation.pattern = finding.explanation.pattern;
    explanation.where = finding.explanation.where;
    explanation.evidence = finding.explanation.evidence;
    finding.explanation = std::move(explanation);
  }
}

int rank(Verdict verdict) { return verdict == Verdict::kDiverged ? 2 : verdict == Verdict::kInconclusive ? 1 : 0; }

}  // namespace

findings::RunResult merge(std::vector<findings::RunResult> results) {
  if (results.empty()) return {};
  const std::vector<Testimony> testimonies(results.begin(), results.end());
  for (findings::RunResult& result : results) {  // each by its own model's catalogue, which has the right values
    for (Finding& finding : result.findings) break_ties(finding.explanation, result.catalogue, testimonies);
  }
  findings::RunResult merged = std::move(results.front());
  for (std::size_t r = 1; r < results.size(); ++r) {
    findings::RunResult& next = results[r];
    auto append = [](auto& to, auto& from) { std::ranges::move(from, std::back_inserter(to)); };
    if (rank(next.verdict) > rank(merged.verdict)) {
      merged.verdict = next.verdict;
      merged.reason = next.reason;
    }
    for (std::size_t h = 0; h < merged.hypotheses.size(); ++h) {
      merged.hypotheses[h] = together(merged.hypotheses[h], next.hypotheses[h]);
    }
    merged.model += ", " + next.model;
    merged.config += "; " + next.config;
    merged.planted_executions += next.planted_executions;
    append(merged.cases, next.cases);
    append(merged.findings, next.findings);
    append(merged.judged, next.judged);
    append(merged.free_runs, next.free_runs);
    append(merged.coverage.not_compared, next.coverage.not_compared);
    for (std::string& name : next.coverage.tensors_missing) {
      auto& missing = merged.coverage.tensors_missing;
      if (std::ranges::find(missing, name) == missing.end()) missing.push_back(std::move(name));
    }
    merged.coverage.tensors_compared += next.coverage.tensors_compared;
    if (next.closest && (!merged.closest || next.closest->ratio > merged.closest->ratio)) merged.closest = next.closest;
    merged.seconds += next.seconds;
  }
  strengthen(merged.findings);
  judge_again(merged.hypotheses, merged.findings, merged.catalogue);
  merged.coverage.blind = blind_hypotheses(merged.hypotheses);
  return merged;
}

}  // namespace qdiff::diagnose
