// Every planted fault computes what docs/faults.md says: each tensor that the planted engine hands out is held against
// the naive catalogue, row by row, from the engine's own recorded inputs.
#include <cmath>
#include <set>

#include "cmake/catch2.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/tests/naive_faults.h"
#include "optimized/cpu/tests/planted_scenarios.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::Inputs;
using testing::KeepingSink;
using testing::kSpareSlots;
using testing::Naive;
using testing::NaiveFault;
using testing::RandomModel;
using testing::Scenario;

// Where sums or scores are rounded on the way, a value near a tie falls to either side.
bool rounds_within(FaultId id) {
  return id == FaultId::kSumFp16 || id == FaultId::kQkFp16 || id == FaultId::kAccBf16 || id == FaultId::kOutFp16 ||
         id == FaultId::kTableBf16 || id == FaultId::kFp16Sum || id == FaultId::kBiasInt8;
}

// How far the recorded tensor lies from what is expected of it.
struct Distance {
  double worst = 0.0;  // error by bound
  std::int64_t beyond = 0;
  std::int64_t compared = 0;
  std::int64_t finite = 0;
};

// The bound is that of engine_test.cpp. What was not written is NaN on both sides.
Distance distance(DType dtype, const Tensor& actual, const Naive& expected) {
  Distance result;
  for (std::int64_t e = 0; e < actual.size(); ++e) {
    const auto i = static_cast<std::size_t>(e);
    const double value = round_to(dtype, expected.value[i]);
    if (expected.magnitude[i] == testing::kUnknown) continue;
    ++result.compared;
    if (!std::isfinite(value)) {
      const bool same = std::isnan(value) ? std::isnan(actual.at(e)) : actual.at(e) == value;
      if (!same) result.worst = HUGE_VAL;
      result.beyond += same ? 0 : 1;
      continue;
    }
    ++result.finite;
    const double bound = 0.5 * spacing(dtype, expected.value[i]) + 4.0 * 0x1p-24 * expected.magnitude[i] + 1e-300;
    const double ratio = std::fabs(actual.at(e) - expected.value[i]) / bound;
    if (ratio <= 1.0) continue;
    ++result.beyond;
    result.worst = ratio <= result.worst ? result.worst : ratio;
  }
  return result;
}

bool belongs(const std::vector<Op>& rows, Op op) { return std::find(rows.begin(), rows.end(), op) != rows.end(); }

// One model, its engine, and what it computes without a fault.
class Bench {
 public:
  Bench(Inputs inputs, DType dtype)
      : dtype_(dtype),
        model_(testing::model_of(inputs)),
        steps_(testing::steps_of_scenarios()),
        engine_(make_engine(model_, {.dtype = dtype, .num_threads = 2})),
        clean_(testing::run_all(*engine_, steps_, Poison::kNaN, kSpareSlots)),
        right_(model_, dtype, std::nullopt, 0.0, capacity()) {}

  void check(const Scenario& scenario) {
    engine_->plant({.id = scenario.id, .value = scenario.value, .layer = {}});
    const KeepingSink planted = testing::run_all(*engine_, steps_, Poison::kNaN, kSpareSlots);
    INFO(name(scenario.id) << (scenario.value ? "=" + std::to_string(*scenario.value) : "") << " in " << name(dtype_));
    CHECK((engine_->planted_executions() > 0) == scenario.shows);
    const std::set<Op> shown = check_rows(scenario, planted);
    for (Op op : scenario.rows) {
      INFO(row(op).name);
      CHECK((shown.count(op) == 1) == scenario.shows);
    }
    check_rows_before(scenario, planted);
  }

