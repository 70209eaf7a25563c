// What a run found, as data: the judge's and the diagnosis' findings, from which every report is written.
// Field names and meanings are those of docs/trace-format.md, section 5.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/compare/error_profile.h"
#include "harness/compare/judge.h"
#include "harness/compare/verdict.h"
#include "harness/contract/fault.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/mistake.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"
#include "harness/contract/wording.h"
#include "harness/findings/acceptance.h"
#include "harness/findings/finding_kind.h"
#include "harness/findings/reference_values.h"

namespace qdiff::findings {

// In the order of their strength. kOpen: these inputs exercised the hypothesis and no variant of it fits, but it is not
// excluded: a wrong tensor in whose span it acts stays unexplained, or the inputs show less than half of its variants.
enum class HypothesisVerdict : std::uint8_t { kConfirmed, kConsistent, kOpen, kRefuted, kUndetectable, kNotExercised };
constexpr std::string_view name(HypothesisVerdict verdict) {
  constexpr std::array<std::string_view, 6> kNames = {"confirmed", "consistent",   "open",
                                                      "refuted",   "undetectable", "not_exercised"};
  return kNames[static_cast<std::size_t>(verdict)];
}

// One axis of a wrong tensor, as a reader knows it, and the indices at which something is wrong.
struct WrongAxis {
  std::string axis;  // "head", "batch row", "token row", "slot", "dimension", "column"
  std::int64_t size = 0;
  std::vector<std::array<std::int64_t, 2>> runs;  // first and last of neighbouring indices, at most kMostRuns
};
inline constexpr std::size_t kMostRuns = 64;

using qdiff::Facts;

struct Explanation {
  std::optional<std::string> hypothesis;  // "H05"; none for outsiders and unexplained divergences
  std::optional<FaultId> variant;
  std::optional<HypothesisVerdict> verdict;  // confirmed or consistent; none: no known bug fits
  std::optional<double> value;               // fitted parameter, where the variant has one
  std::optional<double> expected_value;
  std::vector<int> layers;  // in which the variant reproduces the candidate; unexplained: in which it is wrong
  std::string phase;        // "prefill", "decode", "both"
  // Where no variant fits, but what the engine computes was solved for: a name out of docs/mechanisms.md.
  std::optional<std::string> mechanism;
  Facts parameters;      // of the mechanism
  Facts scope;           // where it holds, by axis; empty: everywhere
  std::string sentence;  // the same in one line
  // Where it lies at other operations than the finding's: what an engine is told that computes so.
  std::vector<Mistake> mistakes;
  std::string pattern;           // in words: which rows, heads, positions, dimensions are wrong
  std::vector<WrongAxis> where;  // the same as data
  // Why the pattern speaks for the hypothesis, where no variant does; why a variant is in doubt, where one does.
  std::string evidence;
  std::vector<FaultId> alternatives;                      // variants that fit equally well
  std::vector<std::optional<double>> alternative_values;  // for each of them, its fitted parameter
  std::vector<std::string> separated_by;      // for each of them, the input that would tell it from the variant
  std::map<std::string, std::string> points;  // kind precision: entries of compute.points that would declare it
};

struct Finding {
  std::string case_id;
  std::string mode;  // "lockstep", "free" or, for a trace, "trace"
  int step = 0;
  Phase phase = Phase::kPrefill;
  TensorId tensor;
  FindingKind kind = FindingKind::kLogic;
  TensorId span_start;           // the span ends at `tensor`
  std::vector<Op> operations;    // of the span, whichever of them is wrong
  compare::Judgement judgement;  // index, actual, expected and the statistics
  std::string command;           // repeats this finding
  Explanation explanation;
  std::optional<compare::ErrorProfile> profile;  // none where the shapes did not fit
};

// One tensor that was judged, right or wrong.
struct JudgedTensor {
  std::string case_id;
  std::string mode;
  int step = 0;
  Phase phase = Phase::kPrefill;
  TensorId id;
  compare::Judgement judgement;
};

// Whether a known bug, a mechanism or roundings that nobody declared reproduce the wrong tensor.
inline bool is_explained(const Explanation& explanation) {
  return explanation.variant || explanation.mechanism || !explanation.points.empty();
}

// What explains it, in a name that is the same in every run: a known bug, a mechanism, or the points of a rounding.
// Empty where nothing does. A fitted value is no part of it, for rounding moves it.
inline std::string cause_name(const Explanation& explanation) {
  if (explanation.variant) return std::string(name(*explanation.variant));
  if (explanation.mechanism) return *explanation.mechanism;
  return joined(explanation.points, ", ", [](const auto& point) { return point.first; });
}

// Whether it names the hypothesis, first or among its alternatives.
inline bool speaks_for(const Explanation& explanation, const std::string& hypothesis) {
  if (!explanation.verdict) return false;
  if (explanation.hypothesis == hypothesis) return true;
  return std::any_of(explanation.alternatives.begin(), explanation.alternatives.end(),
                     [&](FaultId variant) { return hypothesis_of(variant) == hypothesis; });
}

struct BlindVariant {
  FaultId variant;
  std::string why;
};

struct HypothesisResult {
  std::string id;
  std::string title;
  HypothesisVerdict verdict = HypothesisVerdict::kNotExercised;
  std::optional<FaultId> variant;
  std::optional<Finding> first_divergence;
  std::vector<std::string> evidence;  // sentences
  std::vector<FaultId> exercised_variants;
  std::map<FaultId, std::set<std::string>> shown_by;  // exercised variant -> ids of the cases that would show it
  std::vector<BlindVariant> blind_variants;
  std::string never_judged;  // a tensor in which it may act, and which could be judged in no step; empty: none
};

// One tensor that could not be compared, though it was there or should have been.
struct NotCompared {
  std::string case_id;
  std::string mode;
  int step = 0;
  std::string tensor;
  std::string reason;
};

struct Coverage {
  std::int64_t tensors_compared = 0;
  std::vector<std::string> tensors_missing;  // names of the table that the candidate never handed out
  std::vector<NotCompared> not_compared;
  std::vector<std::string> blind;  // hypotheses that these inputs could not judge
};

// The statistic nearest to its bound over the whole run: how much room a match had.
struct ClosestToBound {
  std::string case_id;
  std::string mode;
  int step = 0;
  std::string tensor;
  std::string statistic;
  double ratio = 0.0;
};

// What the free run shows a user: the candidate's own logits beside the reference's own. Never a verdict.
struct FreeRun {
  std::string case_id;
  std::int64_t tokens_compared = 0;
  std::int64_t same_top_token = 0;
  double logits_relative_rms_error = 0.0;           // at the last step
  std::vector<double> residual_relative_rms_error;  // by layer output, worst over steps: how an error grows
  // What would be written next: each one's own choice behind the last token of each step, up to the first that differs,
  // it included. Of the row in which that comes first, else of row 0. -1: none, for there is NaN among its logits.
  std::int64_t row = 0;
  int step = 0;  // of the last of these
  std::vector<std::int64_t> expected_tokens = {}, actual_tokens = {};
  // Where the last ones differ: by how much the reference's logit of its own choice exceeds that of the candidate's.
  std::optional<double> margin = {};
  std::optional<std::string> expected_text = {}, actual_text = {};  // in words, where there is a vocabulary
  // The words of the last two alone.
  std::optional<std::string> expected_word = {}, actual_word = {};
  // The steps feed the reference's own choices. What each writes by itself behind the prompt, the candidate going on
  // with its own choices, whatever they are.
  bool greedy = false;
  std::optional<std::string> expected_written = {}, actual_written = {};
};

// Of a trace: the tokens that its decode steps were fed, beside what the logits before each would choose. A sampler may
// choose otherwise; a greedy engine that does has its bug behind the logits.
struct FedTokens {
  std::int64_t compared = 0;    // of all rows and steps whose step before has logits of its last token
  std::int64_t not_chosen = 0;  // of these, not the one with the largest logit
  // The first of those.
  int step = 0;
  std::int64_t row = 0;
  std::int64_t fed = 0, chosen = 0;
  std::optional<std::string> fed_word = {}, chosen_word = {};  // where there is a vocabulary
};

// A bug planted in the whole forward pass, and how near what comes out is to the candidate's.
struct RankedVariant {
  std::optional<FaultId> variant;  // none: right code
  std::optional<double> value;     // of its parameter
  // ||candidate - reference with the bug||, in units of what this precision's rounding does to the right tensor; the
  // worst over all compared tensors.
  double times_rounding = 0.0;
  double relative_rms_error = 0.0;  // of the last compared tensor, ||candidate - reference with the bug|| / ||right||
  // For logits, over all tokens: the mean divergence of the candidate's next-token distribution from it, in nats,
  // and at how many tokens both would choose the same one.
  double kl_divergence = 0.0;
  std::int64_t same_top_token = 0;
  bool reproduces = false;  // times_rounding is within what rounding makes of it
};

// What is said by tensors that lie many layers behind the last recorded one, such as logits alone: every bug planted,
// free-running, the nearest first.
struct FreeRanking {
  std::string case_id;
  std::vector<std::string> tensors;  // compared
  std::int64_t tokens_compared = 0;  // whose logits were compared
  double rounding = 0.0;             // relative RMS of what rounding alone does to the last tensor
  double explained_up_to = 0.0;      // the largest times_rounding that rounding explains
  RankedVariant right;               // right code
  std::vector<RankedVariant> nearest;
  std::int64_t variants_tried = 0;
  std::vector<std::string> record_next;  // tensors that would tell the leading variants apart
};

struct CaseSummary {
  std::string id;
  std::string title;
  std::optional<std::string> hypothesis;
  std::uint64_t seed = 0;
  compare::Verdict verdict = compare::Verdict::kMatch;
  std::int64_t tensors_compared = 0;
  // On which model, by which engine in which type, where results were joined; else empty: those of the result.
  std::string model = {}, engine = {}, dtype = {};
};

// The bugs that were considered. Copies share it: joined results are many, and those of one model have the same.
class Catalogue {
 public:
  Catalogue() : Catalogue(std::vector<VariantFacts>()) {}
  Catalogue(std::vector<VariantFacts> rows)  // NOLINT(google-explicit-constructor): it is one
      : rows_(std::make_shared<const std::vector<VariantFacts>>(std::move(rows))) {}
  operator const std::vector<VariantFacts>&() const { return *rows_; }  // NOLINT(google-explicit-constructor)

