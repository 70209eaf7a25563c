// The walk that judges recordings: layer by layer, row by row, then all cases, modes and steps. Each row is recomputed
// from the candidate's own recorded inputs; a wrong one is a finding, and so is what explains it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/attribution.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// What of the model is judged.
struct Extent {
  std::set<int> layers;
  bool outside_layers = true;  // embedding, final norm and lm_head too
};

// A wrong tensor with everything that explains it; the findings of a report are made of these (conclusions.h).
struct WrongTensor {
  const Subject* subject = nullptr;
  TensorKey key;
  std::vector<TensorKey> span;  // the operations evaluated; the last is `key`
  TensorId span_start;
  compare::Judgement judgement;
  pattern::Pattern pattern;
  std::vector<Fit> fits;
  bool overwritten = false;  // right when it was handed out, and written again afterwards
};

struct Judged {
  std::vector<WrongTensor> wrong;
  std::vector<TensorId> missing;  // rows that a subject did not hand out
  std::vector<findings::NotCompared> not_compared;
  std::vector<std::int64_t> compared;  // tensors, by subject
  std::optional<findings::ClosestToBound> closest;
  Detectability detectability;
};

using ProgressReport = std::function<void(const std::string& what, std::int64_t done, std::int64_t total)>;

struct JudgingOptions {
  bool probing = true;  // ask of each variant whether these inputs would show it; without, no hypothesis is refuted
  ProgressReport progress;
  // Called when the embedding, a layer or the head is judged: no view of a tensor is held then.
  std::function<void()> after_part;
};

Judged judge_subjects(const std::vector<Subject>& subjects, Oracle& oracle, const Precision& precision,
                      const Extent& extent, const JudgingOptions& options);

}  // namespace qdiff::diagnose
