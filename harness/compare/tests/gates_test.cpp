// What no statistic may speak about, case by case: the rules in gates.h and the edges of each.
#include "harness/compare/gates.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

using Index = std::vector<std::int64_t>;

struct JudgedElement {
  DType dtype;
  double gold, sigma, shared, actual;
  std::string gate;    // that decides; empty: a match
  std::string reason;  // its beginning
};

Judgement judge_one(const JudgedElement& element, std::int64_t place) {
  Sample s = honest_sample({.dtype = element.dtype});
  const auto at = static_cast<std::size_t>(place);
  s.expected.value[at] = element.gold;
  s.expected.sigma_independent[at] = static_cast<float>(element.sigma);
  s.expected.sigma_shared[at] = static_cast<float>(element.shared);
  s.actual.set(place, element.actual);
  return s.judge();
}

TEST_CASE("NaN, infinities and overflow have to stand where gold has them", "[judge][gates]") {
  const std::string for_nan = "a number where NaN is expected", for_infinity = "not the infinity that is expected",
                    for_number = "an infinity where the stored type holds what is expected",
                    overflown = "finite where what is expected overflows the stored type",
                    nan = "NaN where a number is expected", no_number = "not a finite number where one is expected",
                    unknown = "the expected rounding is not a number";
  using enum DType;
  const std::vector<JudgedElement> elements = {
      {kF32, kNan, 0, 0, kNan, "", ""},
      {kF32, kNan, 0, 0, 0.0, "non_finite", for_nan},
      {kF32, kNan, 0, 0, kInf, "non_finite", for_nan},
      {kF32, kInf, 0, 0, kInf, "", ""},
      {kF32, -kInf, 0, 0, -kInf, "", ""},
      {kF32, kInf, 0, 0, -kInf, "non_finite", for_infinity},
      {kF32, -kInf, 0, 0, kInf, "non_finite", for_infinity},
      {kF32, -kInf, 0, 0, -1e38, "non_finite", for_infinity},
      {kF32, kInf, 0, 0, kNan, "non_finite", for_infinity},
      {kF32, 1.0, 1e-6, 0, kNan, "non_finite", nan},
      {kF32, 0.0, 0, 0, kNan, "non_finite", nan},
      {kF32, 1.0, kNan, 0, 1.0, "unknown_rounding", unknown},
      {kF32, 1.0, 0, kNan, 7.0, "unknown_rounding", unknown},
      {kF32, 1.0, kInf, 0, 1.0, "unknown_rounding", unknown},
      {kF32, 1.0, kNan, 0, kInf, "non_finite", no_number},
      {kF32, 1.0, kInf, 0, kNan, "non_finite", no_number},
      // float16 rounds to infinity from 65520 on, and sixteen deviations are honest.
      {kF16, 65504.0, 1.0, 0, kInf, "", ""},
      {kF16, 65504.0, 0.99, 0, kInf, "non_finite", for_number},
      {kF16, 65504.0, 0.6, 0.8001, kInf, "", ""},
      {kF16, 65504.0, 0.6, 0.79, kInf, "non_finite", for_number},
      {kF16, -65504.0, 1.0, 0, -kInf, "", ""},
      {kF16, -65504.0, 1.0, 0, kInf, "non_finite", for_number},
      {kF16, 65504.0, 1.0, 0, -kInf, "non_finite", for_number},
      {kF16, 65536.0, 1.0, 0, 65504.0, "non_finite", overflown},
      {kF16, 65536.0, 1.01, 0, 65504.0, "", ""},
      {kF16, 65530.0, 10.0, 0, 65504.0, "", ""},
      {kF16, 65536.0, 1.0, 0, kInf, "", ""},
      {kF16, -65536.0, 1.0, 0, -kInf, "", ""},
      {kF16, -65536.0, 1.0, 0, kInf, "non_finite", for_number},
      {kF16, 65520.0, 0, 0, kInf, "", ""},
      {kF16, 65519.0, 0, 0, kInf, "non_finite", for_number},
      {kF16, -0.5, 5000.0, 0, -kInf, "", ""},
      {kF16, 20000.0, 1.0, 0, 20000.0, "", ""},
      {kF16, 20000.0, 0.1, 0, 20800.0, "max_excess", ""},
      {kF16, -20000.0, 0, 0, 0.0, "max_excess", ""},
      {kF16, 20000.0, 0, 0, 0.0, "max_excess", ""},
      {kF32, 3.4e38, 0, 0, kInf, "non_finite", for_number},
      {kF32, 0x1p128 - 0x1p103, 0, 0, kInf, "", ""},
      {kF32, 0x1p128 - 0x1p102, 0, 0, 0x1.fffffep127, "non_finite", overflown},
      {kBF16, 0x1p128 - 0x1p119, 0, 0, kInf, "", ""},
      {kBF16, 0x1p128 - 0x1.01p119, 0, 0, kInf, "non_finite", for_number},
      {kF64, 1e308, 0, 0, kInf, "non_finite", for_number},
      {kF32, 0.0, 0, 0, 0.0, "", ""},
      {kF32, 0.0, 0, 0, -0.0, "", ""},
      {kF32, 0.0, 0, 0, 1e-3, "max_excess", ""},
      {kF32, 0.0, 1e-3, 0, 1e-3, "", ""},
  };
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const JudgedElement& e = elements[i];
    INFO("case " << i << ": gold " << e.gold << ", deviations " << e.sigma << " and " << e.shared << ", actual "
                 << e.actual);
    const std::int64_t place = 207;
    const Judgement judged = judge_one(e, place);
    if (e.gate.empty()) {
      CHECK(judged.outcome == Outcome::kMatch);
      continue;
    }
    CHECK(judged.outcome == (e.gate == "unknown_rounding" ? Outcome::kInconclusive : Outcome::kDiverged));
    CHECK(judged.decisive_statistic == e.gate);
    CHECK(judged.worst_index == Index{0, 2, 7});
    CHECK((judged.expected == e.gold || std::isnan(e.gold)));
    CHECK(std::isfinite(judged.statistics.rms));  // of the other elements
    if (e.reason.empty()) continue;
    CHECK(judged.ratio_to_bound == 0.0);
    CHECK_THAT(judged.reason, StartsWith(e.reason + " at [0, 2, 7]: "));
  }
}

