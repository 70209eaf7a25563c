#include "harness/diagnose/conclusions.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

#include "harness/contract/hypothesis.h"
#include "harness/diagnose/preference.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;
using compare::Verdict;
using findings::Explanation;
using findings::Finding;
using findings::FindingKind;
using findings::HypothesisVerdict;

// Both have shown on these inputs, which therefore have what either needs. One that shows alone tells them apart.
std::string separating(const VariantFacts* one, const VariantFacts* other) {
  if (one == nullptr || other == nullptr || one->shows_when.empty() || other->shows_when.empty()) return "";
  if (one->shows_when == other->shows_when) return "";
  return "told apart by inputs with only one of: " + one->shows_when + "; " + other->shows_when;
}

// "H02.attention_probs_bf16" of a rounding.
const VariantFacts* facts_of(const std::vector<VariantFacts>& catalogue, const DeclarablePoint& point) {
  const auto found =
      std::ranges::find_if(catalogue, [&](const VariantFacts& facts) { return facts.declares == point; });
  return found == catalogue.end() ? nullptr : &*found;
}

struct Conclusion {
  std::size_t case_index;
  Finding finding;
};

class Concluding {
 public:
  Concluding(const Judged& judged, const std::vector<Subject>& subjects, std::span<const CaseInput> cases,
             const Extent& extent, const std::vector<VariantFacts>& catalogue, const RepeatCommand& command)
      : judged_(judged),
        subjects_(subjects),
        cases_(cases),
        extent_(extent),
        catalogue_(catalogue),
        command_(command),
        preference_(judged.wrong, catalogue) {}

  void conclude(findings::RunResult& result) {
    for (const WrongTensor& tensor : judged_.wrong) explain(tensor);
    std::ranges::stable_sort(found_, {}, [](const Conclusion& conclusion) {
      const Finding& finding = conclusion.finding;
      return std::tuple(conclusion.case_index, TensorKey{finding.step, finding.tensor}, finding.kind);
    });
    for (Conclusion& conclusion : found_) fill_extent(conclusion.finding);
    for (const Conclusion& conclusion : found_) result.findings.push_back(conclusion.finding);

    result.catalogue = catalogue_;
    result.hypotheses = judge_hypotheses(result.findings, catalogue_, detectability());
    result.coverage.blind = blind_hypotheses(result.hypotheses);
    result.coverage.tensors_missing = missing_names();
    result.coverage.not_compared = judged_.not_compared;
    for (std::int64_t compared : judged_.compared) result.coverage.tensors_compared += compared;
    result.closest = judged_.closest;
    decide(result);
    for (std::size_t c = 0; c < cases_.size(); ++c) result.cases.push_back(summary_of(c, result.precision_allowed));
  }

 private:
  std::size_t case_index(const Subject& subject) const {
    return static_cast<std::size_t>(subject.input - cases_.data());
  }

  Finding finding_at(const WrongTensor& tensor, FindingKind kind) const {
    const Subject& subject = *tensor.subject;
    Finding finding;
    finding.case_id = subject.input->id;
    finding.mode = subject.mode;
    finding.step = tensor.key.step;
    finding.phase = subject.step(tensor.key.step).phase;
    finding.tensor = tensor.key.id;
    finding.kind = kind;
    finding.span_start = tensor.span_start;
    for (const TensorKey& key : tensor.span) finding.operations.push_back(key.id.op);
    if (tensor.seen_by == SeenBy::kWholePass) {  // each of them may have made it wrong
      for (const OperationRow& operation : kOperationTable) finding.operations.push_back(operation.op);
    }
    finding.judgement = tensor.judgement;
    finding.profile = tensor.profile;
    finding.command = command_(subject, tensor.key);
    return finding;
  }

  // Where no variant fits, a pattern that only one kind of bug makes is evidence for it.
  static void describe(const pattern::Pattern& pattern, Explanation& explanation) {
    explanation.pattern = pattern.text;
    for (const pattern::Pattern::AxisFacts& axis : pattern.axes) {
      findings::WrongAxis where{axis.axis, axis.size, {}};
      for (std::int64_t index : axis.wrong) {
        if (!where.runs.empty() && where.runs.back()[1] + 1 == index) {
          where.runs.back()[1] = index;
        } else if (where.runs.size() < findings::kMostRuns) {
          where.runs.push_back({index, index});
        }
      }
      if (!where.runs.empty()) explanation.where.push_back(std::move(where));
    }
    if (explanation.variant || explanation.mechanism || !pattern.hypothesis) return;
    explanation.hypothesis = pattern.hypothesis;
    explanation.verdict = HypothesisVerdict::kConsistent;
    explanation.evidence = pattern.evidence;
  }

