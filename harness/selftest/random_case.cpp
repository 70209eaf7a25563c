#include "harness/selftest/random_case.h"

#include <array>

#include "harness/selftest/draws.h"

namespace qdiff::selftest {
namespace {

ModelConfig random_config(Draws& draw) {
  ModelConfig config;
  config.num_kv_heads = draw.between(1, 6);
  config.num_q_heads = config.num_kv_heads * draw.between(1, 7);
  config.head_dim = std::array<std::int64_t, 3>{32, 64, 128}[static_cast<std::size_t>(draw.between(0, 2))];
  config.hidden = draw.one_in(3) ? config.q_width() : 8 * draw.between(4, 50);
  config.intermediate = 8 * draw.between(4, 90);
  config.num_layers = draw.between(1, 3);
  config.vocab = draw.between(40, 1200);
  config.rms_norm_eps = draw.one_in(3) ? 1e-5 : 1e-6;
  config.rope_theta = draw.one_in(3) ? 1e4 : 1e6;
  config.tie_word_embeddings = draw.one_in(2);
  config.max_position_embeddings = 4096;
  return config;
}

// A ragged batch in up to three prefill chunks and up to three decode steps, in a cache of some more slots.
CaseInput random_case(Draws& draw, const ModelConfig& config) {
  CaseInput input;
  input.id = "random";
  input.title = "random";
  const auto batch = static_cast<std::size_t>(draw.between(1, 3));
  const std::int64_t num_prefills = draw.between(1, 3);
  const std::int64_t num_decodes = draw.between(0, 3);
  std::int64_t length = 0;
  for (std::int64_t i = 0; i < num_prefills + num_decodes; ++i) {
    Step step;
    step.index = static_cast<int>(i);
    step.phase = i < num_prefills ? Phase::kPrefill : Phase::kDecode;
    step.past_length = length;
    const std::int64_t num_tokens = step.phase == Phase::kDecode ? 1 : draw.between(1, draw.one_in(4) ? 90 : 20);
    step.tokens.resize(batch);
    for (auto& row : step.tokens) {
      for (std::int64_t t = 0; t < num_tokens; ++t) {
        // The last ids are special tokens of tiny norm in profile qwen.
        const std::int64_t first = draw.one_in(8) ? config.vocab - 16 : 0;
        row.push_back(static_cast<std::int32_t>(draw.between(first, config.vocab - 1)));
      }
    }
    length += num_tokens;
    input.steps.push_back(std::move(step));
  }
  std::vector<std::int64_t> padding;
  for (std::size_t b = 0; b < batch; ++b) padding.push_back(draw.one_in(2) ? 0 : draw.between(0, length - 1));
  for (Step& step : input.steps) {
    step.left_padding = padding;
    set_default_positions(step);
  }
  input.capacity = length + draw.between(0, 40);
  return input;
}

}  // namespace

RandomCase draw_random_case(std::uint64_t seed) {
  Draws draw(seed);
  const ModelConfig config = random_config(draw);
  RandomCase drawn;
  drawn.profile = draw.one_in(2) ? model::Profile::kQwen : model::Profile::kPlain;
  drawn.input = random_case(draw, config);
  drawn.weights = model::make_synthetic(config, seed, drawn.profile);
  return drawn;
}

}  // namespace qdiff::selftest
