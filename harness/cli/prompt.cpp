#include "harness/cli/prompt.h"

#include <cmath>
#include <stdexcept>

#include "harness/cli/text.h"
#include "harness/contract/error.h"

namespace qdiff::cli {
namespace {

// Behind the last token.
std::int32_t largest_logit(const TensorView& logits) {
  const std::int64_t vocab = logits.shape.back();
  const std::int64_t last = num_elements(logits.shape) / vocab - 1;
  std::int64_t best = 0;
  double best_value = -HUGE_VAL;
  for (std::int64_t v = 0; v < vocab; ++v) {
    const double value = load_element(logits.data, logits.dtype, static_cast<std::size_t>(last * vocab + v));
    if (!(value > best_value)) continue;
    best = v;
    best_value = value;
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace

diagnose::CaseInput input_of_prompt(const std::string& prompt, std::int64_t most_tokens,
                                    const model::Tokenizer& tokenizer, const ModelConfig& config) {
  const std::vector<std::int32_t> tokens = tokenizer.encode(prompt);
  if (tokens.empty()) throw InputError("--prompt: the text has no token");
  diagnose::CaseInput input;
  input.id = "prompt";
  input.title = "A text, and what the reference writes behind it";
  input.argument = "--prompt " + shell_quote(prompt) + " --tokens " + std::to_string(most_tokens);
  input.capacity = static_cast<std::int64_t>(tokens.size()) + most_tokens;
  // The last token that is chosen need not be fed.
  for (std::int64_t i = 0; i < most_tokens; ++i) {
    Step step;
    step.index = static_cast<int>(i);
    step.phase = i == 0 ? Phase::kPrefill : Phase::kDecode;
    step.tokens = {i == 0 ? tokens : std::vector<std::int32_t>{0}};
    step.past_length = i == 0 ? 0 : static_cast<std::int64_t>(tokens.size()) + i - 1;
    step.left_padding = {0};
    set_default_positions(step);
    input.steps.push_back(std::move(step));
  }
  try {
    validate_steps(input.steps, config.vocab, config.max_position_embeddings);
  } catch (const std::invalid_argument& error) {
    throw InputError(std::string("--prompt: ") + error.what());
  }
  return input;
}

void write_greedily(Engine& reference, const model::Tokenizer& tokenizer, diagnose::CaseInput& input,
                    const diagnose::ProgressReport& progress) {
  const auto session = reference.open({.batch = 1, .capacity = input.capacity, .left_padding = {0}});
  for (std::size_t i = 0; i + 1 < input.steps.size(); ++i) {
    if (progress) progress("the text", static_cast<std::int64_t>(i), static_cast<std::int64_t>(input.steps.size()));
    const std::int32_t chosen = largest_logit(session->run_step(input.steps[i], nullptr));
    if (tokenizer.is_added(chosen)) {
      input.steps.resize(i + 1);
      return;
    }
    input.steps[i + 1].tokens = {{chosen}};
  }
}

}  // namespace qdiff::cli
