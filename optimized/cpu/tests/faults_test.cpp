// Planted faults change what they name and nothing before it; bad requests are refused with a message that helps.
#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/fault_table.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/tests/naive_forward.h"
#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::equal;
using testing::KeepingSink;
using testing::Naive;
using testing::NaiveForward;
using testing::RandomModel;

std::unique_ptr<Engine> planted(const WeightSource& model, DType dtype, const Fault& fault) {
  auto engine = make_engine(model, {.dtype = dtype, .num_threads = 2});
  engine->plant(fault);
  return engine;
}

struct HeadMap {
  FaultId id;
  std::function<std::int64_t(std::int64_t h, std::int64_t H, std::int64_t K)> map;
  bool in_prefill = true;
  bool in_decode = true;
  std::optional<double> value = {};
};

const std::vector<HeadMap>& head_maps() {
  const auto modulo = [](std::int64_t h, std::int64_t, std::int64_t K) { return h % K; };
  static const std::vector<HeadMap> kMaps = {
      {FaultId::kModulo, modulo},
      {FaultId::kDecodeOnly, modulo, false, true},
      {FaultId::kPrefillOnly, modulo, true, false},
      {FaultId::kDivideByKv, [](std::int64_t h, std::int64_t, std::int64_t K) { return std::min(h / K, K - 1); }},
      {FaultId::kGroupOffByOne,
       [](std::int64_t h, std::int64_t H, std::int64_t K) { return std::min(h / (H / K + 1), K - 1); }},
      {FaultId::kGroupOffByOne,
       [](std::int64_t h, std::int64_t H, std::int64_t K) { return std::min(h / (H / K - 1), K - 1); }, true, true,
       -1.0},
      {FaultId::kHeadZero, [](std::int64_t, std::int64_t, std::int64_t) { return std::int64_t{0}; }},
  };
  return kMaps;
}

TEST_CASE("each wrong head map reads exactly the head that it names", "[cpu][faults]") {
  for (const ModelConfig& config :
       {testing::small_config(14, 2, 32, 96, 64, true), testing::small_config(12, 3, 64, 80, 64, true)}) {
    RandomModel model(config, DType::kF32, 4);
    const auto steps = testing::random_steps(config, {6, 1, 1}, {0, 2}, 8);
    for (const HeadMap& wrong : head_maps()) {
      const auto engine = planted(model, DType::kF32, {.id = wrong.id, .value = wrong.value, .layer = {}});
      const KeepingSink sink = testing::run_all(*engine, steps);
      const NaiveForward naive(model, DType::kF32);
      const auto get = [&](const TensorKey& key) { return to_doubles(sink.tensors.at(key).view()); };
      std::int64_t expected_executions = 0;
      for (const Step& step : steps) {
        const bool active = step.phase == Phase::kDecode ? wrong.in_decode : wrong.in_prefill;
        const auto map = [&](std::int64_t h) {
          return active ? wrong.map(h, config.num_q_heads, config.num_kv_heads) : h / config.group_size();
        };
        std::int64_t real_tokens = 0;
        for (std::int64_t b = 0; b < 2; ++b) {
          for (std::int64_t t = 0; t < step.num_tokens(); ++t) real_tokens += step.is_pad(b, t) ? 0 : 1;
        }
        for (std::int64_t h = 0; h < config.num_q_heads; ++h) {
          if (map(h) != h / config.group_size()) expected_executions += real_tokens * config.num_layers;
        }
        for (int layer = 0; layer < config.num_layers; ++layer) {
          const TensorKey key{step.index, {Op::kAttnOutput, layer}};
          const Naive right = naive.evaluate(key, steps, get);
          const Naive planted_value = naive.with_head_map(map).evaluate(key, steps, get);
          const Tensor& actual = sink.tensors.at(key);
          for (std::int64_t e = 0; e < actual.size(); ++e) {
            const std::int64_t token = e / config.q_width();
            if (step.is_pad(token / step.num_tokens(), token % step.num_tokens())) continue;
            const auto i = static_cast<std::size_t>(e);
            const bool near = std::fabs(actual.at(e) - planted_value.value[i]) <= 1e-5;
            if (!near) FAIL(name(wrong.id) << ": element " << e << " is " << actual.at(e));
          }
          CHECK((right.value != planted_value.value) == active);
        }
      }
      INFO(name(wrong.id) << " on " << to_string(config));
      CHECK(engine->planted_executions() == expected_executions);
      CHECK(expected_executions > 0);
    }
  }
}