 private:
  // Holds each tensor against the catalogue; returns the rows whose own tensors are not the right ones.
  std::set<Op> check_rows(const Scenario& scenario, const KeepingSink& planted) {
    const double value = scenario.value.value_or(testing::default_value(scenario.id));
    const NaiveFault wrong(model_, dtype_, scenario.id, value, capacity());
    const auto get = [&](const TensorKey& key) { return to_doubles(planted.tensors.at(key).view()); };
    std::set<Op> shown;
    for (const auto& [key, actual] : planted.tensors) {
      const Distance to_wrong = distance(dtype_, actual, wrong.evaluate(key, steps_, get));
      const bool own = belongs(scenario.rows, key.id.op);
      const bool allowed = own && rounds_within(scenario.id) && to_wrong.beyond * 10 <= to_wrong.compared;
      if (to_wrong.beyond > 0 && !allowed) {
        FAIL_CHECK(tensor_name(key.id) << " of step " << key.step << ": " << to_wrong.beyond << " of "
                                       << to_wrong.compared << " elements, up to " << to_wrong.worst << " bounds");
      }
      if (!own || shown.count(key.id.op) != 0) continue;
      const Distance to_right = distance(dtype_, actual, right_.evaluate(key, steps_, get));
      if (to_right.beyond > 4 * to_wrong.beyond) shown.insert(key.id.op);
    }
    return shown;
  }

  // Up to the first of its own rows, the planted engine gives the clean one's bits.
  void check_rows_before(const Scenario& scenario, const KeepingSink& planted) {
    for (const TensorId& id : planted.order) {
      if (belongs(scenario.rows, id.op)) return;
      const Tensor& actual = planted.tensors.at({0, id});
      const Tensor& expected = clean_.tensors.at({0, id});
      const bool cache = id.op == Op::kKCache || id.op == Op::kVCache;
      const std::int64_t inner = actual.size() / (actual.shape()[0] * actual.shape()[1]);
      for (std::int64_t e = 0; e < actual.size(); ++e) {
        const std::int64_t b = e / inner / actual.shape()[1];
        if (cache && e / inner % actual.shape()[1] < steps_[0].left_padding[static_cast<std::size_t>(b)]) continue;
        if (actual.at(e) != expected.at(e)) FAIL(tensor_name(id) << ", element " << e);
      }
    }
  }

  std::int64_t capacity() const { return steps_.back().valid_length() + kSpareSlots; }

  DType dtype_;
  RandomModel model_;
  std::vector<Step> steps_;
  std::unique_ptr<Engine> engine_;
  KeepingSink clean_;
  NaiveFault right_;
};

TEST_CASE("every planted fault computes what the catalogue says", "[cpu][faults]") {
  std::map<Inputs, Bench> benches;
  for (const Scenario& scenario : testing::scenarios()) {
    benches.try_emplace(scenario.inputs, scenario.inputs, DType::kF32).first->second.check(scenario);
  }
}

// One of each mechanism: what is stored in two bytes is rounded where the catalogue says, and nowhere else.
TEST_CASE("planted faults keep the engine's rounding in two-byte types", "[cpu][faults]") {
  const std::set<FaultId> ids = {
      FaultId::kPosMajor,      FaultId::kScaleAfter,    FaultId::kNoMax,         FaultId::kTileMax,
      FaultId::kInterleaved,   FaultId::kDecodePosZero, FaultId::kWoRows,        FaultId::kWoCols,
      FaultId::kResidualLost,  FaultId::kRowAxis,       FaultId::kBiasAfterRope, FaultId::kColumnMajorOut,
      FaultId::kLda,           FaultId::kPackedOrder,   FaultId::kTransposedO,   FaultId::kWriteMinusOne,
      FaultId::kLayerNormFull, FaultId::kNoSqrt,        FaultId::kPadVisible,    FaultId::kLayerRepeated};
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    std::map<Inputs, Bench> benches;
    for (const Scenario& scenario : testing::scenarios()) {
      if (ids.count(scenario.id) == 0) continue;
      benches.try_emplace(scenario.inputs, scenario.inputs, dtype).first->second.check(scenario);
    }
  }
}

TEST_CASE("every fault that can be planted has a scenario", "[cpu][faults]") {
  const RandomModel model = testing::model_of(Inputs::kUsual);
  std::set<FaultId> ids;
  for (const Scenario& scenario : testing::scenarios()) ids.insert(scenario.id);
  for (FaultId id : make_engine(model, {.dtype = DType::kF32})->plantable_faults()) {
    INFO(name(id));
    CHECK(ids.erase(id) == 1);
  }
  CHECK(ids.empty());
}

}  // namespace
}  // namespace qdiff::optimized::cpu