TEST_CASE("infinities throughout are told as one among numbers is", "[judge][gates]") {
  Sample s = honest_sample({.dtype = DType::kF32});
  for (std::int64_t i = 0; i < s.actual.size(); ++i) s.actual.set(i, i % 2 == 0 ? kInf : -kInf);
  const Judgement judgement = s.judge();
  CHECK(judgement.decisive_statistic == "non_finite");
  CHECK_THAT(judgement.reason, StartsWith("an infinity where the stored type holds what is expected"));
}

TEST_CASE("an infinity that is expected is no mask but in scores", "[judge][gates]") {
  for (const Op op : {Op::kInputLayernorm, Op::kQProj, Op::kOProj, Op::kLmHead}) {
    INFO(row(op).name);
    Sample s = honest_sample({.op = op, .dtype = DType::kF32});
    s.expected.value[3] = -kInf;
    s.actual.set(3, -1e38);
    CHECK(s.judge().decisive_statistic == "non_finite");
    s.actual.set(3, -kInf);
    CHECK(s.judge().outcome == Outcome::kMatch);
    const std::int64_t width = s.actual.shape().back();
    std::fill_n(s.expected.value.begin(), width, -kInf);
    CHECK(s.judge().decisive_statistic == "non_finite");
  }
}

TEST_CASE("overflow is asked for where every value is near it", "[judge][gates]") {
  Sample s = honest_sample({.dtype = DType::kF16});
  s.expected.value.assign(s.expected.value.size(), 65536.0);
  for (std::int64_t i = 0; i < s.actual.size(); ++i) s.actual.set(i, kInf);
  CHECK(s.judge().outcome != Outcome::kDiverged);
  for (std::int64_t i = 0; i < s.actual.size(); ++i) s.actual.set(i, 65504.0);
  CHECK_THAT(s.judge().reason, StartsWith("finite where what is expected overflows the stored type at [0, 0, 0]"));
}

TEST_CASE("an element that says nothing is compared, and moves no statistic", "[judge][gates]") {
  Sample s = honest_sample({.dtype = DType::kF32, .sigma = 1e-3});
  const Judgement before = s.judge();
  CHECK(before.statistics.elements_compared == 1000);
  // Where gold is infinite the same infinity says nothing either.
  for (const double gold : {0.0, kInf}) {
    Sample silent = s;
    double z_squared = 0.0;
    for (std::int64_t i = 0; i < 1000; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (i % 2 == 0) {
        silent.expected.value[at] = gold;
        silent.expected.sigma_independent[at] = 0.0F;
        silent.actual.set(i, gold);
        continue;
      }
      const double z = (s.actual.at(i) - s.expected.value[at]) / static_cast<double>(s.expected.sigma_independent[at]);
      z_squared += z * z;
    }
    const Judgement judged = silent.judge();
    CHECK(judged.statistics.elements_compared == 1000);
    CHECK(judged.statistics.rms == Approx(std::sqrt(z_squared / 500.0)).epsilon(1e-3));
  }
}

