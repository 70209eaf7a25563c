// What a free run shows a user: how far the candidate's own residual stream and logits drift from the reference's own.
// Figures, never a verdict.
#pragma once

#include <string>
#include <vector>

#include "harness/compare/result.h"
#include "harness/contract/config.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "harness/diagnose/record.h"

namespace qdiff::diagnose {

compare::FreeRun free_run_figures(const std::string& case_id, const std::vector<Step>& steps,
                                  const TensorStore& candidate, const ReferenceChain& chain, const ModelConfig& config);

}  // namespace qdiff::diagnose
