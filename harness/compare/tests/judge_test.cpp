#include <chrono>
#include <cmath>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/compare/layout.h"
#include "harness/compare/tests/judge_checks.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

TEST_CASE("the judge passes every assertion that its mutants are held against", "[judge]") {
  for (const Check& check : judge_checks()) {
    INFO(check.name);
    CHECK(check.holds());
  }
}

TEST_CASE("a wrong call is refused, whatever the candidate", "[judge]") {
  Sample sample = honest_sample({});
  SECTION("sigma of another size") { sample.expected.sigma_shared.pop_back(); }
  SECTION("an expectation of another shape") { sample.expected.shape = {2, 100, 5}; }
  SECTION("more values than the shape has") { sample.expected.value.push_back(0.0); }
  CHECK_THROWS_AS(sample.judge(), std::invalid_argument);
}

TEST_CASE("a layout that a step does not give is refused by both shapes", "[judge]") {
  const Sample sample = honest_sample({});
  CHECK_THROWS_WITH(Layout(Op::kOProj, {2, 5, 7}, sample.step, sample.config),
                    "Layout: self_attn.o_proj of shape [2, 5, 7]; this step and model give [2, 5, 100]");
}

TEST_CASE("the reason of a divergence names the element, the statistic and both values", "[judge]") {
  Sample sample = honest_sample({});
  sample.expected.value[207] = 0.5;
  sample.actual.set(207, 4.0);
  const Judgement judgement = sample.judge();
  CHECK_THAT(judgement.reason, ContainsSubstring("the largest error of an element is"));
  CHECK_THAT(judgement.reason, ContainsSubstring("[0, 2, 7]: 4 where 0.5 is expected"));
}

TEST_CASE("a mean error is not called bias, which q, k and v have") {
  CHECK(in_words("bias") == "the mean error");
  CHECK(in_words("rms") == "the root mean square error");
  CHECK(in_words("slope") == "the slope of the error on the expected values");
  CHECK(in_words("share_beyond_one_spacing") == "the share of elements beyond one spacing");
  CHECK(in_words("non_finite") == "NaN or infinity");
  CHECK(in_words("shape") == "shape");
  CHECK(in_words("values") == "values that should only move, changed");
  CHECK(in_words("free_run_row") == "the error of a row of a whole forward pass");
}

TEST_CASE("a candidate that is gold has no error of any kind", "[judge]") {
  Sample sample = honest_sample({});
  for (std::int64_t i = 0; i < sample.actual.size(); ++i) {
    sample.expected.value[static_cast<std::size_t>(i)] = sample.actual.at(i);
  }
  const Judgement judgement = sample.judge();
  CHECK(judgement.reason.ends_with(" is 0 times its bound"));
  const Statistics& statistics = judgement.statistics;
  CHECK(statistics.elements_compared == 1000);
  for (const double figure : {statistics.relative_rms_error, statistics.max_abs_error, statistics.max_excess,
                              statistics.rms, statistics.worst_slice_rms, statistics.bias, statistics.slope}) {
    CHECK(figure == 0.0);
  }
  CHECK(statistics.worst_slice.empty());
}

TEST_CASE("of two values that should be one the larger has the spacing that counts", "[judge]") {
  for (const double actual : {2.0, 1.984375, 1.96875}) {  // 0, 1 and 2 spacings of bfloat16 at 2
    Sample sample = honest_sample({.op = Op::kKCache});
    sample.expected.value[5] = 2.0;
    sample.actual.set(5, actual);
    const Statistics statistics = sample.judge().statistics;
    CHECK(statistics.max_abs_error == 2.0 - actual);
    CHECK((statistics.share_beyond_one_spacing > 0.0) == (actual == 1.96875));
  }
}

