#include "harness/compare/pairwise.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "cmake/catch2.h"
#include "harness/compare/tests/sample.h"
#include "harness/contract/splitmix64.h"

namespace qdiff::compare {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class Store final : public TensorStore {
 public:
  bool has(const TensorKey& key) const override { return tensors_.contains(key); }
  TensorView get(const TensorKey& key) const override { return tensors_.at(key).view(); }
  void put(const TensorKey& key, Tensor tensor) { tensors_[key] = std::move(tensor); }
  std::vector<TensorKey> keys() const {
    std::vector<TensorKey> keys;
    for (const auto& [key, tensor] : tensors_) keys.push_back(key);
    return keys;
  }

 private:
  std::map<TensorKey, Tensor> tensors_;
};

Step step_of(std::int64_t batch, std::int64_t num_tokens, std::vector<std::int64_t> padding = {}) {
  Step step;
  step.tokens.assign(static_cast<std::size_t>(batch), std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens)));
  step.left_padding = padding.empty() ? std::vector<std::int64_t>(static_cast<std::size_t>(batch)) : padding;
  set_default_positions(step);
  return step;
}

const TensorKey kOutput0{0, {Op::kOutput, 0}};

// One row of tokens, as wide as there are values.
TensorDifference differ(const std::vector<double>& actual, const std::vector<double>& expected,
                        std::optional<double> within = std::nullopt, DType a = DType::kF32, DType e = DType::kF32) {
  const Step step = step_of(1, 1);
  const auto width = static_cast<std::int64_t>(actual.size());
  const Tensor x = Tensor::rounded(a, {1, 1, width}, actual), y = Tensor::rounded(e, {1, 1, width}, expected);
  return difference_of(kOutput0, x.view(), step, y.view(), step, within);
}

TEST_CASE("two tensors of equal bits", "[pairwise]") {
  const TensorDifference same = differ({1, -2, kInf, 0}, {1, -2, kInf, 0});
  CHECK(same.outcome == PairOutcome::kEqual);
  CHECK(same.elements_compared == 4);
  CHECK(same.bits_equal == 4);
  CHECK(same.relative_rms_error == 0.0);
  CHECK(same.worst_index.empty());
}

TEST_CASE("how far two tensors lie apart", "[pairwise]") {
  const TensorDifference apart = differ({3, 4, 1.5}, {3, 4, 1});
  CHECK(apart.outcome == PairOutcome::kDiffers);
  CHECK(apart.bits_equal == 2);
  CHECK(apart.max_abs_error == 0.5);
  CHECK(apart.relative_rms_error == Approx(0.5 / std::sqrt(26.0)));
  CHECK(apart.worst_index == std::vector<std::int64_t>{0, 0, 2});
  CHECK(apart.actual == 1.5);
  CHECK(apart.expected == 1.0);
}

TEST_CASE("the worst element is the first of the largest error, wherever it stands", "[pairwise]") {
  for (std::int64_t worst = 0; worst < 4; ++worst) {
    std::vector<double> actual = {1.25, 2.25, 3.25, 4.25};
    actual[static_cast<std::size_t>(worst)] += 1.0;
    const TensorDifference difference = differ(actual, {1, 2, 3, 4});
    CHECK(difference.max_abs_error == 1.25);
    CHECK(difference.worst_index == std::vector<std::int64_t>{0, 0, worst});
  }
  CHECK(differ({1.25, 2.25}, {1, 2}).worst_index == std::vector<std::int64_t>{0, 0, 0});
}

TEST_CASE("within is the caller's tolerance of the relative error", "[pairwise]") {
  const double error = differ({3, 4, 1.5}, {3, 4, 1}).relative_rms_error;
  CHECK(differ({3, 4, 1.5}, {3, 4, 1}, error).outcome == PairOutcome::kWithin);
  CHECK(differ({3, 4, 1.5}, {3, 4, 1}, std::nextafter(error, 0.0)).outcome == PairOutcome::kDiffers);
  CHECK(differ({-0.0}, {0.0}).outcome == PairOutcome::kDiffers);  // other bits
  CHECK(differ({-0.0}, {0.0}).worst_index == std::vector<std::int64_t>{0, 0, 0});
  CHECK(differ({-0.0}, {0.0}, 0.0).outcome == PairOutcome::kWithin);
  CHECK(differ({1e-30}, {0.0}, 1e300).outcome == PairOutcome::kDiffers);  // infinitely far, relatively
}

