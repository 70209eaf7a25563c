// The oracle asked of recorded rows: cheap looks before dear ones, and what is remembered.
#include "harness/diagnose/row_oracle.h"

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

const Variant kSigmoid{FaultId::kNoSilu, {}};
const Variant kNoResidual{FaultId::kResidualLost, {}};

TEST_CASE("a bug is screened on long spans alone, and only where the row is wrong", "[row_oracle]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  RowOracle rows(oracle, kF32);
  const RowJudgement act = subject.row(oracle, key_of(Op::kAct));
  REQUIRE(act.wrong());
  CHECK_FALSE(act.is_long());
  CHECK(rows.may_reproduce(act, {&kNoResidual}));

  subject.drop(rows_from(Op::kAct, Op::kOutput));
  const RowJudgement output = subject.row(oracle, key_of(Op::kOutput));
  REQUIRE(output.wrong());
  CHECK(output.is_long());
  CHECK(rows.may_reproduce(output, {&kSigmoid}));
  CHECK_FALSE(rows.may_reproduce(output, {&kNoResidual}));
  CHECK_FALSE(rows.may_reproduce(output, {nullptr, {{RoundingPoint::kMlpSilu, DType::kBF16}}}));
  CHECK(rows.may_reproduce(output, {&kSigmoid, {{RoundingPoint::kMlpSilu, DType::kF16}}}));

  ToyEngine honest(kF32);
  ToySubject right(honest);
  right.drop(rows_from(Op::kAct, Op::kOutput));
  const RowJudgement unharmed = right.row(oracle, key_of(Op::kOutput));
  REQUIRE_FALSE(unharmed.wrong());
  CHECK(rows.may_reproduce(unharmed, {&kNoResidual}));
}

TEST_CASE("what was computed for a look is not computed again", "[row_oracle]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  const ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
  RowOracle rows(oracle, kF32);
  const double with_bug = rows.distance(row, {&kSigmoid});
  const double without = rows.distance(row);
  CHECK(with_bug < 1.0);
  CHECK(without > 100.0);
  const auto asked = oracle.asked;
  CHECK(rows.distance(row, {&kSigmoid}) == with_bug);
  CHECK(rows.distance(row) == without);
  CHECK(rows.right(row).value == RowOracle(oracle, kF32).evaluate(row, {}).value);
  CHECK(oracle.asked.at(FaultId::kNoSilu) == asked.at(FaultId::kNoSilu));
  CHECK(oracle.asked.at(std::nullopt) == asked.at(std::nullopt) + 1);  // by this test itself
}

TEST_CASE("values of a parameter have distances of their own", "[row_oracle]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kScale, 0.25, {}});
  const ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(Op::kScores));
  RowOracle rows(oracle, kF32);
  const Variant right{FaultId::kScale, 0.25}, wrong{FaultId::kScale, 1.0};
  CHECK(rows.distance(row, {&wrong}) > 100.0);
  CHECK(rows.distance(row, {&right}) < 1.0);
}

TEST_CASE("a bug that needs what was not recorded says so", "[row_oracle]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  subject.drop({Op::kQRope});
  subject.drop(rows_from(Op::kAct, Op::kOutput));
  RowOracle rows(oracle, kF32);
  const Variant blind{FaultId::kNoHeadStride, {}};
  const RowJudgement output = subject.row(oracle, key_of(Op::kOutput));
  CHECK_THROWS_AS(rows.may_reproduce(output, {&blind}), NotEvaluable);
}

TEST_CASE("statistics beside a bug take gold alone from it", "[row_oracle]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  const ToySubject subject(engine);
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
  CHECK(RowOracle(oracle, kF32).distance_beside(row, {&kSigmoid}).rms < 1.0);
  CHECK(RowOracle(oracle, kF32).distance_beside(row, {}).rms > 100.0);
}

}  // namespace
}  // namespace qdiff::diagnose
