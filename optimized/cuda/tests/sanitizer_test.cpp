// What compute-sanitizer watches (scripts/gpu-check.sh): every kernel once, on shapes so small that a tool that slows
// them a hundredfold ends in time. What comes out is checked elsewhere; here it only has to be numbers.
#include "optimized/cuda/session.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

void run_everything(const ModelConfig& config, DType dtype) {
  constexpr int kTokens = 4;
  const RandomModel model(config, DType::kF32, 5);
  EngineParts parts(load_device_model(model, {.dtype = dtype}));
  // Two chunks, the second beyond a tile of attention; ragged rows; decode in a captured graph, tapped and untapped;
  // then greedy, with two arenas in turn.
  const std::vector<Step> steps = random_steps(config, {70, 70, 1, 1, 1}, {0, 3, 90}, 7);
  SessionOptions options = session_options(steps);
  options.capacity += kTokens;
  CudaSession session(parts, options, nullptr);
  KeepingSink sink;
  for (const Step& step : steps) {
    sink.step = step.index;
    const TensorView logits = session.run_step(step, step.index % 2 == 0 ? &sink : nullptr);
    for (const double value : to_doubles(logits)) REQUIRE((step.past_length < 90 || std::isfinite(value)));
  }
  Step next = steps.back();
  next.index += 1;
  next.past_length += 1;
  for (auto& row : next.positions) ++row[0];
  KeepingSink sinks[kTokens];
  REQUIRE(session.decode_greedily(next, kTokens, [&](int i) { return &sinks[i]; }).size() == kTokens);
  REQUIRE(!sink.tensors.empty());
}

// More rows than the matrix-vector kernels take: launches first, then the graph of them.
void run_large_batch(const ModelConfig& config, DType dtype) {
  const RandomModel model(config, DType::kF32, 5);
  EngineParts parts(load_device_model(model, {.dtype = dtype}));
  const std::vector<Step> steps = random_steps(config, {5, 1, 1, 1}, {0, 3, 0, 1, 0, 2}, 7);
  CudaSession session(parts, session_options(steps), nullptr);
  for (const Step& step : steps) {
    for (const double value : to_doubles(session.run_step(step, nullptr))) REQUIRE(std::isfinite(value));
  }
}

// Matrices that take the place of others, tapped and untapped, in each class of kernels.
void run_in_turns(const ModelConfig& config, DType dtype) {
  const RandomModel model(config, DType::kF32, 5);
  const auto room = static_cast<std::int64_t>(weight_bytes(config, dtype, 0));
  EngineParts parts(load_device_model(model, {.dtype = dtype, .max_resident_bytes = room}));
  REQUIRE_FALSE(parts.model.all_resident());
  for (const std::vector<std::int64_t>& pads : {std::vector<std::int64_t>{0, 3}, {0, 3, 0, 1, 0, 2}}) {
    const std::vector<Step> steps = random_steps(config, {5, 5, 1, 1}, pads, 7);
    CudaSession session(parts, session_options(steps), nullptr);
    KeepingSink sink;
    for (const Step& step : steps) {
      sink.step = step.index;
      const TensorView logits = session.run_step(step, step.index % 2 == 0 ? &sink : nullptr);
      for (const double value : to_doubles(logits)) REQUIRE(std::isfinite(value));
    }
  }
}

void run_head_dim(std::size_t config) {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    run_everything(gpu_configs()[config], dtype);
    run_large_batch(gpu_configs()[config], dtype);
  }
}

TEST_CASE("head dim 32 under a sanitizer", "[gpu][sanitizer]") { run_head_dim(0); }
TEST_CASE("head dim 64 under a sanitizer", "[gpu][sanitizer]") { run_head_dim(1); }
TEST_CASE("head dim 128 under a sanitizer", "[gpu][sanitizer]") { run_head_dim(3); }
TEST_CASE("layers that take turns under a sanitizer", "[gpu][sanitizer][turns]") {
  require_gpu();
  run_in_turns(gpu_configs()[0], DType::kBF16);
}
TEST_CASE("float32 under a sanitizer", "[gpu][sanitizer]") {
  require_gpu();
  run_everything(gpu_configs()[0], DType::kF32);
}

}  // namespace
}  // namespace qdiff::optimized::cuda
