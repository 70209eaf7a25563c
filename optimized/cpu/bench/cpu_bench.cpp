// Times a decode step and a prefill of the CPU engine beside the machine's own read bandwidth, interleaved in one
// process, on random weights in a real shape.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "optimized/cpu/aligned_buffer.h"
#include "optimized/cpu/bench/read_bandwidth.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/thread_pool.h"

namespace qdiff::optimized::cpu {
namespace {

constexpr const char* kUsage = R"(usage: qdiff_cpu_bench [options]
  --shape NAME      qwen2.5-0.5b (default), qwen2.5-1.5b or qwen2.5-7b
  --layers N        layers of that shape (default: all)
  --dtype NAME      bfloat16 (default), float16 or float32
  --threads N       default: all processors
  --context N       tokens in the cache before the decode steps (default 128)
  --prefill N       tokens of the timed prefill (default 512; 0: none)
  --repeats N       timed repeats of each (default 15)
  --kernels NAME    avx512, avx2 or baseline (default: the best)
)";

struct Arguments {
  std::string shape = "qwen2.5-0.5b";
  std::int64_t layers = 0;
  DType dtype = DType::kBF16;
  int threads = 0;
  std::int64_t context = 128;
  std::int64_t prefill = 512;
  int repeats = 15;
  const KernelSet* kernels = &best_kernel_set();
};

ModelConfig shape_config(const std::string& name) {
  ModelConfig c;
  c.rms_norm_eps = 1e-6;
  c.rope_theta = 1e6;
  c.max_position_embeddings = 32768;
  const auto set = [&](std::int64_t hidden, std::int64_t layers, std::int64_t heads, std::int64_t kv_heads,
                       std::int64_t head_dim, std::int64_t intermediate, std::int64_t vocab, bool tied) {
    c.hidden = hidden;
    c.num_layers = layers;
    c.num_q_heads = heads;
    c.num_kv_heads = kv_heads;
    c.head_dim = head_dim;
    c.intermediate = intermediate;
    c.vocab = vocab;
    c.tie_word_embeddings = tied;
  };
  if (name == "qwen2.5-0.5b") {
    set(896, 24, 14, 2, 64, 4864, 151936, true);
  } else if (name == "qwen2.5-1.5b") {
    set(1536, 28, 12, 2, 128, 8960, 151936, true);
  } else if (name == "qwen2.5-7b") {
    set(3584, 28, 28, 4, 128, 18944, 152064, false);
  } else {
    throw InputError("--shape " + name + " is unknown; give qwen2.5-0.5b, qwen2.5-1.5b or qwen2.5-7b");
  }
  return c;
}

// Random weights made when they are read, already in the engine's dtype.
class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const ModelConfig& config, DType dtype) : config_(config) {
    for (const ModelWeight& weight : weights_of(config_)) infos_.push_back({weight.name, dtype, weight.shape});
  }
  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return infos_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    // Uniform in (-s, s) with s = sqrt(3/k): the residual stream stays near 1.
    const float scale = std::sqrt(3.0F / static_cast<float>(info.shape.back()));
    for (std::int64_t i = 0; i < count; ++i) {
      auto bits = static_cast<std::uint64_t>(first + i) * 0x9E3779B97F4A7C15ULL;
      bits = (bits ^ (bits >> 29)) * 0xBF58476D1CE4E5B9ULL;
      const float value = scale * (static_cast<float>(bits >> 40) * 0x1p-23F - 1.0F);
      const auto index = static_cast<std::size_t>(i);
      if (info.dtype == DType::kF32) {
        std::memcpy(destination.data() + 4 * index, &value, 4);
      } else {
        const std::uint16_t half = info.dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
        std::memcpy(destination.data() + 2 * index, &half, 2);
      }
    }
  }

 private:
  ModelConfig config_;
  std::string description_ = "random weights of the benchmark";
  std::vector<WeightInfo> infos_;
};

