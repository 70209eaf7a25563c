// The judge against its formulas (plain_judge.h), on drawn comparisons.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/compare/bounds.h"
#include "harness/compare/distinct.h"
#include "harness/compare/slices.h"
#include "harness/compare/tests/plain_judge.h"
#include "harness/contract/number_text.h"

namespace qdiff::compare {
namespace {

// Sums in another order differ by some roundings of float64 each.
bool alike(double a, double b) { return a == b || std::fabs(a - b) <= 1e-9 * std::max(std::fabs(a), std::fabs(b)); }

void check_statistics(const Judgement& judged, const PlainJudgement& plain) {
  const Statistics& s = judged.statistics;
  CHECK(s.elements_compared == plain.elements_compared);
  const auto check = [](const char* what, double a, double b) {
    INFO(what << ": " << a << " where the formula gives " << b);
    CHECK(alike(a, b));
  };
  check("max_excess", s.max_excess, plain.max_excess);
  check("rms", s.rms, plain.rms);
  check("bias", s.bias, plain.bias);
  check("slope", s.slope, plain.slope);
  check("max_abs_error", s.max_abs_error, plain.max_abs_error);
  check("relative_rms_error", s.relative_rms_error, plain.relative_rms_error);
  check("share_beyond_one_spacing", s.share_beyond_one_spacing, plain.share_beyond);
  for (std::size_t i = 0; i < kNumStatistics; ++i) {
    check(std::string(name(static_cast<Statistic>(i))).c_str(), s.normalised[i], plain.normalised[i]);
  }
  if (plain.slice_score.empty()) return;
  INFO("worst slice: " << s.worst_slice);
  REQUIRE(plain.slice_score.contains(s.worst_slice));  // of several that are equally bad any may be named
  check("score of the worst slice", plain.slice_score.at(s.worst_slice), plain.normalised[2]);
  check("rms of the worst slice", s.worst_slice_rms, plain.slice_rms.at(s.worst_slice));
}

void check_outcome(const DrawnComparison& drawn, const Judgement& judged, const PlainJudgement& plain) {
  const std::size_t worst =
      static_cast<std::size_t>(std::max_element(plain.ratio.begin(), plain.ratio.end()) - plain.ratio.begin());
  const double ratio = plain.ratio[worst];
  CHECK(alike(judged.ratio_to_bound, ratio));
  if (!alike(ratio, 1.0) && !alike(ratio, 2.0)) {
    CHECK(judged.outcome == (ratio > 2.0   ? Outcome::kDiverged
                             : ratio > 1.0 ? Outcome::kInconclusive
                                           : Outcome::kMatch));
  }
  CHECK(judged.decisive_statistic == name(static_cast<Statistic>(worst)));
  const std::string what =
      in_words(judged.decisive_statistic) + " is " + digits(judged.ratio_to_bound, 4) + " times its bound";
  if (plain.worst_element < 0) {
    CHECK(judged.worst_index.empty());
    CHECK(judged.actual == 0.0);
    CHECK(judged.expected == 0.0);
  } else {
    CHECK(judged.worst_index == unravel(plain.worst_element, drawn.sample.actual.shape()));
    CHECK(judged.actual == drawn.sample.actual.at(plain.worst_element));
  }
  std::string reason = judged.outcome == Outcome::kMatch ? "explained by rounding: nearest to its bound, " + what
                       : judged.outcome == Outcome::kInconclusive
                           ? what + ", beyond every honest engine measured and not far enough to be sure"
                           : "not explained by rounding: " + what;
  if (judged.outcome == Outcome::kDiverged) {
    if (worst == 2) reason += " (" + judged.statistics.worst_slice + ")";
    if (plain.worst_element >= 0) {
      reason += "; worst element at " + to_string(judged.worst_index) + ": " + digits(judged.actual, 6) + " where " +
                digits(judged.expected, 6) + " is expected";
    }
  }
  CHECK(judged.reason == reason);
}

TEST_CASE("on drawn comparisons the judge's statistics are those of its formulas", "[judge][formulas]") {
  std::array<int, 4> outcomes{};
  std::array<int, kNumStatistics> decisive{};
  for (std::uint64_t seed = 0; seed < 12 * kNumOps; ++seed) {
    const DrawnComparison drawn = draw_comparison(seed);
    INFO("seed " << seed << ": " << drawn.describe());
    const Judgement judged = drawn.judge();
    const PlainJudgement plain = plain_judgement(drawn);
    check_statistics(judged, plain);
    ++outcomes[static_cast<std::size_t>(judged.outcome)];
    if (plain.slice_score.empty()) continue;
    check_outcome(drawn, judged, plain);
    for (std::size_t i = 0; i < kNumStatistics; ++i) {
      if (judged.decisive_statistic == name(static_cast<Statistic>(i))) ++decisive[i];
    }
  }
  // The draws reach every outcome and let every statistic decide.
  for (const Outcome outcome : {Outcome::kMatch, Outcome::kInconclusive, Outcome::kDiverged, Outcome::kUnjudged}) {
    INFO("outcome " << static_cast<int>(outcome));
    CHECK(outcomes[static_cast<std::size_t>(outcome)] > 0);
  }
  for (std::size_t i = 0; i < kNumStatistics; ++i) {
    INFO(name(static_cast<Statistic>(i)));
    CHECK(decisive[i] > 0);
  }
}

TEST_CASE("a statistic that is not a number stays so", "[judge][formulas]") {
  const Sample s = honest_sample({.op = Op::kOProj, .dtype = DType::kF32, .num_tokens = 1, .left_padding = {0}});
  const Layout layout(s.op, s.actual.shape(), s.step, s.config);
  const TensorView actual = s.actual.view();
  const std::vector<SliceSums> rows = {{.count = 100.0, .z_squared = 100.0, .independent = 100.0}};
  const ColumnSums columns(100);
  TensorSums total{.error_squared = 1.0, .gold_squared = 1.0};
  const auto max_excess = [&](double squared) {
    total.max_excess_squared = squared;
    return statistics_of({layout, actual, rows, columns, total, DType::kF32}).max_excess;
  };
  CHECK(std::isnan(max_excess(std::nan(""))));
  CHECK(max_excess(-1.0) == 0.0);
  CHECK(max_excess(9.0) == 3.0);
  for (const SliceSums& sums : {SliceSums{.count = 100.0, .z_squared = std::nan(""), .independent = 100.0},
                                SliceSums{.count = 100.0, .error = std::nan(""), .independent = 100.0}}) {
    const std::vector<SliceSums> wrong = {sums};
    const Statistics statistics = statistics_of({layout, actual, wrong, columns, total, DType::kF32});
    CHECK(std::isnan(statistics.worst_slice_rms + statistics.bias));
    CHECK(std::isnan(statistics.normalised[static_cast<std::size_t>(Statistic::kSliceRms)] +
                     statistics.normalised[static_cast<std::size_t>(Statistic::kBias)]));
  }
}

// Honest engines were measured with these; a change of one moves every verdict.
TEST_CASE("bounds are what was measured times their margin, and none is below what chance gives", "[judge][bounds]") {
  CHECK(kMargin == 2.0);
  CHECK(kEnsembleMargin == 3.0);
  CHECK(kDivergedRatio == 2.0);
  CHECK(kLeastWorst == WorstHonest{1.3, 1.2, 1.4, 1.4, 4.0, 0.7});
  CHECK(bounds_column(DType::kF32) == 0);
  CHECK(bounds_column(DType::kF64) == 0);
  CHECK(bounds_column(DType::kBF16) == 1);
  CHECK(bounds_column(DType::kF16) == 2);
  const WorstHonest measured = {1.0, 2.0, 1.4, 1.5, 0.0, 0.7};
  CHECK(bound_from(measured, Statistic::kMaxExcess, 2.0) == 2.6);
  CHECK(bound_from(measured, Statistic::kRms, 2.0) == 4.0);
  CHECK(bound_from(measured, Statistic::kShareBeyond, 3.0) == 3.0 * 0.7);
}

TEST_CASE("equal values are counted among the rows that count, to 8 bits", "[judge][distinct]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    Sample s =
        honest_sample({.op = Op::kOProj, .dtype = DType::kF32, .num_tokens = 6, .left_padding = {0, 2}, .seed = seed});
    for (std::int64_t i = 0; i < s.actual.size(); ++i) {
      const std::int64_t kind = random.below(6);
      // Few values, some that differ in the ninth bit alone, zeros, and what is not finite.
      const double value = 1.0 + static_cast<double>(random.below(1 + static_cast<std::int64_t>(seed % 5))) / 4.0;
      s.actual.set(i, kind == 0 ? 0.0 : kind == 1 ? HUGE_VAL : kind == 2 ? value * (1.0 + 0x1p-12) : value);
    }
    const Layout layout(s.op, s.actual.shape(), s.step, s.config);
    const std::int64_t row_stride = random.between(1, 3), column_stride = random.between(1, 9);
    const Block block{random.below(4), row_stride,    1 + random.below(7 / row_stride),
                      random.below(5), column_stride, 1 + random.below(94 / column_stride)};
    std::vector<double> values;
    for (std::int64_t r = 0; r < block.num_rows; ++r) {
      const std::int64_t row = block.first_row + r * block.row_stride;
      if (row / 6 == 1 && row % 6 < 2) continue;  // pads
      for (std::int64_t c = 0; c < block.num_columns; ++c) {
        values.push_back(s.actual.at(row * 100 + block.first_column + c * block.column_stride));
      }
    }
    INFO("seed " << seed);
    CHECK(probability_of_equal(block, layout, s.actual.view()) == Approx(plain_probability_of_equal(values)));
  }
}

TEST_CASE("equal values of a large block are counted in a sample of it", "[judge][distinct]") {
  Sample s = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32, .num_tokens = 8, .left_padding = {0, 5}});
  const Layout layout(s.op, s.actual.shape(), s.step, s.config);
  const Block everything{0, 1, 16, 0, 1, 1001};
  CHECK(probability_of_equal(everything, layout, s.actual.view()) < 0.02);
  const auto share_of_ones = [&](double share) {
    Random random(9);
    for (std::int64_t i = 0; i < s.actual.size(); ++i) {
      const bool pad = i / 1001 >= 8 && i / 1001 < 13;
      s.actual.set(i, pad || random.uniform() < share ? 1.0 : 2.0 + 40.0 * random.uniform());
    }
  };
  // Pads hold the same value throughout and do not count. 0.06 is three deviations of a sample of 700.
  share_of_ones(0.5);
  CHECK(probability_of_equal(everything, layout, s.actual.view()) == Approx(0.25).margin(0.06));
  // The odd columns alone, and the last row alone.
  for (std::int64_t i = 0; i < s.actual.size(); ++i)
    s.actual.set(i, i % 1001 % 2 == 1 ? 3.0 : 1.0 + 0.01 * static_cast<double>(i % 997));
  CHECK(probability_of_equal({0, 1, 16, 1, 2, 500}, layout, s.actual.view()) == 1.0);
  CHECK(probability_of_equal({0, 1, 16, 0, 2, 500}, layout, s.actual.view()) < 0.1);
  for (std::int64_t i = 0; i < s.actual.size(); ++i)
    s.actual.set(i, i / 1001 % 2 == 1 ? 3.0 : 1.0 + 0.01 * static_cast<double>(i % 997));
  CHECK(probability_of_equal({1, 2, 8, 0, 1, 1001}, layout, s.actual.view()) == 1.0);
  CHECK(probability_of_equal({0, 2, 8, 0, 1, 1001}, layout, s.actual.view()) < 0.1);
}

TEST_CASE("fewer than two values are equal to none", "[judge][distinct]") {
  Sample s = honest_sample({.op = Op::kOProj, .dtype = DType::kF32});
  const Layout layout(s.op, s.actual.shape(), s.step, s.config);
  CHECK(probability_of_equal({0, 1, 1, 0, 1, 1}, layout, s.actual.view()) == 0.0);
  s.actual.set(0, 0.0);
  CHECK(probability_of_equal({0, 1, 1, 0, 1, 2}, layout, s.actual.view()) == 0.0);
}

}  // namespace
}  // namespace qdiff::compare
