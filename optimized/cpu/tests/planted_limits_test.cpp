// Where planted faults stay silent: other layers, inputs that cannot show them; and what does not matter to them.
#include <cmath>
#include <set>

#include "cmake/catch2.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/tests/planted_scenarios.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::Inputs;
using testing::KeepingSink;
using testing::kSpareSlots;
using testing::RandomModel;
using testing::Scenario;

bool equal(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::ranges::equal(a.bytes(), b.bytes());
}

bool is_outside_layers(const std::string& id) {
  return id == "X.wrong_token_embedding" || id == "X.no_final_norm" || id == "X.untied_lm_head" ||
         id == "H09.final_norm_eps";
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
      INFO(scenario.id);
      bool differs = false;
      for (const auto& [key, tensor] : planted.tensors) {
        const bool same = equal(tensor, clean.tensors.at(key));
        const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
        const bool before = key.id.layer == 0 || key.id.op == Op::kEmbedTokens || is_outside_layers(scenario.id);
        // Layer 1 writes into layer 0's cache; a cache that begins with zeros shows them in its pads.
        const bool shared = scenario.id == "H01.no_layer_stride" && key.step > 0;
        if (before && !shared && !(cache && scenario.id == "H08.read_plus_one") && !same) {
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
    INFO(scenario.id);
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
  for (const std::string id : {"X.untied_lm_head", "X.layer_repeated", "H09.weight_from_other_layer"}) {
    for (Engine* engine : {resident.get(), streaming.get()}) engine->plant({.id = id, .value = {}, .layer = {}});
    const KeepingSink expected = testing::run_all(*resident, steps);
    const KeepingSink actual = testing::run_all(*streaming, steps);
    INFO(id);
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

Fault fault(const std::string& id, std::optional<double> value = {}) { return {.id = id, .value = value, .layer = {}}; }

std::vector<Fault> faults(const std::vector<std::string>& ids) {
  std::vector<Fault> all;
  for (const std::string& id : ids) all.push_back(fault(id));
  return all;
}

std::vector<Silent> silent_inputs() {
  const ModelConfig usual = testing::config_of_scenarios();
  std::vector<Silent> all;
  all.push_back({"one row",
                 faults({"H01.no_batch_stride", "H01.batch_stride_of_one_token", "H01.pad_slot", "H03.batch_pos",
                         "H10.pad_visible", "H10.pad_query_axis"}),
                 usual,
                 {6, 1},
                 {0}});
  all.push_back({"padding in row 0", faults({"H01.pad_slot"}), usual, {6, 1}, {1, 2}});
  all.push_back({"pads in a slot that is written last", {fault("H01.pad_slot", -1.0)}});
  ModelConfig one_head = usual;
  one_head.num_kv_heads = 1;
  all.push_back(
      {"one key/value head",
       faults({"H01.no_head_stride", "H01.head_stride_is_tokens", "H01.pos_major", "H05.modulo", "H05.divide_by_kv",
               "H05.group_off_by_one", "H05.head_zero", "H05.prefill_only", "H05.decode_only"}),
       one_head});
  all.push_back({"prefill alone",
                 faults({"H03.decode_pos_zero", "H03.decode_pos_plus_one", "H05.decode_only", "H06.decode_missing",
                         "H08.write_plus_one", "H08.write_minus_one", "H08.read_minus_one", "H08.first_token",
                         "H08.read_minus_first", "H08.read_plus_one", "H08.length_counts_current"}),
                 usual,
                 {6, 5}});
  all.push_back({"one chunk", faults({"H03.chunk_local_pos", "H10.top_left", "H10.chunk_only"}), usual, {6}});
  all.push_back({"position 0",
                 faults({"H03.theta", "H03.interleaved", "H03.half_slice", "H03.slice_hidden", "H03.q_only",
                         "H03.k_only", "H03.none", "H03.twice", "H03.reverse", "H03.after_cache", "H03.chunk_local_pos",
                         "H03.table_bf16", "H03.batch_pos", "H10.none", "H10.one_ahead", "H10.window"}),
                 usual,
                 {1},
                 {0, 0}});
  all.push_back({"one token", faults({"H07.column_major_out", "H04.wo_rows"}), usual, {1}, {0}});
  all.push_back({"rows with padding", faults({"H08.read_minus_first"}), usual, {6, 1}, {1, 2}});
  ModelConfig one_layer = usual;
  one_layer.num_layers = 1;
  all.push_back(
      {"one layer", faults({"H01.no_layer_stride", "H09.weight_from_other_layer", "X.layer_repeated"}), one_layer});
  ModelConfig tied = usual;
  tied.tie_word_embeddings = true;
  all.push_back({"tied embeddings", faults({"X.untied_lm_head"}), tied});
  ModelConfig narrow = usual;
  narrow.hidden = 40;
  all.push_back({"D below H*d", faults({"H04.wo_rows"}), narrow});
  all.push_back({"larger than everything",
                 {fault("H04.wo_cols", 4096), fault("H04.down_in_act", 4096), fault("H07.first_tile_only", 4096),
                  fault("H10.window", 4096)}});
  all.push_back({"the right value",
                 {fault("H02.scale", 1.0), fault("H03.theta", usual.rope_theta), fault("H03.half_slice", 1.0),
                  fault("H09.eps", usual.rms_norm_eps), fault("H09.final_norm_eps", usual.rms_norm_eps)}});
  Silent in_bf16{"weights in bfloat16", faults({"H06.bf16"})};
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
      INFO(planted.id << ": " << silent.where);
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
  for (const Fault& planted :
       {fault("H02.no_max"), fault("H02.tile_max"), fault("H02.tail_zero", 4.0), fault("H10.finite_fp16")}) {
    engine->plant(planted);
    const KeepingSink sink = testing::run_all(*engine, steps);
    INFO(planted.id);
    CHECK(engine->planted_executions() == 0);
    const Tensor& actual = sink.at(0, Op::kAttnOutput, 0);
    const Tensor& expected = clean.at(0, Op::kAttnOutput, 0);
    for (std::int64_t e = 0; e < actual.size(); ++e) {
      const bool near = std::fabs(actual.at(e) - expected.at(e)) <= 1e-5;
      if (!near) FAIL("element " << e << " is " << actual.at(e));
    }
  }
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
  engine->plant(fault("H02.sum_fp16"));
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
  engine->plant(fault("H08.read_plus_one"));
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
  engine->plant(fault("H08.read_plus_one", 0.5));
  CHECK(engine->poison_value(Poison::kNaN) == 0.5);
  CHECK(engine->poison_value(Poison::kLargeFinite) == 0.5);
  const KeepingSink with_nan = testing::run_all(*engine, steps, Poison::kNaN, 1);
  const KeepingSink with_large = testing::run_all(*engine, steps, Poison::kLargeFinite, 1);
  CHECK(equal(with_nan.at(3, Op::kLmHead), with_large.at(3, Op::kLmHead)));
  CHECK(engine->planted_executions() > 0);
}

}  // namespace
}  // namespace qdiff::optimized::cpu
