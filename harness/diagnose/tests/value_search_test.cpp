// The value of a parameter, continuous or a whole number, searched for on one wrong row.
#include "harness/diagnose/value_search.h"

#include <cmath>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
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

TEST_CASE("a value counts where it brings the reference nearer", "[value_search]") {
  const VariantFacts eps = toy_catalogue_of({FaultId::kEps})[0];
  const std::vector<Op> inside = {Op::kPostAttentionLayernorm, Op::kGateProj, Op::kUpProj};
  const std::vector<Variant> fitted = fit(eps, Op::kAct, 0.031, inside);
  REQUIRE_FALSE(fitted.empty());
  CHECK_THAT(*fitted.back().value, Catch::Matchers::WithinRel(0.031, 1e-2));

  for (const std::vector<Op>& dropped : {inside, {}}) {
    ToyOracle oracle;
    ToyEngine engine = toy_engine({FaultId::kNoSilu});
    ToySubject subject(engine);
    subject.drop(dropped);
    const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
    REQUIRE(row.wrong());
    RowOracle rows(oracle, kF32);
    CHECK(fitted_values(rows, row, toy_catalogue_of({FaultId::kScale})[0]).empty());
  }
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

// ---- Whole numbers ----

// The factor of the scores as a bug whose value is a whole number, planted with that one.
VariantFacts whole_factor(Takes takes) {
  VariantFacts facts = toy_catalogue_of({FaultId::kScale})[0];
  facts.takes = takes;
  facts.right_value.reset();
  facts.values = {2.0};
  return facts;
}

// Of the nearest whole numbers those that come near.
std::vector<Variant> whole_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts) {
  std::vector<Variant> near = nearest_whole_values(oracle, row, facts);
  std::erase_if(near, [&](const Variant& variant) {
    return !comes_near(oracle.distance_beside(row, {&variant}).rms, oracle.distance_beside(row, {}).rms);
  });
  return near;
}

// Whole numbers that fit the scores of `num_tokens` tokens, of an engine with this factor planted.
std::vector<Variant> whole(const VariantFacts& facts, double planted, std::int64_t num_tokens = 6,
                           const std::vector<Op>& dropped = {}, Op op = Op::kScores) {
  ToyOracle oracle({facts});
  ToyEngine engine = toy_engine({facts.id, planted, {}});
  ToySubject subject(engine, toy_case({num_tokens}));
  subject.drop(dropped);
  const RowJudgement row = subject.row(oracle, key_of(op));
  REQUIRE(row.wrong());
  RowOracle rows(oracle, kF32);
  return whole_values(rows, row, facts);
}

TEST_CASE("a whole number that was typed is found beside the listed ones", "[value_search]") {
  const VariantFacts count = whole_factor(Takes::kCount);
  for (double typed : {1.0, 5.0, 11.0}) CHECK(whole(count, typed) == std::vector<Variant>{{FaultId::kScale, typed}});
  // Of larger ones those that are round, up to twice the slots of the row.
  CHECK(whole(count, 72.0, 40) == std::vector<Variant>{{FaultId::kScale, 72.0}});
  // A listed one has been tried, and none beside it comes nearer than half of right code's error.
  VariantFacts listed = count;
  for (int n = 1; n <= 12; ++n) listed.values.push_back(n);
  CHECK(whole(listed, 5.0).empty());
}

TEST_CASE("a shift may be negative, and a count may not", "[value_search]") {
  CHECK(whole(whole_factor(Takes::kShift), -3.0) == std::vector<Variant>{{FaultId::kScale, -3.0}});
  CHECK(whole(whole_factor(Takes::kCount), -3.0).empty());
}

TEST_CASE("another layer's number is below that of the layers", "[value_search]") {
  VariantFacts layer = whole_factor(Takes::kShift);
  layer.changes = {{Parameter::kWeightLayer, Law::kPlus}};
  layer.values = {1.0};
  CHECK(whole(layer, 2.0) == std::vector<Variant>{{FaultId::kScale, 2.0}});
  CHECK(whole(layer, 5.0).empty());
}

TEST_CASE("numbers that compute the same are named together, the roundest first and few of them", "[value_search]") {
  // The bug takes no number at all, so that every one computes what the candidate did.
  VariantFacts act = toy_catalogue_of({FaultId::kNoSilu})[0];
  act.takes = Takes::kCount;
  const std::vector<Variant> same = whole(act, 1.0, 6, {}, Op::kAct);
  REQUIRE(same.size() == 3);
  CHECK(same[0] == Variant{FaultId::kNoSilu, 1.0});
  CHECK(same[1] == Variant{FaultId::kNoSilu, 2.0});
  CHECK(same[2] == Variant{FaultId::kNoSilu, 4.0});
}