TEST_CASE("the first failure is told, and a doubt only where nothing diverged", "[judge][gates]") {
  Sample s = honest_sample({.dtype = DType::kF32});
  s.expected.sigma_independent[500] = s.expected.sigma_independent[40] = std::numeric_limits<float>::quiet_NaN();
  CHECK(s.judge().decisive_statistic == "unknown_rounding");
  CHECK(s.judge().worst_index == Index{0, 0, 40});
  s.actual.set(700, 9.0);
  CHECK(s.judge().outcome == Outcome::kDiverged);
  CHECK(s.judge().worst_index == Index{1, 2, 0});
  s.actual.set(600, kNan);
  s.actual.set(300, kInf);
  CHECK(s.judge().worst_index == Index{0, 3, 0});
  CHECK(s.judge().decisive_statistic == "non_finite");
}

// Blocks of columns are walked before rows, and an infinite excess is no larger than another.
TEST_CASE("of elements that are equally far off the first is named, in whatever block it stands", "[judge][gates]") {
  const std::vector<std::pair<Index, Index>> pairs = {{{0, 1, 900}, {0, 3, 5}},    {{0, 1, 5}, {0, 3, 900}},
                                                      {{0, 3, 5}, {0, 3, 6}},      {{0, 3, 511}, {0, 3, 512}},
                                                      {{1, 0, 700}, {1, 0, 1000}}, {{0, 4, 600}, {1, 0, 600}}};
  for (const auto& [first, second] : pairs) {
    Sample s = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32});
    for (const Index& index : {first, second}) {
      const std::int64_t i = s.at(index);
      s.expected.value[static_cast<std::size_t>(i)] = 1.0;
      s.expected.sigma_independent[static_cast<std::size_t>(i)] = 0.0F;
      s.actual.set(i, index == first ? 1.25 : 4.0);
    }
    INFO(to_string(first) << " and " << to_string(second));
    CHECK(s.judge().worst_index == first);
    CHECK(s.judge().actual == 1.25);
    Sample doubted = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32});
    for (const Index& index : {first, second}) {
      doubted.expected.sigma_independent[static_cast<std::size_t>(doubted.at(index))] =
          std::numeric_limits<float>::quiet_NaN();
    }
    CHECK(doubted.judge().decisive_statistic == "unknown_rounding");
    CHECK(doubted.judge().worst_index == first);
  }
  // The larger of two finite ones is named, wherever it stands.
  for (const auto& [first, second] : pairs) {
    for (const bool first_is_larger : {true, false}) {
      Sample s = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32});
      s.expected.value[static_cast<std::size_t>(s.at(first))] =
          s.expected.value[static_cast<std::size_t>(s.at(second))] = 1.0;
      s.actual.set(s.at(first), first_is_larger ? 4.0 : 1.25);
      s.actual.set(s.at(second), first_is_larger ? 1.25 : 4.0);
      CHECK(s.judge().worst_index == (first_is_larger ? first : second));
    }
  }
}

TEST_CASE("without any error no slice is the worst, and no element", "[judge][gates]") {
  Sample s = honest_sample({.op = Op::kQRope, .dtype = DType::kF32});
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    s.expected.value[static_cast<std::size_t>(i)] = s.actual.at(i);
  }
  const Judgement judged = s.judge();
  CHECK(judged.outcome == Outcome::kMatch);
  CHECK(judged.ratio_to_bound == 0.0);
  CHECK(judged.decisive_statistic == "max_excess");
  CHECK(judged.statistics.worst_slice.empty());
  CHECK(judged.worst_index.empty());
  CHECK(judged.statistics.normalised == std::array<double, kNumStatistics>{});
}

TEST_CASE("a step that says nothing of padding has none", "[judge][gates]") {
  Sample s = honest_sample({.left_padding = {2, 0}});
  CHECK(s.judge().statistics.elements_compared == 800);
  s.step.left_padding = {2};
  CHECK(s.judge().statistics.elements_compared == 800);
  s.step.left_padding.clear();
  CHECK(s.judge().statistics.elements_compared == 1000);
}

