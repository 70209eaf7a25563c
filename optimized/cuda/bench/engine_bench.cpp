// Microseconds a decoded token at given contexts, with and without taps, and a prefill of given prompts, at batch 1;
// and a decode step of given batches at one context.
//
//   cuda_engine_bench 0.5b|7b [--contexts 0,1024,8192] [--tokens 128] [--prompts 512,4096] [--repeats 20]
//                             [--batches 2,8,32,128] [--batch-context 1024] [--taps yes|no] [--dtype bfloat16]
//
// The weights are random, in the shapes of Qwen2.5-0.5B and -7B. Prints one JSON object a line: what the memory
// delivers, then a measurement each. Times are between events on the stream; the first tenth is warm-up. With taps all
// tensors of each step but the caches go to the host, where a sink takes them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/error.h"
#include "harness/model/synthetic.h"
#include "optimized/cuda/bench/read_bandwidth.h"
#include "optimized/cuda/engine.h"
#include "optimized/cuda/session.h"

namespace {

using namespace qdiff;
using namespace qdiff::optimized::cuda;

// bfloat16 weights from a counter, +-1/sqrt(columns), so that activations stay of order one.
class RandomWeights final : public WeightSource {
 public:
  RandomWeights(std::string description, const ModelConfig& config)
      : description_(std::move(description)), config_(config) {
    for (const ModelWeight& weight : weights_of(config_)) infos_.push_back({weight.name, DType::kBF16, weight.shape});
  }
  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return infos_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    auto* out = reinterpret_cast<std::uint16_t*>(destination.data());
    const float scale = info.shape.size() == 2 ? 1.0F / std::sqrt(static_cast<float>(info.shape[1])) : 1.0F;
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint64_t z = static_cast<std::uint64_t>(first + i + 1) * 0x9E3779B97F4A7C15ULL;
      z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9ULL;
      out[i] = float_to_bf16(scale * 0x1p-31F * static_cast<float>(static_cast<std::int32_t>(z >> 32)));
    }
  }

 private:
  std::string description_;
  ModelConfig config_;
  std::vector<WeightInfo> infos_;
};

struct Arguments {
  std::string model;
  int tokens = 128;
  int repeats = 20;
  std::vector<std::int64_t> contexts = {0, 1024, 8192};
  std::vector<std::int64_t> prompts = {512, 4096};
  std::vector<std::int64_t> batches;
  std::int64_t batch_context = 1024;
  std::string taps = "yes";
  std::string dtype = "bfloat16";
};

Step make_step(int index, Phase phase, std::int64_t past, std::int64_t count, std::int64_t vocab,
               std::int64_t batch = 1) {
  Step step{.index = index, .phase = phase, .tokens = {}, .past_length = past, .positions = {}, .left_padding = {}};
  step.left_padding.assign(static_cast<std::size_t>(batch), 0);
  for (std::int64_t b = 0; b < batch; ++b) {
    auto& tokens = step.tokens.emplace_back();
    for (std::int64_t t = 0; t < count; ++t) {
      tokens.push_back(static_cast<std::int32_t>(((past + t) * 7919 + b * 104729) % vocab));
    }
  }
  set_default_positions(step);
  return step;
}

struct Spread {
  double median;
  double low;   // the tenth percentile
  double high;  // the ninetieth
};

// Leaves out the first tenth; in microseconds.
Spread spread_of(std::vector<float> milliseconds) {
  milliseconds.erase(milliseconds.begin(),
                     milliseconds.begin() + static_cast<std::ptrdiff_t>((milliseconds.size() + 9) / 10));
  std::sort(milliseconds.begin(), milliseconds.end());
  const auto quantile = [&](double q) {
    return 1e3 * milliseconds[static_cast<std::size_t>(std::lround(q * static_cast<double>(milliseconds.size() - 1)))];
  };
  return {quantile(0.5), quantile(0.1), quantile(0.9)};
}

// What one step reads: the embedding where it is lm_head's matrix too, every other weight, and the keys and values
// before each batch row.
double bytes_of_step(const ModelConfig& c, DType dtype, std::int64_t batch, std::int64_t context) {
  double elements = 0.0;
  for (const ModelWeight& weight : weights_of(c)) {
    const bool only_looked_up = weight.id.op == Op::kEmbedTokens && !c.tie_word_embeddings;
    if (!only_looked_up) elements += static_cast<double>(num_elements(weight.shape));
  }
  elements += 2.0 * static_cast<double>(c.num_layers * c.kv_width() * context * batch);
  return elements * static_cast<double>(size_of(dtype));
}

void print(const Arguments& a, const std::string& what, const Spread& us, const std::string& more) {
  std::printf(
      "{\"what\": \"%s\", \"model\": \"%s\", \"dtype\": \"%s\", %s, \"us_median\": %.1f, "
      "\"us_p10\": %.1f, \"us_p90\": %.1f}\n",
      what.c_str(), a.model.c_str(), a.dtype.c_str(), more.c_str(), us.median, us.low, us.high);
  std::fflush(stdout);
}

// Takes each tensor and reads its first element.
class Touching final : public TensorSink {
 public:
  void take(const TensorId&, const TensorView& view) override { sum += load_element(view.data, view.dtype, 0); }
  double sum = 0.0;
};

