// Microseconds a decoded token, batch 1, at given contexts: prefill of a prompt, then greedy decoding on the device.
//
//   cuda_decode_bench 0.5b|7b [--tokens N] [--contexts 0,1024,8192] [--dtype bfloat16]
//
// The weights are random, in the shapes of Qwen2.5-0.5B and -7B. Prints one JSON object a context. Times are between
// events on the stream, one for each token; the first tenth of the tokens is warm-up.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/error.h"
#include "optimized/cuda/engine.h"
#include "optimized/cuda/session.h"

namespace {

using namespace qdiff;
using namespace qdiff::optimized::cuda;

// config.json of Qwen/Qwen2.5-0.5B-Instruct and -7B-Instruct on the Hugging Face hub.
ModelConfig config_of(const std::string& name) {
  ModelConfig c;
  if (name == "0.5b") {
    c.hidden = 896, c.num_layers = 24, c.num_q_heads = 14, c.num_kv_heads = 2, c.head_dim = 64, c.intermediate = 4864;
    c.vocab = 151936, c.tie_word_embeddings = true;
  } else if (name == "7b") {
    c.hidden = 3584, c.num_layers = 28, c.num_q_heads = 28, c.num_kv_heads = 4, c.head_dim = 128;
    c.intermediate = 18944, c.vocab = 152064;
  } else {
    throw InputError("no shape \"" + name + "\"; there are 0.5b and 7b");
  }
  c.rms_norm_eps = 1e-6, c.rope_theta = 1e6, c.max_position_embeddings = 32768;
  c.validate();
  return c;
}

// bfloat16 weights from a counter, +-1/sqrt(columns), so that activations stay of order one.
class RandomWeights final : public WeightSource {
 public:
  RandomWeights(std::string description, const ModelConfig& config)
      : description_(std::move(description)), config_(config) {
    for (const TensorId& id : all_tensors(config_, true)) {
      for (std::size_t i = 0; i < row(id.op).weights.size(); ++i) {
        if (id.op == Op::kLmHead && config_.tie_word_embeddings) continue;
        infos_.push_back({weight_name(id, i, config_), DType::kBF16, weight_shape(id.op, i, config_)});
      }
    }
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
  std::vector<std::int64_t> contexts = {0, 1024, 8192};
  DType dtype = DType::kBF16;
};

Arguments parse(int argc, char** argv) {
  if (argc < 2) throw InputError("give a shape: 0.5b or 7b");
  Arguments a;
  a.model = argv[1];
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    const std::string value = argv[i + 1];
    if (option == "--tokens") {
      a.tokens = std::stoi(value);
    } else if (option == "--contexts") {
      a.contexts.clear();
      std::stringstream list(value);
      for (std::string one; std::getline(list, one, ',');) a.contexts.push_back(std::stoll(one));
    } else if (option == "--dtype" && parse_dtype(value)) {
      a.dtype = *parse_dtype(value);
    } else {
      throw InputError("unknown option or value: " + option + " " + value);
    }
  }
  if (a.tokens < 10) throw InputError("--tokens takes 10 or more");
  return a;
}

Step make_step(int index, Phase phase, std::int64_t past, std::int64_t count, std::int64_t vocab) {
  Step step{.index = index, .phase = phase, .tokens = {{}}, .past_length = past, .positions = {}, .left_padding = {0}};
  for (std::int64_t t = 0; t < count; ++t) {
    step.tokens[0].push_back(static_cast<std::int32_t>((past + t) * 7919 % vocab));
  }
  set_default_positions(step);
  return step;
}

void measure(EngineParts& parts, const Arguments& a, std::int64_t context) {
  const std::int64_t vocab = parts.model.config.vocab;
  CudaSession session(parts, {.batch = 1, .capacity = context + a.tokens, .left_padding = {0}, .poison = Poison::kNaN},
                      nullptr);
  constexpr std::int64_t kChunk = 1024;
  std::int64_t past = 0;
  int index = 0;
  for (; past < context; past += kChunk) {
    const std::int64_t count = std::min(kChunk, context - past);
    session.run_step(make_step(index++, Phase::kPrefill, past, count, vocab), nullptr);
  }
  std::vector<float> times = session.decode_greedily(make_step(index, Phase::kDecode, context, 1, vocab), a.tokens);
  times.erase(times.begin(), times.begin() + a.tokens / 10);
  std::sort(times.begin(), times.end());
  const auto quantile = [&](double q) { return 1e3 * times[static_cast<std::size_t>(q * (times.size() - 1.0))]; };
  std::printf(
      "{\"model\": \"%s\", \"dtype\": \"%s\", \"context\": %lld, \"tokens\": %zu, \"us_median\": %.1f, "
      "\"us_p10\": %.1f, \"us_p90\": %.1f, \"tokens_per_s\": %.1f}\n",
      a.model.c_str(), std::string(name(a.dtype)).c_str(), static_cast<long long>(context), times.size(), quantile(0.5),
      quantile(0.1), quantile(0.9), 1e6 / quantile(0.5));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = parse(argc, argv);
    std::string why_not;
    if (!device_available(&why_not)) throw CannotJudgeError(why_not);
    const RandomWeights source("random weights in the shape of " + arguments.model, config_of(arguments.model));
    EngineParts parts(load_device_model(source, arguments.dtype));
    for (const std::int64_t context : arguments.contexts) measure(parts, arguments, context);
    return 0;
  } catch (const CannotJudgeError& error) {
    std::cerr << "cuda_decode_bench: " << error.what() << '\n';
    return static_cast<int>(ExitStatus::kCannotJudge);
  } catch (const std::exception& error) {
    std::cerr << "cuda_decode_bench: " << error.what() << '\n';
    return static_cast<int>(ExitStatus::kBadInput);
  }
}