TEST_CASE("what is not finite never passes by a tolerance", "[pairwise]") {
  for (const auto& [actual, expected] : {std::pair{kNaN, 1.0},
                                         {1.0, kNaN},
                                         {kInf, 1.0},
                                         {1.0, -kInf},
                                         {-kInf, 1.0},
                                         {1.0, kInf},
                                         {kInf, -kInf},
                                         {-kInf, kInf},
                                         {kNaN, kInf}}) {
    INFO(actual << " against " << expected);
    const TensorDifference difference = differ({1, actual}, {1, expected}, 1e300);
    CHECK(difference.outcome == PairOutcome::kDiffers);
    CHECK(difference.nan_mismatches + difference.inf_mismatches == 1);
    CHECK(difference.worst_index == std::vector<std::int64_t>{0, 0, 1});
  }
  const TensorDifference both = differ({1, kNaN}, {1, kNaN});
  CHECK(both.outcome == PairOutcome::kEqual);
  CHECK(both.nan_on_both == 1);
  CHECK(differ({1, kNaN}, {1.5, kNaN}, 1.0).outcome == PairOutcome::kWithin);  // told by nan_on_both
  // NaNs of other bits: two engines that fail in ways of their own.
  CHECK(differ({-kNaN}, {kNaN}, 1e300).outcome == PairOutcome::kDiffers);
}

TEST_CASE("across element types values are compared, and equal ones are not equal bits", "[pairwise]") {
  const TensorDifference difference = differ({1, 2}, {1, 2}, std::nullopt, DType::kBF16, DType::kF32);
  CHECK(difference.outcome == PairOutcome::kDiffers);
  CHECK_FALSE(difference.same_dtype());
  CHECK(difference.bits_equal == 2);
  CHECK(differ({1, 2}, {1, 2}, 0.0, DType::kBF16, DType::kF32).outcome == PairOutcome::kWithin);
  CHECK(differ({1, kNaN}, {1, kNaN}, 1.0, DType::kBF16, DType::kF32).outcome == PairOutcome::kDiffers);
  // Zeros of other signs are no equal values.
  CHECK(differ({1, -0.0}, {1, 0.0}, std::nullopt, DType::kBF16, DType::kF32).bits_equal == 1);
  CHECK(differ({1, 0.0}, {1, -0.0}, std::nullopt, DType::kBF16, DType::kF32).bits_equal == 1);
  CHECK(differ({1, -0.0}, {1, -0.0}, std::nullopt, DType::kBF16, DType::kF32).bits_equal == 2);
}

TEST_CASE("other shapes are a difference, whatever the values", "[pairwise]") {
  const Step step = step_of(1, 2);
  const Tensor x(DType::kF32, {1, 2, 3}), y(DType::kF32, {1, 3, 2});
  const TensorDifference difference = difference_of(kOutput0, x.view(), step, y.view(), step, 1e300);
  CHECK(difference.outcome == PairOutcome::kDiffers);
  CHECK(difference.elements_compared == 0);
}

