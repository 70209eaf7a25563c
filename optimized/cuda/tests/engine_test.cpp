// The engine against a naive forward pass in double: every tensor that it hands out, in every class of kernels.
#include "harness/contract/error.h"
#include "optimized/cuda/session.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

struct Workload {
  const char* what;
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> left_padding;
  int first_judged = 0;  // step
};

const std::vector<Workload>& workloads() {
  // Two key tiles and more, also of those on tensor cores; ragged rows; one row; a prompt of one token; more keys than
  // a cluster of decode attention takes; more rows than the matrix-vector kernels take.
  static const std::vector<Workload> kWorkloads = {{"three ragged rows", {70, 1, 5, 2, 1, 1}, {0, 3, 68}},
                                                   {"one row", {129, 1, 1}, {0}},
                                                   {"three tiles", {261, 3}, {5}},
                                                   {"one token", {1, 1, 1}, {0, 0}},
                                                   {"two clusters of keys", {2100, 1, 1}, {0, 700}, 1},
                                                   {"five rows", {4, 1, 1, 1}, {0, 1, 2, 3, 0}},
                                                   {"five rows, two key tiles", {65, 1, 1}, {0, 1, 64, 0, 0}, 1}};
  return kWorkloads;
}

void judge_all(DType dtype) {
  require_gpu();
  std::map<Op, double> worst;
  std::map<Op, double> worst_sum;
  std::uint64_t seed = 1;
  for (const ModelConfig& config : gpu_configs()) {
    RandomModel model(config, DType::kF32, ++seed);
    const auto engine = gpu_engine(model, dtype);
    const NaiveForward naive(model, dtype);
    for (const Workload& workload : workloads()) {
      const auto steps = random_steps(config, workload.lengths, workload.left_padding, seed);
      const KeepingSink sink = run_all(*engine, steps, seed % 2 == 0 ? Poison::kNaN : Poison::kLargeFinite);
      std::int64_t compared = 0;
      for (const auto& [key, tensor] : sink.tensors) {
        if (key.step < workload.first_judged) continue;
        const Judged judged = judge(naive, dtype, steps, sink, key);
        compared += judged.compared;
        worst[key.id.op] = std::max(worst[key.id.op], judged.ratio);
        worst_sum[key.id.op] = std::max(worst_sum[key.id.op], judged.sum_error);
        INFO(to_string(config) << ", " << name(dtype) << ", " << workload.what << ": " << tensor_name(key.id)
                               << " of step " << key.step);
        REQUIRE(judged.ratio <= 1.0);
      }
      REQUIRE(compared > 10000);
    }
  }
  for (const auto& [op, ratio] : worst) {
    std::printf("%s, worst error to bound: %-28s %.3f, of the sums %.1f * 2^-24\n", std::string(name(dtype)).c_str(),
                std::string(row(op).name).c_str(), ratio, worst_sum[op]);
  }
  REQUIRE(worst.at(Op::kLmHead) > 0.3);  // a bound that nothing comes near would prove nothing
}

TEST_CASE("every bfloat16 tensor is what double arithmetic makes of the engine's own inputs",
          "[gpu][tensors][bfloat16]") {
  judge_all(DType::kBF16);
}
TEST_CASE("every float16 tensor is what double arithmetic makes of the engine's own inputs",
          "[gpu][tensors][float16]") {
  judge_all(DType::kF16);
}
TEST_CASE("every float32 tensor is what double arithmetic makes of the engine's own inputs",
          "[gpu][tensors][float32]") {
  judge_all(DType::kF32);
}

TEST_CASE("rows that nearly fill the shared memory leave the rings of weights what is left", "[gpu]") {
  require_gpu();
  const ModelConfig config = small_config(2, 1, 32, 64, 36000, true);  // 144 KB
  RandomModel model(config, DType::kF32, 3);
  const auto engine = gpu_engine(model, DType::kF32);
  const NaiveForward naive(model, DType::kF32);
  const auto steps = random_steps(config, {1, 1}, {0}, 3);
  const KeepingSink sink = run_all(*engine, steps);
  for (const auto& [key, tensor] : sink.tensors) {
    INFO(tensor_name(key.id) << " of step " << key.step);
    REQUIRE(judge(naive, DType::kF32, steps, sink, key).ratio <= 1.0);
  }
}

