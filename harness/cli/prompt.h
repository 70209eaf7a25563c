// A text as a case: its tokens enter in one step, and then, one a step, those that the reference writes behind it. Up
// to the first token that an engine chooses otherwise, what both write is the same text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/diagnose/run.h"
#include "harness/diagnose/subject.h"
#include "harness/model/tokenizer.h"

namespace qdiff::cli {

// The case, whose decode steps hold token 0 as yet. Throws InputError where the text has no token, or the whole is
// longer than the model's positions.
CaseInput input_of_prompt(const std::string& prompt, std::int64_t most_tokens, const model::Tokenizer& tokenizer,
                          const ModelConfig& config);

// What an engine writes behind the prompt of `input`: as many tokens as it has steps, or up to an added one, as
// <|im_end|>. -1 ends it too: there is NaN among the logits.
std::vector<std::int64_t> write_greedily(Engine& engine, const model::Tokenizer& tokenizer, const CaseInput& input,
                                         const diagnose::ProgressReport& progress);

// Feeds these tokens, but for the last one, in the decode steps. Those that are left over are taken out.
void feed(const std::vector<std::int64_t>& tokens, CaseInput& input);

}  // namespace qdiff::cli
