// Where planted faults stay silent: other layers, inputs that cannot show them; and what does not matter to them.
#include <cmath>
#include <set>

#include "cmake/catch2.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/tests/planted_scenarios.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::equal;
using testing::Inputs;
using testing::KeepingSink;
using testing::kSpareSlots;
using testing::RandomModel;
using testing::Scenario;

bool is_outside_layers(FaultId id) {
  return id == FaultId::kWrongTokenEmbedding || id == FaultId::kNoFinalNorm || id == FaultId::kUntiedLmHead ||
         id == FaultId::kFinalNormEps;
}

TEST_CASE("a fault of one layer leaves the layers before it alone", "[cpu][faults]") {
  const auto steps = testing::steps_of_scenarios();
  for (Inputs inputs : {Inputs::kUsual, Inputs::kLargeScores, Inputs::kLargeRows}) {
    const RandomModel model = testing::model_of(inputs);
    const auto engine = make_engine(model, {.dtype = DType::kF32, .num_threads = 2});
    const KeepingSink clean = testing::run_all(*engine, steps, Poison::kNaN, kSpareSlots);
    for (const Scenario& scenario : testing::scenarios()) {
      if (scenario.inputs != inputs || !scenario.shows) continue;
      engine->plant({.id = scenario.id, .value = scenario.value, .layer = 1});
      const KeepingSink planted = testing::run_all(*engine, steps, Poison::kNaN, kSpareSlots);
      INFO(name(scenario.id));
      bool differs = false;
      for (const auto& [key, tensor] : planted.tensors) {
        const bool same = equal(tensor, clean.tensors.at(key));
        const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
        const bool before = key.id.layer == 0 || key.id.op == Op::kEmbedTokens || is_outside_layers(scenario.id);
        // Layer 1 writes into layer 0's cache; a cache that begins with zeros shows them in its pads.
        const bool shared = scenario.id == FaultId::kNoLayerStride && key.step > 0;
        if (before && !shared && !(cache && scenario.id == FaultId::kReadPlusOne) && !same) {
          FAIL_CHECK(tensor_name(key.id) << " of step " << key.step);
        }
        differs = differs || (key.id.layer == 1 && !same);
      }
      const bool expected = !is_outside_layers(scenario.id);
      CHECK(differs == expected);
      CHECK((engine->planted_executions() > 0) == expected);
    }
  }
}

TEST_CASE("the number of threads changes no bit of a planted run", "[cpu][faults]") {
  const auto steps = testing::random_steps(testing::config_of_scenarios(), {20, 1, 1}, {0, 3, 2}, 3);
  const RandomModel model = testing::model_of(Inputs::kUsual);
  const auto one = make_engine(model, {.dtype = DType::kBF16, .num_threads = 1});
  const auto three = make_engine(model, {.dtype = DType::kBF16, .num_threads = 3});
  for (const Scenario& scenario : testing::scenarios()) {
    for (Engine* engine : {one.get(), three.get()}) {
      engine->plant({.id = scenario.id, .value = scenario.value, .layer = {}});
    }
    const KeepingSink expected = testing::run_all(*one, steps, Poison::kNaN, kSpareSlots);
    const KeepingSink actual = testing::run_all(*three, steps, Poison::kNaN, kSpareSlots);
    INFO(name(scenario.id));
    bool same = true;
    for (const auto& [key, tensor] : actual.tensors) same = same && equal(tensor, expected.tensors.at(key));
    CHECK(same);
    CHECK(one->planted_executions() == three->planted_executions());
  }
}

TEST_CASE("faults about other weights find them when weights are streamed", "[cpu][faults]") {
  const auto steps = testing::steps_of_scenarios();
  const RandomModel model = testing::model_of(Inputs::kUsual);
  const auto resident = make_engine(model, {.dtype = DType::kF32});
  const auto streaming = make_engine(model, {.dtype = DType::kF32, .num_threads = 2, .max_resident_bytes = 1});
  for (FaultId id : {FaultId::kUntiedLmHead, FaultId::kLayerRepeated, FaultId::kWeightFromOtherLayer}) {
    for (Engine* engine : {resident.get(), streaming.get()}) engine->plant({.id = id, .value = {}, .layer = {}});
    const KeepingSink expected = testing::run_all(*resident, steps);
    const KeepingSink actual = testing::run_all(*streaming, steps);
    INFO(name(id));
    CHECK(equal(actual.at(3, Op::kLmHead), expected.at(3, Op::kLmHead)));
  }
}