TEST_CASE("all tensors but the unmaterialised ones are handed out, in execution order", "[gpu]") {
  require_gpu();
  const ModelConfig config = gpu_configs().front();
  RandomModel model(config, DType::kBF16, 3);
  const auto engine = gpu_engine(model, DType::kBF16);
  std::vector<TensorId> expected;
  for (const TensorId& id : all_tensors(config, true)) {
    const bool cache = id.op == Op::kKCache || id.op == Op::kVCache;
    if (cache || !row(id.op).optional) expected.push_back(id);
  }
  for (const std::int64_t length : {1, 4}) {
    const KeepingSink sink = run_all(*engine, random_steps(config, {length}, {0}, 1));
    REQUIRE(sink.order == expected);
    for (const auto& [key, tensor] : sink.tensors) {
      INFO(tensor_name(key.id));
      REQUIRE(tensor.dtype() == DType::kBF16);
      REQUIRE(tensor.shape() == output_shape(key.id.op, config, 1, length, length));
    }
  }
}

TEST_CASE("greedy decoding on the device follows the likeliest token of each step", "[gpu]") {
  require_gpu();
  constexpr int kTokens = 6;
  const ModelConfig config = gpu_configs()[1];
  RandomModel model(config, DType::kF32, 5);
  EngineParts parts(load_device_model(model, {.dtype = DType::kBF16}));
  const std::vector<std::int64_t> pads =
      GENERATE(std::vector<std::int64_t>{0, 2}, std::vector<std::int64_t>{0, 2, 0, 0, 1});
  const std::vector<Step> prompt = random_steps(config, {7}, pads, 3);
  const auto options = [&] {
    SessionOptions o = session_options(prompt);
    o.capacity += kTokens;
    return o;
  }();
  const auto likeliest = [&](const TensorView& logits) {
    std::vector<std::vector<std::int32_t>> tokens;
    const Values values = to_doubles(logits);
    for (std::int64_t b = 0; b < logits.shape[0]; ++b) {
      const auto* last = values.data() + ((b + 1) * logits.shape[1] - 1) * config.vocab;
      tokens.push_back({static_cast<std::int32_t>(std::max_element(last, last + config.vocab) - last)});
    }
    return tokens;
  };
  const auto next_step = [&](const Step& before, const std::vector<std::vector<std::int32_t>>& tokens) {
    Step step{.index = before.index + 1,
              .phase = Phase::kDecode,
              .tokens = tokens,
              .past_length = before.valid_length(),
              .positions = {},
              .left_padding = before.left_padding};
    set_default_positions(step);
    return step;
  };

  CudaSession by_steps(parts, options, nullptr);
  Step step = prompt[0];
  auto tokens = likeliest(by_steps.run_step(step, nullptr));
  for (int i = 0; i < kTokens; ++i) {
    step = next_step(step, tokens);
    tokens = likeliest(by_steps.run_step(step, nullptr));
  }
  CudaSession on_device(parts, options, nullptr);
  const auto first = next_step(prompt[0], likeliest(on_device.run_step(prompt[0], nullptr)));
  REQUIRE(on_device.decode_greedily(first, kTokens).size() == kTokens);
  const std::vector<std::int32_t> last = on_device.last_tokens();
  for (std::size_t b = 0; b < last.size(); ++b) REQUIRE(last[b] == tokens[b][0]);
}

