// What explain_layer makes of the rows of one layer: which bugs, values and roundings explain the wrong ones.
#include "harness/diagnose/attribution.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/beyond_rounding.h"
#include "harness/diagnose/tests/toy_rows.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

// What fits each wrong row of a layer, by operation; the same at every step.
struct Explained {
  std::map<Op, std::vector<Fit>> fits;  // of the wrong rows
  Known known;

  Explained(ToyOracle& oracle, const std::vector<RowJudgement>& rows, Known before = {}) : known(std::move(before)) {
    const auto all = explain_layer(oracle, rows, kF32, known);
    REQUIRE(all.size() == rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      INFO(tensor_name(rows[i].key.id) << " of step " << rows[i].key.step);
      if (!rows[i].wrong()) {
        CHECK(all[i].empty());
        continue;
      }
      const auto [place, added] = fits.emplace(rows[i].key.id.op, all[i]);
      CHECK((added || place->second == all[i]));
    }
  }
  std::vector<Op> wrong() const {
    std::vector<Op> ops;
    for (const auto& [op, of] : fits) ops.push_back(op);
    return ops;
  }
};

Explained explain(ToyOracle& oracle, ToyEngine engine) {
  const ToySubject subject(engine);
  return Explained(oracle, subject.rows(oracle));
}

TEST_CASE("right rows have no explanation, and no bug is asked for", "[attribution]") {
  ToyOracle oracle;
  const Explained explained = explain(oracle, honest_engine());
  CHECK(explained.fits.empty());
  CHECK(explained.known.fits.empty());
  CHECK(oracle.asked.size() == 1);  // right code alone
}

TEST_CASE("the bug that computes what the candidate computed explains the wrong rows", "[attribution]") {
  ToyOracle oracle;
  const Explained explained = explain(oracle, toy_engine({FaultId::kNoSilu}));
  CHECK(explained.wrong() == std::vector<Op>{Op::kAct});
  const std::vector<Fit> sigmoid = {{Variant{FaultId::kNoSilu, {}}, {}}};
  CHECK(explained.fits.at(Op::kAct) == sigmoid);
  CHECK(explained.fits.at(Op::kAct)[0].distance < 1.0);
  CHECK_FALSE(explained.fits.at(Op::kAct)[0].fitted);
  CHECK(explained.known.fits == sigmoid);
}

// The second addend alone where the layer's output is wanted: a residual stream left out of the addition.
ToyEngine without_second_residual() {
  ToyEngine engine(kF32);
  auto update = std::make_shared<Tensor>();
  engine.change = [update](int, const TensorId& id, Tensor& tensor) {
    if (id.op == row(Op::kOutput).inputs[1].op) *update = tensor;
    if (id.op == Op::kOutput) tensor = *update;
  };
  return engine;
}

TEST_CASE("a bug that would have shown at a row that is right explains no other", "[attribution]") {
  ToyOracle oracle;
  const Explained apart = explain(oracle, without_second_residual());
  CHECK(apart.wrong() == std::vector<Op>{Op::kOutput});
  CHECK(apart.fits.at(Op::kOutput).empty());

  const Explained together = explain(oracle, toy_engine({FaultId::kResidualLost}));
  CHECK(together.wrong() == std::vector<Op>{Op::kResidMid, Op::kOutput});
  CHECK(together.fits.at(Op::kOutput) == std::vector<Fit>{{Variant{FaultId::kResidualLost, {}}, {}}});
  CHECK(together.fits.at(Op::kResidMid) == together.fits.at(Op::kOutput));
}

TEST_CASE("a bug that may sit at each of its rows alone is held against each by itself", "[attribution]") {
  std::vector<VariantFacts> catalogue = toy_catalogue();
  for (VariantFacts& facts : catalogue) facts.reach = Reach::kEach;
  ToyOracle oracle(catalogue);
  const Explained apart = explain(oracle, without_second_residual());
  CHECK(apart.fits.at(Op::kOutput) == std::vector<Fit>{{Variant{FaultId::kResidualLost, {}}, {}}});
}

