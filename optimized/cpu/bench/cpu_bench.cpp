// Times a decode step and a prefill of the CPU engine beside the machine's own read bandwidth, interleaved in one
// process, on random weights in a real shape.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/wording.h"
#include "harness/model/synthetic.h"
#include "optimized/cpu/aligned_buffer.h"
#include "optimized/cpu/bench/read_bandwidth.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/thread_pool.h"

namespace qdiff::optimized::cpu {
namespace {

struct Arguments {
  std::string shape = "qwen2.5-0.5b";
  std::int64_t layers = 0;  // of that shape; 0: all
  std::string dtype = "bfloat16";
  int threads = 0;
  std::int64_t context = 128;
  std::int64_t prefill = 512;
  int repeats = 15;
  std::string kernels = best_kernel_set().name;
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
    step.tokens[0].push_back(static_cast<std::int32_t>((7919 * (past + t) + 13) % 500));
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
  const DType dtype = *parse_dtype(arguments.dtype);
  const auto weights = model::make_synthetic({.shape = arguments.shape, .dtype = dtype, .layers = arguments.layers});
  const ModelConfig& config = weights->config();
  const Options options{.dtype = dtype, .num_threads = arguments.threads, .max_resident_bytes = 0};
  const KernelSets sets = available_kernel_sets();
  const KernelSet& kernels =
      **std::ranges::find_if(sets, [&](const KernelSet* one) { return arguments.kernels == one->name; });
  const auto engine = make_engine(*weights, options, kernels);
  ThreadPool pool(arguments.threads);
  std::printf("%s, %d threads, %s kernels\n", to_string(config).c_str(), pool.size(), kernels.name);
  constexpr std::int64_t kReadBytes = std::int64_t{512} << 20;  // larger than any cache
  AlignedBuffer buffer(kReadBytes);
  std::fill_n(buffer.data(), kReadBytes, std::byte{1});

  const double weight_bytes =
      static_cast<double>(size_of(dtype)) * (static_cast<double>(config.num_layers) * matrix_elements_of_layer(config) +
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

}  // namespace
}  // namespace qdiff::optimized::cpu

int main(int argc, char** argv) {
  using namespace qdiff;
  using namespace qdiff::optimized::cpu;
  Arguments arguments;
  CLI::App app{"Times a decode step and a prefill of the CPU engine beside the machine's read bandwidth"};
  app.option_defaults()->always_capture_default();
  constexpr std::int64_t kMost = 1000000;
  const CLI::Range any(std::int64_t{0}, kMost), positive(std::int64_t{1}, kMost);
  app.add_option("--shape", arguments.shape, "A shape of a synthetic model")
      ->check(CLI::IsMember(texts_of(model::kSyntheticShapes, &model::SyntheticShape::name)));
  app.add_option("--layers", arguments.layers, "Layers of that shape (0: all)")->check(any);
  app.add_option("--dtype", arguments.dtype)->check(CLI::IsMember({"bfloat16", "float16", "float32"}));
  app.add_option("--threads", arguments.threads, "0: all processors")->check(any);
  app.add_option("--context", arguments.context, "Tokens in the cache before the decode steps")->check(positive);
  app.add_option("--prefill", arguments.prefill, "Tokens of the timed prefill (0: none)")->check(any);
  app.add_option("--repeats", arguments.repeats, "Timed repeats of each")->check(positive);
  app.add_option("--kernels", arguments.kernels, "Those that this processor runs, the best first")
      ->check(CLI::IsMember(texts_of(available_kernel_sets(), [](const KernelSet* one) { return one->name; })));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // 0: --help
  }
  bench(arguments);
  return 0;
}
