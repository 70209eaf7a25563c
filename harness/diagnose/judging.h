// The walk that judges recordings: layer by layer, row by row, then all cases, modes and steps. Each row is recomputed
// from the candidate's own recorded inputs; a wrong one is a finding, and so is what explains it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/kept_parts.h"
#include "harness/diagnose/selection.h"
#include "harness/diagnose/subject.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// So many elements of one operation's tensors are judged together, or one tensor that has more: what the memory holds
// that a few vocabularies of logits take.
inline constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 24;

struct Judged {
  std::vector<WrongTensor> wrong;
  std::vector<findings::JudgedTensor> tensors;  // all that were looked at, in that order
  std::vector<TensorId> missing;                // rows that a subject did not hand out
  std::vector<findings::NotCompared> not_compared;
  std::vector<std::int64_t> compared;  // tensors, by subject
  std::optional<findings::ClosestToBound> closest;
  Detectability detectability;
};

struct JudgingOptions {
  bool probing = true;  // ask of each variant whether these inputs would show it; without, no hypothesis is refuted
  ProgressReport progress;
  // Called when the embedding, a layer or the head is judged or explained: no view of a tensor is held then.
  std::function<void()> after_part;
  // Called when all is judged and nothing is explained yet. True: no explanation is looked for.
  std::function<bool(const Judged&)> is_explained_otherwise = {};
  KeptParts* kept = nullptr;  // null: every part is judged
};

Judged judge_subjects(const std::vector<Subject>& subjects, Oracle& oracle, const Precision& precision,
                      const Extent& extent, const JudgingOptions& options);

}  // namespace qdiff::diagnose