TEST_CASE("of a parameter, listed values come first and others are searched for", "[attribution]") {
  ToyOracle oracle;
  const Explained listed = explain(oracle, toy_engine({FaultId::kScale, 0.25, {}}));
  CHECK(listed.wrong() == std::vector<Op>{Op::kScores});
  CHECK(listed.fits.at(Op::kScores) == std::vector<Fit>{{Variant{FaultId::kScale, 0.25}, {}}});
  CHECK_FALSE(listed.fits.at(Op::kScores)[0].fitted);

  const Explained searched = explain(oracle, toy_engine({FaultId::kScale, 0.07, {}}));
  CHECK(searched.fits.at(Op::kScores) == std::vector<Fit>{{Variant{FaultId::kScale, 0.07}, {}}});
  CHECK(searched.fits.at(Op::kScores)[0].fitted);
}

TEST_CASE("of several listed values that reproduce the candidate the nearest is taken", "[attribution]") {
  const auto with_values = [](std::optional<double> right) {
    std::vector<VariantFacts> catalogue = toy_catalogue_of({FaultId::kScale});
    catalogue[0].values = {0.25 * (1.0 + 1e-7), 0.25};
    catalogue[0].right_value = right;
    return catalogue;
  };
  ToyOracle continuous(with_values(0.3));
  const auto nearest = explain(continuous, toy_engine({FaultId::kScale, 0.25, {}})).fits.at(Op::kScores);
  REQUIRE(nearest.size() == 1);
  CHECK(nearest[0].variant->value == 0.25);
  // Values of a parameter that is not continuous are in the order of likelihood.
  ToyOracle discrete(with_values(std::nullopt));
  const auto first = explain(discrete, toy_engine({FaultId::kScale, 0.25, {}})).fits.at(Op::kScores);
  REQUIRE(first.size() == 1);
  CHECK(first[0].variant->value == 0.25 * (1.0 + 1e-7));
}

TEST_CASE("a bug of some steps is found beside a rounding of all, which alone explains the others", "[attribution]") {
  ToyOracle oracle;
  const DeclarablePoint silu{RoundingPoint::kMlpSilu, DType::kBF16};
  ToyEngine engine = toy_engine({FaultId::kDecodePosPlusOne}, rounding_at(RoundingPoint::kMlpSilu, DType::kBF16));
  const ToySubject subject(engine);
  Known known;
  for (const int layer : {0, 1}) {  // the second layer is told what explained the first
    const std::vector<RowJudgement> rows = subject.rows(oracle, layer);
    const auto fits = explain_layer(oracle, rows, kF32, known);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].key.id.op != Op::kAct) continue;
      REQUIRE(rows[i].wrong());
      const bool decode = rows[i].step().phase == Phase::kDecode;
      INFO("layer " << layer << ", step " << rows[i].key.step);
      const Fit expected{decode ? std::optional(Variant{FaultId::kDecodePosPlusOne, {}}) : std::nullopt, {silu}};
      CHECK(fits[i] == std::vector<Fit>{expected});
    }
  }
}

TEST_CASE("where no bug fits, a rounding that was not declared does, alone or beside a bug", "[attribution]") {
  ToyOracle oracle;
  const DeclarablePoint silu{RoundingPoint::kMlpSilu, DType::kBF16};
  const Precision rounds = rounding_at(RoundingPoint::kMlpSilu, DType::kBF16);
  const Explained alone = explain(oracle, honest_engine(rounds));
  CHECK(alone.fits.at(Op::kAct) == std::vector<Fit>{{std::nullopt, {silu}}});
  CHECK(alone.known.fits == alone.fits.at(Op::kAct));

  const Explained beside = explain(oracle, toy_engine({FaultId::kNoSilu}, rounds));
  CHECK(beside.fits.at(Op::kAct) == std::vector<Fit>{{Variant{FaultId::kNoSilu, {}}, {silu}}});
}

