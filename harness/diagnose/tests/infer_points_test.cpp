// Which entries of `compute.points` would have declared what an engine rounds.
#include "harness/diagnose/infer_points.h"

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

using enum RoundingPoint;
using Names = std::map<std::string, std::string>;

WrongTensor explained_by(std::vector<Fit> fits) {
  WrongTensor tensor;
  tensor.fits = std::move(fits);
  return tensor;
}

const Fit kSilu16{std::nullopt, {{kMlpSilu, DType::kBF16}}};
const Fit kSiluHalf{std::nullopt, {{kMlpSilu, DType::kF16}}};
const Fit kBug{Variant{FaultId::kNoSilu, {}}, {}};

TEST_CASE("roundings explain everything where each wrong tensor has one and no bug fits", "[infer_points]") {
  Judged judged;
  CHECK(only_roundings(judged));
  judged.wrong = {explained_by({kSilu16})};
  CHECK(only_roundings(judged));
  judged.wrong.push_back(explained_by({kSilu16, kBug}));
  CHECK_FALSE(only_roundings(judged));
  judged.wrong.back() = explained_by({});
  CHECK_FALSE(only_roundings(judged));
}

TEST_CASE("where findings want one point in two types the more frequent one is declared", "[infer_points]") {
  Judged judged;
  judged.wrong = {explained_by({kSiluHalf}), explained_by({kSilu16}), explained_by({kSilu16}), explained_by({kBug})};
  CHECK(declared_points(declaring_found(kF32, judged)) == Names{{"mlp.silu", "bfloat16"}});
  // What was declared stays.
  const Precision declared = rounding_at(kMlpSilu, DType::kF16);
  CHECK(declaring_found(declared, judged) == declared);
}

Names inferred(const Precision& declared, const Precision& really) {
  ToyOracle oracle;
  ToyEngine engine(declared, really);
  const ToySubject subject(engine);
  const std::vector<Subject> subjects = {subject.subject};
  const Extent extent{{0, 1, 2}, true};
  const Judged judged = judge_subjects(subjects, oracle, declared, extent, {});
  oracle.asked.clear();
  Names points = infer_points(subjects, oracle, declared, extent, judged, {});
  CHECK((judged.wrong.empty() || !oracle.asked.empty()));
  return points;
}

TEST_CASE("the points are those that the engine rounds at, the declared ones among them", "[infer_points]") {
  CHECK(inferred(kF32, kF32).empty());
  const Precision silu = rounding_at(kMlpSilu, DType::kBF16);
  CHECK(inferred(silu, silu) == Names{{"mlp.silu", "bfloat16"}});
  CHECK(inferred(silu, rounding_at(kRmsNormNormalized, DType::kF16, silu)) ==
        Names{{"mlp.silu", "bfloat16"}, {"rms_norm.normalized", "float16"}});
  CHECK(inferred(kF32, rounding_at(kKvCache, DType::kBF16, silu)) ==
        Names{{"kv_cache", "bfloat16"}, {"mlp.silu", "bfloat16"}});
}

}  // namespace
}  // namespace qdiff::diagnose
