// All that the engines compute before anything is judged, for every case of a run: the candidate's recordings, and the
// wrong tensors that recording by itself shows.
#pragma once

#include <deque>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "harness/diagnose/record.h"
#include "harness/diagnose/run.h"
#include "harness/diagnose/selection.h"
#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

struct CaseRecording {
  const CaseInput* input;
  std::set<int> steps;  // to be judged, never empty
  ReferenceChain chain = {};
  std::optional<Recorded> free = {}, lockstep = {};
  std::optional<LockstepInputs> lockstep_inputs = {};

  int last_step() const { return *steps.rbegin(); }
};

// Subjects and wrong tensors point into it: it may be moved, not copied.
struct Recordings {
  std::deque<CaseRecording> cases;  // those with a step to judge
  std::vector<Subject> subjects;    // by case, lockstep first
  std::vector<WrongTensor> wrong;   // tensors written again later, and logits that an untapped run does not repeat
  std::vector<findings::FreeRun> free_runs;
};

Recordings record_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options,
                        const Extent& extent);

}  // namespace qdiff::diagnose
