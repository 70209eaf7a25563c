// Random models and batches: shapes, chunks, paddings, profiles. The same from a seed on every machine.
#pragma once

#include <cstdint>
#include <memory>

#include "harness/model/synthetic.h"
#include "harness/selftest/bench.h"

namespace qdiff::selftest {

enum class Variety : std::uint8_t {
  kUsual,
  kWide,  // also positions that start elsewhere, and every profile
};

struct RandomCase {
  // Its description() opens the same model again, where it comes from draw_random_case().
  std::unique_ptr<WeightSource> weights;
  model::Profile profile = model::Profile::kPlain;
  CaseInput input;  // a ragged batch in up to three prefill chunks and up to three decode steps
};

RandomCase draw_random_case(std::uint64_t seed, Variety variety = Variety::kUsual);
// What a model of its own draws makes of one case, with an engine on its weights.
findings::RunResult judge_random_case(const RandomCase& drawn, Engine& engine, const Makers& makers, DType dtype,
                                      diagnose::Mode mode);
// A batch alone, for a model of these sizes.
CaseInput draw_random_input(std::uint64_t seed, const ModelConfig& config, Variety variety);

// Prefills and then decode steps of as many tokens as `prefill_length()` says, each `token()`; of `length` tokens of a
// row `padding(length)` are pads. Without the cache's capacity.
template <typename Length, typename Token, typename Padding>
CaseInput draw_steps(const std::string& id, std::size_t batch, std::int64_t num_prefills, std::int64_t num_decodes,
                     const Length& prefill_length, const Token& token, const Padding& padding) {
  CaseInput input;
  input.id = input.title = id;
  std::int64_t length = 0;
  for (std::int64_t i = 0; i < num_prefills + num_decodes; ++i) {
    Step step;
    step.index = static_cast<int>(i);
    step.phase = i < num_prefills ? Phase::kPrefill : Phase::kDecode;
    step.past_length = length;
    const std::int64_t num_tokens = step.phase == Phase::kDecode ? 1 : prefill_length();
    step.tokens.resize(batch);
    for (auto& row : step.tokens) {
      for (std::int64_t t = 0; t < num_tokens; ++t) row.push_back(static_cast<std::int32_t>(token()));
    }
    length += num_tokens;
    input.steps.push_back(std::move(step));
  }
  std::vector<std::int64_t> pads;
  for (std::size_t b = 0; b < batch; ++b) pads.push_back(padding(length));
  for (Step& step : input.steps) {
    step.left_padding = pads;
    set_default_positions(step);
  }
  return input;
}

}  // namespace qdiff::selftest