TEST_CASE("a column of one row is an element and no slice", "[judge]") {
  constexpr double kSigma = 1e-3;
  for (const std::int64_t wrong : {0, 1, 99}) {
    Sample sample = honest_sample({.dtype = DType::kF32, .num_tokens = 1, .left_padding = {0}, .sigma = kSigma});
    for (std::int64_t i = 0; i < sample.actual.size(); ++i) {
      sample.actual.set(i, sample.expected.value[static_cast<std::size_t>(i)] + (i == wrong ? 6.0 * kSigma : 0.0));
    }
    const std::string slice = sample.judge().statistics.worst_slice;
    INFO(slice);
    CHECK_THAT(slice, StartsWith(wrong == 99 ? "columns 96..99" : "columns 0..15"));
  }
}

TEST_CASE("where every element errs alike the whole tensor is the worst slice", "[judge]") {
  constexpr double kSigma = 1e-3;
  // Of 150 columns, more than a tile has, and of values that seldom are alike.
  Sample sample = honest_sample({.op = Op::kGateProj, .dtype = DType::kF32, .num_tokens = 2, .sigma = kSigma});
  Random random(4);
  for (std::int64_t i = 0; i < sample.actual.size(); ++i) {
    double& gold = sample.expected.value[static_cast<std::size_t>(i)];
    gold = std::ldexp(1.0 + random.uniform(), static_cast<int>(i % 8));
    sample.actual.set(i, gold + (random.uniform() < 0.5 ? -1.2 : 1.2) * kSigma);
  }
  const Judgement judgement = sample.judge();
  CHECK(judgement.statistics.worst_slice == "the whole tensor");
  CHECK(judgement.statistics.worst_slice_rms == Approx(1.2).epsilon(1e-3));
}

TEST_CASE("what is computed beside being moved may differ by so much and no more", "[judge][exact]") {
  for (const double error : {0.05, 0.07}) {
    Sample sample = honest_sample({.op = Op::kVCache, .dtype = DType::kF32});
    sample.expected.sigma_independent[10] = 0.06F;
    sample.expected.value[10] = 1.0;
    sample.actual.set(10, 1.0 + error);
    CHECK(sample.judge().outcome == (error < 0.06 ? Outcome::kMatch : Outcome::kDiverged));
    sample.expected.sigma_independent.clear();
    CHECK(sample.judge().outcome == Outcome::kDiverged);
  }
}

TEST_CASE("a single element is something to compare", "[judge]") {
  Sample sample = honest_sample({.dtype = DType::kF32, .num_tokens = 1, .left_padding = {0}});
  sample.config.hidden = 1;
  sample.expected = {.shape = {1, 1, 1}, .value = {2.0}, .sigma_independent = {1e-3F}, .sigma_shared = {0.0F}};
  sample.actual = Tensor(DType::kF32, {1, 1, 1});
  sample.actual.set(0, 2.0005);
  CHECK(sample.judge().outcome == Outcome::kMatch);
  sample.actual.set(0, 3.0);
  CHECK(sample.judge().outcome == Outcome::kDiverged);
}

TEST_CASE("a tensor without a positive value is not zero", "[judge][gates]") {
  Sample s = honest_sample({.dtype = DType::kF32});
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    double& gold = s.expected.value[static_cast<std::size_t>(i)];
    if (gold <= 0.0) continue;
    gold = -gold;
    s.actual.set(i, -s.actual.at(i));
  }
  CHECK(s.judge().outcome == Outcome::kMatch);
}

TEST_CASE("the first head of a later batch row is a slice", "[judge]") {
  Sample sample = honest_sample({.op = Op::kScores, .dtype = DType::kF32, .sigma = 1e-3});
  for (std::int64_t token = 0; token < 5; ++token) {
    for (std::int64_t key = 0; key <= token; ++key) {
      const std::int64_t i = sample.at({1, 0, token, key});
      sample.actual.set(i, sample.expected.value[static_cast<std::size_t>(i)] + (key % 2 == 0 ? 4e-3 : -4e-3));
    }
  }
  CHECK(sample.judge().statistics.worst_slice == "head 0 of batch row 1");
}