TEST_CASE("a masked score is one that the softmax of its row does not see", "[judge][gates]") {
  struct Type {
    DType accumulate;
    double underflow;  // the exponential of this is half the smallest subnormal number
  };
  for (const Type& type : {Type{DType::kF32, -150.0 * std::log(2.0)}, Type{DType::kBF16, -134.0 * std::log(2.0)},
                           Type{DType::kF16, -25.0 * std::log(2.0)}}) {
    INFO(name(type.accumulate));
    const MaskRule rule(type.accumulate);
    CHECK(rule.hides(type.underflow - 0.01, 0.0));
    CHECK_FALSE(rule.hides(type.underflow + 0.01, 0.0));
    CHECK(rule.hides(7.0 + type.underflow - 0.01, 7.0));
    CHECK_FALSE(rule.hides(7.0 + type.underflow + 0.01, 7.0));
    CHECK_FALSE(rule.hides(kNan, 0.0));
    CHECK_FALSE(rule.hides(kInf, 0.0));
    CHECK(rule.hides(-kInf, 0.0));

    // The largest real score of the row counts, not of another row.
    for (const double beyond : {-0.5, 0.5}) {
      Sample s = honest_sample({.op = Op::kScores, .dtype = DType::kF32});
      s.precision.accumulate = type.accumulate;
      const auto gold = [&](std::int64_t token, std::int64_t key) -> double& {
        return s.expected.value[static_cast<std::size_t>(s.at({1, 4, token, key}))];
      };
      double top = -kInf;
      for (std::int64_t key = 0; key <= 2; ++key) {
        gold(2, key) -= 20.0;
        s.actual.set(s.at({1, 4, 2, key}), gold(2, key));
        top = std::max(top, gold(2, key));
      }
      s.actual.set(s.at({1, 4, 2, 3}), top + type.underflow + beyond);
      s.actual.set(s.at({1, 4, 2, 4}), -kInf);
      const Judgement judged = s.judge();
      if (beyond < 0.0) {
        CHECK(judged.outcome == Outcome::kMatch);
        continue;
      }
      CHECK(judged.decisive_statistic == "mask");
      CHECK(judged.worst_index == Index{1, 4, 2, 3});
      CHECK_THAT(judged.reason, StartsWith("a masked score that softmax would see at [1, 4, 2, 3]"));
    }
  }
}

TEST_CASE("a real score that overflowed is not the largest of its row", "[judge][gates]") {
  Sample s = honest_sample({.op = Op::kScores, .dtype = DType::kF32});
  s.expected.value[static_cast<std::size_t>(s.at({0, 0, 1, 0}))] = kInf;
  s.actual.set(s.at({0, 0, 1, 0}), kInf);
  s.actual.set(s.at({0, 0, 1, 4}), -200.0);  // hidden by 0.1 or so, whatever stands beside it
  CHECK(s.judge().outcome == Outcome::kMatch);
  s.actual.set(s.at({0, 0, 1, 4}), -50.0);
  CHECK(s.judge().decisive_statistic == "mask");
}

TEST_CASE("a fully masked row is not looked at, and does not count", "[judge][gates]") {
  for (const Op op : {Op::kScores, Op::kProbs}) {
    Sample s = honest_sample({.op = op, .dtype = DType::kF32});
    const std::int64_t all = s.judge().statistics.elements_compared;
    CHECK(all == s.actual.size());
    const double masked = op == Op::kScores ? -kInf : 0.0;
    for (std::int64_t key = 0; key < 5; ++key) {
      const std::int64_t i = s.at({1, 2, 3, key});
      s.expected.value[static_cast<std::size_t>(i)] = masked;
      s.expected.sigma_independent[static_cast<std::size_t>(i)] = 0.0F;
      s.actual.set(i, key == 0 ? kNan : 5.0);
    }
    CHECK(s.judge().outcome == Outcome::kMatch);
    CHECK(s.judge().statistics.elements_compared == all - 5);
    // One real element makes it a row like any other; the other operation's mask is none here.
    const std::int64_t first = s.at({1, 2, 3, 1});
    s.expected.value[static_cast<std::size_t>(first)] = op == Op::kScores ? 1.0 : 0.5;
    CHECK(s.judge().outcome == Outcome::kDiverged);
  }
}