  // What the engine computes was solved for: as good as a known bug, though it has no name.
  static void describe(const explain::Theory& theory, Explanation& explanation) {
    if (theory.variant) {
      explanation.variant = theory.variant->id;
      explanation.value = theory.variant->value;
    } else {
      explanation.mechanism = theory.mechanism;
    }
    explanation.parameters = theory.parameters;
    explanation.scope = theory.scope;
    explanation.sentence = theory.sentence;
    explanation.mistakes = theory.mistakes;
    explanation.hypothesis = theory.hypothesis;
    explanation.verdict = HypothesisVerdict::kConfirmed;
    if (!theory.variant) explanation.evidence = theory.sentence;
  }

  void explain(const WrongTensor& tensor) {
    if (tensor.seen_by == SeenBy::kLaterWrite) return explain_later_write(tensor);
    if (tensor.seen_by == SeenBy::kRecorder) return blame(tensor, FindingKind::kRecording);
    if (tensor.seen_by == SeenBy::kOtherRun) return blame(tensor, FindingKind::kLogic);
    const std::vector<Variant> variants = preference_.order(tensor);
    const bool only_rounding = variants.empty() && !tensor.fits.empty();
    if (!only_rounding) {
      Finding finding = finding_at(tensor, FindingKind::kLogic);
      finding.explanation = explanation_of(variants, catalogue_);
      doubt(tensor, finding.explanation);
      if (variants.empty() && tensor.theory) describe(*tensor.theory, finding.explanation);
      describe(tensor.pattern, finding.explanation);
      if (const Fit* fit = fit_of(tensor, variants); fit != nullptr && fit->capacity > 0) {
        finding.explanation.sentence = what_of(variants.front()) + supposing(*tensor.subject, fit->capacity);
      }
      const std::size_t case_of = case_index(*tensor.subject);
      if (const Fit* both = pair_of(tensor, variants)) {
        Finding second = finding;
        second.explanation = explanation_of({*both->beside}, catalogue_);
        describe(tensor.pattern, second.explanation);
        finding.explanation.sentence = beside(*both->variant, *both->beside);
        second.explanation.sentence = beside(*both->beside, *both->variant);
        found_.push_back({case_of, std::move(finding)});
        finding = std::move(second);
      }
      found_.push_back({case_of, std::move(finding)});
    }
    if (const Fit* rounded = preference_.rounding(tensor)) add_precision(tensor, rounded->points);
  }

  // The leading variant, where it explains the tensor together with a second one.
  static const Fit* pair_of(const WrongTensor& tensor, const std::vector<Variant>& variants) {
    if (variants.empty()) return nullptr;
    const auto found = std::ranges::find_if(
        tensor.fits, [&](const Fit& fit) { return fit.beside && fit.variant == variants.front(); });
    return found == tensor.fits.end() ? nullptr : &*found;
  }
  std::string beside(const Variant& one, const Variant& other) const {
    return what_of(one) + "; beside it " + std::string(name(other.id));
  }
  std::string what_of(const Variant& variant) const {
    const VariantFacts* facts = find_variant(catalogue_, variant.id);
    return facts == nullptr ? std::string(name(variant.id)) : facts->what;
  }
  // The first fit of the leading variant.
  static const Fit* fit_of(const WrongTensor& tensor, const std::vector<Variant>& variants) {
    if (variants.empty()) return nullptr;
    const auto found =
        std::ranges::find_if(tensor.fits, [&](const Fit& fit) { return fit.variant == variants.front(); });
    return found == tensor.fits.end() ? nullptr : &*found;
  }

  static std::string supposing(const Subject& subject, std::int64_t capacity) {
    const std::int64_t filled = subject.input->steps.back().valid_length();
    const std::string slots = capacity == filled + 1 ? "more than " + std::to_string(filled) : std::to_string(capacity);
    return "; so it is where each row of the cache has " + slots + " slots, which the recording does not state";
  }

  // A variant that is in doubt is not confirmed.
  static void doubt(const WrongTensor& tensor, Explanation& explanation) {
    if (!explanation.variant) return;
    const auto doubtful = std::ranges::find_if(
        tensor.fits, [&](const Fit& fit) { return fit.variant && fit.variant->id == *explanation.variant; });
    if (doubtful == tensor.fits.end() || doubtful->doubt.empty()) return;
    explanation.verdict = HypothesisVerdict::kConsistent;
    explanation.evidence = doubtful->doubt;
  }

