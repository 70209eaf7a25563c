// What the judge can see: engines that are wrong by a small, known dose in one place, everything else honest. Each
// experiment replays the wrong tensor against the reference and demands a divergence there, beside the same tensor of
// the honest engine, which must match.
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "cmake/catch2.h"
#include "harness/calibration/measure.h"
#include "harness/calibration/twin.h"
#include "harness/contract/tests/small_model.h"
#include "reference/reference.h"

namespace qdiff::calibration {
namespace {

using compare::Judgement;
using compare::Outcome;
using P = RoundingPoint;

// The attention shape of Qwen2.5-0.5B with a small MLP: hidden 896 = 14 heads of 64, 65 tokens.
Scenario experiment(DType dtype) {
  Scenario s;
  s.seed = 11;
  s.config = testing::small_config(14, 2, 64, 896, 40, false, 90);
  s.config.num_layers = 1;
  s.config.dtype = dtype;
  Step step;
  step.left_padding = {0};
  step.tokens.resize(1);
  for (std::int32_t t = 0; t < 65; ++t) step.tokens[0].push_back(t);
  set_default_positions(step);
  s.steps = {step};
  s.precision = plain_precision(dtype);
  s.profile.tiny_rows = true;
  for (const OperationRow& r : kOperationTable) {
    if (r.optional) s.recorded[r.op] = false;
  }
  s.residual = s.scores = s.before_bias = dtype;
  return s;
}

using Mistake = std::function<void(Scenario&)>;

// An engine that computes something else than `declared` says, judged by what it declares.
Judgement judge_engine(const Scenario& declared, const Scenario& computed, Op op) {
  const ScenarioWeights weights(declared);
  const trace::Recording store = run_twin(computed, ScenarioWeights(computed));
  const std::unique_ptr<Oracle> oracle = reference::make_oracle(weights, {.num_threads = 1});
  const int layer = row(op).scope == Scope::kLayer ? 0 : kNoLayer;
  return replay({0, {op, layer}}, declared, store, *oracle).judgement;
}

void check_doses(Op op, const std::vector<Mistake>& mistakes) {
  for (const DType dtype : kStoredTypes) {
    const Scenario declared = experiment(dtype);
    const Judgement honest = judge_engine(declared, declared, op);
    INFO(name(dtype) << ", honest: " << honest.reason);
    CHECK(honest.outcome == Outcome::kMatch);
    for (std::size_t i = 0; i < mistakes.size(); ++i) {
      Scenario wrong = declared;
      mistakes[i](wrong);
      const Judgement found = judge_engine(declared, wrong, op);
      INFO("mistake " << i << ": " << found.reason);
      CHECK(found.outcome == Outcome::kDiverged);
    }
  }
}

Mistake undeclared(P point, DType dtype) {
  return [=](Scenario& s) { s.precision.points[point] = dtype; };
}

TEST_CASE("RMSNorm: eps off by one per cent shows in rows of tiny norm", "[experiments]") {
  const auto eps = [](double value) { return [=](Scenario& s) { s.config.rms_norm_eps = value; }; };
  check_doses(Op::kInputLayernorm, {eps(1.01e-6), eps(1.1e-6), eps(1e-5)});
}

TEST_CASE("RoPE: theta off by a ten-thousandth, a position off by one, an undeclared table", "[experiments]") {
  const auto theta = [](double factor) { return [=](Scenario& s) { s.config.rope_theta *= factor; }; };
  const Mistake next_position = [](Scenario& s) {
    for (auto& position : s.steps[0].positions[0]) ++position;
  };
  check_doses(Op::kQRope, {theta(1.0001), theta(1.001), next_position, undeclared(P::kRopeTable, DType::kBF16)});
}

TEST_CASE("attention: scale off by a thousandth, undeclared rounding of scores and probabilities", "[experiments]") {
  check_doses(Op::kAttnOutput,
              {[](Scenario& s) { s.score_scale = 1.001; }, undeclared(P::kAttentionProbs, DType::kBF16),
               undeclared(P::kAttentionScores, DType::kBF16), undeclared(P::kAttentionScores, DType::kF16)});
}

TEST_CASE("an undeclared rounding before the bias, the weight or the product", "[experiments]") {
  check_doses(Op::kQProj, {undeclared(P::kMatmulBeforeBias, DType::kBF16)});
  check_doses(Op::kNorm, {undeclared(P::kRmsNormNormalized, DType::kBF16)});
  check_doses(Op::kAct, {undeclared(P::kMlpSilu, DType::kBF16)});
}

// ---- Mistakes that no declaration can express: the recorded tensor is made wrong
// -------------------------------------

// o_proj's output replaced by one that `product` computes from the twin's own input row and a row of the weight.
Judgement judge_projection(DType dtype,
                           const std::function<double(std::span<const float>, std::span<const float>)>& product) {
  const Scenario s = experiment(dtype);
  const ScenarioWeights weights(s);
  trace::Recording store = run_twin(s, weights);
  const TensorKey input{0, {Op::kAttnOutput, 0}}, output{0, {Op::kOProj, 0}};
  const std::vector<double> wide = to_doubles(store.get(input));
  const std::vector<float> x(wide.begin(), wide.end());
  const std::vector<float> w = weights.values(weight_name(output.id, 0, s.config));
  const auto k = static_cast<std::size_t>(s.config.q_width());
  const std::size_t tokens = x.size() / k, outputs = w.size() / k;
  std::vector<double> y;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t o = 0; o < outputs; ++o) y.push_back(product({x.data() + t * k, k}, {w.data() + o * k, k}));
  }
  const Shape shape = store.get(output).shape;
  store.erase(output);
  store.put(output, Tensor::rounded(dtype, shape, y));
  const std::unique_ptr<Oracle> oracle = reference::make_oracle(weights, {.num_threads = 1});
  return replay(output, s, store, *oracle).judgement;
}