TEST_CASE("zeros throughout are told in each row of tokens, where it alone should hold more", "[judge][gates]") {
  for (const std::int64_t num_tokens : {1, 3}) {
    for (std::int64_t token = 0; token < num_tokens; ++token) {
      INFO(token << " of " << num_tokens);
      Sample s = honest_sample({.num_tokens = num_tokens, .left_padding = {0}});
      s.expected.value.assign(s.expected.value.size(), 0.0);
      s.expected.value[static_cast<std::size_t>(s.at({0, token, 7}))] = 1.0;
      for (std::int64_t i = 0; i < s.actual.size(); ++i) s.actual.set(i, 0.0);
      const Judgement judgement = s.judge();
      CHECK(judgement.decisive_statistic == "all_zero");
      CHECK(judgement.worst_index == Index{0, token, 7});
    }
  }
}

TEST_CASE("zeros throughout are told from values that rounding makes zero", "[judge][gates]") {
  // Two spacings and sixteen deviations are honest: in bfloat16 at 1.0 that is 2^-6 and 16 sigma.
  for (const double sigma : {0.0614, 0.0616}) {
    Sample s = honest_sample({.dtype = DType::kBF16, .left_padding = {0, 2}});
    s.expected.value.assign(s.expected.value.size(), 0.0);
    s.expected.sigma_independent.assign(s.expected.value.size(), static_cast<float>(0.6 * sigma));
    s.expected.sigma_shared.assign(s.expected.value.size(), static_cast<float>(0.8 * sigma));
    s.expected.value[620] = s.expected.value[699] = 8.0;  // pads, the last of them before a row that counts
    s.expected.value[300] = kInf;                         // says nothing of zeros, but is an infinity
    s.actual = Tensor(DType::kBF16, s.expected.shape);
    s.actual.set(300, kInf);
    s.expected.value[950] = s.expected.value[701] = 1.0;
    CHECK(s.judge().decisive_statistic != "all_zero");  // an infinity is no zero
    s.expected.value[300] = 0.0;
    s.actual.set(300, 0.0);
    const Judgement judged = s.judge();
    CHECK((judged.decisive_statistic == "all_zero") == (sigma < 0.0615));
    if (sigma > 0.0615) continue;
    CHECK(judged.outcome == Outcome::kDiverged);
    CHECK(judged.worst_index == Index{1, 2, 1});
    CHECK_THAT(judged.reason,
               StartsWith("every element is zero, and not all should be at [1, 2, 1]: 0 where 1 is expected"));
    // A single value that is no zero, and it is another mistake.
    s.actual.set(702, 1e-3);
    CHECK(s.judge().decisive_statistic != "all_zero");
  }
}

TEST_CASE("what is called wrongly is refused, and says what is wrong", "[judge]") {
  Sample s = honest_sample({});
  SECTION("the values") { s.expected.value.pop_back(); }
  SECTION("the independent deviations") { s.expected.sigma_independent.push_back(0.0F); }
  SECTION("the shared deviations") { s.expected.sigma_shared.clear(); }
  SECTION("the shape") { s.expected.shape = {2, 100, 5}; }
  CHECK_THROWS_WITH(s.judge(), ContainsSubstring("the expectation of self_attn.o_proj has shape"));
}

TEST_CASE("data that only moves needs no deviations", "[judge]") {
  Sample s = honest_sample({.op = Op::kVCache});
  s.expected.sigma_independent.clear();
  s.expected.sigma_shared.clear();
  CHECK(s.judge().outcome == Outcome::kMatch);
}

TEST_CASE("a tensor on another device is not read", "[judge]") {
  const Sample s = honest_sample({});
  TensorView view = s.actual.view();
  view.device.kind = DeviceKind::kCuda;
  CHECK_THROWS_WITH(judge({s.op, view, s.expected, s.step, s.precision, s.config}),
                    ContainsSubstring("not in host memory"));
}

TEST_CASE("a candidate's logits may be fewer rows than the expectation's, not more", "[judge]") {
  Sample s = honest_sample({.op = Op::kLmHead});
  s.expected.shape = {2, 1, s.config.vocab};
  for (auto* sigma : {&s.expected.sigma_independent, &s.expected.sigma_shared}) sigma->resize(2 * 1001);
  s.expected.value.resize(2 * 1001);
  CHECK_THROWS_WITH(s.judge(), ContainsSubstring("holds the last row, the candidate all rows"));
  s.actual = Tensor::rounded(DType::kBF16, s.expected.shape, s.expected.value);
  CHECK(s.judge().outcome == Outcome::kMatch);
}