  void add_precision(const WrongTensor& tensor, const std::vector<DeclarablePoint>& points) {
    Finding finding = finding_at(tensor, FindingKind::kPrecision);
    Explanation& explanation = finding.explanation;
    if (const VariantFacts* facts = facts_of(catalogue_, points.front())) {
      explanation.variant = facts->id;
      if (const std::string_view id = hypothesis_of(facts->id); !id.empty()) explanation.hypothesis = id;
    }
    explanation.verdict = HypothesisVerdict::kConfirmed;
    if (tensor.theory) {
      explanation.parameters = tensor.theory->parameters;
      explanation.scope = tensor.theory->scope;
      explanation.sentence = tensor.theory->sentence;
    }
    describe(tensor.pattern, explanation);
    for (const DeclarablePoint& point : points) explanation.points[point.key()] = point.value();
    found_.push_back({case_index(*tensor.subject), std::move(finding)});
  }

  // A tensor that was right when it was handed out and written again later. Where the row that reads it is wrong by a
  // bug of that kind, the two are one finding; else the write itself is the evidence.
  void explain_later_write(const WrongTensor& tensor) {
    const auto in_place = [this](const Fit& fit) {
      const VariantFacts* facts = fit.variant ? find_variant(catalogue_, fit.variant->id) : nullptr;
      return facts != nullptr && facts->overwrites;
    };
    const bool explained = std::ranges::any_of(judged_.wrong, [&](const WrongTensor& other) {
      return other.subject == tensor.subject && other.key.step == tensor.key.step &&
             other.key.id.layer == tensor.key.id.layer && other.seen_by != SeenBy::kLaterWrite &&
             std::ranges::any_of(other.fits, in_place);
    });
    if (explained) return;
    Finding finding = finding_at(tensor, FindingKind::kLogic);
    finding.explanation.hypothesis = kOverwriting;
    finding.explanation.verdict = HypothesisVerdict::kConsistent;
    finding.explanation.pattern = tensor_name(tensor.key.id) + " was written again after it was handed out";
    found_.push_back({case_index(*tensor.subject), std::move(finding)});
  }

  // What no forward pass explains: the recorder, or a value that is another one in each run.
  void blame(const WrongTensor& tensor, FindingKind kind) {
    Finding finding = finding_at(tensor, kind);
    describe(tensor.pattern, finding.explanation);
    finding.explanation.hypothesis.reset();  // a pattern of what no forward pass computes speaks for nothing
    finding.explanation.verdict.reset();
    finding.explanation.sentence = tensor.holds;
    finding.explanation.evidence = finding.explanation.sentence;
    found_.push_back({case_index(*tensor.subject), std::move(finding)});
  }

  // Layers and phases in which the same variant was found; of what is unexplained, in which the same operation is.
  void fill_extent(Finding& finding) const {
    Explanation& explanation = finding.explanation;
    std::set<int> layers;
    std::set<Phase> phases;
    for (const Conclusion& other : found_) {
      if (other.finding.explanation.variant != explanation.variant) continue;
      if (other.finding.explanation.mechanism != explanation.mechanism) continue;
      if (!explanation.variant && other.finding.tensor.op != finding.tensor.op) continue;
      if ((other.finding.kind == FindingKind::kRecording) != (finding.kind == FindingKind::kRecording)) continue;
      if (other.finding.tensor.layer != kNoLayer) layers.insert(other.finding.tensor.layer);
      phases.insert(other.finding.phase);
    }
    explanation.layers.assign(layers.begin(), layers.end());
    explanation.phase = phases.size() > 1 ? "both" : std::string(name(*phases.begin()));
    const bool named = explanation.variant || explanation.mechanism || finding.kind == FindingKind::kRecording;
    if (!named && explanation.phase != "both" && both_phases_judged(finding)) {
      explanation.pattern += (explanation.pattern.empty() ? "" : ", ") + explanation.phase + " alone";
    }
  }

  // A case of one phase does not say in which phases an operation is wrong.
  bool both_phases_judged(const Finding& finding) const {
    std::set<Phase> judged;
    for (const Subject& subject : subjects_) {
      for (int step : subject.steps) {
        const TensorKey key{step, finding.tensor};
        if (subject.candidate->has(key)) judged.insert(subject.step(step).phase);
      }
    }
    return judged.size() > 1;
  }

  // A row that no judged layer handed out is one name for all of them.
  std::vector<std::string> missing_names() const {
    std::map<Op, std::vector<int>> layers;
    for (const TensorId& id : judged_.missing) layers[id.op].push_back(id.layer);
    std::vector<std::string> names;
    for (const auto& [op, list] : layers) {
      if (row(op).scope == Scope::kLayer && list.size() == extent_.layers.size() && list.size() > 1) {
        names.push_back("model.layers.*." + std::string(row(op).name));
        continue;
      }
      for (int layer : list) names.push_back(tensor_name({op, layer}));
    }
    return names;
  }