TEST_CASE("no number is named where none brings the reference nearer", "[value_search]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  VariantFacts scale = whole_factor(Takes::kCount);
  scale.ops = {Op::kAct};
  const RowJudgement row = subject.row(oracle, key_of(Op::kAct));
  RowOracle rows(oracle, kF32);
  CHECK(whole_values(rows, row, scale).empty());  // a factor of the scores changes nothing there
  // Nor where the bug asks for what was not recorded.
  VariantFacts blind = toy_catalogue_of({FaultId::kNoHeadStride})[0];
  blind.takes = Takes::kCount;
  subject.drop({Op::kQRope});
  CHECK(whole_values(rows, subject.row(oracle, key_of(Op::kAct)), blind).empty());
}

TEST_CASE("on a long span small numbers alone are tried", "[value_search]") {
  VariantFacts count = whole_factor(Takes::kCount);
  const std::vector<Op> inside = {Op::kQRope, Op::kQProj, Op::kQProjMatmul};
  CHECK(whole(count, 24.0, 40, inside) == std::vector<Variant>{{FaultId::kScale, 24.0}});
  CHECK(whole(count, 72.0, 40, inside).empty());
}

// Refuses odd numbers, as a split of an even width into so many blocks does.
class EvenAlone final : public Oracle {
 public:
  const ModelConfig& config() const override { return toy_.config(); }
  const std::vector<VariantFacts>& catalogue() const override { return toy_.catalogue(); }
  Expectation evaluate(const Query& query) override {
    if (query.variant != nullptr && std::fmod(*query.variant->value, 2.0) != 0.0) {
      if (*query.variant->value < 5.0) throw InputError("the width is no multiple of that");
      throw std::invalid_argument("no such block");
    }
    return toy_.evaluate(query);
  }
  std::vector<double> emulate(const Query& query) override { return toy_.emulate(query); }

 private:
  ToyOracle toy_;
};

TEST_CASE("numbers that the operands do not allow are passed over", "[value_search]") {
  ToyOracle toy;
  ToyEngine engine = toy_engine({FaultId::kScale, 6.0, {}});
  const ToySubject subject(engine);
  const RowJudgement row = subject.row(toy, key_of(Op::kScores));
  EvenAlone oracle;
  RowOracle rows(oracle, kF32);
  CHECK(whole_values(rows, row, whole_factor(Takes::kCount)) == std::vector<Variant>{{FaultId::kScale, 6.0}});
}

TEST_CASE("whole numbers are what counts and shifts take, unless they say how sums are rounded", "[value_search]") {
  CHECK(takes_whole_number(whole_factor(Takes::kCount)));
  CHECK(takes_whole_number(whole_factor(Takes::kShift)));
  CHECK_FALSE(takes_whole_number(whole_factor(Takes::kPositive)));
  VariantFacts facts = whole_factor(Takes::kCount);
  facts.right_value = 1.0;
  CHECK_FALSE(takes_whole_number(facts));
  facts = whole_factor(Takes::kCount);
  facts.changes = {{Parameter::kRunningSum, Law::kInBF16}};
  CHECK_FALSE(takes_whole_number(facts));
}

TEST_CASE("a cache has a few slots more than the steps fill, or a round number of them", "[value_search]") {
  const std::vector<std::int64_t> likely = likely_capacities(toy_case({6, 1}));
  CHECK(likely.front() == 8);
  CHECK(std::ranges::is_sorted(likely));
  CHECK(std::ranges::adjacent_find(likely) == likely.end());
  for (std::int64_t more = 1; more <= 32; ++more) CHECK(std::ranges::count(likely, 7 + more) == 1);
  for (std::int64_t round : {10, 100, 1000, 64, 128, 256, 4096, 32768}) CHECK(std::ranges::count(likely, round) == 1);
  CHECK(std::ranges::count(likely, 7) == 0);  // it holds all steps with no slot left over: nothing is beyond it
  CHECK(std::ranges::count(likely, 41) == 0);
  // Of 100 slots the next multiples.
  const std::vector<std::int64_t> longer = likely_capacities(toy_case({100}));
  for (std::int64_t round : {101, 104, 110, 112, 128, 200, 256, 1000}) CHECK(std::ranges::count(longer, round) == 1);
}

}  // namespace
}  // namespace qdiff::diagnose