// Inputs on which the fault is no fault: it counts nothing, and the logits are the clean engine's.
struct Silent {
  std::string where;
  std::vector<Fault> faults;
  ModelConfig config = testing::config_of_scenarios();
  std::vector<std::int64_t> lengths = {6, 5, 1, 1};
  std::vector<std::int64_t> left_padding = {0, 3, 2};
  DType dtype = DType::kF32;
};

Fault fault(FaultId id, std::optional<double> value = {}) { return {.id = id, .value = value, .layer = {}}; }

std::vector<Fault> faults(const std::vector<FaultId>& ids) {
  std::vector<Fault> all;
  for (FaultId id : ids) all.push_back(fault(id));
  return all;
}

std::vector<Silent> silent_inputs() {
  const ModelConfig usual = testing::config_of_scenarios();
  std::vector<Silent> all;
  all.push_back({"one row",
                 faults({FaultId::kNoBatchStride, FaultId::kBatchStrideOfOneToken, FaultId::kPadSlot,
                         FaultId::kBatchPos, FaultId::kPadVisible, FaultId::kPadQueryAxis}),
                 usual,
                 {6, 1},
                 {0}});
  all.push_back({"padding in row 0", faults({FaultId::kPadSlot}), usual, {6, 1}, {1, 2}});
  all.push_back({"pads in a slot that is written last", {fault(FaultId::kPadSlot, -1.0)}});
  ModelConfig one_head = usual;
  one_head.num_kv_heads = 1;
  all.push_back({"one key/value head",
                 faults({FaultId::kNoHeadStride, FaultId::kHeadStrideIsTokens, FaultId::kPosMajor, FaultId::kModulo,
                         FaultId::kDivideByKv, FaultId::kGroupOffByOne, FaultId::kHeadZero, FaultId::kPrefillOnly,
                         FaultId::kDecodeOnly}),
                 one_head});
  all.push_back(
      {"prefill alone",
       faults({FaultId::kDecodePosZero, FaultId::kDecodePosPlusOne, FaultId::kDecodeOnly, FaultId::kDecodeMissing,
               FaultId::kWritePlusOne, FaultId::kWriteMinusOne, FaultId::kReadMinusOne, FaultId::kFirstToken,
               FaultId::kReadMinusFirst, FaultId::kReadPlusOne, FaultId::kLengthCountsCurrent}),
       usual,
       {6, 5}});
  all.push_back({"one chunk", faults({FaultId::kChunkLocalPos, FaultId::kTopLeft, FaultId::kChunkOnly}), usual, {6}});
  all.push_back({"position 0",
                 faults({FaultId::kTheta, FaultId::kInterleaved, FaultId::kHalfSlice, FaultId::kSliceHidden,
                         FaultId::kQOnly, FaultId::kKOnly, FaultId::kNoRope, FaultId::kRopeTwice, FaultId::kReverse,
                         FaultId::kAfterCache, FaultId::kChunkLocalPos, FaultId::kTableBf16, FaultId::kBatchPos,
                         FaultId::kNoMask, FaultId::kOneAhead, FaultId::kWindow}),
                 usual,
                 {1},
                 {0, 0}});
  all.push_back({"one token", faults({FaultId::kColumnMajorOut, FaultId::kWoRows}), usual, {1}, {0}});
  all.push_back({"rows with padding", faults({FaultId::kReadMinusFirst}), usual, {6, 1}, {1, 2}});
  ModelConfig one_layer = usual;
  one_layer.num_layers = 1;
  all.push_back({"one layer",
                 faults({FaultId::kNoLayerStride, FaultId::kWeightFromOtherLayer, FaultId::kLayerRepeated}),
                 one_layer});
  ModelConfig tied = usual;
  tied.tie_word_embeddings = true;
  all.push_back({"tied embeddings", faults({FaultId::kUntiedLmHead}), tied});
  ModelConfig narrow = usual;
  narrow.hidden = 40;
  all.push_back({"D below H*d", faults({FaultId::kWoRows}), narrow});
  all.push_back({"larger than everything",
                 {fault(FaultId::kWoCols, 4096), fault(FaultId::kDownInAct, 4096), fault(FaultId::kFirstTileOnly, 4096),
                  fault(FaultId::kWindow, 4096)}});
  all.push_back(
      {"the right value",
       {fault(FaultId::kScale, 1.0), fault(FaultId::kTheta, usual.rope_theta), fault(FaultId::kHalfSlice, 1.0),
        fault(FaultId::kEps, usual.rms_norm_eps), fault(FaultId::kFinalNormEps, usual.rms_norm_eps)}});
  Silent in_bf16{"weights in bfloat16", faults({FaultId::kBiasBf16})};
  in_bf16.dtype = DType::kBF16;
  all.push_back(in_bf16);
  return all;
}