// Sums of attention in bfloat16 round the probabilities as attention.probs would, and the output, which that does not.
TEST_CASE("roundings of an operation give way to those that another one needs, and bugs of some of its rows stay",
          "[attribution]") {
  const std::vector<Fit> sums = {{std::nullopt, {{RoundingPoint::kAttentionAccumulate, DType::kBF16}}}};
  const Variant scale{FaultId::kScale, 0.3001};  // moves the probabilities by less than bfloat16 does
  std::vector<VariantFacts> catalogue = toy_catalogue_of({FaultId::kScale});
  catalogue[0].values = {*scale.value};
  catalogue[0].reach = Reach::kEach;
  ToyOracle oracle(catalogue);
  ToyEngine engine = honest_engine(rounding_at(RoundingPoint::kAttentionAccumulate, DType::kBF16));
  for (const bool scaled_in_decode : {false, true}) {
    ToySubject subject(engine);
    const TensorKey decode = key_of(Op::kProbs, 0, 1);
    if (scaled_in_decode) {
      subject.tensors.erase(key_of(Op::kScores, 0, 1));
      const RowJudgement row = subject.row(oracle, decode);
      replace(subject.tensors, decode, RowOracle(oracle, kF32).emulate(row, {&scale}));
    }
    const std::vector<RowJudgement> rows = subject.rows(oracle);
    Known known;
    const auto fits = explain_layer(oracle, rows, kF32, known);
    std::map<TensorKey, std::vector<Fit>> of_wrong;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].wrong()) of_wrong.emplace(rows[i].key, fits[i]);
    }
    std::map<TensorKey, std::vector<Fit>> right;
    for (int step : {0, 1}) {
      for (Op op : {Op::kProbs, Op::kAttnOutput}) right.emplace(key_of(op, 0, step), sums);
    }
    if (scaled_in_decode) right[decode] = {{scale, {}}};
    CHECK((of_wrong == right));
  }
}

TEST_CASE("a bug that needs what was not recorded is no explanation", "[attribution]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoHeadStride});
  ToySubject subject(engine);
  CHECK(Explained(oracle, subject.rows(oracle)).fits.at(Op::kAct) ==
        std::vector<Fit>{{Variant{FaultId::kNoHeadStride, {}}, {}}});
  subject.drop({Op::kQRope});
  CHECK(Explained(oracle, subject.rows(oracle)).fits.at(Op::kAct).empty());
}

TEST_CASE("a tensor of a wrong shape has no explanation, and none is what a bug may need", "[attribution]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoHeadStride});
  ToySubject subject(engine);
  for (int step : {0, 1}) replace(subject.tensors, key_of(Op::kQRope, 0, step), Tensor(DType::kF32, {1, 1, 4, 3}));
  std::vector<RowJudgement> rows = subject.rows(oracle);
  std::erase_if(rows, [](const RowJudgement& row) { return row.key.id.op == Op::kScores; });  // they read it
  const Explained explained(oracle, rows);
  CHECK(explained.wrong() == std::vector<Op>{Op::kQRope, Op::kAct});
  CHECK(explained.fits.at(Op::kQRope).empty());
  CHECK(explained.fits.at(Op::kAct).empty());
}

TEST_CASE("what a layer before has shown is tried before anything else", "[attribution]") {
  ToyOracle oracle;
  for (const bool bug : {true, false}) {
    ToyEngine engine =
        bug ? toy_engine({FaultId::kNoSilu}) : honest_engine(rounding_at(RoundingPoint::kMlpSilu, DType::kBF16));
    const ToySubject subject(engine);
    const Explained first(oracle, subject.rows(oracle, 0));
    const std::vector<RowJudgement> rows = subject.rows(oracle, 1);
    oracle.asked.clear();
    const Explained second(oracle, rows, first.known);
    CHECK(second.fits == first.fits);
    CHECK(second.known.fits == first.known.fits);
    CHECK_FALSE(oracle.asked.contains(FaultId::kNoHeadStride));  // it is no further from mlp.act than X.no_silu is
  }
}

