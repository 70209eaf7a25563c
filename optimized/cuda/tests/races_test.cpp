// Races: the same inputs several times over, and every bit of every tensor compared. A planted missing barrier and a
// planted missing wait are found so, at the tensor that they spoil; the right code, paused at the same places, is not.
#include "optimized/cuda/session.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

constexpr int kRuns = 12;

// Several splits of keys, ragged rows, and decode steps in the captured graph.
std::vector<Step> steps_of(const ModelConfig& config) { return random_steps(config, {300, 1, 1, 1}, {0, 40}, 3); }

KeepingSink run_once(EngineParts& parts, const std::vector<Step>& steps,
                     const std::shared_ptr<const PlantedFault>& fault) {
  CudaSession session(parts, session_options(steps), fault);
  KeepingSink sink;
  for (const Step& step : steps) {
    sink.step = step.index;
    session.run_step(step, &sink);
  }
  return sink;
}

// The first tensor in execution order whose bits differ between two of the runs; none: all runs agree.
std::optional<TensorKey> first_unstable(EngineParts& parts, Race race) {
  const std::vector<Step> steps = steps_of(parts.model.config);
  std::shared_ptr<const PlantedFault> fault;
  if (race != Race::kNone) fault = std::make_shared<const PlantedFault>(race);
  const KeepingSink expected = run_once(parts, steps, fault);
  std::optional<TensorKey> first;
  for (int run = 1; run < kRuns; ++run) {
    const KeepingSink again = run_once(parts, steps, fault);
    REQUIRE(again.tensors.size() == expected.tensors.size());
    for (const auto& [key, tensor] : expected.tensors) {
      if (std::ranges::equal(tensor.bytes(), again.tensors.at(key).bytes())) continue;
      if (!first || key < *first) first = key;
      break;
    }
  }
  return first;
}

std::string text_of(const std::optional<TensorKey>& key) {
  return key ? tensor_name(key->id) + " of step " + std::to_string(key->step) : "all bits equal";
}

void check(const std::string& what, Race race, std::optional<Op> expected) {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const ModelConfig& config : {gpu_configs()[2], gpu_configs()[3]}) {
      const RandomModel model(config, DType::kF32, 5);
      EngineParts parts(load_device_model(model, {.dtype = dtype}));
      const std::optional<TensorKey> first = first_unstable(parts, race);
      INFO(to_string(config) << ", " << name(dtype) << ": first different in " << kRuns << " runs: " << text_of(first));
      std::printf("%s, %s, head dim %d: first different: %s\n", what.c_str(), std::string(name(dtype)).c_str(),
                  static_cast<int>(config.head_dim), text_of(first).c_str());
      REQUIRE(first.has_value() == expected.has_value());
      if (!expected) continue;
      CHECK(first->id.op == *expected);
      CHECK(first->id.layer == 0);
      CHECK(first->step == 1);  // the first decode step
    }
  }
}

TEST_CASE("repeated runs of the right code agree in every bit", "[gpu][races]") {
  check("right code", Race::kNone, std::nullopt);
}
TEST_CASE("pauses alone change no bit", "[gpu][races]") { check("delays", Race::kDelays, std::nullopt); }
TEST_CASE("a missing barrier is found by repeated runs", "[gpu][races]") {
  check("missing barrier", Race::kMissingBarrier, Op::kAttnOutput);
}
TEST_CASE("a missing wait for the kernel in front is found by repeated runs", "[gpu][races]") {
  check("missing wait", Race::kMissingWait, Op::kOProj);
}

}  // namespace
}  // namespace qdiff::optimized::cuda