TEST_CASE("pads are not compared, unless one side alone takes them for pads", "[pairwise]") {
  const Step padded = step_of(2, 3, {0, 2}), unpadded = step_of(2, 3);
  struct Sample {
    Op op;
    Shape shape;
    std::int64_t pads;  // elements
    std::int64_t pad;   // one of them
    std::int64_t real;  // and one that counts
  };
  for (const Sample& sample :
       {Sample{Op::kOutput, {2, 3, 2}, 4, 8, 10}, Sample{Op::kQRope, {2, 3, 2, 2}, 8, 19, 20},
        Sample{Op::kKCache, {2, 3, 1, 2}, 4, 6, 5}, Sample{Op::kScores, {2, 2, 3, 3}, 12, 28, 26},
        Sample{Op::kLmHead, {2, 3, 4}, 8, 19, 20}}) {
    INFO(row(sample.op).name);
    const TensorKey key{0, {sample.op, row(sample.op).scope == Scope::kLayer ? 0 : kNoLayer}};
    const Tensor zeros(DType::kF32, sample.shape);
    const auto with = [&](std::int64_t index, const Step& actual, const Step& expected) {
      Tensor changed(DType::kF32, sample.shape);
      changed.set(index, kNaN);
      return difference_of(key, changed.view(), actual, zeros.view(), expected, std::nullopt);
    };
    CHECK(with(sample.pad, padded, padded).outcome == PairOutcome::kEqual);
    CHECK(with(sample.pad, padded, padded).elements_compared == zeros.size() - sample.pads);
    CHECK(with(sample.real, padded, padded).outcome == PairOutcome::kDiffers);
    CHECK(with(sample.pad, padded, unpadded).outcome == PairOutcome::kDiffers);
    CHECK(with(sample.pad, unpadded, padded).outcome == PairOutcome::kDiffers);
  }
  // The last row of lm_head alone is no pad, and a shape that no step gives has none.
  const Tensor last(DType::kF32, {2, 1, 4}), odd(DType::kF32, {6, 2});
  CHECK(difference_of({0, {Op::kLmHead, kNoLayer}}, last.view(), padded, last.view(), padded, {}).elements_compared ==
        8);
  const Step all_pads = step_of(2, 3, {0, 3});  // in the second row of the batch
  CHECK(
      difference_of({0, {Op::kLmHead, kNoLayer}}, last.view(), all_pads, last.view(), all_pads, {}).elements_compared ==
      4);
  CHECK(difference_of(kOutput0, odd.view(), padded, odd.view(), padded, {}).elements_compared == 12);
  const Tensor more_rows(DType::kF32, {3, 3, 2}), more_tokens(DType::kF32, {2, 4, 2});
  CHECK(difference_of(kOutput0, more_rows.view(), padded, more_rows.view(), padded, {}).elements_compared == 18);
  CHECK(difference_of(kOutput0, more_tokens.view(), padded, more_tokens.view(), padded, {}).elements_compared == 16);
  const Tensor by_heads = Tensor::rounded(DType::kF32, {2, 3, 2, 2}, std::vector<double>(24));  // of another rank
  CHECK(difference_of(kOutput0, by_heads.view(), padded, by_heads.view(), padded, {}).elements_compared == 24);
  const Tensor without_columns(DType::kF32, {2, 3});
  CHECK(difference_of(kOutput0, without_columns.view(), padded, without_columns.view(), padded, {}).elements_compared ==
        6);
}

TEST_CASE("pads alone are nothing compared", "[pairwise]") {
  Step step = step_of(1, 2, {3});
  const Tensor x(DType::kF32, {1, 2, 4});
  CHECK(difference_of(kOutput0, x.view(), step, x.view(), step, {}).outcome == PairOutcome::kNothing);
}

struct Pair {
  Store actual, expected;
  std::vector<Step> actual_steps = {step_of(1, 1)}, expected_steps = {step_of(1, 1)};

  void put(const TensorId& id, double actual_value, double expected_value, DType dtype = DType::kBF16) {
    actual.put({0, id}, Tensor::rounded(dtype, {1, 1, 1}, std::vector{actual_value}));
    expected.put({0, id}, Tensor::rounded(dtype, {1, 1, 1}, std::vector{expected_value}));
  }
  PairwiseResult compare(std::optional<double> within = std::nullopt) const {
    return compare_pairwise({actual, actual.keys(), actual_steps}, {expected, expected.keys(), expected_steps}, within,
                            [](std::size_t, std::size_t) {});
  }
};

TEST_CASE("two traces: what both have in execution order, what one has, and the first that differs", "[pairwise]") {
  Pair pair;
  pair.put({Op::kLmHead, kNoLayer}, 1, 2);
  pair.put({Op::kEmbedTokens, kNoLayer}, 1, 1);
  pair.put({Op::kOutput, 1}, 1, 3);
  pair.put({Op::kOutput, 0}, 1, 1);
  pair.actual.put({0, {Op::kQRope, 0}}, Tensor(DType::kF32, {1, 1, 1, 1}));
  pair.expected.put({0, {Op::kKRope, 0}}, Tensor(DType::kF32, {1, 1, 1, 1}));
  const PairwiseResult result = pair.compare();
  CHECK(result.verdict == Verdict::kDiverged);
  REQUIRE(result.tensors.size() == 4);
  CHECK(result.tensors[0].key.id.op == Op::kEmbedTokens);
  CHECK(result.tensors[3].key.id.op == Op::kLmHead);
  REQUIRE(result.first_difference() != nullptr);
  CHECK(result.first_difference()->key == TensorKey{0, {Op::kOutput, 1}});
  CHECK(result.only_actual == std::vector<TensorKey>{{0, {Op::kQRope, 0}}});
  CHECK(result.only_expected == std::vector<TensorKey>{{0, {Op::kKRope, 0}}});
  CHECK(result.count(PairOutcome::kEqual) == 2);
  CHECK(pair.compare(0.7).verdict == Verdict::kMatch);
  CHECK(pair.compare(0.6).verdict == Verdict::kDiverged);
}

