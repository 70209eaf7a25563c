// Which known bugs explain the wrong rows of a layer: the reference with that bug planted, evaluated on the candidate's
// own inputs, must compute what the candidate computed, where that is wrong and where it is right.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/run.h"
#include "harness/findings/result.h"
#include "harness/pattern/pattern.h"

namespace qdiff::diagnose {

// One recording to judge: a case in one mode.
struct Subject {
  const CaseInput* input = nullptr;
  std::string mode;                        // "lockstep", "free" or "trace"
  const TensorStore* candidate = nullptr;  // what is judged
  const TensorStore* inputs = nullptr;     // what the rows are recomputed from; differs from it in lockstep
  std::set<int> steps;                     // to be judged
  double unwritten = 0.0;                  // what memory holds that nobody wrote, where that is known
};

struct RowJudgement {
  const Subject* subject = nullptr;
  TensorKey key;
  std::vector<TensorKey> span;  // the operations evaluated; the last is `key`
  compare::Judgement judgement;
  pattern::Pattern pattern;           // how it is wrong; of a match nothing
  std::optional<TensorKey> unusable;  // the recorded input for which it is unjudged

  const Step& step() const { return subject->input->steps[static_cast<std::size_t>(key.step)]; }
  TensorView actual() const { return subject->candidate->get(key); }
  bool wrong() const { return judgement.outcome == compare::Outcome::kDiverged; }
  // Values of another shape cannot be held against any supposition: the shape is the finding.
  bool explainable() const { return wrong() && judgement.decisive_statistic != "shape"; }
};

// What an evaluation supposes of the candidate beside what it declared.
struct Supposition {
  const Variant* variant = nullptr;
  std::vector<DeclarablePoint> points = {};  // roundings that it made and did not declare
};

// Throws NotEvaluable where the variant needs what is not recorded.
Expectation evaluate(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                     const Supposition& supposition, bool with_noise = true);
// Of right code, for several tensors of one operation.
std::vector<Expectation> evaluate_all(Oracle& oracle, std::span<const RowJudgement> rows, const Precision& precision);
compare::Judgement judge_as(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                            const Supposition& supposition);
// Judges `actual`, in the place of the row's own tensor, against an expectation of the row.
compare::Judgement judge_against(const RowJudgement& row, const TensorView& actual, const Expectation& expected,
                                 const Precision& precision, const ModelConfig& config);
// What an engine that really rounds at the declared and the supposed points would put out.
Tensor emulated(Oracle& oracle, const RowJudgement& row, const Precision& precision, const Supposition& supposition,
                bool divides_last = false);
Precision declaring(Precision precision, std::span<const DeclarablePoint> points);

// A variant once for each value that the catalogue lists; once where it takes none.
std::vector<Variant> doses(const VariantFacts& facts);

// Whether a variant can change the target of a span.
bool concerns(const VariantFacts& facts, std::span<const TensorKey> span);

// One explanation of a row: a bug, roundings that nobody declared, or both at once.
struct Fit {
  std::optional<Variant> variant;
  std::vector<DeclarablePoint> points;
  bool fitted = false;     // the variant's value was searched for, not listed
  double distance = 0.0;   // of the reference that really computes so from the candidate (fitting.h)
  std::string doubt = {};  // why it explains and does not prove (span_evidence.h); empty: no reason
  bool operator==(const Fit& other) const;
};

// What the layers judged before have shown: an engine has the same bug in most of its layers.
struct Known {
  std::vector<Fit> fits;
};

// For each row of one layer (all operations, subjects and steps), what fits it; empty where it is right or nothing
// does. A variant must reproduce every row that it changes, the wrong ones and the right ones alike: a bug that would
// have shown where the candidate is right is not the candidate's bug. Adds to `known`.
std::vector<std::vector<Fit>> explain_layer(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                            const Precision& precision, Known& known);

// "H05" of "H05.modulo"; empty for outsiders ("X.gate_up_swapped").
std::string hypothesis_of(const std::string& variant_id);

}  // namespace qdiff::diagnose