void measure_decode(EngineParts& parts, const Arguments& a, std::int64_t batch, std::int64_t context, bool taps,
                    double terabytes) {
  const ModelConfig& c = parts.model.config;
  const int rounds = taps ? 2 : 1;
  CudaSession session(parts,
                      {.batch = batch,
                       .capacity = context + 2 * rounds * a.tokens,
                       .left_padding = std::vector<std::int64_t>(static_cast<std::size_t>(batch), 0),
                       .poison = Poison::kNaN},
                      nullptr);
  // In pieces of about as many rows; one of a single token would be a decode step.
  const std::int64_t chunk = std::max<std::int64_t>(2, 2048 / batch);
  std::int64_t past = 0;
  int index = 0;
  while (past < context) {
    const std::int64_t count = std::min(chunk, context - past);
    session.run_step(make_step(index++, Phase::kPrefill, past, count, c.vocab, batch), nullptr);
    past += count;
  }
  // Turn by turn, so that heat and clocks are alike for both.
  std::vector<float> times[2];
  Touching sink;
  for (int turn = 0; turn < 2 * rounds; ++turn) {
    const bool tapped = turn % rounds == 1;
    CudaSession::StepSinks sinks;
    if (tapped) sinks = [&sink](int) { return &sink; };
    const std::vector<float> some =
        session.decode_greedily(make_step(index++, Phase::kDecode, past, 1, c.vocab, batch), a.tokens, sinks);
    // The first steps of a turn wait for the graph to be uploaded.
    times[tapped ? 1 : 0].insert(times[tapped ? 1 : 0].end(), some.begin() + a.tokens / 10, some.end());
    past += a.tokens;
  }
  for (int tapped = 0; tapped < rounds; ++tapped) {
    const Spread us = spread_of(times[tapped]);
    char more[200];
    std::snprintf(
        more, sizeof(more), "\"batch\": %lld, \"context\": %lld, \"tokens_per_s\": %.1f, \"percent_of_read\": %.1f",
        static_cast<long long>(batch), static_cast<long long>(context), 1e6 * static_cast<double>(batch) / us.median,
        bytes_of_step(c, *parse_dtype(a.dtype), batch, context) / us.median / terabytes / 1e4);
    print(a, tapped == 1 ? "decode_tapped" : "decode", us, more);
  }
}

void measure_prefill(EngineParts& parts, const Arguments& a, std::int64_t prompt) {
  CudaSession session(parts, {.batch = 1, .capacity = prompt, .left_padding = {0}, .poison = Poison::kNaN}, nullptr);
  const std::vector<float> times =
      session.time_prefill(make_step(0, Phase::kPrefill, 0, prompt, parts.model.config.vocab), a.repeats + 2);
  const Spread us = spread_of({times.begin() + 1, times.end()});
  char more[120];
  std::snprintf(more, sizeof(more), "\"prompt\": %lld, \"tokens_per_s\": %.0f", static_cast<long long>(prompt),
                1e6 * static_cast<double>(prompt) / us.median);
  print(a, "prefill", us, more);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{"Times decode steps and prefills of the CUDA engine on random weights"};
  constexpr int kMost = 1 << 30;
  app.add_option("MODEL", arguments.model)->required()->check(CLI::IsMember({"0.5b", "7b"}));
  app.add_option("--tokens", arguments.tokens)->check(CLI::Range(10, kMost));
  app.add_option("--repeats", arguments.repeats)->check(CLI::Range(10, kMost));  // of fewer the ends are no tenth
  app.add_option("--contexts", arguments.contexts)->delimiter(',')->check(CLI::Range(0, kMost));
  app.add_option("--prompts", arguments.prompts)->delimiter(',')->check(CLI::Range(2, kMost));
  app.add_option("--batches", arguments.batches)->delimiter(',')->check(CLI::Range(1, kMost));
  app.add_option("--batch-context", arguments.batch_context)->check(CLI::Range(0, kMost));
  app.add_option("--taps", arguments.taps)->check(CLI::IsMember({"yes", "no"}));
  app.add_option("--dtype", arguments.dtype)->check(CLI::IsMember({"bfloat16", "float16", "float32"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // 0: --help
  }
  try {
    std::string why_not;
    if (!device_available(&why_not)) throw CannotJudgeError(why_not);
    const RandomWeights source("random weights in the shape of " + arguments.model,
                               model::synthetic_config({.shape = "qwen2.5-" + arguments.model}));
    EngineParts parts(load_device_model(source, {.dtype = *parse_dtype(arguments.dtype)}));
    const double terabytes = read_terabytes_per_second();
    std::printf("{\"what\": \"read\", \"tb_per_s\": %.3f}\n", terabytes);
    for (const std::int64_t context : arguments.contexts) {
      measure_decode(parts, arguments, 1, context, arguments.taps == "yes", terabytes);
    }
    for (const std::int64_t batch : arguments.batches) {
      measure_decode(parts, arguments, batch, arguments.batch_context, false, terabytes);
    }
    for (const std::int64_t prompt : arguments.prompts) measure_prefill(parts, arguments, prompt);
    return 0;
  } catch (const CannotJudgeError& error) {
    std::cerr << "cuda_engine_bench: " << error.what() << '\n';
    return static_cast<int>(ExitStatus::kCannotJudge);
  } catch (const std::exception& error) {
    std::cerr << "cuda_engine_bench: " << error.what() << '\n';
    return static_cast<int>(ExitStatus::kBadInput);
  }
}