TEST_CASE("nothing in common is never a match", "[pairwise]") {
  Pair pair;
  CHECK(pair.compare().verdict == Verdict::kInconclusive);
  pair.actual.put({0, {Op::kQRope, 0}}, Tensor(DType::kF32, {1, 1, 1, 1}));
  CHECK(pair.compare(1.0).verdict == Verdict::kInconclusive);
  pair.actual_steps = pair.expected_steps = {step_of(1, 1, {2})};
  pair.put({Op::kOutput, 0}, 1, 2);  // a pad
  CHECK(pair.compare().verdict == Verdict::kInconclusive);
}

TEST_CASE("where the error jumps", "[pairwise]") {
  Pair pair;
  CHECK_FALSE(pair.compare().jump.has_value());
  pair.put({Op::kEmbedTokens, kNoLayer}, 1, 1);
  pair.put({Op::kOutput, 0}, 1.0078125, 1);  // twice the type's rounding: no jump out of nothing
  pair.put({Op::kOutput, 1}, 1.015625, 1);
  pair.put({Op::kOutput, 3}, 1.5, 1);  // layer 2 was not recorded
  pair.put({Op::kOutput, 4}, 2, 1);
  const std::optional<ErrorJump> jump = pair.compare().jump;
  REQUIRE(jump.has_value());
  CHECK(jump->from == TensorKey{0, {Op::kOutput, 1}});
  CHECK(jump->to == TensorKey{0, {Op::kOutput, 3}});
  CHECK(jump->ratio == Approx(32.0));
  pair.put({Op::kOutput, 4}, kNaN, 1);
  CHECK(pair.compare().jump->to == TensorKey{0, {Op::kOutput, 4}});
  CHECK(std::isinf(pair.compare().jump->ratio));
}

TEST_CASE("a jump is any growth of the error", "[pairwise]") {
  Pair pair;
  pair.put({Op::kOutput, 0}, 2, 1, DType::kF32);
  pair.put({Op::kOutput, 1}, 2, 1, DType::kF32);
  CHECK_FALSE(pair.compare().jump.has_value());
  pair.put({Op::kOutput, 1}, 2.03125, 1, DType::kF32);
  REQUIRE(pair.compare().jump.has_value());
  CHECK(pair.compare().jump->ratio == Approx(1.03125));
  // Of two that are equal the first one counts.
  pair.put({Op::kOutput, 1}, 3, 1, DType::kF32);
  pair.put({Op::kOutput, 2}, 5, 1, DType::kF32);
  CHECK(pair.compare().jump->ratio == Approx(2.0));
  CHECK(pair.compare().jump->to == TensorKey{0, {Op::kOutput, 1}});
}

TEST_CASE("steps that did not get the same inputs are told", "[pairwise]") {
  Pair pair;
  pair.put({Op::kOutput, 0}, 1, 1);
  CHECK(pair.compare().notes.empty());
  pair.actual_steps[0].tokens[0][0] = 7;
  pair.actual_steps[0].positions[0][0] = 5;
  pair.actual_steps.push_back(step_of(1, 1));
  const PairwiseResult result = pair.compare();
  REQUIRE(result.notes.size() == 2);
  CHECK(result.notes[0] == "the traces have 2 and 1 steps");
  CHECK(result.notes[1] == "step 0 had other inputs in each trace: tokens, positions");
  CHECK(result.verdict == Verdict::kMatch);
}

