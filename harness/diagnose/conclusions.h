// From wrong tensors and what fits them to findings, each with its explanation, and to a verdict for the whole.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/diagnose/judging.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// The command that repeats a finding of this subject at this tensor.
using RepeatCommand = std::function<std::string(const Subject& subject, const TensorKey& key)>;

// Fills verdict, cases, findings, hypotheses and coverage. `subjects` are those that were judged, by case in the order
// run; `cases` also holds those of which nothing was left to judge.
void conclude(const Judged& judged, const std::vector<Subject>& subjects, std::span<const CaseInput> cases,
              const Extent& extent, const std::vector<VariantFacts>& catalogue, const RepeatCommand& command,
              findings::RunResult& result);

// What explains one wrong tensor, out of the variants that fit it: one hypothesis is confirmed, several are a tie.
// `fits` are in the order of preference.
findings::Explanation explanation_of(const std::vector<Variant>& fits, const std::vector<VariantFacts>& catalogue);

}  // namespace qdiff::diagnose