TEST_CASE("a wrong shape is said with both shapes", "[judge]") {
  Sample s = honest_sample({});
  s.actual = Tensor(DType::kBF16, {2, 100, 5});
  const Judgement judged = s.judge();
  CHECK(judged.reason == "the shape is [2, 100, 5] where [2, 5, 100] is expected");
  CHECK(judged.worst_index.empty());
}

TEST_CASE("expected rounding comes from an ensemble behind long spans and unrounded inputs", "[judge]") {
  using enum Op;
  struct Case {
    std::vector<Op> operations;
    Op op;
    DType weights, activations;
    std::optional<Op> taken_as;
    bool ensemble;
  };
  const DType f32 = DType::kF32, bf16 = DType::kBF16;
  for (const Case& c : {Case{{}, kOProj, bf16, bf16, {}, false}, Case{{kOProj}, kOProj, bf16, bf16, {}, false},
                        Case{{kOProj, kResidMid}, kResidMid, bf16, bf16, {}, true},
                        Case{{kQProjMatmul, kQProj}, kQProj, bf16, bf16, {}, false},
                        Case{{kEmbedTokens, kInputLayernorm}, kInputLayernorm, bf16, bf16, {}, false},
                        Case{{kEmbedTokens, kInputLayernorm}, kInputLayernorm, f32, bf16, {}, true},
                        Case{{kEmbedTokens, kInputLayernorm}, kInputLayernorm, bf16, f32, {}, false},
                        Case{{kEmbedTokens}, kEmbedTokens, f32, bf16, {}, false},
                        Case{{}, kOProj, f32, bf16, {}, false}, Case{{}, kOProj, bf16, bf16, kAttnOutput, true},
                        Case{{}, kOProj, bf16, bf16, kOProj, false}, Case{{}, kResidMid, bf16, bf16, kOProj, true},
                        // The first of the pair reads it, the second does not.
                        Case{{kQProjMatmul, kQProj}, kQProj, bf16, bf16, kInputLayernorm, true}}) {
    Sample s = honest_sample({.op = c.op});
    s.precision.weights = c.weights;
    s.precision.activations = c.activations;
    if (c.taken_as) s.precision.taken_as[*c.taken_as] = f32;
    std::vector<TensorKey> keys;
    for (const Op op : c.operations) keys.push_back({0, {op, row(op).scope == Scope::kLayer ? 0 : kNoLayer}});
    INFO(row(c.op).name << " of " << c.operations.size() << " operations");
    CHECK(from_ensemble({s.op, s.actual.view(), s.expected, s.step, s.precision, s.config, keys}) == c.ensemble);
  }
}

// ---- Data that only moves -------------------------------------------------------------------------------------------

