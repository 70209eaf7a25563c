#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
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

// "a, b": each once, in the order in which they come first.
class JoinedNames {
 public:
  void add(const std::string& name) {
    if (seen_.insert(name).second) names_.push_back(name);
  }
  std::string text(const std::string& separator) const {
    std::string text;
    for (std::size_t i = 0; i < names_.size(); ++i) text += (i == 0 ? "" : separator) + names_[i];
    return text;
  }

 private:
  std::set<std::string> seen_;
  std::vector<std::string> names_;
};

struct Joiner::State {
  // Of a finding: its result's catalogue, which has the right values of its own model, and its code.
  struct Origin {
    findings::Catalogue catalogue;
    Code code;
  };
  bool any = false;
  findings::RunResult merged;
  std::vector<Origin> origins;  // by finding
  std::map<Code, std::set<FaultId>> refuted;
  JoinedNames models, configs, engines, devices;

  void break_all_ties();
  void strengthen();
};

void Joiner::State::break_all_ties() {
  for (std::size_t i = 0; i < origins.size(); ++i) {
    break_ties(merged.findings[i].explanation, origins[i].catalogue, refuted[origins[i].code]);
  }
}

// Evidence for a hypothesis without a variant becomes the variant that is confirmed of it elsewhere.
void Joiner::State::strengthen() {
  std::map<std::pair<Code, std::string>, Explanation> confirmed;  // the first of each hypothesis
  for (std::size_t i = 0; i < origins.size(); ++i) {
    const Explanation& explanation = merged.findings[i].explanation;
    if (is_confirmed(explanation)) confirmed.try_emplace({origins[i].code, *explanation.hypothesis}, explanation);
  }
  for (std::size_t i = 0; i < origins.size(); ++i) {
    Explanation& explanation = merged.findings[i].explanation;
    if (findings::is_explained(explanation) || !explanation.hypothesis) continue;
    const auto found = confirmed.find({origins[i].code, *explanation.hypothesis});
    if (found == confirmed.end()) continue;
    Explanation strong = found->second;
    strong.pattern = explanation.pattern;
    strong.where = explanation.where;
    strong.evidence = explanation.evidence;
    explanation = std::move(strong);
  }
}

Joiner::Joiner() : state_(std::make_unique<State>()) {}
Joiner::~Joiner() = default;

void Joiner::add(findings::RunResult next) {
  State& state = *state_;
  findings::RunResult& merged = state.merged;
  const Code code = code_of(next);
  state.refuted[code].merge(refuted_by(next));
  state.origins.insert(state.origins.end(), next.findings.size(), {next.catalogue, code});
  name_candidates(next);
  state.models.add(next.model);
  state.configs.add(next.config);
  state.engines.add(next.engine);
  state.devices.add(next.device);
  if (!std::exchange(state.any, true)) {
    merged = std::move(next);
    return;
  }
  const auto append = [](auto& to, auto& from) { std::ranges::move(from, std::back_inserter(to)); };
  if (rank(next.verdict) > rank(merged.verdict)) {
    merged.verdict = next.verdict;
    merged.reason = next.reason;
  }
  for (std::size_t h = 0; h < merged.hypotheses.size(); ++h) {
    join(merged.hypotheses[h], std::move(next.hypotheses[h]));
  }
  merged.planted_executions += next.planted_executions;
  append(merged.cases, next.cases);
  append(merged.findings, next.findings);
  for (findings::JudgedTensor& tensor : next.judged) {
    // No report says this of a judged tensor (a finding has its own), and a merge holds hundreds of thousands.
    tensor.judgement.reason = std::string();
    tensor.judgement.worst_index = std::vector<std::int64_t>();
    merged.judged.push_back(std::move(tensor));
  }
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

findings::RunResult Joiner::finish() {
  State& state = *state_;
  if (!state.any) return {};
  findings::RunResult& merged = state.merged;
  state.break_all_ties();
  state.strengthen();
  merged.model = state.models.text(", ");
  merged.config = state.configs.text("; ");
  merged.engine = state.engines.text(", ");
  merged.device = state.devices.text(", ");
  judge_again(merged.hypotheses, merged.findings, merged.catalogue);
  merged.coverage.blind = blind_hypotheses(merged.hypotheses);
  return std::move(merged);
}

findings::RunResult merge(std::vector<findings::RunResult> results) {
  Joiner joiner;
  for (findings::RunResult& result : results) joiner.add(std::move(result));
  return joiner.finish();
}

}  // namespace qdiff::diagnose