 private:
  std::shared_ptr<const std::vector<VariantFacts>> rows_;
};

struct RunResult {
  compare::Verdict verdict = compare::Verdict::kMatch;
  std::string reason;   // for inconclusive: why nothing firmer can be said
  std::string command;  // the whole run again
  std::string model;    // as given to --model
  std::string config;   // to_string(ModelConfig)
  std::string engine;   // "cpu"
  std::string device;
  Precision precision;
  std::optional<Injection> injected;
  std::int64_t planted_executions = 0;  // how often the planted code ran in a place where it differs
  Catalogue catalogue;
  std::vector<CaseSummary> cases;
  std::vector<Finding> findings;  // by case in the order run, then step, then execution order; logic before precision
  std::vector<HypothesisResult> hypotheses;  // H01..H10
  std::vector<JudgedTensor> judged;  // in the order judged: layer by layer, row by row, then by case, mode and step
  Coverage coverage;
  std::optional<ClosestToBound> closest;
  std::vector<FreeRun> free_runs;
  // For a trace: what its manifest says that differs from the model or is unusual. Never a verdict.
  std::vector<std::string> notes;
  // Under which the verdict holds, for its first line: "with the positions that its manifest requests".
  std::vector<std::string> conditions;
  bool of_trace = false;           // judged is a recording, not an engine that hands its tensors out
  bool some_layers_alone = false;  // the others were left out, and so is what stands outside of all
  bool precision_allowed = false;  // findings of kind precision leave the verdict as it is
  // Where asked for: the entries of compute.points under which there would be no finding of kind precision.
  std::optional<std::map<std::string, std::string>> inferred_points;
  std::optional<FreeRanking> ranking;                    // of a trace with tensors that replay does not reach
  std::optional<FedTokens> fed_tokens;                   // of a trace with such steps
  std::optional<Acceptance> acceptance;                  // where a baseline, waivers or kinds of finding were named
  std::optional<ReferenceValues> reference_values = {};  // where they are kept from run to run
  double seconds = 0.0;  // with the one before, the only field that differs between two equal runs

  // The first finding of kind logic, else the first of kind precision; null where there is neither.
  const Finding* first_divergence() const {
    for (const FindingKind kind : {FindingKind::kLogic, FindingKind::kPrecision}) {
      for (const Finding& finding : findings) {
        if (finding.kind == kind) return &finding;
      }
    }
    return nullptr;
  }
};

}  // namespace qdiff::findings
