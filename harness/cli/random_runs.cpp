// qdiff_random_runs: the main job on clean engines over random shapes, batches, chunks, paddings, profiles and seeds.
// None may be flagged. Prints, by dtype, how near the worst statistic came to its bound; ends with 1 if any run did not
// match.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "harness/diagnose/run.h"
#include "harness/model/synthetic.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

// splitmix64 (Steele et al. 2014): the same draws on every machine.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed) {}
  std::int64_t between(std::int64_t first, std::int64_t last) {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return first + static_cast<std::int64_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(last - first + 1));
  }
  bool one_in(std::int64_t n) { return between(1, n) == 1; }

 private:
  std::uint64_t state_;
};

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
diagnose::CaseInput random_case(Draws& draw, const ModelConfig& config) {
  diagnose::CaseInput input;
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

struct Tally {
  std::int64_t runs = 0, flagged = 0, tensors = 0;
  compare::ClosestToBound closest;
};

void run_one(std::uint64_t seed, DType dtype, Tally& tally) {
  Draws draw(seed);
  const ModelConfig config = random_config(draw);
  const model::Profile profile = draw.one_in(2) ? model::Profile::kQwen : model::Profile::kPlain;
  const diagnose::CaseInput input = random_case(draw, config);
  const auto weights = model::make_synthetic(config, seed, profile);
  const auto candidate = optimized::cpu::make_engine(*weights, {.dtype = dtype});
  Precision gold = plain_precision(DType::kF64);
  gold.weights = dtype;
  gold.accumulate = DType::kF64;
  const auto reference = reference::make_engine(*weights, gold, {});
  const auto oracle = reference::make_oracle(*weights, {});
  diagnose::RunOptions options;
  options.probing = false;
  const compare::RunResult result =
      diagnose::run_cases(std::span(&input, 1), {*candidate, *reference, *oracle, *weights}, options);
  ++tally.runs;
  tally.tensors += result.coverage.tensors_compared;
  if (result.closest && !(result.closest->ratio <= tally.closest.ratio)) tally.closest = *result.closest;
  if (result.verdict == compare::Verdict::kMatch) return;
  ++tally.flagged;
  std::string why = result.reason;
  if (const compare::Finding* first = result.first_divergence()) {
    why = tensor_name(first->tensor) + " step " + std::to_string(first->step) + ": " + first->judgement.reason;
  }
  std::printf("flagged: seed %llu, %s, profile %s, %s: %s\n", static_cast<unsigned long long>(seed),
              std::string(name(dtype)).c_str(), std::string(model::name(profile)).c_str(), to_string(config).c_str(),
              why.c_str());
}

int run_all(std::int64_t count, std::uint64_t seed) {
  std::int64_t flagged = 0;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Tally tally;
    for (std::int64_t i = 0; i < count; ++i) run_one(seed + static_cast<std::uint64_t>(i), dtype, tally);
    flagged += tally.flagged;
    std::printf("%-8s  %lld runs, %lld flagged, %lld tensors; nearest to a bound: %s at %.3g of it, in %s\n",
                std::string(name(dtype)).c_str(), static_cast<long long>(tally.runs),
                static_cast<long long>(tally.flagged), static_cast<long long>(tally.tensors),
                tally.closest.statistic.c_str(), tally.closest.ratio, tally.closest.tensor.c_str());
    std::fflush(stdout);
  }
  return flagged == 0 ? 0 : 1;
}

}  // namespace
}  // namespace qdiff

int main(int argc, char** argv) {
  CLI::App app{"The main job on clean engines over random shapes, batches, chunks, paddings, profiles and seeds"};
  std::int64_t count = 200;
  std::uint64_t seed = 1;
  app.add_option("--count", count, "runs of each dtype")->check(CLI::Range(1, 1000000));
  app.add_option("--seed", seed, "of the first run; the others follow");
  CLI11_PARSE(app, argc, argv);
  return qdiff::run_all(count, seed);
}
