#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "cmake/catch2.h"
#include "harness/contract/config.h"
#include "harness/contract/error.h"
#include "harness/contract/fault.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/hypothesis.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"
#include "harness/contract/tests/small_model.h"
#include "harness/contract/tests/table_counts.h"

namespace qdiff {
namespace {

ModelConfig small_config() {
  ModelConfig c = testing::small_config(6, 2, 32, 96, 160);
  c.num_layers = 3;
  c.vocab = 500;
  return c;
}

TEST_CASE("every 16-bit pattern survives a round trip through its type", "[dtype]") {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
      const auto stored = static_cast<std::uint16_t>(bits);
      const double value = load_element(&stored, dtype, 0);
      if (std::isnan(value)) continue;
      std::uint16_t again = 0;
      store_element(&again, dtype, 0, value);
      if (again != stored) FAIL(name(dtype) << " pattern " << bits << " came back as " << again);
    }
  }
}

TEST_CASE("rounding is to nearest, ties to even, once", "[dtype]") {
  CHECK(round_to(DType::kBF16, 1.0 + 0x1p-8) == 1.0);  // a tie goes to the even neighbour
  CHECK(round_to(DType::kBF16, 1.0 + 3 * 0x1p-8) == 1.0 + 0x1p-6);
  CHECK(round_to(DType::kBF16, 1.0 + 0x1p-8 + 0x1p-40) == 1.0 + 0x1p-7);  // rounding through float would tie to 1
  CHECK(round_to(DType::kF16, 65519.0) == 65504.0);
  CHECK(std::isinf(round_to(DType::kF16, 65520.0)));
  CHECK(round_to(DType::kF16, 0x1p-25) == 0.0);
  CHECK(round_to(DType::kF16, 0x1.8p-24) == 0x1p-23);
  CHECK(std::isnan(round_to(DType::kF16, std::numeric_limits<double>::quiet_NaN())));
  CHECK(round_to(DType::kF16, -HUGE_VAL) == -HUGE_VAL);
}

TEST_CASE("spacing has a floor at the subnormal numbers", "[dtype]") {
  CHECK(spacing(DType::kF16, 1.0) == 0x1p-10);
  CHECK(spacing(DType::kF16, 1.99) == 0x1p-10);
  CHECK(spacing(DType::kF16, 2.0) == 0x1p-9);
  CHECK(spacing(DType::kF16, 0.0) == 0x1p-24);
  CHECK(spacing(DType::kBF16, -1.0) == 0x1p-7);
  CHECK(spacing(DType::kF32, 1e-45) == 0x1p-149);
  CHECK(std::isnan(spacing(DType::kF32, HUGE_VAL)));
  CHECK(std::isnan(spacing(DType::kBF16, std::nan(""))));
}

TEST_CASE("spacing is what the exponent says, in every binade and at its edges", "[dtype]") {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const DTypeFacts f = facts(dtype);
    for (int exponent = -1074; exponent <= 1023; ++exponent) {
      const double first = std::ldexp(1.0, exponent);
      const double expected = std::ldexp(1.0, std::max(exponent, f.min_exponent) - f.significant_bits + 1);
      REQUIRE(spacing(dtype, first) == expected);
      REQUIRE(spacing(dtype, -std::nextafter(2.0 * first, 0.0)) == expected);
    }
  }
}

TEST_CASE("tensor names of the table parse back to themselves", "[table]") {
  const ModelConfig config = small_config();
  const auto ids = all_tensors(config, true);
  CHECK(std::ssize(ids) == 1 + 3 * kRowsOfALayer + 2);
  std::set<std::string> names;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string text = tensor_name(ids[i]);
    CHECK(names.insert(text).second);
    CHECK(parse_tensor_name(text) == ids[i]);
    if (i > 0) CHECK(runs_before(ids[i - 1], ids[i]));
  }
  CHECK(names.count("model.layers.2.self_attn.q_proj.matmul") == 1);
  for (const char* bad : {"", "model", "model.layers.", "model.layers.0", "model.layers.0.", "model.layers.-1.output",
                          "model.layers.01.output", "model.layers.0.lm_head", "output",
                          "model.layers.99999999999.output", "model.layers.0.self_attn.q_proj.matmul2", "lm_head "}) {
    CHECK_FALSE(parse_tensor_name(bad).has_value());
  }
}