struct Series {
  std::vector<double> seconds;
  void add(double value) { seconds.push_back(value); }
  double quantile(double q) const {
    std::vector<double> sorted = seconds;
    std::ranges::sort(sorted);
    return sorted[static_cast<std::size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)))];
  }
  double median() const { return quantile(0.5); }
};

template <typename Function>
double timed(Function&& function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// "median (least to largest)", each from `amount` per second; fast runs are the large rates.
void print_rate(const char* what, const Series& series, double amount, const char* unit) {
  std::printf("%-22s %9.3f ms   %8.2f %s   (%.2f to %.2f)\n", what, 1e3 * series.median(), amount / series.median(),
              unit, amount / series.quantile(1.0), amount / series.quantile(0.0));
}

Step make_step(int index, std::int64_t past, std::int64_t num_tokens) {
  Step step;
  step.index = index;
  step.phase = num_tokens == 1 ? Phase::kDecode : Phase::kPrefill;
  step.past_length = past;
  step.left_padding = {0};
  step.tokens.resize(1);
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    step.tokens[0].push_back(static_cast<std::int32_t>((7919 * (past + t) + 13) % 50000));
  }
  set_default_positions(step);
  return step;
}

double matrix_elements_of_layer(const ModelConfig& c) {
  return static_cast<double>(c.hidden * (c.q_width() + 2 * c.kv_width()) + c.q_width() * c.hidden +
                             3 * c.hidden * c.intermediate);
}

void run_layers(Session& session, const Step& step, std::int64_t layers) {
  TensorView residual = session.run_embedding(step, nullptr);
  for (int layer = 0; layer < layers; ++layer) residual = session.run_layer(layer, step, residual, nullptr);
}

void bench(const Arguments& arguments) {
  ModelConfig config = shape_config(arguments.shape);
  config.dtype = arguments.dtype;
  if (arguments.layers > 0) config.num_layers = arguments.layers;
  const RandomWeights weights(config, arguments.dtype);
  const Options options{.dtype = arguments.dtype, .num_threads = arguments.threads, .max_resident_bytes = 0};
  const auto engine = make_engine(weights, options, *arguments.kernels);
  ThreadPool pool(arguments.threads);
  std::printf("%s, %d threads, %s kernels\n", to_string(config).c_str(), pool.size(), arguments.kernels->name);

  constexpr std::int64_t kReadBytes = std::int64_t{512} << 20;  // larger than any cache
  AlignedBuffer buffer(kReadBytes);
  std::fill_n(buffer.data(), kReadBytes, std::byte{1});

  const double weight_bytes = static_cast<double>(size_of(arguments.dtype)) *
                              (static_cast<double>(config.num_layers) * matrix_elements_of_layer(config) +
                               static_cast<double>(config.vocab * config.hidden));
  const auto session = engine->open(
      {.batch = 1, .capacity = arguments.context + arguments.repeats + 3, .left_padding = {0}, .poison = Poison::kNaN});
  int index = 0;
  std::int64_t past = 0;
  const auto next = [&](std::int64_t num_tokens) {
    const Step step = make_step(index++, past, num_tokens);
    past += num_tokens;
    return step;
  };
  run_layers(*session, next(arguments.context), config.num_layers);  // loads the weights too
  session->run_step(next(1), nullptr);
  session->run_step(next(1), nullptr);

  Series read;
  Series decode;
  Series prefill;
  std::uint64_t sum = read_all_bytes(pool, buffer.data(), kReadBytes);
  const double prefill_tokens = static_cast<double>(arguments.prefill);
  for (int i = 0; i < arguments.repeats; ++i) {
    read.add(timed([&] { sum += read_all_bytes(pool, buffer.data(), kReadBytes); }));
    const Step step = next(1);
    decode.add(timed([&] { session->run_step(step, nullptr); }));
  }
  std::vector<double> share;  // of each pair, so that a slow moment of the machine hits both
  for (std::size_t i = 0; i < decode.seconds.size(); ++i) {
    share.push_back((weight_bytes / decode.seconds[i]) / (static_cast<double>(kReadBytes) / read.seconds[i]));
  }
  const Series shares{share};

  print_rate("read bandwidth", read, static_cast<double>(kReadBytes) * 1e-9, "GB/s");
  print_rate("decode step", decode, weight_bytes * 1e-9, "GB/s");
  std::printf("decode reads weights at %.0f %% of read bandwidth (%.0f to %.0f), %.2f tokens/s at context %lld\n",
              100.0 * shares.median(), 100.0 * shares.quantile(0.0), 100.0 * shares.quantile(1.0),
              1.0 / decode.median(), static_cast<long long>(arguments.context));
  if (arguments.prefill > 0) {
    for (int i = 0; i <= std::max(2, arguments.repeats / 3); ++i) {
      const auto fresh =
          engine->open({.batch = 1, .capacity = arguments.prefill, .left_padding = {0}, .poison = Poison::kNaN});
      const Step step = make_step(0, 0, arguments.prefill);
      const double seconds = timed([&] { run_layers(*fresh, step, config.num_layers); });
      if (i > 0) prefill.add(seconds);
    }
    const double causal_pairs = prefill_tokens * (prefill_tokens + 1.0) / 2.0;
    const double operations =
        static_cast<double>(config.num_layers) * (2.0 * prefill_tokens * matrix_elements_of_layer(config) +
                                                  4.0 * causal_pairs * static_cast<double>(config.q_width()));
    print_rate(("prefill of " + std::to_string(arguments.prefill)).c_str(), prefill, operations * 1e-9, "GFLOP/s");
    std::printf("prefill runs the layers without the head: %.1f tokens/s\n", prefill_tokens / prefill.median());
  }
  std::printf("(checksum %llu)\n", static_cast<unsigned long long>(sum));
}