TEST_CASE("a fault that inputs cannot show counts nothing and changes nothing", "[cpu][faults]") {
  for (const Silent& silent : silent_inputs()) {
    const RandomModel model(silent.config, DType::kF32, 5);
    const auto steps = testing::random_steps(silent.config, silent.lengths, silent.left_padding, 3);
    const auto engine = make_engine(model, {.dtype = silent.dtype, .num_threads = 2});
    const KeepingSink clean = testing::run_all(*engine, steps, Poison::kNaN, kSpareSlots);
    for (const Fault& planted : silent.faults) {
      engine->plant(planted);
      const KeepingSink sink = testing::run_all(*engine, steps, Poison::kNaN, kSpareSlots);
      INFO(name(planted.id) << ": " << silent.where);
      CHECK(engine->planted_executions() == 0);
      for (const Step& step : steps) CHECK(equal(sink.at(step.index, Op::kLmHead), clean.at(step.index, Op::kLmHead)));
    }
  }
}

// These hold the whole row of scores, in another order of summation than the online softmax.
TEST_CASE("a softmax that cannot show its fault counts nothing", "[cpu][faults]") {
  const ModelConfig config = testing::config_of_scenarios();
  const RandomModel model(config, DType::kF32, 5);
  const auto steps = testing::random_steps(config, {8}, {0, 4}, 3);
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  const KeepingSink clean = testing::run_all(*engine, steps);
  for (const Fault& planted : {fault(FaultId::kNoMax), fault(FaultId::kTileMax), fault(FaultId::kTailZero, 4.0),
                               fault(FaultId::kFiniteFp16)}) {
    engine->plant(planted);
    const KeepingSink sink = testing::run_all(*engine, steps);
    INFO(name(planted.id));
    CHECK(engine->planted_executions() == 0);
    const Tensor& actual = sink.at(0, Op::kAttnOutput, 0);
    const Tensor& expected = clean.at(0, Op::kAttnOutput, 0);
    for (std::int64_t e = 0; e < actual.size(); ++e) {
      const bool near = std::fabs(actual.at(e) - expected.at(e)) <= 1e-5;
      if (!near) FAIL("element " << e << " is " << actual.at(e));
    }
  }
}