TEST_CASE("each input in which two steps differ is told", "[pairwise]") {
  Pair pair;
  pair.actual_steps = {step_of(1, 1), step_of(1, 2)};
  pair.expected_steps = pair.actual_steps;
  pair.actual_steps[1].past_length = 3;
  pair.actual_steps[1].left_padding = {1};
  const PairwiseResult result = pair.compare();
  CHECK(result.notes == std::vector<std::string>{"step 1 had other inputs in each trace: past_length, left_padding"});
}

TEST_CASE("who waits is told of each tensor", "[pairwise]") {
  Pair pair;
  for (const int layer : {0, 1, 2}) pair.put({Op::kOutput, layer}, 1, 1);
  std::vector<std::pair<std::size_t, std::size_t>> told;
  compare_pairwise({pair.actual, pair.actual.keys(), pair.actual_steps},
                   {pair.expected, pair.expected.keys(), pair.expected_steps}, std::nullopt,
                   [&](std::size_t done, std::size_t total) { told.emplace_back(done, total); });
  CHECK(told == std::vector<std::pair<std::size_t, std::size_t>>{{1, 3}, {2, 3}, {3, 3}});
}

TEST_CASE("no jump is seen from one step to the next, nor over what was not compared", "[pairwise]") {
  Pair pair;
  pair.actual_steps = pair.expected_steps = {step_of(1, 1), step_of(1, 1)};
  const auto put = [&](int step, const TensorId& id, double actual) {
    pair.actual.put({step, id}, Tensor::rounded(DType::kF32, {1, 1, 1}, std::vector{actual}));
    pair.expected.put({step, id}, Tensor::rounded(DType::kF32, {1, 1, 1}, std::vector{1.0}));
  };
  put(0, {Op::kOutput, 1}, 1.0);
  put(1, {Op::kOutput, 0}, 1.5);
  CHECK_FALSE(pair.compare().jump.has_value());
  put(1, {Op::kOutput, 1}, 2.0);
  REQUIRE(pair.compare().jump.has_value());
  CHECK(pair.compare().jump->from == TensorKey{1, {Op::kOutput, 0}});
  CHECK(pair.compare().jump->from_error == 0.5);
  CHECK(pair.compare().jump->to_error == 1.0);
  CHECK(pair.compare().jump->ratio == Approx(2.0));
  // Other tensors are no residual stream.
  put(1, {Op::kOProj, 1}, 900.0);
  put(1, {Op::kNorm, kNoLayer}, 900.0);
  put(1, {Op::kLmHead, kNoLayer}, 9e6);
  CHECK(pair.compare().jump->ratio == Approx(2.0));
  // A first tensor that is wrong without measure hides what comes after it, and an equal ratio does not move the jump.
  put(0, {Op::kEmbedTokens, kNoLayer}, kNaN);
  CHECK(pair.compare().jump->from == TensorKey{1, {Op::kOutput, 0}});
}

TEST_CASE("the coarser of two types says what is a jump out of nothing", "[pairwise]") {
  for (const bool actual_is_coarse : {true, false}) {
    Pair pair;
    const auto put = [&](const TensorId& id, double actual) {
      pair.actual.put({0, id},
                      Tensor::rounded(actual_is_coarse ? DType::kBF16 : DType::kF32, {1, 1, 1}, std::vector{actual}));
      pair.expected.put({0, id},
                        Tensor::rounded(actual_is_coarse ? DType::kF32 : DType::kBF16, {1, 1, 1}, std::vector{1.0}));
    };
    put({Op::kEmbedTokens, kNoLayer}, 1.0);
    put({Op::kOutput, 0}, 1.0078125);  // 2^-7: twice the rounding of bfloat16
    REQUIRE(pair.compare().jump.has_value());
    CHECK(pair.compare().jump->ratio == Approx(2.0));
  }
}