TEST_CASE("of explanations that fit, those that clearly lie farther are dropped", "[attribution]") {
  ToyOracle oracle;
  Precision quantizes = kF32;
  quantizes.quantized = QuantizedInputs::kQ8_0;
  // The sums of 16 bits allow for more than blocks of 8-bit inputs do to this product, which compute it to the bit.
  const Explained explained = explain(oracle, honest_engine(quantizes));
  const DeclarablePoint q8_0{std::nullopt, DType::kF32, QuantizedInputs::kQ8_0};
  CHECK(explained.fits.at(Op::kDownProj) == std::vector<Fit>{{std::nullopt, {q8_0}}});
}

// Sums of 16 bits in an order of their own: errors of `size` units of bfloat16's rounding at the largest element.
std::vector<Fit> explain_error_in_sum(double size) {
  ToyOracle oracle(toy_catalogue_of({FaultId::kAccBf16}));
  ToyEngine engine(kF32);
  engine.change = [size](int, const TensorId& id, Tensor& tensor) {
    if (id.op != Op::kDownProj) return;
    double largest = 0.0;
    for (std::int64_t i = 0; i < tensor.size(); ++i) largest = std::max(largest, std::fabs(tensor.at(i)));
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      tensor.set(i,
                 tensor.at(i) + size * largest * unit_roundoff(DType::kBF16) * std::cos(17.0 * static_cast<double>(i)));
    }
  };
  const auto fits = explain(oracle, std::move(engine)).fits;
  return fits.at(Op::kDownProj);
}

TEST_CASE("a bug whose own rounding covers the error is in doubt, and none where it would be off by far more",
          "[attribution]") {
  const std::vector<Fit> covered = explain_error_in_sum(1.0);
  REQUIRE(covered.size() == 1);
  CHECK(covered[0].variant->id == FaultId::kAccBf16);
  CHECK_FALSE(covered[0].doubt.empty());
  CHECK(explain_error_in_sum(0.01).empty());

  ToyOracle oracle;
  const std::vector<Fit> computed = explain(oracle, toy_engine({FaultId::kAccBf16})).fits.at(Op::kDownProj);
  REQUIRE(computed.size() == 1);
  CHECK(computed[0].doubt.empty());
}

// It would cover whatever is wrong there, a spoiled recording of a key as well.
TEST_CASE("a bug that leaves memory unwritten explains what holds one value, and nothing else", "[attribution]") {
  ToyOracle oracle;
  ToyEngine engine =
      toy_engine({FaultId::kWriteMinusOne});  // of which the closed formulas say: the last slot is unknown
  for (const bool spoiled : {false, true}) {
    ToySubject subject(engine, toy_case({1, 1, 1}));
    for (int step : {0, 1, 2}) {
      if (!spoiled) continue;
      Tensor keys = Tensor::copy_of(subject.tensors.get(key_of(Op::kKCache, 0, step)));
      for (std::int64_t i = 0; i < keys.size(); ++i) {
        if (std::isnan(keys.at(i))) keys.set(i, 100.0 + static_cast<double>(i));
      }
      replace(subject.tensors, key_of(Op::kKCache, 0, step), std::move(keys));
    }
    std::vector<RowJudgement> rows;
    for (int step : {0, 1, 2}) rows.push_back(subject.row(oracle, key_of(Op::kKCache, 0, step)));
    REQUIRE(rows[1].wrong());
    CHECK(Explained(oracle, rows).fits.at(Op::kKCache).empty() == spoiled);
  }
}

