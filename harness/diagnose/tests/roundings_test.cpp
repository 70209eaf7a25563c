// Roundings that an engine made and did not declare, and the bugs beside which they are looked for.
#include "harness/diagnose/roundings.h"

#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

using Points = std::vector<DeclarablePoint>;
constexpr DType kBF16 = DType::kBF16;

// What is found undeclared at a row of an engine that rounds so.
Points undeclared(const Precision& really, Op op, const std::optional<Fault>& fault = {}) {
  ToyOracle oracle;
  ToyEngine engine = fault ? toy_engine(*fault, really) : honest_engine(really);
  const ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(op));
  REQUIRE(row.wrong());
  const std::optional<Variant> variant = fault ? std::optional(Variant{fault->id, fault->value}) : std::nullopt;
  return undeclared_points(RowOracle(oracle, kF32), row, variant ? &*variant : nullptr);
}

TEST_CASE("the roundings that an engine made are found, each with its type", "[roundings]") {
  using enum RoundingPoint;
  CHECK(undeclared(rounding_at(kMlpSilu, kBF16), Op::kAct) == Points{{kMlpSilu, kBF16}});
  CHECK(undeclared(rounding_at(kMlpSilu, DType::kF16), Op::kAct) == Points{{kMlpSilu, DType::kF16}});
  CHECK(undeclared(rounding_at(kRmsNormNormalized, kBF16), Op::kInputLayernorm) == Points{{kRmsNormNormalized, kBF16}});
  CHECK(undeclared(rounding_at(kMlpSilu, kBF16), Op::kAct, Fault{FaultId::kNoSilu}) == Points{{kMlpSilu, kBF16}});
  // One after the other, the one first that brings the reference nearer.
  const Points two =
      undeclared(rounding_at(kAttentionScaledScores, kBF16, rounding_at(kAttentionScores, kBF16)), Op::kScores);
  CHECK(two.size() == 2);
  for (RoundingPoint point : {kAttentionScores, kAttentionScaledScores}) {
    CHECK(std::find(two.begin(), two.end(), DeclarablePoint{point, kBF16}) != two.end());
  }
}

TEST_CASE("two roundings of which one alone brings the reference no nearer are found together", "[roundings]") {
  using enum RoundingPoint;
  CHECK(undeclared(rounding_at(kRopeTable, kBF16, rounding_at(kRopeProducts, kBF16)), Op::kQRope) ==
        Points{{kRopeTable, kBF16}, {kRopeProducts, kBF16}});
}

TEST_CASE("inputs of products in blocks of 8 bits are a rounding as well", "[roundings]") {
  Precision quantizes = kF32;
  quantizes.quantized = QuantizedInputs::kQ8_0;
  CHECK(undeclared(quantizes, Op::kGateProj) ==
        Points{{std::nullopt, DType::kF32, QuantizedInputs::kQ8_0}});  // blocks of 256 are not possible here
}

TEST_CASE("a narrower cache is the one rounding of data that only moves", "[roundings]") {
  CHECK(undeclared(rounding_at(RoundingPoint::kKvCache, kBF16), Op::kKCache) ==
        Points{{RoundingPoint::kKvCache, kBF16}});
}

TEST_CASE("no rounding explains a bug", "[roundings]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  CHECK(undeclared_points(RowOracle(oracle, kF32), subject.row(oracle, key_of(Op::kAct)), nullptr).empty());
  // What a bug needs may not be recorded: then nothing is said beside it.
  const Variant blind{FaultId::kNoHeadStride, {}};
  subject.drop({Op::kQRope});
  CHECK(undeclared_points(RowOracle(oracle, kF32), subject.row(oracle, key_of(Op::kAct)), &blind).empty());
}

TEST_CASE("probabilities may be rounded before they are divided, where no tensor shows it", "[roundings]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  ToySubject subject(engine);
  subject.drop({Op::kScores, Op::kProbs});
  const Precision rounds = rounding_at(RoundingPoint::kAttentionProbs, kBF16);
  RowJudgement row = subject.row(oracle, key_of(Op::kAttnOutput), rounds);
  replace(subject.tensors, row.key, RowOracle(oracle, rounds).emulate(row, {}, /*divides_last=*/true));
  const Expectation scale = RowOracle(oracle, rounds).evaluate(row, {});
  CHECK(RowOracle(oracle, rounds).distance(row, {}, scale) == 0.0);
  CHECK(RowOracle(oracle, kF32).distance(row, {}, scale) > 0.1);
}

TEST_CASE("roundings in another order than the reference's are found by declaring them", "[roundings]") {
  ToyOracle oracle;
  Precision plain = kF32;
  plain.activations = kBF16;
  ToyEngine engine(kF32);
  ToySubject subject(engine);
  mirror_rounding(subject, oracle, key_of(Op::kAct), plain, rounding_at(RoundingPoint::kMlpSilu, kBF16, plain));
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct), plain);
  REQUIRE(row.wrong());
  const RowOracle rows(oracle, plain);
  CHECK(undeclared_points(rows, row, nullptr).empty());
  CHECK(covering_declarations(rows, row) == std::vector<Points>{{{RoundingPoint::kMlpSilu, kBF16}}});
  // A bug has none.
  ToyEngine wrong = toy_engine({FaultId::kNoSilu});
  ToySubject bug(wrong);
  CHECK(covering_declarations(rows, bug.row(oracle, key_of(Op::kAct), plain)).empty());
}

TEST_CASE("what a hard gate tells apart is infinitely far", "[roundings]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
  const Expectation scale = RowOracle(oracle, kF32).evaluate(row, {});
  CHECK(RowOracle(oracle, kF32).distance(row, {}, scale) < 1.0);
  Tensor wrong = Tensor::copy_of(row.actual());
  wrong.set(3, std::nan(""));
  replace(subject.tensors, row.key, std::move(wrong));
  CHECK(std::isinf(RowOracle(oracle, kF32).distance(row, {}, scale)));
}

TEST_CASE("the nearest bugs are those that take half of the distance away, the nearest first", "[roundings]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kScale, 0.98, {}}, rounding_at(RoundingPoint::kAttentionScores, kBF16));
  ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(Op::kScores));
  RowOracle rows(oracle, kF32);
  CHECK(nearest_variants(rows, row) == std::vector<Variant>{{FaultId::kScale, 1.0}});

  std::vector<VariantFacts> many = toy_catalogue_of({FaultId::kScale, kScoresBf16});
  many[0].values = {0.8, 1.1, 0.9, 1.0, 0.31};
  ToyOracle other(many);
  RowOracle again(other, kF32);
  CHECK(nearest_variants(again, row) ==
        std::vector<Variant>{{FaultId::kScale, 1.0}, {FaultId::kScale, 0.9}, {FaultId::kScale, 1.1}});
}

}  // namespace
}  // namespace qdiff::diagnose
