// Rows and elements of far tensors, each beside what rounding does there.
#include <cmath>
#include <vector>

#include "cmake/catch2.h"
#include "harness/diagnose/far/bounds.h"
#include "harness/diagnose/far/ranking.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

const TensorKey kLogits{0, {Op::kLmHead}};

compare::Judgement judgement_of(const std::function<void(Tensor&)>& spoil) {
  ToyEngine engine{kF32};
  engine.change = [&](int, const TensorId& id, Tensor& tensor) {
    if (id.op == Op::kLmHead) spoil(tensor);
  };
  const ToySubject subject(engine, toy_case({6}));
  const ModelConfig config = toy_config();
  const std::vector<VariantFacts> catalogue;
  const ProgressReport progress;
  Judged judged;
  judged.compared.resize(1);
  rank_free_runs({.trace = subject.tensors,
                  .subject = subject.subject,
                  .targets = {kLogits},
                  .precision = kF32,
                  .config = config,
                  .catalogue = catalogue,
                  .make_reference = [](const Precision& precision) { return std::make_unique<ToyEngine>(precision); },
                  .progress = progress,
                  .probing = false},
                 judged);
  REQUIRE(judged.wrong.size() == 1);
  return judged.wrong[0].judgement;
}

TEST_CASE("the error of a row is taken apart into its scale, its typical error and its largest", "[far_rows]") {
  const std::vector<double> center = {1.0, -2.0, 3.0, -HUGE_VAL, 5.0};
  const std::vector<double> values = {1.1, -2.2, 3.3, -HUGE_VAL, 5.5};
  const RowErrors errors = row_errors(values, center);
  CHECK(errors.count == 4);
  CHECK(errors.scale() == Approx(0.1));
  CHECK(errors.rms_beside_scale() < 1e-8);
  CHECK(errors.rms() == Approx(0.1 * std::sqrt(39.0 / 4.0)));
  CHECK(errors.peak == Approx(0.5));
  CHECK(errors.peak_column == 4);
  CHECK(errors.typical == Approx(0.3 / 0.6744897501960817));

  const std::vector<double> with_nan = {1.0, std::nan(""), 3.0, -HUGE_VAL, 5.0};
  CHECK(std::isinf(row_errors(with_nan, center).peak));
  const std::vector<double> unmasked = {1.0, -2.0, 3.0, 4.0, 5.0};
  CHECK(std::isinf(row_errors(unmasked, center).peak));
}

TEST_CASE("one logit, one row's factor and one row's error are wrong by themselves", "[far_rows]") {
  const std::int64_t vocab = toy_config().vocab;
  const compare::Judgement element =
      judgement_of([&](Tensor& logits) { logits.set(2 * vocab + 1, logits.at(2 * vocab + 1) * (1.0 + 1e-4) + 1e-4); });
  CHECK(element.outcome == compare::Outcome::kDiverged);
  CHECK(element.worst_index == std::vector<std::int64_t>{0, 2, 1});
  CHECK(element.ratio_to_bound > 1.0);

  const compare::Judgement row = judgement_of([&](Tensor& logits) {
    for (std::int64_t i = 4 * vocab; i < 5 * vocab; ++i) logits.set(i, logits.at(i) * (1.0 + 3e-5));
  });
  CHECK(row.outcome == compare::Outcome::kDiverged);
  CHECK(row.worst_index[1] == 4);
}

TEST_CASE("the figure furthest beyond its bound decides, and an engine that rounds coarser has bounds of its own",
          "[far_rows]") {
  Precision f32 = plain_precision(DType::kF32);
  CHECK(row_precision(f32) == RowPrecision::kFloat32);
  f32.points[RoundingPoint::kKvCache] = DType::kBF16;
  CHECK(row_precision(f32) == RowPrecision::kFloat32RoundsCoarser);
  const Precision bf16 = plain_precision(DType::kBF16);
  CHECK(row_precision(bf16) == RowPrecision::kBfloat16);
  CHECK(row_precision(plain_precision(DType::kF16)) == RowPrecision::kFloat16);
  RowFigures figures{};
  CHECK(verdict_of(figures, bf16).ratio_to_bound == 0.0);
  figures[static_cast<std::size_t>(RowStatistic::kRow)].value = row_bound(RowStatistic::kRow, RowPrecision::kBfloat16);
  figures[static_cast<std::size_t>(RowStatistic::kScale)].value =
      2.0 * row_bound(RowStatistic::kScale, RowPrecision::kBfloat16);
  CHECK(verdict_of(figures, bf16).statistic == RowStatistic::kScale);
  CHECK(verdict_of(figures, bf16).ratio_to_bound == Approx(2.0));
}

}  // namespace
}  // namespace qdiff::diagnose