std::int64_t count_argument(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 0 || value > 1000000) {
    throw InputError(option + " needs a number from 0 to 1000000, not \"" + text + "\"");
  }
  return value;
}

const KernelSet* kernel_set_named(const std::string& name) {
  std::string known;
  for (const KernelSet* kernels : available_kernel_sets()) {
    if (name == kernels->name) return kernels;
    known += std::string(known.empty() ? "" : ", ") + kernels->name;
  }
  throw InputError("--kernels " + name + " is not to be had here; this processor runs " + known);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (i + 1 >= argc) throw InputError(option + " is unknown or lacks its value\n" + kUsage);
    const std::string value = argv[++i];
    if (option == "--shape") {
      arguments.shape = value;
    } else if (option == "--layers") {
      arguments.layers = count_argument(option, value);
    } else if (option == "--dtype") {
      const auto dtype = parse_dtype(value);
      if (!dtype) throw InputError("--dtype " + value + " is unknown; give bfloat16, float16 or float32");
      arguments.dtype = *dtype;
    } else if (option == "--threads") {
      arguments.threads = static_cast<int>(count_argument(option, value));
    } else if (option == "--context") {
      arguments.context = std::max<std::int64_t>(1, count_argument(option, value));
    } else if (option == "--prefill") {
      arguments.prefill = count_argument(option, value);
    } else if (option == "--repeats") {
      arguments.repeats = std::max(1, static_cast<int>(count_argument(option, value)));
    } else if (option == "--kernels") {
      arguments.kernels = kernel_set_named(value);
    } else {
      throw InputError(option + " is unknown\n" + kUsage);
    }
  }
  return arguments;
}

}  // namespace
}  // namespace qdiff::optimized::cpu

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--help") {
    std::fputs(qdiff::optimized::cpu::kUsage, stdout);
    return 0;
  }
  try {
    qdiff::optimized::cpu::bench(qdiff::optimized::cpu::parse(argc, argv));
  } catch (const qdiff::InputError& error) {
    std::fprintf(stderr, "qdiff_cpu_bench: %s\n", error.what());
    return static_cast<int>(qdiff::ExitStatus::kBadInput);
  }
  return 0;
}
