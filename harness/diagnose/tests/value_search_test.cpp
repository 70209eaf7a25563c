// The value of a continuous parameter, searched for on one wrong row.
#include "harness/diagnose/value_search.h"

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

// Values that fit the row of the parameter's operation, of an engine with this value planted.
std::vector<Variant> fit(const VariantFacts& facts, Op op, double planted, const std::vector<Op>& dropped = {}) {
  ToyOracle oracle({facts});
  ToyEngine engine = toy_engine({facts.id, planted, {}});
  ToySubject subject(engine);
  subject.drop(dropped);
  const RowJudgement row = subject.row(oracle, key_of(op));
  REQUIRE(row.wrong());
  RowOracle rows(oracle, kF32);
  return fitted_values(rows, row, facts);
}

TEST_CASE("the value that was typed is found, the shortest number first", "[value_search]") {
  const VariantFacts eps = toy_catalogue_of({FaultId::kEps})[0];
  for (double typed : {0.031, 0.9, 1e-2}) {
    const std::vector<Variant> fitted = fit(eps, Op::kInputLayernorm, typed);
    REQUIRE(fitted.size() == 7);
    CHECK(fitted.front() == Variant{FaultId::kEps, typed});
    CHECK_THAT(*fitted.back().value, Catch::Matchers::WithinRel(typed, 1e-4));
  }
  // Two digits say less than was typed; all of them come in turn.
  const std::vector<Variant> longer = fit(eps, Op::kInputLayernorm, 0.03127);
  CHECK(longer.front() == Variant{FaultId::kEps, 0.031});
  CHECK(longer[2] == Variant{FaultId::kEps, 0.03127});
}

TEST_CASE("a value is found far beyond the listed ones, on either side", "[value_search]") {
  const VariantFacts scale = toy_catalogue_of({FaultId::kScale})[0];
  for (double typed : {3e7, 1e-5}) {
    const std::vector<Variant> fitted = fit(scale, Op::kScores, typed);
    REQUIRE_FALSE(fitted.empty());
    CHECK(fitted.front() == Variant{FaultId::kScale, typed});
  }
}

TEST_CASE("a right value of 0 has no logarithm, so the listed ones say where to search", "[value_search]") {
  VariantFacts eps = toy_catalogue_of({FaultId::kEps})[0];
  eps.right_value = 0.0;
  const std::vector<Variant> fitted = fit(eps, Op::kInputLayernorm, 0.031);
  REQUIRE_FALSE(fitted.empty());
  CHECK(fitted.front() == Variant{FaultId::kEps, 0.031});
  eps.values = {0.0};
  CHECK(fit(eps, Op::kInputLayernorm, 0.031).empty());
}

TEST_CASE("on a long span a value counts where it brings the reference nearer", "[value_search]") {
  const VariantFacts eps = toy_catalogue_of({FaultId::kEps})[0];
  const std::vector<Op> inside = {Op::kPostAttentionLayernorm, Op::kGateProj, Op::kUpProj};
  const std::vector<Variant> fitted = fit(eps, Op::kAct, 0.031, inside);
  REQUIRE_FALSE(fitted.empty());
  CHECK_THAT(*fitted.back().value, Catch::Matchers::WithinRel(0.031, 1e-2));

  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  subject.drop(inside);
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
  REQUIRE(row.wrong());
  RowOracle rows(oracle, kF32);
  CHECK(fitted_values(rows, row, toy_catalogue_of({FaultId::kScale})[0]).empty());
}

TEST_CASE("tensors of 16 bits tell a value to more digits than their own", "[value_search]") {
  const Precision bf16 = plain_precision(DType::kBF16);
  for (double typed : {0.512, 0.0437}) {
    ToyOracle oracle(toy_catalogue_of({FaultId::kScale}));
    ToyEngine engine(bf16);
    engine.plant({FaultId::kScale, typed});
    const ToySubject subject(engine, toy_case({12}));
    const RowJudgement row = subject.row(oracle, key_of(Op::kScores), bf16);
    RowOracle rows(oracle, bf16);
    CHECK(fitted_values(rows, row, toy_catalogue_of({FaultId::kScale})[0]).at(1) == Variant{FaultId::kScale, typed});
  }
}

}  // namespace
}  // namespace qdiff::diagnose
