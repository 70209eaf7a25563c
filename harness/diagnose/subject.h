// What the steps of the diagnosis hand to each other, as plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/compare/error_profile.h"
#include "harness/compare/judge.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "harness/explain/theory.h"
#include "harness/pattern/pattern.h"

namespace qdiff::diagnose {

// Long work reports here: what is being done, how much of it is done, of how much.
using ProgressReport = std::function<void(const std::string& what, std::int64_t done, std::int64_t total)>;

// One recording to judge: a case in one mode.
struct Subject {
  const CaseInput* input = nullptr;
  std::string mode;                        // "lockstep", "free" or "trace"
  const TensorStore* candidate = nullptr;  // what is judged
  const TensorStore* inputs = nullptr;     // what the rows are recomputed from; differs from it in lockstep
  std::set<int> steps;                     // to be judged
  double unwritten = 0.0;                  // what memory holds that nobody wrote, where that is known

  const Step& step(int index) const { return input->steps[static_cast<std::size_t>(index)]; }
};

struct RowJudgement {
  const Subject* subject = nullptr;
  TensorKey key;
  std::vector<TensorKey> span;  // the operations evaluated; the last is `key`
  compare::Judgement judgement;
  pattern::Pattern pattern;                           // how it is wrong; of a match nothing
  std::optional<TensorKey> unusable;                  // the recorded input for which it is unjudged
  std::optional<compare::ErrorProfile> profile = {};  // of a wrong tensor whose shape fits

  const Step& step() const { return subject->step(key.step); }
  TensorView actual() const { return subject->candidate->get(key); }
  bool wrong() const { return judgement.outcome == compare::Outcome::kDiverged; }
  // Values of another shape cannot be held against any supposition: the shape is the finding.
  bool explainable() const { return wrong() && judgement.decisive_statistic != "shape"; }
  // Whether the expected rounding is measured on an ensemble, which costs some twenty plain evaluations.
  bool is_long() const { return !compare::is_usual_fusion(span); }
};

// What an evaluation supposes of the candidate beside what it declared.
struct Supposition {
  const Variant* variant = nullptr;
  std::vector<DeclarablePoint> points = {};  // roundings that it made and did not declare
  const Variant* beside = nullptr;           // a second bug in the same engine
  std::span<const Mistake> mistakes = {};    // without a variant
  std::int64_t capacity = 0;  // cache slots of a row, where the recording does not say; 0: no supposition
};

// One explanation of a row: a bug, roundings that nobody declared, or both at once.
struct Fit {
  std::optional<Variant> variant;
  std::vector<DeclarablePoint> points;
  bool fitted = false;                 // the variant's value was searched for, not listed
  double distance = 0.0;               // of the reference that really computes so from the candidate (row_oracle.h)
  std::string doubt = {};              // why it explains and does not prove (span_evidence.h); empty: no reason
  std::optional<Variant> beside = {};  // a second bug, without which the first explains nothing
  std::int64_t capacity = 0;           // cache slots of a row that it supposes; 0: none

  Supposition supposition() const {
    return {variant ? &*variant : nullptr, points, beside ? &*beside : nullptr, {}, capacity};
  }
  bool operator==(const Fit& other) const {
    return variant == other.variant && points == other.points && beside == other.beside && capacity == other.capacity;
  }
};

enum class SeenBy : std::uint8_t {
  kReplay,
  kLaterWrite,   // right when it was handed out, and written again afterwards
  kUntappedRun,  // a second run, with nothing recorded, gave other logits
  kWholePass,    // held against whole forward passes (far/ranking.h)
  kOtherRun,     // another recording of the same input holds another value (repeats.h)
  kRecorder,     // what was computed from it followed from the right value (misrecorded.h)
};

// A wrong tensor with everything that explains it; the findings of a report are made of these (conclusions.h).
struct WrongTensor {
  const Subject* subject = nullptr;
  TensorKey key;
  std::vector<TensorKey> span = {};  // the operations that replay evaluated, the last is `key`; else empty
  TensorId span_start = {};
  compare::Judgement judgement = {};
  pattern::Pattern pattern = {};
  std::vector<Fit> fits = {};
  std::shared_ptr<const explain::Theory> theory = {};  // where no fit explains it and one does
  std::optional<compare::ErrorProfile> profile = {};
  SeenBy seen_by = SeenBy::kReplay;
  std::string holds = {};  // of what the recorder got wrong: what it holds instead, in words

  bool is_long() const { return !compare::is_usual_fusion(span); }
};

}  // namespace qdiff::diagnose
