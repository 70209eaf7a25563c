#include "harness/diagnose/hypotheses.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "harness/contract/hypothesis.h"
#include "harness/contract/mistake.h"
#include "harness/diagnose/variants.h"
#include "harness/findings/blindness.h"

namespace qdiff::diagnose {
namespace {

using findings::Finding;
using findings::HypothesisResult;
using findings::HypothesisVerdict;

// An explanation in doubt covers its tensor and does not prove that nothing else is wrong there.
bool is_covered(const findings::Explanation& explanation) {
  const bool in_doubt = explanation.variant && !explanation.evidence.empty();
  return findings::is_explained(explanation) && !in_doubt;
}

// Whether a bug of the hypothesis may act in an operation: a known one, or a mechanism that speaks for it.
bool acts_in(const std::string& id, Op op, const std::vector<VariantFacts>& catalogue) {
  const bool known = std::ranges::any_of(catalogue, [&](const VariantFacts& facts) {
    return hypothesis_of(facts.id) == id && std::ranges::find(facts.ops, op) != facts.ops.end();
  });
  if (known) return true;
  for (std::size_t kind = 0; kind < kNumMistakeKinds; ++kind) {
    const MistakeFacts& mechanism = facts(static_cast<MistakeKind>(kind));
    if (mechanism.hypothesis == id && has_mechanism(op, mechanism.kind)) return true;
  }
  return false;
}

// The first wrong tensor that nothing explains and in whose span a bug of this hypothesis acts; null where all are
// covered, so that the hypothesis is not needed.
const Finding* unexplained_within_reach(const std::vector<Finding>& findings,
                                        const std::vector<VariantFacts>& catalogue, const std::string& id) {
  const auto within_reach = [&](const Finding& finding) {
    return finding.kind != findings::FindingKind::kRecording && !is_covered(finding.explanation) &&
           std::ranges::any_of(finding.operations, [&](Op op) { return acts_in(id, op, catalogue); });
  };
  const auto found = std::ranges::find_if(findings, within_reach);
  return found == findings.end() ? nullptr : &*found;
}

// "; to decide, record model.layers.0.self_attn.q_rope and model.layers.0.self_attn.k_rope": where a finding's span
// holds what the hypothesis acts on, those tensors. Empty where they were recorded.
std::string to_be_recorded(const Finding& finding, const std::vector<VariantFacts>& catalogue, const std::string& id) {
  std::set<Op> inside;
  for (const VariantFacts& facts : catalogue) {
    if (hypothesis_of(facts.id) != id) continue;
    for (Op op : facts.ops) {
      const bool in_span = std::ranges::find(finding.operations, op) != finding.operations.end();
      if (in_span && op != finding.tensor.op) inside.insert(op);
    }
  }
  std::string names;
  for (Op op : inside) {
    const bool in_layer = row(op).scope == Scope::kLayer;
    if (in_layer && finding.tensor.layer == kNoLayer) continue;
    names += (names.empty() ? "" : ", ") + tensor_name({op, in_layer ? finding.tensor.layer : kNoLayer});
  }
  return names.empty() ? "" : "; to decide, record " + names;
}

// The variant of this hypothesis that a finding names, first or among its alternatives.
std::optional<FaultId> variant_named(const Finding& finding, const std::string& id) {
  const findings::Explanation& explanation = finding.explanation;
  if (explanation.hypothesis == id) return explanation.variant;
  for (FaultId variant : explanation.alternatives) {
    if (hypothesis_of(variant) == id) return variant;
  }
  return std::nullopt;
}

bool shown(const Detectability& detectability, FaultId variant) {
  const auto found = detectability.cases_that_show.find(variant);
  return found != detectability.cases_that_show.end() && !found->second.empty();
}

void judge_by_findings(const std::vector<Finding>& findings, HypothesisResult& result) {
  std::string evidence;
  for (const Finding& finding : findings) {
    if (!speaks_for(finding.explanation, result.id)) continue;
    if (!result.first_divergence) result.first_divergence = finding;
    const std::optional<FaultId> variant = variant_named(finding, result.id);
    const bool stronger = *finding.explanation.verdict < result.verdict;
    if (stronger || (!result.variant && *finding.explanation.verdict == result.verdict)) {
      result.verdict = *finding.explanation.verdict;
      if (variant) result.variant = variant;
      evidence = finding.explanation.evidence;
    }
  }
  const bool doubtful = result.variant && result.verdict == HypothesisVerdict::kConsistent;
  if (!evidence.empty() && (!result.variant || doubtful)) result.evidence.push_back(evidence);
  if (!result.variant) return;
  const auto explained = std::ranges::count_if(findings, [&](const Finding& finding) {
    const auto& alternatives = finding.explanation.alternatives;
    return finding.explanation.variant == result.variant ||
           std::ranges::find(alternatives, *result.variant) != alternatives.end();
  });
  result.evidence.push_back("the reference with " + std::string(name(*result.variant)) + " planted reproduces " +
                            std::to_string(explained) + " of " + std::to_string(findings.size()) +
                            " wrong tensors to within rounding");
  if (result.verdict == HypothesisVerdict::kConsistent && evidence.empty()) {
    result.evidence.push_back("variants of other hypotheses fit equally well; see the alternatives of the explanation");
  }
}

}  // namespace

void judge_again(std::vector<HypothesisResult>& results, const std::vector<Finding>& findings,
                 const std::vector<VariantFacts>& catalogue) {
  for (HypothesisResult& result : results) {
    result.variant.reset();
    result.first_divergence.reset();
    result.evidence.clear();
    if (!result.exercised_variants.empty()) {
      result.verdict = HypothesisVerdict::kRefuted;
    } else if (result.verdict != HypothesisVerdict::kUndetectable) {
      result.verdict = HypothesisVerdict::kNotExercised;
    }
    judge_by_findings(findings, result);
    if (result.verdict == HypothesisVerdict::kRefuted) {
      const std::size_t shown = result.exercised_variants.size(), blind = result.blind_variants.size();
      result.evidence.push_back(std::to_string(shown) +
                                " variants would have shown on these inputs; the candidate shows none of them");
      if (findings::is_mostly_blind(result)) {
        result.verdict = HypothesisVerdict::kOpen;
        result.evidence.push_back(std::to_string(blind) + " of " + std::to_string(shown + blind) +
                                  " variants could not be seen on these inputs: the hypothesis is not excluded");
      }
      if (!result.never_judged.empty()) {
        result.verdict = HypothesisVerdict::kOpen;
        result.evidence.push_back(result.never_judged + " could be judged in no step: a mistake there is not excluded");
      }
      if (const Finding* finding = unexplained_within_reach(findings, catalogue, result.id)) {
        result.verdict = HypothesisVerdict::kOpen;
        result.evidence.push_back("no known mistake of this kind fits " + tensor_name(finding->tensor) + " of step " +
                                  std::to_string(finding->step) +
                                  ", which nothing else explains: the hypothesis is not excluded" +
                                  to_be_recorded(*finding, catalogue, result.id));
      }
    } else if (result.verdict == HypothesisVerdict::kNotExercised && result.blind_variants.empty()) {
      result.evidence.push_back("the catalogue holds no variant of this hypothesis that these cases could exercise");
    }
  }
}

std::vector<HypothesisResult> judge_hypotheses(const std::vector<Finding>& findings,
                                               const std::vector<VariantFacts>& catalogue,
                                               const Detectability& detectability) {
  std::vector<HypothesisResult> results;
  for (const Hypothesis& hypothesis : kHypotheses) {
    HypothesisResult result;
    result.id = hypothesis.id;
    result.title = hypothesis.title;
    for (const VariantFacts& facts : catalogue) {
      if (hypothesis_of(facts.id) != result.id || !facts.probed) continue;
      if (shown(detectability, facts.id)) {
        result.exercised_variants.push_back(facts.id);
        result.shown_by[facts.id] = detectability.cases_that_show.at(facts.id);
      } else if (detectability.tried.contains(facts.id)) {
        result.verdict = HypothesisVerdict::kUndetectable;
        std::string why = "on these inputs it gives what correct code gives, to within rounding";
        if (!facts.shows_when.empty()) why += "; it shows with: " + facts.shows_when;
        result.blind_variants.push_back({facts.id, why});
      } else if (const auto missing = detectability.not_evaluable.find(facts.id);
                 missing != detectability.not_evaluable.end()) {
        result.blind_variants.push_back({facts.id, missing->second + ", which is not recorded"});
      } else {
        result.blind_variants.push_back({facts.id, "no operation that it changes was judged"});
      }
    }
    for (const TensorId& id : detectability.never_judged) {
      if (result.never_judged.empty() && acts_in(result.id, id.op, catalogue)) result.never_judged = tensor_name(id);
    }
    results.push_back(std::move(result));
  }
  judge_again(results, findings, catalogue);
  return results;
}

std::vector<std::string> blind_hypotheses(const std::vector<HypothesisResult>& results) {
  std::vector<std::string> blind;
  for (const HypothesisResult& result : results) {
    if (result.verdict == HypothesisVerdict::kUndetectable || result.verdict == HypothesisVerdict::kNotExercised) {
      blind.push_back(result.id);
    }
  }
  return blind;
}

void join(HypothesisResult& result, HypothesisResult&& other) {
  if (other.verdict == HypothesisVerdict::kUndetectable) result.verdict = other.verdict;
  std::vector<FaultId>& exercised = result.exercised_variants;
  const auto is_exercised = [&](FaultId variant) { return std::ranges::find(exercised, variant) != exercised.end(); };
  std::ranges::remove_copy_if(other.exercised_variants, std::back_inserter(exercised), is_exercised);
  const auto by_name = [](FaultId id) { return name(id); };
  if (!std::ranges::is_sorted(exercised, {}, by_name)) std::ranges::sort(exercised, {}, by_name);
  for (auto& [variant, cases] : other.shown_by) result.shown_by[variant].merge(cases);
  for (findings::BlindVariant& blind : other.blind_variants) {
    const bool known = std::ranges::find(result.blind_variants, blind.variant, &findings::BlindVariant::variant) !=
                       result.blind_variants.end();
    if (!known) result.blind_variants.push_back(std::move(blind));
  }
  std::erase_if(result.blind_variants, [&](const auto& blind) { return is_exercised(blind.variant); });
  if (result.never_judged.empty()) result.never_judged = std::move(other.never_judged);
}

}  // namespace qdiff::diagnose