  // What follows a NaN in all steps was looked at and never judged.
  Detectability detectability() const {
    std::set<TensorId> judged, unjudged;
    for (const findings::JudgedTensor& tensor : judged_.tensors) {
      (tensor.judgement.outcome == Outcome::kUnjudged ? unjudged : judged).insert(tensor.id);
    }
    Detectability shown = judged_.detectability;
    std::ranges::set_difference(unjudged, judged, std::inserter(shown.never_judged, shown.never_judged.end()));
    return shown;
  }

  static bool counts(const Finding& finding, bool precision_allowed) {
    return finding.kind == FindingKind::kLogic || (finding.kind == FindingKind::kPrecision && !precision_allowed);
  }

  void decide(findings::RunResult& result) const {
    if (std::ranges::any_of(result.findings,
                            [&](const Finding& finding) { return counts(finding, result.precision_allowed); })) {
      result.verdict = Verdict::kDiverged;
    } else if (result.coverage.tensors_compared == 0) {
      result.verdict = Verdict::kInconclusive;
      const auto& left_out = result.coverage.not_compared;
      result.reason =
          "nothing was compared: " + (left_out.empty() ? "no tensor of the judged layers and steps was recorded"
                                                       : left_out.front().tensor + ": " + left_out.front().reason);
    } else if (const auto misrecorded = std::ranges::find(result.findings, FindingKind::kRecording, &Finding::kind);
               misrecorded != result.findings.end()) {
      result.verdict = Verdict::kInconclusive;
      result.reason = tensor_name(misrecorded->tensor) + " of step " + std::to_string(misrecorded->step) + " was " +
                      misrecorded->explanation.sentence;
    } else if (!result.coverage.not_compared.empty()) {
      result.verdict = Verdict::kInconclusive;
      result.reason = result.coverage.not_compared.front().tensor + ": " + result.coverage.not_compared.front().reason;
    }
  }

  findings::CaseSummary summary_of(std::size_t c, bool precision_allowed) const {
    const CaseInput& input = cases_[c];
    findings::CaseSummary summary{input.id, input.title, input.hypothesis, input.seed, Verdict::kMatch, 0};
    for (std::size_t s = 0; s < subjects_.size(); ++s) {
      if (subjects_[s].input == &input) summary.tensors_compared += judged_.compared[s];
    }
    const bool diverged = std::ranges::any_of(found_, [&](const Conclusion& conclusion) {
      return conclusion.case_index == c && counts(conclusion.finding, precision_allowed);
    });
    const bool doubtful =
        std::ranges::any_of(judged_.not_compared, [&](const auto& entry) { return entry.case_id == input.id; }) ||
        std::ranges::any_of(found_, [&](const Conclusion& conclusion) {
          return conclusion.case_index == c && conclusion.finding.kind == FindingKind::kRecording;
        });
    if (diverged) {
      summary.verdict = Verdict::kDiverged;
    } else if (doubtful || summary.tensors_compared == 0) {
      summary.verdict = Verdict::kInconclusive;
    }
    return summary;
  }

  const Judged& judged_;
  const std::vector<Subject>& subjects_;
  std::span<const CaseInput> cases_;
  const Extent& extent_;
  const std::vector<VariantFacts>& catalogue_;
  const RepeatCommand& command_;
  Preference preference_;
  std::vector<Conclusion> found_;
};

}  // namespace

Explanation explanation_of(const std::vector<Variant>& fits, const std::vector<VariantFacts>& catalogue) {
  Explanation explanation;
  if (fits.empty()) return explanation;
  const std::string_view hypothesis = hypothesis_of(fits.front().id);
  const bool tie = std::ranges::any_of(fits, [&](const Variant& fit) { return hypothesis_of(fit.id) != hypothesis; });
  if (!hypothesis.empty()) explanation.hypothesis = hypothesis;
  explanation.variant = fits.front().id;
  explanation.value = fits.front().value;
  explanation.verdict = tie ? HypothesisVerdict::kConsistent : HypothesisVerdict::kConfirmed;
  const VariantFacts* first = find_variant(catalogue, fits.front().id);
  if (first != nullptr) explanation.expected_value = first->right_value;
  for (std::size_t i = 1; i < fits.size(); ++i) {
    explanation.alternatives.push_back(fits[i].id);
    explanation.alternative_values.push_back(fits[i].value);
    explanation.separated_by.push_back(separating(first, find_variant(catalogue, fits[i].id)));
  }
  return explanation;
}

void conclude(const Judged& judged, const std::vector<Subject>& subjects, std::span<const CaseInput> cases,
              const Extent& extent, const std::vector<VariantFacts>& catalogue, const RepeatCommand& command,
              findings::RunResult& result) {
  Concluding(judged, subjects, cases, extent, catalogue, command).conclude(result);
  result.judged = judged.tensors;
}

}  // namespace qdiff::diagnose
