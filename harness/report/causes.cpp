#include "harness/report/causes.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/number_text.h"
#include "harness/report/sentences.h"

namespace qdiff::report {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::RunResult;

// A gate that decided (NaN, a shape) outranks every ratio, and NaN is beyond every number.
double severity(const compare::Judgement& judgement) {
  const double ratio = judgement.ratio_to_bound;
  return ratio == 0.0 || std::isnan(ratio) ? HUGE_VAL : ratio;
}

std::string name_in_layer(const TensorId& id) { return std::string(row(id.op).name); }

// "self_attn.k_proj of layer 2 in decode"
std::string in_a_sentence(const Finding& finding) {
  const int layer = finding.tensor.layer;
  return name_in_layer(finding.tensor) + (layer == kNoLayer ? "" : " of layer " + std::to_string(layer)) + " in " +
         std::string(name(finding.phase));
}

// The same, and why it is wrong: the end of a sentence.
std::string with_its_cause(const RunResult& result, const Finding& finding) {
  const findings::Explanation& explanation = finding.explanation;
  const std::string text = in_a_sentence(finding);
  if (!explanation.verdict) return text + "; no known bug reproduces it.";
  const std::string meaning = meaning_of(result, explanation);
  const bool sure = explanation.verdict == findings::HypothesisVerdict::kConfirmed;
  return text + (sure ? ", because of " : "; it may be ") + cause_without_extent(explanation) +
         (meaning.empty() ? "." : ": " + meaning + '.');
}

// The first finding of each other cause that makes the verdict diverged: those that are explained first, and else in
// the order found.
std::vector<const Finding*> of_other_causes(const RunResult& result, const Finding& first) {
  std::vector<const Finding*> others;
  for (const NamedCause& cause : named_causes_of(result)) {
    const Finding& finding = result.findings[cause.findings.front()];
    if (cause.name != name_of_cause(first) && counts(result, finding)) others.push_back(&finding);
  }
  std::stable_partition(others.begin(), others.end(),
                        [](const Finding* finding) { return finding->explanation.verdict.has_value(); });
  return others;
}

}  // namespace

std::string meaning_of(const RunResult& result, const findings::Explanation& explanation) {
  if (!explanation.sentence.empty()) return explanation.sentence;
  if (!explanation.variant) return explanation.evidence;
  const VariantFacts* found = find_variant(result.catalogue, *explanation.variant);
  return found == nullptr ? std::string() : found->what;
}

std::string Cause::where() const {
  std::string text;
  if (!layers.empty()) text = (layers.size() == 1 ? "layer " : "layers ") + ranges({layers.begin(), layers.end()});
  for (const Phase phase : phases) {
    text += (text.empty() ? "" : phase == *phases.begin() ? ", " : " and ") + std::string(name(phase));
  }
  return text;
}

std::vector<Cause> causes_of(const RunResult& result) {
  std::vector<Cause> causes;
  for (std::size_t i = 0; i < result.findings.size(); ++i) {
    const Finding& finding = result.findings[i];
    const findings::Explanation& explanation = finding.explanation;
    std::string what = cause_without_extent(explanation);
    if (!explanation.sentence.empty() && what != explanation.sentence) what += ": " + explanation.sentence;
    const std::string tensor = name_in_layer(finding.tensor);
    auto cause =
        std::ranges::find_if(causes, [&](const Cause& known) { return known.what == what && known.tensor == tensor; });
    if (cause == causes.end()) {
      causes.push_back({.what = what,
                        .explained = explanation.verdict || finding.kind == findings::FindingKind::kRecording,
                        .meaning = explanation.sentence.empty() ? meaning_of(result, explanation) : "",
                        .tensor = tensor,
                        .worst = i});
      cause = std::prev(causes.end());
    }
    if (finding.tensor.layer != kNoLayer) cause->layers.insert(finding.tensor.layer);
    cause->phases.insert(finding.phase);
    cause->findings.push_back(i);
    if (severity(finding.judgement) > severity(result.findings[cause->worst].judgement)) cause->worst = i;
  }
  return causes;
}

std::string name_of_cause(const Finding& finding) {
  const std::string named = findings::cause_name(finding.explanation);
  if (!named.empty()) return named;
  const std::string at = name_in_layer(finding.tensor);
  if (finding.kind == findings::FindingKind::kRecording) return "recorded wrongly: " + at;
  const bool has_pattern = finding.explanation.verdict && finding.explanation.hypothesis;
  return has_pattern ? *finding.explanation.hypothesis + " by its pattern: " + at : "unexplained: " + at;
}

std::vector<NamedCause> named_causes_of(const RunResult& result) {
  std::vector<NamedCause> causes;
  for (std::size_t i = 0; i < result.findings.size(); ++i) {
    const std::string name = name_of_cause(result.findings[i]);
    auto cause = std::ranges::find_if(causes, [&](const NamedCause& known) { return known.name == name; });
    if (cause == causes.end()) cause = causes.insert(causes.end(), NamedCause{name});
    cause->findings.push_back(i);
  }
  std::stable_partition(causes.begin(), causes.end(), [&](const NamedCause& cause) {
    return result.findings[cause.findings.front()].kind == findings::FindingKind::kLogic;
  });
  return causes;
}

std::string error_alone(const compare::Judgement& judgement) {
  return judgement.reason.substr(0, judgement.reason.find("; worst element at ["));
}

std::string distance_from_bound(const compare::Judgement& judgement) {
  if (judgement.ratio_to_bound == 0.0) return compare::in_words(judgement.decisive_statistic);
  // Two digits tell enough, and 410 is read faster than 4.1e+02.
  return digits(to_digits(judgement.ratio_to_bound, 2), 5) + " times its bound";
}

std::string verdict_sentence(const RunResult& result) {
  const Finding* first = result.first_divergence();
  const std::string compared = counted(result.coverage.tensors_compared, "tensor");
  if (first == nullptr) {
    if (result.verdict == Verdict::kMatch) {
      return "The engine computes what it should: all of " + compared +
             " agree with the reference to within what rounding explains" + conditions_of(result) + ".";
    }
    return "Nothing firm can be said: " + (result.reason.empty() ? "nothing was compared" : result.reason) + ".";
  }
  if (result.verdict == Verdict::kInconclusive) {
    return "Not all of it is here: " + result.reason + ". Of what is, the first wrong tensor is " +
           tensor_name(first->tensor) + " in case " + first->case_id + '.';
  }
  if (first->kind == findings::FindingKind::kPrecision) {
    return "The engine rounds where it did not declare to, first in " + in_a_sentence(*first) +
           "; all else that differs follows from rounding.";
  }
  std::string text = "The first wrong tensor is " + with_its_cause(result, *first);
  const std::vector<const Finding*> others = of_other_causes(result, *first);
  if (others.empty()) return text;
  text += " Another one is " + with_its_cause(result, *others.front());
  const auto more = static_cast<std::int64_t>(others.size()) - 1;
  if (more > 0) text += " There " + std::string(more == 1 ? "is " : "are ") + counted(more, "more cause") + '.';
  return text;
}

}  // namespace qdiff::report