TEST_CASE("inputs of every row run before it", "[table]") {
  const ModelConfig config = small_config();
  for (const TensorId& id : all_tensors(config, true)) {
    for (const Input& input : row(id.op).inputs) {
      const TensorId source = resolve(input, id, config);
      if (input.from == From::kPreviousStep) {
        CHECK(source == id);
      } else {
        CHECK(runs_before(source, id));
      }
    }
  }
  CHECK(resolve(row(Op::kInputLayernorm).inputs[0], {Op::kInputLayernorm, 0}, config) == TensorId{Op::kEmbedTokens});
  CHECK(resolve(row(Op::kNorm).inputs[0], {Op::kNorm}, config) == TensorId{Op::kOutput, 2});
}

TEST_CASE("shapes follow the config", "[table]") {
  const ModelConfig config = small_config();
  CHECK(output_shape(Op::kQRope, config, 2, 5, 9) == Shape{2, 5, 6, 32});
  CHECK(output_shape(Op::kKCache, config, 2, 5, 9) == Shape{2, 9, 2, 32});
  CHECK(output_shape(Op::kScores, config, 2, 5, 9) == Shape{2, 6, 5, 9});
  CHECK(output_shape(Op::kAttnOutput, config, 2, 5, 9) == Shape{2, 5, 192});
  CHECK(weight_shape(Op::kOProj, 0, config) == Shape{96, 192});
  ModelConfig tied = config;
  tied.tie_word_embeddings = true;
  CHECK(weight_name({Op::kLmHead}, 0, config) == "lm_head.weight");
  CHECK(weight_name({Op::kLmHead}, 0, tied) == "model.embed_tokens.weight");
  CHECK(weight_name({Op::kQProj, 1}, 0, config) == "model.layers.1.self_attn.q_proj.bias");
}

TEST_CASE("weights are listed once, and none that the model lacks", "[table]") {
  ModelConfig config = small_config();
  const auto names = [&] {
    std::set<std::string> all;
    for (const ModelWeight& weight : weights_of(config)) {
      CHECK(weight.shape == weight_shape(weight.id.op, weight.index, config));
      CHECK(all.insert(weight.name).second);
    }
    return all;
  };
  CHECK(std::ssize(names()) == 1 + 3 * weights_of_a_layer(config) + 2);
  config.tie_word_embeddings = true;
  CHECK(std::ssize(names()) == 1 + 3 * weights_of_a_layer(config) + 1);
  const std::int64_t with_biases = weights_of_a_layer(config);
  CHECK_FALSE(names().contains("lm_head.weight"));
  config.qkv_bias = false;
  CHECK(weights_of_a_layer(config) == with_biases - 3);
  CHECK(std::ssize(names()) == 1 + 3 * weights_of_a_layer(config) + 1);
  CHECK_FALSE(names().contains("model.layers.0.self_attn.v_proj.bias"));
  CHECK(only_moves(Op::kVProj, config));
  CHECK_FALSE(only_moves(Op::kVProj));
  CHECK(only_moves(Op::kVCache));
  CHECK_THROWS_AS(weight_shape(Op::kQRope, 0, config), std::out_of_range);
}

TEST_CASE("architectures have names, and others are none", "[config]") {
  for (const ArchitectureFacts& known : kArchitectures) {
    CHECK(parse_architecture(known.name) == known.architecture);
    CHECK_THAT(known_architectures(), ContainsSubstring('"' + std::string(known.name) + '"'));
  }
  CHECK_FALSE(parse_architecture("gemma").has_value());
  CHECK_FALSE(parse_architecture("").has_value());
}

TEST_CASE("a row is kept as its last rounding point says, or as the arithmetic leaves it", "[precision]") {
  Precision precision = plain_precision(DType::kBF16);
  CHECK(kept_as(Op::kOProj, precision) == DType::kBF16);
  CHECK(kept_as(Op::kQProjMatmul, precision) == DType::kF32);
  CHECK(kept_as(Op::kKCache, precision) == DType::kBF16);
  precision.points = {{RoundingPoint::kAttentionScores, DType::kBF16}, {RoundingPoint::kKvCache, DType::kF16}};
  CHECK(kept_as(Op::kScores, precision) == DType::kF32);
  CHECK(kept_as(Op::kVCache, precision) == DType::kF16);
  precision.points[RoundingPoint::kAttentionScaledScores] = DType::kF16;
  CHECK(kept_as(Op::kScores, precision) == DType::kF16);
  precision.points[RoundingPoint::kRmsNormNormalized] = DType::kF16;
  CHECK(kept_as(Op::kNorm, precision) == DType::kBF16);
}