TEST_CASE("h / K is the right map where G equals K, and never runs as a fault there", "[cpu][faults]") {
  const RandomModel model(testing::small_config(9, 3, 32, 80, 64, true), DType::kF32, 4);
  const auto engine = planted(model, DType::kF32, {.id = FaultId::kDivideByKv, .value = {}, .layer = {}});
  testing::run_all(*engine, testing::random_steps(model.config(), {6}, {0}, 8));
  CHECK(engine->planted_executions() == 0);
}

// A planted parameter gives the bits of a clean engine on a model that really has this parameter.
TEST_CASE("planted parameters equal a model that has them", "[cpu][faults]") {
  ModelConfig config = testing::small_configs()[1];
  const auto steps = testing::random_steps(config, {9, 1}, {0, 3}, 8);
  const auto compare = [&](const Fault& fault, const RandomModel& other) {
    const RandomModel model(config, DType::kF32, 6);
    const auto engine = planted(model, DType::kF32, fault);
    const auto clean = make_engine(other, {.dtype = DType::kF32});
    const KeepingSink actual = testing::run_all(*engine, steps);
    const KeepingSink expected = testing::run_all(*clean, steps);
    const KeepingSink without = testing::run_all(*make_engine(model, {.dtype = DType::kF32}), steps);
    INFO(name(fault.id));
    for (const auto& [key, tensor] : actual.tensors) {
      if (key.id.op == Op::kKCache || key.id.op == Op::kVCache) continue;  // pads hold poison: NaN bits compare equal
      CHECK(equal(tensor, expected.tensors.at(key)));
    }
    CHECK_FALSE(equal(actual.at(0, Op::kLmHead), without.at(0, Op::kLmHead)));
    CHECK(engine->planted_executions() > 0);
  };

  ModelConfig other = config;
  other.rope_theta = config.rope_theta * 1.001;
  compare({.id = FaultId::kTheta, .value = other.rope_theta, .layer = {}}, RandomModel(other, DType::kF32, 6));
  other.rope_theta = 1e4;
  compare({.id = FaultId::kTheta, .value = {}, .layer = {}}, RandomModel(other, DType::kF32, 6));
  other = config;
  other.rms_norm_eps = 1e-5;
  compare({.id = FaultId::kEps, .value = {}, .layer = {}}, RandomModel(other, DType::kF32, 6));
  other.rms_norm_eps = 0.0;
  compare({.id = FaultId::kEps, .value = 0.0, .layer = {}}, RandomModel(other, DType::kF32, 6));

  RandomModel rounded(config, DType::kF32, 6);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (Op op : {Op::kQProj, Op::kKProj, Op::kVProj}) {
      Tensor& bias = rounded.tensor(weight_name({op, layer}, 0, config));
      for (std::int64_t i = 0; i < bias.size(); ++i) bias.set(i, round_to(DType::kBF16, bias.at(i)));
    }
  }
  compare({.id = FaultId::kBiasBf16, .value = {}, .layer = {}}, rounded);
}

TEST_CASE("a factor on the softmax scale is a factor on q", "[cpu][faults]") {
  const ModelConfig config = testing::small_configs()[1];
  const RandomModel model(config, DType::kF32, 6);
  RandomModel larger_q(config, DType::kF32, 6);
  for (Op op : {Op::kQProjMatmul, Op::kQProj}) {
    Tensor& weight = larger_q.tensor(weight_name({op, 0}, 0, config));
    for (std::int64_t i = 0; i < weight.size(); ++i) weight.set(i, 2.0 * weight.at(i));  // exact
  }
  const auto steps = testing::random_steps(config, {9, 1}, {0}, 8);
  const auto engine = planted(model, DType::kF32, {.id = FaultId::kScale, .value = 2.0, .layer = 0});
  const auto clean = make_engine(larger_q, {.dtype = DType::kF32});
  const KeepingSink actual = testing::run_all(*engine, steps);
  const KeepingSink expected = testing::run_all(*clean, steps);
  CHECK(equal(actual.at(1, Op::kOutput, 0), expected.at(1, Op::kOutput, 0)));
  CHECK(equal(actual.at(1, Op::kLmHead), expected.at(1, Op::kLmHead)));
  CHECK(engine->planted_executions() == 10 * config.num_q_heads);
}