// Each is the first of its kind, and of no size that tiles of columns have.
TEST_CASE("the first head's columns are a slice, and so are all heads of the first token row", "[judge]") {
  constexpr double kError = 4e-3;
  const auto err_at = [](Sample& sample, std::int64_t i, bool up) {
    sample.actual.set(i, sample.expected.value[static_cast<std::size_t>(i)] + (up ? kError : -kError));
  };
  Sample queries = honest_sample({.op = Op::kQProj, .dtype = DType::kF32, .sigma = 1e-3});
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t token = 0; token < 5; ++token) {
      for (std::int64_t c = 0; c < 32; ++c) err_at(queries, queries.at({b, token, c}), (token + c) % 2 == 0);
    }
  }
  CHECK(queries.judge().statistics.worst_slice == "head 0");

  Sample scores = honest_sample({.op = Op::kScores, .dtype = DType::kF32, .sigma = 1e-3});
  for (std::int64_t h = 0; h < 6; ++h) err_at(scores, scores.at({0, h, 0, 0}), h % 2 == 0);
  CHECK(scores.judge().statistics.worst_slice == "every head of token row 0 of batch row 0");
}

TEST_CASE("a moved value that became its neighbour is not beyond one spacing", "[judge][exact]") {
  Sample sample = honest_sample({.op = Op::kVCache, .dtype = DType::kF32});
  sample.expected.value[10] = 1.0;
  sample.actual.set(10, 1.0 - 0x1p-24);  // half a spacing of 1
  const Judgement judgement = sample.judge();
  CHECK(judgement.outcome == Outcome::kDiverged);
  CHECK(judgement.statistics.share_beyond_one_spacing == 0.0);
}

TEST_CASE("a distance is what a judgement says of the whole tensor", "[judge]") {
  const auto distance = [](const Sample& sample) {
    return distance_of({.op = sample.op,
                        .actual = sample.actual.view(),
                        .expected = sample.expected,
                        .step = sample.step,
                        .precision = sample.precision,
                        .config = sample.config});
  };
  for (const Op op : {Op::kOProj, Op::kScores, Op::kKCache}) {
    Sample sample = honest_sample({.op = op, .num_tokens = 3});
    sample.actual.set(0, sample.actual.at(0) + 0.25);
    const Distance whole = distance(sample);
    const Statistics judged = sample.judge().statistics;
    CHECK(whole.rms == judged.rms);
    CHECK(whole.max_excess == judged.max_excess);
    CHECK(whole.max_excess > 0.0);
    CHECK_FALSE(whole.beyond_numbers);
  }
  Sample sample = honest_sample({.op = Op::kOProj});
  sample.actual.set(5, std::numeric_limits<double>::quiet_NaN());
  CHECK(distance(sample).beyond_numbers);
  sample.actual = Tensor(sample.actual.dtype(), {1, 1, 1});
  CHECK(distance(sample).rms == 0.0);  // of another shape: nothing can be compared
}

TEST_CASE("equal inputs give equal judgements", "[judge]") {
  const Sample sample = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32});
  CHECK(sample.judge().statistics.normalised == sample.judge().statistics.normalised);
}

TEST_CASE("logits of a real vocabulary take seconds, not minutes", "[judge]") {
  SampleOptions options{.op = Op::kLmHead, .num_tokens = 4, .left_padding = {0}};
  Sample sample = honest_sample(options);
  sample.config.vocab = 151936;
  sample.expected.shape = {1, 4, sample.config.vocab};
  const auto n = static_cast<std::size_t>(num_elements(sample.expected.shape));
  Random random(3);
  sample.expected.value.resize(n);
  for (double& gold : sample.expected.value) gold = 2.0 * random.uniform() - 1.0;
  sample.expected.sigma_independent.assign(n, 1e-6F);
  sample.expected.sigma_shared.assign(n, 0.0F);
  sample.actual = Tensor::rounded(DType::kBF16, sample.expected.shape, sample.expected.value);
  const auto start = std::chrono::steady_clock::now();
  const Judgement judgement = sample.judge();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CHECK(judgement.outcome == Outcome::kMatch);
  CHECK(seconds.count() < 10.0);  // 0.05 s on a quiet core; the room is for sanitizers
  CHECK(judgement.statistics.elements_compared == static_cast<std::int64_t>(n));
}

}  // namespace
}  // namespace qdiff::compare