TEST_CASE("rounding points have the names of the manifest", "[table]") {
  CHECK(name(RoundingPoint::kKvCache) == "kv_cache");
  for (std::size_t i = 0; i < kNumRoundingPoints; ++i) {
    const auto point = static_cast<RoundingPoint>(i);
    CHECK(parse_rounding_point(name(point)) == point);
  }
  CHECK_FALSE(parse_rounding_point("rope").has_value());
  Precision precision = plain_precision(DType::kBF16);
  CHECK(precision.at(RoundingPoint::kRopeTable) == DType::kF32);
  precision.points[RoundingPoint::kRopeTable] = DType::kBF16;
  CHECK(precision.at(RoundingPoint::kRopeTable) == DType::kBF16);
}

TEST_CASE("a config that makes no sense is refused by field", "[config]") {
  CHECK_NOTHROW(small_config().validate());
  auto broken = [](auto change) {
    ModelConfig c = small_config();
    change(c);
    return c;
  };
  CHECK_THROWS_WITH(broken([](auto& c) { c.num_kv_heads = 4; }).validate(), ContainsSubstring("key/value heads, 4"));
  CHECK_THROWS_WITH(broken([](auto& c) { c.head_dim = 33; }).validate(), ContainsSubstring("head dimension"));
  CHECK_THROWS_WITH(broken([](auto& c) { c.rope_theta = 0; }).validate(), ContainsSubstring("rope_theta"));
  CHECK_THROWS_WITH(broken([](auto& c) { c.rms_norm_eps = std::nan(""); }).validate(),
                    ContainsSubstring("rms_norm_eps"));
  CHECK_THROWS(broken([](auto& c) { c.num_kv_heads = 0; }).validate());
  CHECK_THROWS(broken([](auto& c) { c.vocab = std::int64_t{1} << 40; }).validate());
}

TEST_CASE("steps must form one sequence batch", "[step]") {
  auto make = [] {
    std::vector<Step> steps(2);
    steps[0].tokens = {{0, 7, 8}, {1, 2, 3}};
    steps[1].index = 1;
    steps[1].phase = Phase::kDecode;
    steps[1].tokens = {{4}, {5}};
    steps[1].past_length = 3;
    for (Step& step : steps) {
      step.left_padding = {1, 0};
      set_default_positions(step);
    }
    return steps;
  };
  auto steps = make();
  CHECK_NOTHROW(validate_steps(steps, 10, 100));
  CHECK(steps[0].positions == std::vector<std::vector<std::int64_t>>{{0, 0, 1}, {0, 1, 2}});
  CHECK(steps[1].positions == std::vector<std::vector<std::int64_t>>{{2}, {3}});
  CHECK(steps[0].is_pad(0, 0));
  CHECK_FALSE(steps[0].is_pad(0, 1));
  CHECK_FALSE(steps[1].is_pad(0, 0));

  CHECK_THROWS_WITH(validate_steps(steps, 8, 100), ContainsSubstring("token 8"));
  CHECK_THROWS_WITH(validate_steps(steps, 10, 3), ContainsSubstring("position 3"));
  CHECK_THROWS_WITH(validate_steps({}, 10, 3), ContainsSubstring("no steps"));
  steps[1].past_length = 4;
  CHECK_THROWS_WITH(validate_steps(steps, 10, 100), ContainsSubstring("past_length"));
  steps = make();
  steps[0].tokens.clear();
  CHECK_THROWS_WITH(validate_steps(steps, 10, 100), ContainsSubstring("empty"));
  steps = make();
  steps[0].tokens[0].pop_back();
  CHECK_THROWS_WITH(validate_steps(steps, 10, 100), ContainsSubstring("differ in length"));
  steps = make();
  for (Step& step : steps) step.left_padding = {4, 0};
  CHECK_THROWS_WITH(validate_steps(steps, 10, 100), ContainsSubstring("left_padding 4"));
}