TEST_CASE("a planted fault holds for sessions opened afterwards", "[cpu][faults]") {
  const RandomModel model(testing::small_configs()[0], DType::kF32, 4);
  const auto steps = testing::random_steps(model.config(), {6}, {0}, 8);
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  const auto before = engine->open(testing::session_options(steps));
  engine->plant({.id = FaultId::kModulo, .value = {}, .layer = {}});
  before->run_step(steps[0], nullptr);
  CHECK(engine->planted_executions() == 0);
  engine->open(testing::session_options(steps))->run_step(steps[0], nullptr);
  CHECK(engine->planted_executions() > 0);
}

// The message of the InputError that `function` throws; FAILs where it throws none.
template <typename Function>
std::string refusal(Function&& function) {
  try {
    function();
  } catch (const InputError& error) {
    return error.what();
  }
  FAIL("nothing was refused");
  return {};
}

TEST_CASE("faults that cannot be planted are refused", "[cpu][errors]") {
  const RandomModel model(testing::small_configs()[0], DType::kF32, 4);
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  const auto message = [&](FaultId id, std::optional<double> value = {}, std::optional<int> layer = {}) {
    return refusal([&] { engine->plant({.id = id, .value = value, .layer = layer}); });
  };
  const FaultId undeclared_rounding = *parse_fault_id("H02.attention_probs_bf16");
  CHECK_THAT(message(undeclared_rounding), ContainsSubstring("cannot plant the fault H02.attention_probs_bf16"));
  CHECK_THAT(message(FaultId::kModulo, 2.0), ContainsSubstring("takes no value"));
  CHECK_THAT(message(FaultId::kModulo, {}, 2), ContainsSubstring("0 to 1"));
  CHECK_THAT(message(FaultId::kModulo, {}, -1), ContainsSubstring("-1"));
  CHECK_THAT(message(FaultId::kGroupOffByOne, 2.0), ContainsSubstring("1 or -1"));
  CHECK_THAT(message(FaultId::kTheta, 0.0), ContainsSubstring("positive"));
  CHECK_THAT(message(FaultId::kTheta, std::nan("")), ContainsSubstring("finite"));
  CHECK_THAT(message(FaultId::kEps, -1e-6), ContainsSubstring("-1e-06 must be finite and not negative"));
  CHECK_THAT(message(FaultId::kNoBatchStride, 2.0), ContainsSubstring("0 or 1"));
  CHECK_THAT(message(FaultId::kPadSlot, 1.0), ContainsSubstring("0 or -1"));
  for (double value : {0.0, -64.0, 1.5, 1e7, std::nan("")}) {
    CHECK_THAT(message(FaultId::kTileMax, value), ContainsSubstring("whole number from 1"));
  }
  CHECK_THAT(message(FaultId::kResidualLost, 3.0), ContainsSubstring("2 or 1"));
  for (double value : {0.0, 0.5, -1e7, HUGE_VAL}) {
    CHECK_THAT(message(FaultId::kLda, value), ContainsSubstring("whole number other than 0"));
  }
  CHECK_THAT(message(FaultId::kReadPlusOne, HUGE_VAL), ContainsSubstring("must be finite"));
  CHECK_THAT(message(FaultId::kFiniteFp16, 1.0), ContainsSubstring("finite and negative"));
}

