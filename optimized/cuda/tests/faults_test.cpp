// Each planted fault changes the tensors that it names and none before them, in the class of kernels that it names.
#include "optimized/cuda/faults.h"

#include "harness/contract/fault_table.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

// The recorded rows that a fault changes by itself: the table's, or where this engine fuses one, the next that it hands
// out.
bool is_guilty(FaultId id, Op op) {
  const auto changes = [&](Op changed) {
    const std::vector<Op>& ops = fault_facts(id).ops;
    return std::find(ops.begin(), ops.end(), changed) != ops.end();
  };
  switch (op) {
    case Op::kQProj:
      return changes(op) || changes(Op::kQProjMatmul);
    case Op::kKProj:
      return changes(op) || changes(Op::kKProjMatmul);
    case Op::kVProj:
      return changes(op) || changes(Op::kVProjMatmul);
    case Op::kAttnOutput:
      return changes(op) || changes(Op::kScores) || changes(Op::kProbs);
    default:
      return changes(op);
  }
}

// Biases that bfloat16 does not hold, times `strength`: strong ones bring scores beyond the range of exp in float32,
// which shows a missing maximum and hides what a single key adds. A tiny row shows eps.
RandomModel stressing_model(const ModelConfig& config, double strength) {
  RandomModel model(config, DType::kF32, 23);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const Op op : {Op::kQProj, Op::kKProj}) {
      Tensor& bias = model.tensor(weight_name({op, layer}, 0, config));
      for (std::int64_t i = 0; i < bias.size(); ++i) bias.set(i, bias.at(i) * strength);
    }
  }
  Tensor& embedding = model.tensor(weight_name({Op::kEmbedTokens, kNoLayer}, 0, config));
  for (std::int64_t i = 0; i < config.hidden; ++i) embedding.set(7 * config.hidden + i, embedding.at(i) * 1e-3);
  return model;
}

// A prompt longer than a key tile, in two chunks, ragged, with the token whose row is tiny, and decode steps.
std::vector<Step> stressing_steps(const ModelConfig& config, const std::vector<std::int64_t>& left_padding = {0, 4}) {
  std::vector<Step> steps = random_steps(config, {70, 10, 1, 1}, left_padding, 31);
  steps[0].tokens[0][20] = 7;
  return steps;
}

void check_each_fault(const std::vector<std::int64_t>& left_padding) {
  require_gpu();
  // Square q and o projections, K > 1, and a group size that differs from K.
  const ModelConfig config = small_config(6, 2, 32, 192, 160, false);
  const RandomModel model = stressing_model(config, 4.0);
  const RandomModel strong_model = stressing_model(config, 15.0);
  const std::vector<Step> steps = stressing_steps(config, left_padding);
  const auto usual_engine = gpu_engine(model, DType::kF32);
  const auto strong_engine = gpu_engine(strong_model, DType::kF32);
  std::int64_t planted = 0;
  for (FaultId id : usual_engine->plantable_faults()) {
    const bool strong = id == FaultId::kNoMax;
    RandomModel for_naive = strong ? strong_model : model;
    const NaiveForward naive(for_naive, DType::kF32);
    const auto& engine = strong ? strong_engine : usual_engine;
    if (id == FaultId::kBiasFp16 || id == FaultId::kQkFp16)
      continue;  // their effect lies below: judged in the next test
    engine->plant({.id = id, .value = {}, .layer = {}});
    const KeepingSink sink = run_all(*engine, steps);
    INFO(name(id));
    REQUIRE(engine->planted_executions() > 0);
    std::string first_wrong;
    bool wrong_elsewhere = false;
    for (const auto& [key, tensor] : sink.tensors) {
      const Judged judged = judge(naive, DType::kF32, steps, sink, key);
      if (judged.ratio <= 1.0) continue;
      // NaN spreads: only the first wrong tensor is a finding of its own.
      if (first_wrong.empty()) {
        first_wrong = tensor_name(key.id);
        wrong_elsewhere = !is_guilty(id, key.id.op);
      }
    }
    INFO("first wrong: " << first_wrong);
    CHECK(first_wrong != "");
    CHECK(!wrong_elsewhere);
    ++planted;
  }
  REQUIRE(planted >= 30);
}

TEST_CASE("each planted fault is seen at its own tensors and nowhere else", "[gpu][faults]") {
  check_each_fault({0, 4});
}
TEST_CASE("each planted fault of a large batch is seen at its own tensors and nowhere else", "[gpu][faults]") {
  check_each_fault({0, 4, 0, 0, 1});
}

TEST_CASE("faults of precision change the tensor that they round", "[gpu][faults]") {
  require_gpu();
  const ModelConfig config = small_config(6, 2, 32, 192, 160, false);
  const RandomModel model = stressing_model(config, 4.0);
  const std::vector<Step> steps = stressing_steps(config);
  const auto engine = gpu_engine(model, DType::kF32);
  const KeepingSink right = run_all(*engine, steps);
  for (const auto& [id, op] :
       {std::pair<FaultId, Op>{FaultId::kBiasFp16, Op::kQProj}, {FaultId::kQkFp16, Op::kAttnOutput}}) {
    engine->plant({.id = id, .value = {}, .layer = {}});
    const KeepingSink wrong = run_all(*engine, steps);
    INFO(name(id));
    REQUIRE(engine->planted_executions() > 0);
    REQUIRE(!std::ranges::equal(right.at(0, op, 0).bytes(), wrong.at(0, op, 0).bytes()));
    REQUIRE(
        std::ranges::equal(right.at(0, Op::kInputLayernorm, 0).bytes(), wrong.at(0, Op::kInputLayernorm, 0).bytes()));
  }
}

TEST_CASE("a fault planted in one layer leaves the layers before it alone", "[gpu][faults]") {
  require_gpu();
  const ModelConfig config = small_config(6, 2, 32, 192, 160, false);
  const RandomModel model = stressing_model(config, 4.0);
  const std::vector<Step> steps = stressing_steps(config);
  const auto engine = gpu_engine(model, DType::kBF16);
  const KeepingSink right = run_all(*engine, steps);
  for (FaultId id :
       {FaultId::kModulo, FaultId::kInterleaved, FaultId::kLayerNorm, FaultId::kMissingK, FaultId::kNoMask}) {
    engine->plant({.id = id, .value = {}, .layer = 1});
    const KeepingSink wrong = run_all(*engine, steps);
    INFO(name(id));
    REQUIRE(std::ranges::equal(right.at(0, Op::kOutput, 0).bytes(), wrong.at(0, Op::kOutput, 0).bytes()));
    REQUIRE(!std::ranges::equal(right.at(0, Op::kOutput, 1).bytes(), wrong.at(0, Op::kOutput, 1).bytes()));
  }
}

}  // namespace
}  // namespace qdiff::optimized::cuda
