#include "harness/selftest/random_case.h"

#include <algorithm>
#include <array>
#include <string>

#include "harness/selftest/draws.h"

namespace qdiff::selftest {
namespace {

model::SyntheticSpec random_model(Draws& draw) {
  model::SyntheticSpec spec{.shape = "toy-d64"};  // of which nothing is left
  spec.kv_heads = draw.between(1, 6);
  spec.q_heads = spec.kv_heads * draw.between(1, 7);
  spec.head_dim = std::array<std::int64_t, 3>{32, 64, 128}[static_cast<std::size_t>(draw.between(0, 2))];
  spec.hidden = draw.one_in(3) ? spec.q_heads * spec.head_dim : 8 * draw.between(4, 50);
  spec.intermediate = 8 * draw.between(4, 90);
  spec.layers = draw.between(1, 3);
  spec.vocab = draw.between(40, 1200);
  spec.eps = draw.one_in(3) ? 1e-5 : 1e-6;
  spec.theta = draw.one_in(3) ? 1e4 : 1e6;
  spec.tied = draw.one_in(2);
  return spec;
}

// A ragged batch in up to three prefill chunks and up to three decode steps, in a cache of some more slots.
CaseInput random_case(Draws& draw, const ModelConfig& config) {
  const auto batch = static_cast<std::size_t>(draw.between(1, 3));
  const std::int64_t num_prefills = draw.between(1, 3);
  const std::int64_t num_decodes = draw.between(0, 3);
  const auto prefill_length = [&] { return draw.between(1, draw.one_in(4) ? 90 : 20); };
  const auto token = [&] {
    // The last ids are special tokens of tiny norm in profile qwen.
    const std::int64_t first = draw.one_in(8) ? std::max<std::int64_t>(0, config.vocab - 16) : 0;
    return draw.between(first, config.vocab - 1);
  };
  const auto padding = [&](std::int64_t length) { return draw.one_in(2) ? 0 : draw.between(0, length - 1); };
  CaseInput input = draw_steps("random", batch, num_prefills, num_decodes, prefill_length, token, padding);
  input.capacity = input.steps.back().valid_length() + draw.between(0, 40);
  return input;
}

// In one case of four the rows start elsewhere, as where a caller goes on with a conversation.
void draw_positions(Draws& draw, const ModelConfig& config, CaseInput& input) {
  if (!draw.one_in(4)) return;
  const std::int64_t most = std::min<std::int64_t>(4000, config.max_position_embeddings - input.capacity);
  for (std::size_t row = 0; row < input.steps.front().tokens.size(); ++row) {
    const std::int64_t start = draw.between(0, std::max<std::int64_t>(0, most));
    for (Step& step : input.steps) {
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        if (!step.is_pad(static_cast<std::int64_t>(row), t)) step.positions[row][static_cast<std::size_t>(t)] += start;
      }
    }
  }
}

constexpr std::uint64_t kStreamOfPositions = 1, kStreamOfProfiles = 2;

}  // namespace

RandomCase draw_random_case(std::uint64_t seed, Variety variety) {
  Draws draw(seed);
  model::SyntheticSpec spec = random_model(draw);
  spec.seed = seed;
  spec.profile = draw.one_in(2) ? model::Profile::kQwen : model::Profile::kPlain;
  const ModelConfig config = model::synthetic_config(spec);
  RandomCase drawn;
  drawn.input = random_case(draw, config);
  // What the wide ones have besides comes from other streams, so that all else is the same.
  if (variety == Variety::kWide) {
    Draws positions(splitmix64(seed) + kStreamOfPositions), profiles(splitmix64(seed) + kStreamOfProfiles);
    draw_positions(positions, config, drawn.input);
    if (profiles.one_in(4)) spec.profile = profiles.one_in(2) ? model::Profile::kLoud : model::Profile::kQuiet;
  }
  drawn.profile = spec.profile;
  // Read from its text, which leaves out what is usual.
  const std::string text = to_string(spec);
  drawn.weights = model::make_synthetic(model::parse_synthetic_spec(text.substr(text.find(':') + 1)));
  return drawn;
}

findings::RunResult judge_random_case(const RandomCase& drawn, Engine& engine, const Makers& makers, DType dtype,
                                      diagnose::Mode mode) {
  const auto gold = makers.gold(*drawn.weights, dtype);
  const auto oracle = makers.oracle(*drawn.weights);
  diagnose::RunOptions options;
  options.mode = mode;
  options.probing = false;
  return diagnose::run_cases(std::span(&drawn.input, 1), {engine, *gold, *oracle, *drawn.weights}, options);
}

CaseInput draw_random_input(std::uint64_t seed, const ModelConfig& config, Variety variety) {
  Draws draw(seed);
  CaseInput input = random_case(draw, config);
  Draws positions(splitmix64(seed) + kStreamOfPositions);
  if (variety == Variety::kWide) draw_positions(positions, config, input);
  return input;
}

}  // namespace qdiff::selftest
