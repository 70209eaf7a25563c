#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/run.h"

namespace qdiff::diagnose {
namespace {

using compare::Verdict;
using findings::Explanation;
using findings::Finding;
using findings::HypothesisVerdict;

// Results of one engine in one type, which speak of the same code: what one of them rules out, no other has.
using Code = std::pair<std::string, DType>;
Code code_of(const findings::RunResult& result) { return {result.engine, result.precision.weights}; }

// The variants that these inputs would have shown and that fit none of their wrong tensors.
std::set<FaultId> refuted_by(const findings::RunResult& result) {
  std::set<FaultId> refuted;
  for (const auto& hypothesis : result.hypotheses) {
    refuted.insert(hypothesis.exercised_variants.begin(), hypothesis.exercised_variants.end());
  }
  for (const Finding& finding : result.findings) {
    if (finding.explanation.variant) refuted.erase(*finding.explanation.variant);
    for (const FaultId alternative : finding.explanation.alternatives) refuted.erase(alternative);
  }
  return refuted;
}

// A variant must fit every case that could show it: where several fit a tensor, those leave that another model's cases
// would have shown and did not.
void break_ties(Explanation& explanation, const std::vector<VariantFacts>& catalogue,
                const std::set<FaultId>& refuted) {
  if (!explanation.variant || explanation.alternatives.empty()) return;
  std::vector<Variant> fits = {{*explanation.variant, explanation.value}};
  for (std::size_t i = 0; i < explanation.alternatives.size(); ++i) {
    fits.push_back({explanation.alternatives[i], explanation.alternative_values[i]});
  }
  std::vector<Variant> left;
  std::ranges::remove_copy_if(fits, std::back_inserter(left),
                              [&](const Variant& fit) { return refuted.contains(fit.id); });
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

bool is_confirmed(const Explanation& explanation) {
  return explanation.hypothesis && explanation.variant && explanation.verdict == HypothesisVerdict::kConfirmed;
}

// Evidence for a hypothesis without a variant becomes the variant that is confirmed of it elsewhere.
void strengthen(std::vector<findings::RunResult>& results) {
  std::map<std::pair<Code, std::string>, Explanation> confirmed;  // the first of each hypothesis
  for (const findings::RunResult& result : results) {
    for (const Finding& finding : result.findings) {
      if (!is_confirmed(finding.explanation)) continue;
      confirmed.try_emplace({code_of(result), *finding.explanation.hypothesis}, finding.explanation);
    }
  }
  for (findings::RunResult& result : results) {
    for (Finding& finding : result.findings) {
      if (findings::is_explained(finding.explanation) || !finding.explanation.hypothesis) continue;
      const auto found = confirmed.find({code_of(result), *finding.explanation.hypothesis});
      if (found == confirmed.end()) continue;
      Explanation explanation = found->second;
      explanation.pattern = finding.explanation.pattern;
      explanation.where = finding.explanation.where;
      explanation.evidence = finding.explanation.evidence;
      finding.explanation = std::move(explanation);
    }
  }
}

// "a, b": each once, in the order in which they come first.
class Names {
 public:
  Names(std::string first, std::string separator) : text_(first), separator_(std::move(separator)) {
    seen_.insert(std::move(first));
  }
  void add(const std::string& name) {
    if (seen_.insert(name).second) text_ += separator_ + name;
  }
  const std::string& text() const { return text_; }

 private:
  std::set<std::string> seen_;
  std::string text_, separator_;
};

// Each case says for itself what the joined result can say only of all.
void name_candidates(findings::RunResult& result) {
  for (findings::CaseSummary& summary : result.cases) {
    summary.model = result.model;
    summary.engine = result.engine;
    summary.dtype = name(result.precision.activations);
  }
}

int rank(Verdict verdict) { return verdict == Verdict::kDiverged ? 2 : verdict == Verdict::kInconclusive ? 1 : 0; }

}  // namespace

findings::RunResult merge(std::vector<findings::RunResult> results) {
  if (results.empty()) return {};
  std::map<Code, std::set<FaultId>> refuted;
  for (const findings::RunResult& result : results) refuted[code_of(result)].merge(refuted_by(result));
  for (findings::RunResult& result : results) {  // each by its own model's catalogue, which has the right values
    for (Finding& finding : result.findings) {
      break_ties(finding.explanation, result.catalogue, refuted[code_of(result)]);
    }
    name_candidates(result);
  }
  strengthen(results);
  findings::RunResult merged = std::move(results.front());
  Names models(merged.model, ", "), configs(merged.config, "; "), engines(merged.engine, ", "),
      devices(merged.device, ", ");
  for (std::size_t r = 1; r < results.size(); ++r) {
    findings::RunResult next = std::move(results[r]);  // which goes when it is joined
    auto append = [](auto& to, auto& from) { std::ranges::move(from, std::back_inserter(to)); };
    if (rank(next.verdict) > rank(merged.verdict)) {
      merged.verdict = next.verdict;
      merged.reason = next.reason;
    }
    for (std::size_t h = 0; h < merged.hypotheses.size(); ++h) {
      join(merged.hypotheses[h], std::move(next.hypotheses[h]));
    }
    models.add(next.model);
    configs.add(next.config);
    engines.add(next.engine);
    devices.add(next.device);
    merged.planted_executions += next.planted_executions;
    append(merged.cases, next.cases);
    append(merged.findings, next.findings);
    append(merged.judged, next.judged);
    append(merged.free_runs, next.free_runs);
    append(merged.notes, next.notes);
    append(merged.coverage.not_compared, next.coverage.not_compared);
    for (std::string& name : next.coverage.tensors_missing) {
      auto& missing = merged.coverage.tensors_missing;
      if (std::ranges::find(missing, name) == missing.end()) missing.push_back(std::move(name));
    }
    merged.coverage.tensors_compared += next.coverage.tensors_compared;
    if (next.closest && (!merged.closest || next.closest->ratio > merged.closest->ratio)) merged.closest = next.closest;
    merged.seconds += next.seconds;
  }
  merged.model = models.text();
  merged.config = configs.text();
  merged.engine = engines.text();
  merged.device = devices.text();
  judge_again(merged.hypotheses, merged.findings, merged.catalogue);
  merged.coverage.blind = blind_hypotheses(merged.hypotheses);
  return merged;
}

}  // namespace qdiff::diagnose