TEST_CASE("of data that only moves each wrong element is counted", "[judge][exact]") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Op op : {Op::kEmbedTokens, Op::kKCache, Op::kVCache}) {
      INFO(row(op).name << ' ' << name(dtype));
      Sample s = honest_sample({.op = op, .dtype = dtype, .left_padding = {2, 0}, .seed = 4});
      const std::int64_t width = s.actual.size() / 10;
      const Judgement right = s.judge();
      CHECK(right.outcome == Outcome::kMatch);
      CHECK(right.decisive_statistic == "values");
      CHECK(right.statistics.elements_compared == 8 * width);
      CHECK(right.reason == "all " + std::to_string(8 * width) + " values moved unchanged");
      CHECK(right.statistics.max_excess == 0.0);

      s.expected.unknown.assign(s.expected.value.size(), 0);
      const auto hide = [&](std::int64_t i) { s.expected.unknown[static_cast<std::size_t>(i)] = 1; };
      hide(3 * width);
      hide(9 * width + 1);
      s.actual.set(3 * width, 50.0);
      s.actual.set(width, 50.0);  // a pad
      double error_squared = 0.0, gold_squared = 0.0, largest = 0.0;
      std::int64_t wrong = 0, beyond = 0;
      // One spacing off, a quarter of the value, a sign, a NaN and an infinity.
      const auto change = [&](std::int64_t i, double value) {
        s.actual.set(i, value);
        const double gold = s.expected.value[static_cast<std::size_t>(i)], stored = s.actual.at(i);
        ++wrong;
        if (!std::isfinite(stored)) return;
        const double error = std::fabs(stored - gold);
        largest = std::max(largest, error);
        error_squared += error * error;
        beyond += error > spacing(dtype, std::max(std::fabs(stored), std::fabs(gold))) ? 1 : 0;
      };
      const std::int64_t first = 4 * width + 7;
      s.expected.value[static_cast<std::size_t>(first)] = 1.5;
      change(first, 1.5 + spacing(dtype, 1.5));
      s.expected.value[static_cast<std::size_t>(first + 1)] = -1.5;
      change(first + 1, -1.5 - 2.0 * spacing(dtype, 1.5));
      s.expected.value[static_cast<std::size_t>(first + 2)] = 2.0;
      change(first + 2, -2.0);
      change(5 * width, kNan);
      change(6 * width, -kInf);
      change(10 * width - 1, 1.25 * s.expected.value.back());
      for (std::int64_t i = 2 * width; i < 10 * width; ++i) {
        const double gold = s.expected.value[static_cast<std::size_t>(i)];
        if (s.expected.unknown[static_cast<std::size_t>(i)] == 0) gold_squared += gold * gold;
      }
      const Judgement judged = s.judge();
      const Statistics& statistics = judged.statistics;
      CHECK(judged.outcome == Outcome::kDiverged);
      CHECK(judged.decisive_statistic == "values");
      CHECK(judged.ratio_to_bound == 0.0);
      CHECK(judged.worst_index == (op == Op::kEmbedTokens ? Index{0, 4, 7} : Index{0, 4, 0, 7}));
      CHECK(judged.actual == s.actual.at(first));
      CHECK(judged.expected == 1.5);
      CHECK(statistics.elements_compared == 8 * width - 2);
      CHECK(std::isinf(statistics.max_excess));
      CHECK(statistics.max_abs_error == largest);
      CHECK(statistics.relative_rms_error == Approx(std::sqrt(error_squared / gold_squared)).epsilon(1e-12));
      CHECK(statistics.share_beyond_one_spacing ==
            static_cast<double>(beyond) / static_cast<double>(statistics.elements_compared));
      CHECK_THAT(judged.reason, StartsWith("data that only moves arrived changed in " + std::to_string(wrong) + " of " +
                                           std::to_string(8 * width - 2) + " elements, first at "));
    }
  }
}

TEST_CASE("of data that only moves only what is not finite may be wrong, and says no size", "[judge][exact]") {
  Sample s = honest_sample({.op = Op::kVCache});
  s.expected.value[10] = kNan;
  s.expected.value[11] = kInf;
  s.actual.set(10, kNan);
  s.actual.set(11, kInf);
  CHECK(s.judge().outcome == Outcome::kMatch);
  s.actual.set(11, -kInf);
  const Judgement judged = s.judge();
  CHECK(judged.outcome == Outcome::kDiverged);
  CHECK(judged.statistics.relative_rms_error == 0.0);
  CHECK(judged.statistics.share_beyond_one_spacing == 0.0);
  s.actual.set(11, kInf);
  s.actual.set(10, 1.0);
  CHECK(s.judge().outcome == Outcome::kDiverged);
}

// A cache in 8 bits computes its codes, so that correct engines differ by a step of it.
TEST_CASE("a cache that is computed may be off by what its codes allow, and by half a spacing", "[judge][exact]") {
  Sample s = honest_sample({.op = Op::kVCache, .dtype = DType::kF32});
  s.expected.sigma_independent[33] = 0.25F;
  for (const double sign : {1.0, -1.0}) {
    // Half a spacing at 8 is 2^-21.
    s.actual.set(33, sign * (8.25 + 0x1p-20));
    s.expected.value[33] = sign * (8.0 + 0x1p-21);
    CHECK(s.judge().outcome == Outcome::kMatch);
    s.expected.value[33] = sign * (8.0 + 0x1p-21 - 0x1p-24);
    CHECK(s.judge().outcome == Outcome::kDiverged);
  }
  // It is allowed there alone.
  s.actual.set(33, s.expected.value[33]);
  CHECK(s.judge().outcome == Outcome::kMatch);
  s.actual.set(34, s.actual.at(34) + 1e-6);
  CHECK(s.judge().outcome == Outcome::kDiverged);
}

}  // namespace
}  // namespace qdiff::compare
