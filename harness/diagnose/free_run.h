// What a free run shows a user: how far the candidate's own residual stream and logits drift from the reference's own.
// Figures, never a verdict.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "harness/diagnose/record.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// The token of the largest logit in a row of logits [..., vocab], the first of several; -1 where there is NaN.
std::int64_t top_token(const TensorView& logits, std::int64_t row, std::int64_t vocab);

// The tokens of those decode steps whose step before has logits and is among `judged`, beside what these would choose.
// Nothing where there are none.
std::optional<findings::FedTokens> fed_tokens(const std::vector<Step>& steps, const std::set<int>& judged,
                                              const TensorStore& candidate, const ModelConfig& config);

findings::FreeRun free_run_figures(const std::string& case_id, const std::vector<Step>& steps,
                                   const TensorStore& candidate, const ReferenceChain& chain,
                                   const ModelConfig& config);

}  // namespace qdiff::diagnose