TEST_CASE("models, options and sessions that cannot work are refused", "[cpu][errors]") {
  RandomModel model(testing::small_configs()[1], DType::kF32, 4);
  CHECK_THAT(refusal([&] { make_engine(model, {.dtype = DType::kF64}); }), ContainsSubstring("float64"));
  CHECK_THAT(refusal([&] { make_engine(model, {.dtype = DType::kF32, .num_threads = -1}); }),
             ContainsSubstring("-1 threads"));
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  CHECK_THAT(refusal([&] { engine->open({.batch = 0, .capacity = 4, .left_padding = {}}); }),
             ContainsSubstring("batch 0"));
  CHECK_THAT(refusal([&] { engine->open({.batch = 1, .capacity = 0, .left_padding = {0}}); }),
             ContainsSubstring("capacity 0"));
  CHECK_THAT(refusal([&] { engine->open({.batch = 2, .capacity = 4, .left_padding = {0}}); }),
             ContainsSubstring("left_padding"));
  CHECK_THAT(refusal([&] { engine->open({.batch = 1, .capacity = std::int64_t{1} << 60, .left_padding = {0}}); }),
             ContainsSubstring("too large"));
  model.reshape("model.layers.1.mlp.up_proj.weight", {3, 5});
  CHECK_THAT(refusal([&] { make_engine(model, {.dtype = DType::kF32}); }),
             ContainsSubstring("model.layers.1.mlp.up_proj.weight") && ContainsSubstring("[3, 5]"));
  model.remove("model.layers.1.mlp.up_proj.weight");
  CHECK_THAT(refusal([&] { make_engine(model, {.dtype = DType::kF32}); }),
             ContainsSubstring("model.layers.1.mlp.up_proj.weight"));
}

TEST_CASE("steps that do not fit the session are refused", "[cpu][errors]") {
  const RandomModel model(testing::small_configs()[0], DType::kF32, 4);
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  const auto steps = testing::random_steps(model.config(), {3, 2}, {0, 1}, 8);
  const auto session = engine->open({.batch = 2, .capacity = 5, .left_padding = {0, 1}});
  const auto message = [&](Step step) { return refusal([&] { session->run_step(step, nullptr); }); };
  const auto changed = [&](auto&& change) {
    Step step = steps[0];
    change(step);
    return message(step);
  };
  CHECK_THAT(message(steps[1]), ContainsSubstring("out of order"));
  CHECK_THAT(changed([](Step& s) { s.past_length = 3; }), ContainsSubstring("capacity is 5"));
  CHECK_THAT(changed([](Step& s) { s.past_length = -1; }), ContainsSubstring("negative"));
  CHECK_THAT(changed([](Step& s) { s.tokens.pop_back(); }), ContainsSubstring("has 1 rows"));
  CHECK_THAT(changed([](Step& s) { s.tokens = {{}, {}}; }), ContainsSubstring("no tokens"));
  CHECK_THAT(changed([](Step& s) { s.tokens[1].pop_back(); }), ContainsSubstring("row 1"));
  CHECK_THAT(changed([](Step& s) { s.tokens[1][2] = 101; }), ContainsSubstring("token 101"));
  CHECK_THAT(changed([](Step& s) { s.tokens[0][0] = -1; }), ContainsSubstring("token -1"));
  CHECK_THAT(changed([](Step& s) { s.positions.clear(); }), ContainsSubstring("positions"));
  CHECK_THAT(changed([](Step& s) { s.positions[0].pop_back(); }), ContainsSubstring("positions"));
  CHECK_THAT(changed([](Step& s) { s.positions[0][0] = -4; }), ContainsSubstring("position -4"));
  CHECK_THAT(changed([](Step& s) { s.left_padding = {0, 0}; }), ContainsSubstring("left_padding"));

  session->run_step(steps[0], nullptr);
  CHECK_THAT(message(steps[0]), ContainsSubstring("out of order"));
  const Tensor stream(DType::kF32, {2, 2, model.config().hidden});
  const Tensor other_type(DType::kBF16, {2, 2, model.config().hidden});
  const Tensor other_shape(DType::kF32, {2, 1, model.config().hidden});
  const auto layer = [&](int index, const Tensor& input) {
    return refusal([&] { session->run_layer(index, steps[1], input.view(), nullptr); });
  };
  CHECK_THAT(layer(2, stream), ContainsSubstring("no layer 2"));
  CHECK_THAT(layer(0, other_type), ContainsSubstring("bfloat16"));
  CHECK_THAT(layer(0, other_shape), ContainsSubstring("shape"));
  session->run_step(steps[1], nullptr);
}

}  // namespace
}  // namespace qdiff::optimized::cpu