TEST_CASE("greedy decoding hands out what single steps hand out, and goes the same way untapped", "[gpu]") {
  require_gpu();
  constexpr int kTokens = 7;
  const std::vector<std::int64_t> pads =
      GENERATE(std::vector<std::int64_t>{0, 2}, std::vector<std::int64_t>{0, 2, 0, 0, 1});
  for (const ModelConfig& config : {gpu_configs()[1], gpu_configs()[2]}) {
    const RandomModel model(config, DType::kF32, 5);
    EngineParts parts(load_device_model(model, {.dtype = DType::kBF16}));
    std::vector<Step> steps = random_steps(config, {70, 1}, pads, 3);
    SessionOptions options = session_options(steps);
    options.capacity += kTokens;
    CudaSession untapped(parts, options, nullptr);
    CudaSession tapped(parts, options, nullptr);
    CudaSession by_steps(parts, options, nullptr);
    for (CudaSession* session : {&untapped, &tapped, &by_steps}) session->run_step(steps[0], nullptr);
    untapped.decode_greedily(steps[1], kTokens);
    KeepingSink sinks[kTokens];
    tapped.decode_greedily(steps[1], kTokens, [&](int i) { return &sinks[i]; });
    REQUIRE(tapped.last_tokens() == untapped.last_tokens());
    Step step = steps[1];
    for (int i = 0; i < kTokens; ++i) {
      KeepingSink expected;
      const TensorView logits = by_steps.run_step(step, &expected);
      const Values values = to_doubles(logits);
      step.index += 1;
      step.past_length += 1;
      for (std::size_t b = 0; b < step.tokens.size(); ++b) {
        const auto* row = values.data() + static_cast<std::int64_t>(b) * config.vocab;
        step.tokens[b] = {static_cast<std::int32_t>(std::max_element(row, row + config.vocab) - row)};
        step.positions[b][0] += 1;
      }
      std::size_t caches = 0;
      for (const auto& [key, tensor] : expected.tensors) {
        if (key.id.op == Op::kKCache || key.id.op == Op::kVCache) {
          ++caches;
          continue;
        }
        INFO("step " << i << ", " << tensor_name(key.id));
        REQUIRE(std::ranges::equal(tensor.bytes(), sinks[i].tensors.at(key).bytes()));
      }
      REQUIRE(sinks[i].tensors.size() + caches == expected.tensors.size());
    }
  }
}

TEST_CASE("what does not fit is refused with the numbers that do not fit", "[gpu]") {
  require_gpu();
  const ModelConfig config = gpu_configs().front();
  RandomModel model(config, DType::kBF16, 3);
  const auto engine = gpu_engine(model, DType::kBF16);
  const auto steps = random_steps(config, {4, 1}, {0}, 1);
  const auto session = engine->open(session_options(steps));
  REQUIRE_THROWS_WITH(session->run_step(steps[1], nullptr), ContainsSubstring("holds 0 slots"));
  Step step = steps[0];
  step.tokens[0][1] = static_cast<std::int32_t>(config.vocab);
  REQUIRE_THROWS_WITH(session->run_step(step, nullptr), ContainsSubstring("not in [0, 101)"));
  step = steps[0];
  step.left_padding = {1};
  REQUIRE_THROWS_WITH(session->run_step(step, nullptr), ContainsSubstring("left_padding"));
  const Tensor wrong(DType::kF32, {1, 4, config.hidden});
  REQUIRE_THROWS_WITH(session->run_layer(0, steps[0], wrong.view(), nullptr), ContainsSubstring("bfloat16 [1, 4, 96]"));
  REQUIRE_THROWS_AS(engine->open({.batch = 1, .capacity = 0, .left_padding = {0}, .poison = Poison::kNaN}), InputError);
  REQUIRE_THROWS_AS(gpu_engine(model, DType::kF64), InputError);
  REQUIRE_THROWS_AS(engine->plant({.id = FaultId::kSumFp16}), InputError);  // which this engine does not plant
  RandomModel odd(small_config(6, 3, 20, 90, 77, true), DType::kBF16, 3);
  REQUIRE_THROWS_WITH(gpu_engine(odd, DType::kBF16), ContainsSubstring("head dims"));
}

}  // namespace
}  // namespace qdiff::optimized::cuda