TEST_CASE("a fault as text, and the values that it may have", "[fault]") {
  CHECK(to_string(Fault{FaultId::kModulo, {}, {}}) == "H05.modulo");
  CHECK(to_string(Fault{FaultId::kEps, 1e-5, 0}) == "H09.eps=1e-05@0");
  CHECK(to_string(Fault{FaultId::kTheta, 0.1, {}}) == "H03.theta=0.1");
  const auto check = [](FaultId id, double value) { check_fault_value({id, value, {}}); };
  CHECK_NOTHROW(check_fault_value({FaultId::kModulo, {}, {}}));
  CHECK_NOTHROW(check(FaultId::kLda, -1.0));
  CHECK_NOTHROW(check(FaultId::kEps, 0.0));
  CHECK_THROWS_WITH(check(FaultId::kModulo, 1.0), ContainsSubstring("takes no value"));
  CHECK_THROWS_WITH(check(FaultId::kTileMax, 0.0),
                    ContainsSubstring("H02.tile_max: the value 0 must be a whole number"));
  CHECK_THROWS_AS(check(FaultId::kTailZero, std::nan("")), InputError);
  CHECK_THROWS_AS(check(FaultId::kTheta, HUGE_VAL), InputError);
  CHECK_THROWS_AS(check(FaultId::kLda, 0.5), InputError);
  CHECK_THROWS_AS(check(FaultId::kPadSlot, 1.0), InputError);
}

TEST_CASE("the fault table is complete in itself", "[fault]") {
  std::set<std::string_view> names;
  for (const VariantFacts& row : fault_table()) {
    INFO(name(row.id));
    CHECK(&fault_facts(row.id) == &row);
    CHECK(names.insert(name(row.id)).second);
    CHECK(parse_fault_id(name(row.id)) == row.id);
    const std::string_view family = name(row.id).substr(0, name(row.id).find('.'));
    const bool listed = std::any_of(kHypotheses.begin(), kHypotheses.end(),
                                    [&](const Hypothesis& hypothesis) { return hypothesis.id == family; });
    CHECK((listed ? hypothesis_of(row.id) == family : family == "X" && hypothesis_of(row.id).empty()));
    CHECK_FALSE(row.what.empty());
    CHECK_FALSE(row.source.empty());
    CHECK_FALSE(row.shows_when.empty());
    CHECK_FALSE(row.ops.empty());
    CHECK((row.takes == Takes::kNothing) == row.values.empty());
    for (double value : row.values) CHECK_NOTHROW(check_fault_value({row.id, value, {}}));
    CHECK(row.declares.has_value() == row.changes.empty());
    std::set<Op> changed;
    for (const Change& change : row.changes) {
      const std::vector<Op>& ops = change.ops.empty() ? row.ops : change.ops;
      changed.insert(ops.begin(), ops.end());
    }
    if (!row.declares) CHECK(changed == std::set<Op>(row.ops.begin(), row.ops.end()));
  }
  CHECK(names.size() ==
        kNumFaults + 2 * (kNumRoundingPoints - 1) - 2);  // kv_cache.prefill has none, two have rows of their own
  CHECK_FALSE(parse_fault_id("H05.nonsense").has_value());
  CHECK_FALSE(parse_fault_id("").has_value());
}

TEST_CASE("a bug on one model has that model's right value, and says what no input of it can show", "[fault]") {
  ModelConfig config = small_config();
  config.rope_theta = 5e5;
  CHECK(find_variant(faults_of(config), FaultId::kTheta)->right_value == 5e5);
  CHECK(find_variant(faults_of(config), FaultId::kScale)->right_value == 1.0);
  CHECK_FALSE(find_variant(faults_of(config), FaultId::kTileMax)->right_value.has_value());
  config.qkv_bias = false;
  const std::string_view none = "biases of q, k and v, which this model does not have";
  for (const VariantFacts& row : faults_of(config)) {
    INFO(name(row.id));
    CHECK((row.shows_when == none) == (hypothesis_of(row.id) == "H06"));
  }
}

TEST_CASE("gold computes in float64 with the candidate's weights", "[precision]") {
  const Precision gold = gold_precision(DType::kBF16);
  CHECK(gold.weights == DType::kBF16);
  CHECK(gold.activations == DType::kF64);
  CHECK(gold.accumulate == DType::kF64);
}

TEST_CASE("shapes that overflow are refused", "[tensor]") {
  CHECK(num_elements({}) == 1);
  CHECK(num_elements({3, 0, 5}) == 0);
  CHECK_THROWS_AS(num_elements({std::int64_t{1} << 40, std::int64_t{1} << 40}), std::overflow_error);
  CHECK_THROWS_AS(num_elements({-1}), std::invalid_argument);
  const std::vector<double> values = {1.0, 2.5, -3.0};
  const Tensor tensor = Tensor::rounded(DType::kBF16, {3}, values);
  CHECK(to_doubles(tensor.view()) == values);
  CHECK_THROWS(Tensor::rounded(DType::kBF16, {4}, values));
}

}  // namespace
}  // namespace qdiff
