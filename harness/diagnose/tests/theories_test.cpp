// Mechanisms beside roundings that nobody declared.
#include "harness/diagnose/theories.h"

#include "cmake/catch2.h"
#include "harness/contract/splitmix64.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

// Stores in bfloat16, and rounds silu to it as well without declaring that.
Precision stores_16_bits() {
  Precision precision = kF32;
  precision.activations = DType::kBF16;
  return precision;
}

// What explains mlp.act in each step, of an engine that computes it `factor` times in the steps from `first` on.
struct Solution {
  std::vector<std::vector<Fit>> fits;
  Theories theories;

  Solution(double factor, int first) {
    const Precision declared = stores_16_bits();
    ToyOracle oracle(toy_catalogue_of({FaultId::kNoSilu}));
    ToyEngine engine(declared, rounding_at(RoundingPoint::kMlpSilu, DType::kBF16, declared));
    engine.change = [=](int step, const TensorId& id, Tensor& tensor) {
      if (id.op != Op::kAct || step < first) return;
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, factor * tensor.at(i));
    };
    const ToySubject subject(engine, toy_case({40, 1}));
    std::vector<RowJudgement> rows;
    for (const int step : {0, 1}) rows.push_back(subject.row(oracle, key_of(Op::kAct, 0, step), declared));
    for (const RowJudgement& row : rows) REQUIRE(row.wrong());
    Known known;
    Solved solved;
    fits = explain_layer(oracle, rows, declared, known);
    theories = explain_unnamed(oracle, rows, fits, declared, solved);
  }
};

TEST_CASE("a mechanism is solved for beside a rounding that was not declared", "[theories]") {
  const Solution solution(1.5, 0);
  for (const int step : {0, 1}) {
    const auto& theory = solution.theories[static_cast<std::size_t>(step)];
    REQUIRE(theory != nullptr);
    CHECK(theory->mechanism == "factor");
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a mechanism of some steps is solved for beside a rounding that explains the others", "[theories]") {
  const Solution solution(1.5, 1);
  CHECK(solution.fits[0] == std::vector<Fit>{{std::nullopt, {{RoundingPoint::kMlpSilu, DType::kBF16}}}});
  CHECK(solution.theories[0] == nullptr);
  REQUIRE(solution.theories[1] != nullptr);
  CHECK(solution.theories[1]->mechanism == "factor");
}

TEST_CASE("what is right once a rounding is declared is no mechanism", "[theories]") {
  const Solution solution(1.0, 0);
  for (const auto& theory : solution.theories) CHECK(theory == nullptr);
}

// A layer in which so many of seven operations hold anything; the last one is half as large again where `is_scaled`.
struct SpoiledLayer {
  Solved solved;
  Theories theories;

  explicit SpoiledLayer(std::size_t wrong, bool is_scaled = false) {
    const std::vector<Op> ops = {Op::kQProj,  Op::kKProj,    Op::kVProj, Op::kGateProj,
                                 Op::kUpProj, Op::kDownProj, Op::kOutput};
    ToyOracle oracle(toy_catalogue_of({FaultId::kNoSilu}));
    ToyEngine engine(kF32);
    engine.change = [&](int, const TensorId& id, Tensor& tensor) {
      const auto at = static_cast<std::size_t>(std::ranges::find(ops, id.op) - ops.begin());
      if (id.layer != 0) return;
      SplitMix64 draw(static_cast<std::uint64_t>(id.op));
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        if (at < wrong) tensor.set(i, static_cast<double>(draw.below(1000)) - 500.0);
        if (at + 1 == ops.size() && is_scaled) tensor.set(i, 1.5 * tensor.at(i));
      }
    };
    const ToySubject subject(engine, toy_case({4, 1}));
    std::vector<RowJudgement> rows;
    for (Op op : ops) rows.push_back(subject.row(oracle, key_of(op), kF32));
    Known known;
    const auto fits = explain_layer(oracle, rows, kF32, known);
    theories = explain_unnamed(oracle, rows, fits, kF32, solved);
  }

  bool explains_nothing() const {
    return std::ranges::all_of(theories, [](const auto& theory) { return theory == nullptr; });
  }
};

TEST_CASE("a layer of which nothing is explained is the last that is solved for", "[theories]") {
  for (const std::size_t wrong : {5U, 7U}) {
    SpoiledLayer layer(wrong);
    CHECK(layer.explains_nothing());
    CHECK(layer.solved.in_vain.size() == wrong);
    CHECK(layer.solved.in_vain[Op::kQProj] == (wrong == 5 ? 1 : 2));
  }
}

TEST_CASE("behind six operations that nothing explains a plain mistake is still found", "[theories]") {
  SpoiledLayer layer(6, /*is_scaled=*/true);
  REQUIRE(layer.theories.back() != nullptr);
  CHECK(layer.theories.back()->mechanism == "factor");
  CHECK(layer.solved.in_vain[Op::kQProj] == 1);  // the next layer is solved for again
}

}  // namespace
}  // namespace qdiff::diagnose
