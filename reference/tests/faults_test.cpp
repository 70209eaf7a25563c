// Each fault of the catalogue does what its line says, read off inputs small enough to check by hand.
#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

bool close(double a, double b) { return std::fabs(a - b) <= 1e-12 * std::fabs(b); }

using HeadMap = std::vector<std::int64_t>;

const Precision kFloat64 = {
    .weights = DType::kF64, .activations = DType::kF64, .accumulate = DType::kF64, .points = {}, .taken_as = {}};

Tensor filled(const Shape& shape, std::uint64_t seed) {
  std::vector<double> values(static_cast<std::size_t>(num_elements(shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = random_normal(seed, i);
  return Tensor::rounded(DType::kF64, shape, values);
}

// With one slot visible the softmax is 1 there, so a head's output is the v of the key/value head that it reads.
HeadMap head_map(std::int64_t q_heads, std::int64_t kv_heads, Phase phase, const Variant* variant) {
  ModelConfig config = small_config();
  config.num_q_heads = q_heads;
  config.num_kv_heads = kv_heads;
  const ModelInMemory model(config, DType::kF32, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  auto steps = random_steps(config, {1}, {0}, 1);
  steps[0].phase = phase;
  Recording recorded;
  const Tensor v = filled({1, 1, kv_heads, config.head_dim}, 9);
  recorded.put({0, {Op::kQRope, 0}}, filled({1, 1, q_heads, config.head_dim}, 7));
  recorded.put({0, {Op::kKCache, 0}}, filled({1, 1, kv_heads, config.head_dim}, 8));
  recorded.put({0, {Op::kVCache, 0}}, v);
  // The span of a fused engine, which records neither scores nor probs.
  const std::vector<TensorKey> span = {{0, {Op::kScores, 0}}, {0, {Op::kProbs, 0}}, {0, {Op::kAttnOutput, 0}}};
  const Expectation e = oracle->evaluate({.operations = span,
                                          .recorded = recorded,
                                          .steps = steps,
                                          .precision = kFloat64,
                                          .stored = DType::kF64,
                                          .variant = variant});
  HeadMap map;
  for (std::int64_t head = 0; head < q_heads; ++head) {
    for (std::int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      bool same = true;
      for (std::int64_t i = 0; i < config.head_dim; ++i) {
        const double expected = v.at(kv_head * config.head_dim + i);
        same &= std::fabs(e.value[static_cast<std::size_t>(head * config.head_dim + i)] - expected) <= 1e-14;
      }
      if (same) map.push_back(kv_head);
    }
  }
  return map;
}

TEST_CASE("H05 variants read the key/value heads that they say", "[faults]") {
  auto map = [](FaultId id, std::optional<double> value = {}, Phase phase = Phase::kPrefill) {
    const Variant variant{id, value};
    return head_map(6, 2, phase, &variant);
  };
  CHECK(head_map(6, 2, Phase::kPrefill, nullptr) == HeadMap{0, 0, 0, 1, 1, 1});
  CHECK(map(FaultId::kModulo) == HeadMap{0, 1, 0, 1, 0, 1});
  CHECK(map(FaultId::kDivideByKv) == HeadMap{0, 0, 1, 1, 1, 1});
  CHECK(map(FaultId::kGroupOffByOne) == HeadMap{0, 0, 0, 0, 1, 1});
  CHECK(map(FaultId::kGroupOffByOne, -1.0) == HeadMap{0, 0, 1, 1, 1, 1});
  CHECK(map(FaultId::kHeadZero) == HeadMap{0, 0, 0, 0, 0, 0});
  CHECK(map(FaultId::kPrefillOnly) == HeadMap{0, 1, 0, 1, 0, 1});
  CHECK(map(FaultId::kPrefillOnly, {}, Phase::kDecode) == HeadMap{0, 0, 0, 1, 1, 1});
  CHECK(map(FaultId::kDecodeOnly) == HeadMap{0, 0, 0, 1, 1, 1});
  CHECK(map(FaultId::kDecodeOnly, {}, Phase::kDecode) == HeadMap{0, 1, 0, 1, 0, 1});
  const Variant divide{FaultId::kDivideByKv, std::nullopt};
  CHECK(head_map(9, 3, Phase::kPrefill, &divide) == HeadMap{0, 0, 0, 1, 1, 1, 2, 2, 2});  // 9/3 = 3: it cannot be seen
}

// The target under `variant` and without it, from recorded inputs filled at random.
struct Pair {
  std::vector<double> wrong, right;
};
Pair evaluate_both(Op op, const Variant& variant, const ModelConfig& config, const std::vector<Step>& steps,
                   const std::vector<std::pair<Op, Tensor>>& inputs) {
  const ModelInMemory model(config, DType::kF32, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  Recording recorded;
  for (const auto& [input, tensor] : inputs) {
    recorded.put({0, {input, row(input).scope == Scope::kLayer ? 0 : kNoLayer}}, tensor);
  }
  const std::vector<TensorKey> operations = {{0, {op, 0}}};
  auto run = [&](const Variant* v) {
    return oracle
        ->evaluate({.operations = operations,
                    .recorded = recorded,
                    .steps = steps,
                    .precision = kFloat64,
                    .stored = DType::kF64,
                    .variant = v})
        .value;
  };
  return {run(&variant), run(nullptr)};
}

TEST_CASE("H09.eps is the epsilon in the square root", "[faults]") {
  const ModelConfig config = small_config();
  const auto steps = random_steps(config, {1}, {0}, 1);
  const Tensor x = filled({1, 1, config.hidden}, 3);
  const Pair pair = evaluate_both(Op::kInputLayernorm, {FaultId::kEps, 2.0}, config, steps, {{Op::kEmbedTokens, x}});
  double mean_square = 0.0;
  for (double value : to_doubles(x.view())) mean_square += value * value / static_cast<double>(config.hidden);
  const double factor = std::sqrt((mean_square + 1e-6) / (mean_square + 2.0));
  for (std::size_t i = 0; i < pair.right.size(); ++i) CHECK(close(pair.wrong[i], pair.right[i] * factor));
}

TEST_CASE("H03.theta leaves position 0 and dimension 0 exact", "[faults]") {
  const ModelConfig config = small_config();
  const auto steps = random_steps(config, {3}, {0}, 1);
  const Tensor q = filled({1, 3, config.q_width()}, 3);
  const Pair pair = evaluate_both(Op::kQRope, {FaultId::kTheta, 1e6}, config, steps, {{Op::kQProj, q}});
  const auto d = static_cast<std::size_t>(config.head_dim);
  for (std::size_t i = 0; i < pair.right.size(); ++i) {
    const std::size_t token = i / static_cast<std::size_t>(config.q_width());
    if (token == 0 || i % (d / 2) == 0) CHECK(pair.wrong[i] == pair.right[i]);
  }
  // Dimension 1 at position 2 turns by 2 * theta^(-2/d).
  const std::size_t at = 2 * static_cast<std::size_t>(config.q_width());
  const double angle = 2.0 * std::pow(1e6, -2.0 / static_cast<double>(d));
  const double expected = q.at(static_cast<std::int64_t>(at + 1)) * std::cos(angle) -
                          q.at(static_cast<std::int64_t>(at + 1 + d / 2)) * std::sin(angle);
  CHECK(close(pair.wrong[at + 1], expected));
  CHECK(pair.wrong[at + 1] != pair.right[at + 1]);
}

TEST_CASE("H02.scale multiplies the scores, H06.bf16 rounds the bias", "[faults]") {
  const ModelConfig config = small_config();
  const auto steps = random_steps(config, {2}, {0}, 1);
  const Pair scores = evaluate_both(Op::kScores, {FaultId::kScale, 1.5}, config, steps,
                                    {{Op::kQRope, filled({1, 2, 6, 32}, 3)}, {Op::kKCache, filled({1, 2, 2, 32}, 4)}});
  for (std::size_t i = 0; i < scores.right.size(); ++i) {
    if (std::isfinite(scores.right[i])) {
      CHECK(close(scores.wrong[i], 1.5 * scores.right[i]));
    } else {
      CHECK(scores.wrong[i] == scores.right[i]);
    }
  }
  const Tensor before = filled({1, 2, config.kv_width()}, 3);
  const Pair biased = evaluate_both(Op::kKProj, {FaultId::kBiasBf16, {}}, config, steps, {{Op::kKProjMatmul, before}});
  const ModelInMemory model(config, DType::kF32, 1);
  const Tensor bias = model.read_all("model.layers.0.self_attn.k_proj.bias");
  for (std::size_t i = 0; i < biased.wrong.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const double b = bias.at(index % config.kv_width());
    CHECK(biased.right[i] == before.at(index) + b);
    CHECK(biased.wrong[i] == before.at(index) + round_to(DType::kBF16, b));
  }
}

TEST_CASE("H09.weight_from_other_layer takes the weight of layer l + value", "[faults]") {
  ModelConfig config = small_config();
  config.num_layers = 5;
  const ModelInMemory model(config, DType::kF32, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(config, {2}, {0}, 1);
  const Tensor stream = filled({1, 2, config.hidden}, 7);
  const auto norm = [&](int layer, std::optional<double> value) {
    Recording recorded;
    recorded.put({0, layer == 0 ? TensorId{Op::kEmbedTokens, kNoLayer} : TensorId{Op::kOutput, layer - 1}}, stream);
    const std::vector<TensorKey> target = {{0, {Op::kInputLayernorm, layer}}};
    const Variant variant{FaultId::kWeightFromOtherLayer, value};
    return oracle
        ->evaluate({.operations = target,
                    .recorded = recorded,
                    .steps = steps,
                    .precision = kFloat64,
                    .stored = DType::kF64,
                    .variant = value ? &variant : nullptr})
        .value;
  };
  CHECK(norm(0, {}) != norm(1, {}));
  CHECK(norm(0, 1.0) == norm(1, {}));
  CHECK(norm(4, 1.0) == norm(0, {}));
  CHECK(norm(0, -1.0) == norm(4, {}));
  CHECK(norm(1, 2.0) == norm(3, {}));
  CHECK(norm(1, -8.0) == norm(3, {}));
}

TEST_CASE("H08.first_token is about the first decode step of the session alone", "[faults]") {
  const ModelInMemory model(small_config(), DType::kF32, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const ModelConfig& config = model.config();
  const auto steps = random_steps(config, {3, 1, 2, 1}, {0}, 1);  // prefill, decode, prefill, decode
  const Variant first{FaultId::kFirstToken, std::nullopt};
  for (int step : {1, 3}) {
    const Step& at = steps[static_cast<std::size_t>(step)];
    Recording recorded;
    for (Op op : {Op::kQRope, Op::kKCache}) {
      recorded.put({step, {op, 0}}, filled(output_shape(op, config, 1, 1, at.valid_length()), 7));
    }
    const std::vector<TensorKey> target = {{step, {Op::kScores, 0}}};
    Query query = {
        .operations = target, .recorded = recorded, .steps = steps, .precision = kFloat64, .stored = DType::kF64};
    const std::vector<double> right = oracle->evaluate(query).value;
    query.variant = &first;
    CHECK((oracle->evaluate(query).value == right) == (step == 3));
  }
}

// o_proj of one token in float16, in place and eight columns at a time. Column 0 comes out halfway between 1 and the
// next number, column 1 at 1.2; columns 8 and 9 are each of these, as stored, less what is there already.
struct OverwrittenRow {
  ModelConfig config = small_config();
  ModelInMemory model{config, DType::kF16, 1};
  Recording recorded;
  std::vector<Step> steps = random_steps(config, {1}, {0}, 1);

  OverwrittenRow() {
    Tensor& weight = model.weight(weight_name({Op::kOProj, 0}, 0, config));
    const std::int64_t width = config.q_width();
    for (std::int64_t i = 0; i < 10 * width; ++i) weight.set(i, 0.0);
    weight.set(0, 1.0);
    weight.set(10, 0x1p-11);
    weight.set(width + 11, 1.2);
    for (const std::int64_t row : {8, 9}) {
      weight.set(row * width + row - 8, 1.0);
      weight.set(row * width + row + 4, -1.0);
    }
    recorded.put({0, {Op::kAttnOutput, 0}},
                 Tensor::rounded(DType::kF16, {1, 1, width}, std::vector<double>(width, 1.0)));
  }

  Expectation expected(FaultId id, std::optional<double> value) {
    const std::vector<TensorKey> operations = {{0, {Op::kOProj, 0}}};
    const Variant variant{id, value};
    return make_oracle(model, {.num_threads = 1})
        ->evaluate({.operations = operations,
                    .recorded = recorded,
                    .steps = steps,
                    .precision = plain_precision(DType::kF16),
                    .stored = DType::kF16,
                    .variant = &variant});
  }
};

// Of two right sums one may lie above the middle and the other below, and then the whole row goes on with another
// number; where that cannot be, nothing of it is expected.
TEST_CASE("what H04.wo_cols stores near the middle between two numbers may be either", "[faults]") {
  OverwrittenRow row;
  const Expectation e = row.expected(FaultId::kWoCols, 8.0);
  constexpr double kSpacing = 0x1p-10;  // of float16 at 1
  CHECK(close(e.value[0], 1.0 + 0.5 * kSpacing));
  CHECK(e.sigma_independent[0] < 0.01 * kSpacing);  // of the sum itself, before it is stored
  CHECK(e.value[8] == 0.0);
  CHECK(e.sigma_independent[8] >= kSpacing);
  CHECK(std::fabs(e.value[9] - 0.2) < kSpacing);
  CHECK(e.sigma_independent[9] < 0.01 * kSpacing);
}

}  // namespace
}  // namespace qdiff::reference
