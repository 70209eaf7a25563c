// The engine against a naive forward pass in double: every tensor that it hands out.
#include "optimized/cpu/engine.h"

#include <cmath>

#include "cmake/catch2.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/tests/naive_forward.h"
#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::KeepingSink;
using testing::Naive;
using testing::NaiveForward;
using testing::RandomModel;
using testing::Values;

// Whether element e of a tensor belongs to a token or a cache slot that counts.
bool counts(const TensorKey& key, const Tensor& tensor, std::int64_t e, const Step& step) {
  const std::int64_t inner = tensor.size() / (tensor.shape()[0] * tensor.shape()[1]);
  const std::int64_t b = e / inner / tensor.shape()[1];
  const std::int64_t t = e / inner % tensor.shape()[1];
  const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
  return (cache ? t : step.past_length + t) >= step.left_padding[static_cast<std::size_t>(b)];
}

struct Worst {
  double ratio = 0.0;  // of error to bound
  std::string tensor;
  std::int64_t compared = 0;
};

// Each tensor from the engine's own recorded inputs. The error may be half a unit in the last place for the cast, a
// little more where the sum fell on the other side of a tie, and 4 * 2^-24 of the summed magnitudes: 16-lane sums of
// some hundred terms stay below half of that.
Worst replay(RandomModel& model, DType dtype, const std::vector<Step>& steps, const KeepingSink& sink) {
  const NaiveForward naive(model, dtype);
  const auto get = [&](const TensorKey& key) { return to_doubles(sink.tensors.at(key).view()); };
  Worst worst;
  for (const auto& [key, tensor] : sink.tensors) {
    const Step& step = steps[static_cast<std::size_t>(key.step)];
    const Naive expected = naive.evaluate(key, steps, get);
    REQUIRE(static_cast<std::int64_t>(expected.value.size()) == tensor.size());
    for (std::int64_t e = 0; e < tensor.size(); ++e) {
      if (!counts(key, tensor, e, step)) continue;
      const auto i = static_cast<std::size_t>(e);
      const double bound = 0.5 * spacing(dtype, expected.value[i]) + 4.0 * 0x1p-24 * expected.magnitude[i] + 1e-300;
      const double ratio = std::fabs(tensor.at(e) - expected.value[i]) / bound;
      ++worst.compared;
      if (!(ratio <= worst.ratio)) {
        worst.ratio = ratio;
        worst.tensor = tensor_name(key.id) + " of step " + std::to_string(key.step) + ", element " + std::to_string(e);
      }
    }
  }
  return worst;
}

TEST_CASE("every tensor is what double arithmetic makes of the engine's own inputs", "[cpu]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      std::uint64_t seed = 1;
      for (const ModelConfig& config : testing::small_configs()) {
        ++seed;
        // The other instruction sets share all but the inner loops: a type and two shapes are enough for them.
        if (kernels != &best_kernel_set() && (dtype != DType::kBF16 || seed % 2 == 0)) continue;
        RandomModel model(config, DType::kF32, seed);
        const auto engine = make_engine(model, {.dtype = dtype, .num_threads = 2}, *kernels);
        // 70 and more slots: two key tiles; a ragged batch, and 1, 2, 5 and many tokens.
        const auto steps = testing::random_steps(config, {70, 1, 5, 2, 1}, {0, 3, 68}, seed);
        const KeepingSink sink = testing::run_all(*engine, steps);
        const Worst worst = replay(model, dtype, steps, sink);
        INFO(kernels->name << ", " << to_string(config) << ", " << name(dtype) << ": " << worst.tensor);
        CHECK(worst.compared > 100000);
        CHECK(worst.ratio <= 1.0);
        CHECK(worst.ratio > 0.5);  // a bound that nothing comes near would prove nothing
      }
    }
  }
}

TEST_CASE("all tensors but the unmaterialised ones are handed out, in execution order", "[cpu]") {
  const ModelConfig config = testing::small_configs().front();
  RandomModel model(config, DType::kBF16, 3);
  const auto engine = make_engine(model, {.dtype = DType::kBF16});
  const KeepingSink sink = testing::run_all(*engine, testing::random_steps(config, {4}, {0}, 1));
  std::vector<TensorId> expected;
  for (const TensorId& id : all_tensors(config, true)) {
    const bool cache = id.op == Op::kKCache || id.op == Op::kVCache;
    if (cache || !row(id.op).optional) expected.push_back(id);
  }
  CHECK(sink.order == expected);
  for (const auto& [key, tensor] : sink.tensors) {
    INFO(tensor_name(key.id));
    CHECK(tensor.dtype() == DType::kBF16);
    CHECK(tensor.shape() == output_shape(key.id.op, config, 1, 4, 4));
  }
}

TEST_CASE("a free run in float32 follows the double one", "[cpu]") {
  for (const ModelConfig& config : testing::small_configs()) {
    RandomModel model(config, DType::kF32, 11);
    const auto engine = make_engine(model, {.dtype = DType::kF32});
    const auto steps = testing::random_steps(config, {9, 1, 1}, {0, 2}, 5);
    const KeepingSink sink = testing::run_all(*engine, steps);
    const NaiveForward naive(model, DType::kF32);
    std::map<TensorKey, Values> own;
    const auto get = [&](const TensorKey& key) { return own.at(key); };
    for (const auto& [key, tensor] : sink.tensors) {  // in execution order
      own[key] = naive.evaluate(key, steps, get).value;
      double error = 0.0;
      double norm = 0.0;
      for (std::int64_t e = 0; e < tensor.size(); ++e) {
        if (!counts(key, tensor, e, steps[static_cast<std::size_t>(key.step)])) continue;
        const double expected = own[key][static_cast<std::size_t>(e)];
        error += (tensor.at(e) - expected) * (tensor.at(e) - expected);
        norm += expected * expected;
      }
      INFO(to_string(config) << ": " << tensor_name(key.id) << " of step " << key.step);
      CHECK(std::sqrt(error) <= 2e-6 * std::sqrt(norm));
      CHECK(norm > 0.0);
    }
  }
}

}  // namespace
}  // namespace qdiff::optimized::cpu