TEST_CASE("the zeros behind the end of a last tile are counted, not computed, however many they are", "[cpu][faults]") {
  const ModelConfig config = testing::config_of_scenarios();
  const RandomModel model(config, DType::kF32, 5);
  const auto steps = testing::random_steps(config, {7}, {0, 2}, 3);
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  const auto attended = [&](double tile) {
    engine->plant(fault(FaultId::kTailZero, tile));
    KeepingSink sink = testing::run_all(*engine, steps);
    return Tensor::copy_of(sink.at(0, Op::kAttnOutput, 0).view());
  };
  // They have nearly all of the weight, so that twice as many leave half of the output.
  const Tensor once = attended(0x1p19), twice = attended(0x1p20);
  CHECK(engine->planted_executions() > 0);
  bool any = false;
  for (std::int64_t e = 0; e < once.size(); ++e) {
    any = any || once.at(e) != 0.0;
    const bool half = std::fabs(twice.at(e) - 0.5 * once.at(e)) <= 1e-3 * std::fabs(once.at(e));
    if (!half) FAIL("element " << e << " is " << twice.at(e) << ", of " << once.at(e));
  }
  CHECK(any);
}

TEST_CASE("a denominator in float16 sticks at 2048", "[cpu][faults]") {
  ModelConfig config = testing::small_config(2, 1, 8, 16, 16, true);
  config.num_layers = 1;
  RandomModel model(config, DType::kF32, 5);
  for (Op op : {Op::kQProjMatmul, Op::kQProj}) {
    Tensor& weight = model.tensor(weight_name({op, 0}, 0, config));
    for (std::int64_t i = 0; i < weight.size(); ++i) weight.set(i, 0.0);  // every slot weighs 1
  }
  constexpr std::int64_t kNumTokens = 2200;
  const auto steps = testing::random_steps(config, {kNumTokens}, {0}, 3);
  const auto engine = make_engine(model, {.dtype = DType::kF32, .num_threads = 2});
  const KeepingSink right = testing::run_all(*engine, steps);
  engine->plant(fault(FaultId::kSumFp16));
  const KeepingSink stuck = testing::run_all(*engine, steps);
  std::int64_t beyond = 0;
  const Tensor& actual = stuck.at(0, Op::kAttnOutput, 0);
  for (std::int64_t e = 0; e < actual.size(); ++e) {
    const auto slots = static_cast<double>(e / config.q_width() + 1);
    const double expected = right.at(0, Op::kAttnOutput, 0).at(e) * slots / std::min(slots, 2048.0);
    const bool near = std::fabs(actual.at(e) - expected) <= 1e-5;
    beyond += near ? 0 : 1;
  }
  CHECK(beyond == 0);
  CHECK(engine->planted_executions() == (kNumTokens - 2048) * config.num_q_heads);
}

TEST_CASE("H08.read_plus_one reads what the slot holds: poison, unless a value is asked for", "[cpu][faults]") {
  const RandomModel model = testing::model_of(Inputs::kUsual);
  const auto steps = testing::steps_of_scenarios();
  const auto engine = make_engine(model, {.dtype = DType::kF32});
  engine->plant(fault(FaultId::kReadPlusOne));
  const auto num_nans = [&](Poison poison, std::int64_t spare, int step) {
    const KeepingSink sink = testing::run_all(*engine, steps, poison, spare);
    std::int64_t count = 0;
    for (double value : to_doubles(sink.at(step, Op::kAttnOutput, 0).view())) count += std::isnan(value) ? 1 : 0;
    return count;
  };
  CHECK(num_nans(Poison::kNaN, 1, 1) == 0);  // prefill
  CHECK(num_nans(Poison::kNaN, 1, 2) == 3 * model.config().q_width());
  CHECK(num_nans(Poison::kNaN, 0, 3) == 0);  // the cache ends here
  CHECK(std::isnan(engine->poison_value(Poison::kNaN)));
  engine->plant(fault(FaultId::kReadPlusOne, 0.5));
  CHECK(engine->poison_value(Poison::kNaN) == 0.5);
  CHECK(engine->poison_value(Poison::kLargeFinite) == 0.5);
  const KeepingSink with_nan = testing::run_all(*engine, steps, Poison::kNaN, 1);
  const KeepingSink with_large = testing::run_all(*engine, steps, Poison::kLargeFinite, 1);
  CHECK(equal(with_nan.at(3, Op::kLmHead), with_large.at(3, Op::kLmHead)));
  CHECK(engine->planted_executions() > 0);
}

}  // namespace
}  // namespace qdiff::optimized::cpu