TEST_CASE("a variant is asked once for each of its values, and concerns the rows that it changes", "[attribution]") {
  CHECK(doses(toy_catalogue_of({FaultId::kNoSilu})[0]) == std::vector<Variant>{{FaultId::kNoSilu, std::nullopt}});
  const VariantFacts scale = toy_catalogue_of({FaultId::kScale})[0];
  CHECK(doses(scale) == std::vector<Variant>{{FaultId::kScale, 1.0}, {FaultId::kScale, 0.25}});
  CHECK(concerns(scale, std::vector<TensorKey>{key_of(Op::kScores), key_of(Op::kProbs)}));
  CHECK_FALSE(concerns(scale, std::vector<TensorKey>{key_of(Op::kProbs)}));
}

// What explain_what_is_left makes of SiLU that was rounded in an order of its own.
std::vector<Fit> mirrored_fits(std::int64_t elements) {
  ToyOracle oracle;
  Precision plain = kF32;
  plain.activations = DType::kBF16;
  ToyEngine engine(kF32);
  ToySubject subject(engine);
  const TensorKey key = key_of(Op::kAct);
  mirror_rounding(subject, oracle, key, plain, rounding_at(RoundingPoint::kMlpSilu, DType::kBF16, plain), elements);
  const std::vector<RowJudgement> rows = {subject.row(oracle, key, plain)};
  REQUIRE(rows[0].wrong());
  Known known;
  std::vector<std::vector<Fit>> fits = explain_layer(oracle, rows, plain, known);
  REQUIRE(fits[0].empty());
  explain_what_is_left(oracle, rows, plain, known, {}, fits);
  return fits[0];
}

TEST_CASE("a rounding in the engine's own order is one that was not declared", "[attribution]") {
  const std::vector<Fit> everywhere = mirrored_fits(-1);
  REQUIRE(everywhere.size() == 1);
  CHECK_FALSE(everywhere[0].variant.has_value());
  CHECK(everywhere[0].points == std::vector<DeclarablePoint>{{RoundingPoint::kMlpSilu, DType::kBF16}});
  CHECK(mirrored_fits(6).empty());  // an error in one place is none
}

// Figures of recordings: elements beyond rounding, those of the declaration, rows that tell, quiet ones, and the most
// elements of a row.
TEST_CASE("a declaration is made where it moves enough, in few elements of many rows too", "[attribution]") {
  CHECK(Moved{621, 31, 0, 0, 60}.tells());            // SiLU as mlx rounds it
  CHECK_FALSE(Moved{64, 0, 0, 0, 64}.tells());        // a head of one token, spoiled; the declaration moves nothing
  CHECK_FALSE(Moved{64, 20, 0, 0, 64}.tells());       // the same, where the declaration moves a few elements elsewhere
  CHECK_FALSE(Moved{109, 1878, 42, 40, 60}.tells());  // six elements spoiled, and nothing where the declaration moves
}

TEST_CASE("rows in which a rounding moves few elements tell together", "[attribution]") {
  CHECK(Moved{36, 45, 1, 0, 19}.as_many());
  CHECK_FALSE(Moved{36, 45, 1, 0, 19, 37, 33}.as_many());  // two tokens spoiled: quiet wherever they are not
  CHECK(Moved{26, 48, 2, 0, 7, 36, 6}.as_many());          // sums in 16 bits, of which one small row is quiet
  CHECK(Moved{26, 48, 2, 0, 7, 7, 7}.as_many());           // too few to tell
}

TEST_CASE("a rounding is denied by the rows that it would have moved", "[attribution]") {
  CHECK(Moved{64, 1150, 36, 34, 32}.denies());     // most rows were moved far less
  CHECK(Moved{63, 512, 8, 6, 32}.denies());        // a query scaled in three elements
  CHECK_FALSE(Moved{222, 32, 1, 0, 60}.denies());  // one row does not tell
  CHECK_FALSE(Moved{1100, 1150, 36, 3, 40}.denies());
}

}  // namespace
}  // namespace qdiff::diagnose