TEST_CASE("GEMM: exact products match; the last of 896 dropped, or sums in bfloat16, do not", "[experiments]") {
  for (const DType dtype : kStoredTypes) {
    const auto exact = [](std::span<const float> a, std::span<const float> b) {
      double sum = 0.0;
      for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      return sum;
    };
    CHECK(judge_projection(dtype, exact).outcome == Outcome::kMatch);
    const auto dropped = [&](std::span<const float> a, std::span<const float> b) {
      return exact(a.first(a.size() - 1), b.first(b.size() - 1));
    };
    CHECK(judge_projection(dtype, dropped).outcome == Outcome::kDiverged);
    const auto in_bf16 = [](std::span<const float> a, std::span<const float> b) {
      float sum = 0.0F;
      for (std::size_t i = 0; i < a.size(); ++i) sum = bf16_to_float(float_to_bf16(sum + a[i] * b[i]));
      return static_cast<double>(sum);
    };
    CHECK(judge_projection(dtype, in_bf16).outcome == Outcome::kDiverged);
    const auto scaled = [&](std::span<const float> a, std::span<const float> b) { return 1.001 * exact(a, b); };
    CHECK(judge_projection(dtype, scaled).outcome == Outcome::kDiverged);
  }
}

TEST_CASE("a k bias rounded to bfloat16 in a float32 engine", "[experiments]") {
  const Scenario s = experiment(DType::kF32);
  const ScenarioWeights weights(s);
  trace::Recording store = run_twin(s, weights);
  const TensorKey key{0, {Op::kKProj, 0}};
  const std::unique_ptr<Oracle> oracle = reference::make_oracle(weights, {.num_threads = 1});
  CHECK(replay(key, s, store, *oracle).judgement.outcome == Outcome::kMatch);
  std::vector<double> values = to_doubles(store.get(key));
  const std::vector<float> bias = weights.values(weight_name(key.id, 0, s.config));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float b = bias[i % bias.size()];
    values[i] += static_cast<double>(bf16_to_float(float_to_bf16(b)) - b);
  }
  const Shape shape = store.get(key).shape;
  store.erase(key);
  store.put(key, Tensor::rounded(DType::kF32, shape, values));
  CHECK(replay(key, s, store, *oracle).judgement.outcome == Outcome::kDiverged);
}

// In each of these an element between far larger ones, behind a softmax over large biases, was called wrong once.
TEST_CASE("honest twins of few tensors are not accused in their small elements", "[calibration]") {
  for (const auto& [seed, dtype] :
       {std::pair{5000089, DType::kBF16}, std::pair{5000107, DType::kBF16}, std::pair{5000154, DType::kBF16},
        std::pair{5000168, DType::kBF16}, std::pair{5000073, DType::kF16}}) {
    Measurement measurement;
    measure(draw_scenario(static_cast<std::uint64_t>(seed), dtype, Size::kFull), measurement);
    INFO("seed " << seed);
    CHECK(measurement.judged > 0);
    CHECK(measurement.alarms.empty());
  }
}

TEST_CASE("two measurements together keep the worse of each", "[calibration]") {
  Measurement both, first, second;
  measure(draw_scenario(5, DType::kBF16, Size::kQuick), first);
  measure(draw_scenario(6, DType::kF32, Size::kQuick), second);
  measure(draw_scenario(5, DType::kBF16, Size::kQuick), both);
  measure(draw_scenario(6, DType::kF32, Size::kQuick), both);
  Measurement merged;
  merge(second, merged);
  merge(first, merged);
  CHECK(merged.runs == 2);
  CHECK(merged.judged == both.judged);
  CHECK(bounds_table(merged, "command", "date") == bounds_table(both, "command", "date"));
}

TEST_CASE("a scenario follows from its seed, and so does all that a twin computes", "[calibration]") {
  const Scenario first = draw_scenario(5, DType::kBF16, Size::kQuick),
                 again = draw_scenario(5, DType::kBF16, Size::kQuick);
  CHECK(to_string(first) == to_string(again));
  const trace::Recording a = run_twin(first, ScenarioWeights(first)), b = run_twin(again, ScenarioWeights(again));
  REQUIRE(a.keys() == b.keys());
  for (const TensorKey& key : a.keys()) {
    const TensorView ours = a.get(key), theirs = b.get(key);
    CHECK(std::memcmp(ours.data, theirs.data, ours.bytes()) == 0);
  }
  CHECK(to_string(draw_scenario(6, DType::kBF16, Size::kQuick)) != to_string(first));
}

}  // namespace
}  // namespace qdiff::calibration
