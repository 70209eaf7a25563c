#include "harness/cli/prompt.h"

#include <stdexcept>

#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/diagnose/free_run.h"

namespace qdiff::cli {

CaseInput input_of_prompt(const std::string& prompt, std::int64_t most_tokens, const model::Tokenizer& tokenizer,
                          const ModelConfig& config) {
  const std::vector<std::int32_t> tokens = tokenizer.encode(prompt);
  if (tokens.empty()) throw InputError("--prompt: the text has no token");
  CaseInput input;
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

std::vector<std::int64_t> write_greedily(Engine& engine, const model::Tokenizer& tokenizer, const CaseInput& input,
                                         const diagnose::ProgressReport& progress) {
  std::vector<std::int64_t> written;
  const auto session = engine.open({.batch = 1, .capacity = input.capacity, .left_padding = {0}});
  for (Step step : input.steps) {
    if (progress) {
      progress(engine.name() + " writes", static_cast<std::int64_t>(written.size()),
               static_cast<std::int64_t>(input.steps.size()));
    }
    if (!written.empty()) step.tokens = {{static_cast<std::int32_t>(written.back())}};
    const TensorView logits = session->run_step(step, nullptr);
    const std::int64_t vocab = logits.shape.back();
    written.push_back(diagnose::top_token(logits, num_elements(logits.shape) / vocab - 1, vocab));  // of the last token
    if (written.back() < 0 || tokenizer.is_added(written.back())) break;
  }
  return written;
}

void feed(const std::vector<std::int64_t>& tokens, CaseInput& input) {
  input.steps.resize(tokens.size());
  for (std::size_t i = 1; i < input.steps.size(); ++i) {
    input.steps[i].tokens = {{static_cast<std::int32_t>(tokens[i - 1])}};
  }
}

}  // namespace qdiff::cli