TEST_CASE("a difference is what its elements give, whatever the tensor", "[pairwise]") {
  SplitMix64 random(3);
  for (int round = 0; round < 60; ++round) {
    constexpr std::array kOps = {Op::kOutput, Op::kQRope, Op::kKCache, Op::kScores, Op::kLmHead};
    const Op op = kOps[static_cast<std::size_t>(round) % kOps.size()];
    const std::int64_t batch = random.between(1, 3), tokens = random.between(1, 4), past = random.below(3);
    Step step = step_of(batch, tokens);
    step.past_length = past;
    for (std::int64_t& padding : step.left_padding) padding = random.below(past + tokens + 1);
    const bool cache = op == Op::kKCache, scores = op == Op::kScores;
    const Shape shape = cache              ? Shape{batch, past + tokens, 2, 3}
                        : scores           ? Shape{batch, 3, tokens, past + tokens}
                        : op == Op::kQRope ? Shape{batch, tokens, 3, 4}
                                           : Shape{batch, tokens, 5};
    const auto n = static_cast<std::size_t>(num_elements(shape));
    std::vector<double> a(n), e(n);
    for (std::size_t i = 0; i < n; ++i) {
      e[i] = a[i] = static_cast<double>(random.between(-8, 8));
      if (random.below(3) == 0) a[i] += random.uniform();
      if (round % 4 == 0 && random.below(9) == 0) a[i] = random.below(2) == 0 ? kNaN : kInf;
      if (round % 4 == 0 && random.below(9) == 0) e[i] = random.below(2) == 0 ? kNaN : -kInf;
    }
    const Tensor x = Tensor::rounded(DType::kF32, shape, a), y = Tensor::rounded(DType::kF32, shape, e);
    const TensorDifference difference =
        difference_of({0, {op, op == Op::kLmHead ? kNoLayer : 0}}, x.view(), step, y.view(), step, {});
    std::int64_t compared = 0, equal = 0, nan_mismatches = 0, inf_mismatches = 0, nan_on_both = 0, mismatch = -1,
                 largest = -1;
    double error_squared = 0.0, gold_squared = 0.0, max_error = 0.0;
    for (std::int64_t i = 0; i < x.size(); ++i) {
      std::vector<std::int64_t> index(shape.size());
      for (std::size_t d = shape.size(), rest = static_cast<std::size_t>(i); d-- > 0;) {
        index[d] = static_cast<std::int64_t>(rest) % shape[d];
        rest /= static_cast<std::size_t>(shape[d]);
      }
      const std::int64_t slot = cache ? index[1] : past + index[scores ? 2 : 1];
      if (slot < step.left_padding[static_cast<std::size_t>(index[0])]) continue;
      const double actual = x.at(i), expected = y.at(i);
      ++compared;
      const bool both_nan = std::isnan(actual) && std::isnan(expected);
      equal += actual == expected || both_nan ? 1 : 0;  // zeros are drawn with one sign
      if (std::isnan(actual) || std::isnan(expected)) {
        ++(both_nan ? nan_on_both : nan_mismatches);
        if (!both_nan && mismatch < 0) mismatch = i;
      } else if (std::isinf(actual) || std::isinf(expected)) {
        inf_mismatches += actual == expected ? 0 : 1;
        if (actual != expected && mismatch < 0) mismatch = i;
      } else {
        const double error = std::fabs(actual - expected);
        error_squared += error * error;
        gold_squared += expected * expected;
        if (error > max_error) largest = i;
        max_error = std::max(max_error, error);
      }
    }
    INFO("round " << round << ", " << row(op).name << ' ' << to_string(shape));
    CHECK(difference.elements_compared == compared);
    CHECK(difference.bits_equal == equal);
    CHECK(difference.nan_mismatches == nan_mismatches);
    CHECK(difference.inf_mismatches == inf_mismatches);
    CHECK(difference.nan_on_both == nan_on_both);
    CHECK(difference.max_abs_error == max_error);
    if (error_squared > 0.0) CHECK(difference.relative_rms_error == Approx(std::sqrt(error_squared / gold_squared)));
    const std::int64_t worst = mismatch >= 0 ? mismatch : largest;
    CHECK(difference.worst_index.empty() == (worst < 0));
    if (worst < 0) continue;
    std::int64_t linear = 0;
    for (std::size_t d = 0; d < shape.size(); ++d) linear = linear * shape[d] + difference.worst_index[d];
    CHECK(linear == worst);
    CHECK((difference.actual == x.at(worst) || std::isnan(x.at(worst))));
    CHECK((difference.expected == y.at(worst) || std::isnan(y.at(worst))));
  }
}

TEST_CASE("a tolerance that would pass everything is a mistake of the caller", "[pairwise]") {
  for (double within : {kNaN, -1.0, kInf}) CHECK_THROWS_AS(Pair().compare(within), std::invalid_argument);
}

}  // namespace
}  // namespace qdiff::compare
