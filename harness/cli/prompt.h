// A text as a case: its tokens enter in one step, and then, one a step, those that the reference writes behind it. Up
// to the first token that an engine chooses otherwise, what both write is the same text.
#pragma once

#include <cstdint>
#include <string>

#include "harness/contract/engine.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/run.h"
#include "harness/model/tokenizer.h"

namespace qdiff::cli {

// The case, whose decode steps hold token 0 as yet. Throws InputError where the text has no token, or the whole is
// longer than the model's positions.
diagnose::CaseInput input_of_prompt(const std::string& prompt, std::int64_t most_tokens,
                                    const model::Tokenizer& tokenizer, const ModelConfig& config);

// Fills in what the reference chooses; steps behind an added token, as <|im_end|>, are left out.
void write_greedily(Engine& reference, const model::Tokenizer& tokenizer, diagnose::CaseInput& input,
                    const diagnose::ProgressReport& progress);

}  // namespace qdiff::cli
