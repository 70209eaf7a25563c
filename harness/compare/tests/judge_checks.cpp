#include "harness/compare/tests/judge_checks.h"

#include <cmath>
#include <limits>

#include "harness/compare/bounds.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

using Index = std::vector<std::int64_t>;

bool matches(const Judgement& j) { return j.outcome == Outcome::kMatch; }
bool diverged_by(const Judgement& j, const std::string& gate) {
  return j.outcome == Outcome::kDiverged && j.decisive_statistic == gate;
}

// ---- Honest candidates ----------------------------------------------------------------------------------------------

bool honest_matches(DType dtype) {
  for (std::size_t i = 0; i < kNumOps; ++i) {
    for (const std::int64_t tokens : {1, 7}) {
      const auto op = static_cast<Op>(i);
      const SampleOptions options{.op = op, .dtype = dtype, .num_tokens = tokens, .past_length = 3, .seed = i + 1};
      if (!matches(honest_sample(options).judge())) return false;
    }
  }
  return true;
}
bool honest_f32() { return honest_matches(DType::kF32); }
bool honest_bf16() { return honest_matches(DType::kBF16); }
bool honest_f16() { return honest_matches(DType::kF16); }

// Every row moved by its own draw of the shared error, two deviations in the first.
bool shared_error_explained() {
  Sample s = honest_sample({.dtype = DType::kF32, .num_tokens = 9, .sigma = 1e-7, .sigma_shared = 1e-5});
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    const std::int64_t token_row = i / s.config.hidden;
    s.actual.set(i, s.actual.at(i) + 1e-5 * (token_row % 5 - 2));
  }
  return matches(s.judge());
}

// float16 below its normal numbers: only multiples of 2^-24 exist.
bool subnormals_have_a_floor() {
  Sample s = honest_sample({.dtype = DType::kF16});
  for (std::size_t i = 0; i < s.expected.value.size(); ++i) {
    s.expected.value[i] *= 0x1p-23;
    s.expected.sigma_independent[i] = 0x1p-45F;
    s.actual.set(static_cast<std::int64_t>(i), s.expected.value[i]);
  }
  return matches(s.judge());
}

bool flushed_subnormals_match() {
  Sample s = honest_sample({.dtype = DType::kF32});
  s.expected.value[17] = 1e-39;
  s.expected.sigma_independent[17] = 0.0F;
  s.actual.set(17, 0.0);
  return matches(s.judge());
}

// Rows of a repeated token: alike to some parts in a thousand, each with the errors of the first.
bool alike_rows_share_errors() {
  Sample s = honest_sample({.op = Op::kAct, .dtype = DType::kF32, .num_tokens = 40, .sigma = 1e-3});
  Random random(6);
  const std::int64_t width = s.config.intermediate;
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    double& gold = s.expected.value[static_cast<std::size_t>(i)];
    if (i >= width) gold = s.expected.value[static_cast<std::size_t>(i % width)] * (1.0 + 2e-3 * random.gaussian());
    s.actual.set(i, gold);
  }
  for (std::int64_t column = 0; column < width; ++column) {
    const double error = 1e-3 * random.gaussian();
    for (std::int64_t i = column; i < s.actual.size(); i += width) s.actual.set(i, s.actual.at(i) + error);
  }
  const Judgement j = s.judge();
  return matches(j) && j.statistics.normalised[static_cast<std::size_t>(Statistic::kBias)] < 2.0;
}

// ---- One wrong element ----------------------------------------------------------------------------------------------

bool finds(Op op, const Index& index, double off) {
  Sample s = honest_sample({.op = op});
  const std::int64_t i = s.at(index);
  s.actual.set(i, s.expected.value[static_cast<std::size_t>(i)] + off);
  const Judgement j = s.judge();
  return j.outcome == Outcome::kDiverged && j.worst_index == index && j.actual == s.actual.at(i) &&
         j.expected == s.expected.value[static_cast<std::size_t>(i)] && !(j.ratio_to_bound <= kDivergedRatio);
}
bool finds_first_element() { return finds(Op::kOProj, {0, 0, 0}, 0.5); }
bool finds_last_column() { return finds(Op::kOProj, {0, 2, 99}, 0.5); }
bool finds_last_row() { return finds(Op::kOProj, {1, 4, 3}, 0.5); }
bool finds_beyond_first_segment() { return finds(Op::kLmHead, {1, 4, 1000}, 0.5); }
bool finds_in_heads() { return finds(Op::kQRope, {1, 3, 5, 31}, 0.5); }
bool finds_in_scores() { return finds(Op::kScores, {1, 5, 4, 2}, 0.5); }

bool exact_last_row_found() {
  Sample s = honest_sample({.op = Op::kEmbedTokens});
  s.actual.set(s.actual.size() - 1, 3.0);
  return diverged_by(s.judge(), "values") && s.judge().worst_index == Index{1, 4, 99};
}

bool zero_sigma_means_no_room() {
  Sample s = honest_sample({.dtype = DType::kF32});
  const double gold = round_to(DType::kF32, s.expected.value[40]);
  s.expected.value[40] = gold;
  s.expected.sigma_independent[40] = 0.0F;
  s.actual.set(40, gold);
  if (!matches(s.judge())) return false;
  s.actual.set(40, gold + 2.0 * spacing(DType::kF32, gold));
  return s.judge().outcome == Outcome::kDiverged && std::isinf(s.judge().statistics.max_excess);
}

// ---- Bounds ---------------------------------------------------------------------------------------------------------

bool limits_are_inclusive() {
  return outcome_of(0.0) == Outcome::kMatch && outcome_of(1.0) == Outcome::kMatch &&
         outcome_of(std::nextafter(1.0, 2.0)) == Outcome::kInconclusive &&
         outcome_of(kDivergedRatio) == Outcome::kInconclusive &&
         outcome_of(std::nextafter(kDivergedRatio, 9.0)) == Outcome::kDiverged;
}
bool nan_is_beyond_every_bound() {
  return outcome_of(kNan) == Outcome::kDiverged && outcome_of(kInf) == Outcome::kDiverged;
}

// One element off by `ratio` times what its bound allows.
Judgement judge_excess(double ratio) {
  Sample s = honest_sample({.dtype = DType::kF32, .sigma = 1e-3});
  const double n = static_cast<double>(s.expected.value.size());
  const double allowed = bound(s.op, DType::kF32, Statistic::kMaxExcess) * std::sqrt(2.0 * std::log(n + 10.0));
  s.actual.set(33, s.expected.value[33] + ratio * allowed * 1e-3);
  return s.judge();
}
bool bounds_are_where_they_are() {
  return judge_excess(0.95).outcome == Outcome::kMatch && judge_excess(1.05).outcome == Outcome::kInconclusive &&
         judge_excess(1.95).outcome == Outcome::kInconclusive && judge_excess(2.05).outcome == Outcome::kDiverged &&
         judge_excess(1.05).decisive_statistic == "max_excess";
}

// ---- NaN, infinity, shape, zeros ------------------------------------------------------------------------------------

bool gate_on(double gold, double actual, DType dtype = DType::kBF16) {
  Sample s = honest_sample({.dtype = dtype});
  s.expected.value[207] = gold;
  s.actual.set(207, actual);
  const Judgement j = s.judge();
  return diverged_by(j, "non_finite") && j.worst_index == Index{0, 2, 7} && j.ratio_to_bound == 0.0;
}
bool nan_is_found() { return gate_on(1.0, kNan); }
bool number_for_nan_is_found() { return gate_on(kNan, 1.0); }
bool infinity_for_number_is_found() { return gate_on(1.0, kInf) && gate_on(1.0, -kInf); }
bool wrong_infinity_is_found() { return gate_on(kInf, -kInf) && gate_on(-kInf, kInf); }
bool number_for_infinity_is_found() { return gate_on(kInf, 3e38) && gate_on(70000.0, 65504.0, DType::kF16); }
bool same_non_finite_matches() {
  Sample s = honest_sample({});
  s.expected.value[3] = kNan;
  s.actual.set(3, kNan);
  s.expected.value[4] = -kInf;
  s.actual.set(4, -kInf);
  return matches(s.judge());
}
bool earliest_offender_is_named() {
  Sample s = honest_sample({.op = Op::kLmHead});
  s.actual.set(s.at({0, 3, 5}), kNan);    // in the first block of columns
  s.actual.set(s.at({0, 1, 900}), kNan);  // in the second one, and earlier in the tensor
  return s.judge().worst_index == Index{0, 1, 900};
}
bool overflow_may_go_either_way() {
  for (const double stored : {65504.0, kInf}) {
    Sample s = honest_sample({.dtype = DType::kF16});
    s.expected.value[8] = 65519.5;
    s.expected.sigma_independent[8] = 1.0F;
    s.actual.set(8, stored);
    if (!matches(s.judge())) return false;
  }
  return true;
}
bool nan_in_exact_rows_is_found() {
  Sample s = honest_sample({.op = Op::kKCache});
  s.actual.set(20, kNan);
  return diverged_by(s.judge(), "values");
}

bool shape_is_checked() {
  Sample s = honest_sample({});
  s.actual = Tensor(DType::kBF16, {2, 100, 5});
  if (!diverged_by(s.judge(), "shape")) return false;
  s.actual = Tensor(DType::kBF16, {2, 1, 100});  // a last row alone is for lm_head only
  return diverged_by(s.judge(), "shape");
}

bool all_zero_is_named() {
  Sample s = honest_sample({});
  s.actual = Tensor(DType::kBF16, s.expected.shape);
  return diverged_by(s.judge(), "all_zero");
}
bool zero_for_zero_matches() {
  Sample s = honest_sample({});
  s.expected.value.assign(s.expected.value.size(), 0.0);
  s.actual = Tensor(DType::kBF16, s.expected.shape);
  return matches(s.judge());
}

bool unknown_rounding_is_doubt() {
  Sample s = honest_sample({});
  s.expected.sigma_independent[9] = std::numeric_limits<float>::quiet_NaN();
  const Judgement j = s.judge();
  return j.outcome == Outcome::kInconclusive && j.decisive_statistic == "unknown_rounding";
}

// ---- Data that only moves -------------------------------------------------------------------------------------------

bool exact_rows_round_gold() {
  Sample s = honest_sample({.op = Op::kVCache});
  s.expected.value[11] = 1.0 + 0x1p-20;
  s.actual.set(11, 1.0);
  return matches(s.judge());
}
bool exact_rows_allow_no_spacing() {
  Sample s = honest_sample({.op = Op::kVCache});
  s.expected.value[11] = 1.0;
  s.actual.set(11, 1.0 + 0x1p-7);
  return diverged_by(s.judge(), "values");
}
bool zeros_of_both_signs_are_equal() {
  Sample s = honest_sample({.op = Op::kEmbedTokens});
  s.expected.value[11] = -0.0;
  s.actual.set(11, 0.0);
  return matches(s.judge());
}

// A cache judged over a span from before its input: gold and candidate are both rounded, and may fall to either side.
bool caches_of_spans_are_rounded_twice() {
  Sample s = honest_sample({.op = Op::kVCache});
  s.expected.exact = false;
  s.actual.set(11, 1.0 + 0x1p-7);
  s.expected.value[11] = 1.0;
  if (!matches(s.judge())) return false;
  s.actual.set(11, 1.0 + 0x1p-6);
  return s.judge().outcome == Outcome::kDiverged;
}

// ---- Padding and masks ----------------------------------------------------------------------------------------------

bool pads_hold_anything() {
  for (const Op op : {Op::kOProj, Op::kQRope, Op::kKCache, Op::kScores, Op::kProbs, Op::kEmbedTokens, Op::kLmHead}) {
    Sample s = honest_sample({.op = op, .left_padding = {0, 2}});
    const std::int64_t pad_row = op == Op::kScores || op == Op::kProbs ? s.at({1, 0, 1, 0}) : s.actual.size() / 10 * 6;
    s.actual.set(pad_row, kNan);
    s.actual.set(pad_row + 1, 1e30);
    if (!matches(s.judge())) return false;
  }
  return true;
}
bool real_rows_after_pads_count() {
  Sample s = honest_sample({.left_padding = {0, 2}});
  s.actual.set(s.at({1, 2, 0}), kNan);
  return diverged_by(s.judge(), "non_finite");
}
bool only_pads_is_unjudged() {
  Sample rounded = honest_sample({.left_padding = {6}});
  Sample exact = honest_sample({.op = Op::kEmbedTokens, .left_padding = {6}});
  return rounded.judge().outcome == Outcome::kUnjudged && exact.judge().outcome == Outcome::kUnjudged;
}
bool pad_keys_of_real_rows_count() {
  Sample s = honest_sample({.op = Op::kProbs, .left_padding = {0, 2}});
  const Index pad_key{1, 0, 4, 0};
  s.actual.set(s.at(pad_key), 1e-3);
  const Judgement j = s.judge();
  return j.outcome == Outcome::kDiverged && j.worst_index == pad_key;
}

// A softmax that overflows: NaN in the slots that are seen, 0 in the others. No fully masked row.
bool nan_probabilities_count() {
  Sample s = honest_sample({.op = Op::kProbs});
  std::vector<std::int64_t> seen;
  for (std::size_t i = 0; i < s.expected.value.size(); ++i) {
    if (s.expected.value[i] == 0.0) continue;
    seen.push_back(static_cast<std::int64_t>(i));
    s.expected.value[i] = kNan;
  }
  if (!diverged_by(s.judge(), "non_finite")) return false;
  for (std::int64_t element : seen) s.actual.set(element, kNan);
  if (!matches(s.judge())) return false;
  s.actual.set(seen.back(), 0.5);
  return diverged_by(s.judge(), "non_finite");
}
// Zeros of which nothing is expected are no fully masked rows' either: what is left is still compared.
bool unknown_probabilities_leave_the_rest() {
  Sample s = honest_sample({.op = Op::kProbs});
  s.expected.unknown.assign(s.expected.value.size(), 0);
  const std::size_t half = s.expected.value.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    s.expected.unknown[i] = 1;
    s.expected.value[i] = s.expected.sigma_independent[i] = s.expected.sigma_shared[i] = 0.0F;
  }
  const Judgement j = s.judge();
  return matches(j) && j.statistics.elements_compared == static_cast<std::int64_t>(half);
}

bool stand_in_matches(double stand_in, DType dtype) {
  Sample s = honest_sample({.op = Op::kScores, .dtype = dtype});
  for (std::size_t i = 0; i < s.expected.value.size(); ++i) {
    if (std::isinf(s.expected.value[i])) s.actual.set(static_cast<std::int64_t>(i), stand_in);
  }
  return matches(s.judge());
}
bool stand_ins_match() {
  return stand_in_matches(-1e30, DType::kF32) && stand_in_matches(-3.38e38, DType::kBF16) &&
         stand_in_matches(-65504.0, DType::kF16);
}
bool visible_stand_ins_diverge() {
  for (const double stand_in : {-50.0, 0.0, 1e30, kInf, kNan}) {
    Sample s = honest_sample({.op = Op::kScores, .dtype = DType::kF32});
    s.actual.set(s.at({0, 1, 2, 3}), stand_in);
    const Judgement j = s.judge();
    if (!diverged_by(j, "mask") || j.worst_index != Index{0, 1, 2, 3}) return false;
  }
  return true;
}
bool masking_a_real_key_diverges() {
  Sample s = honest_sample({.op = Op::kScores, .dtype = DType::kF32});
  s.actual.set(s.at({0, 1, 3, 2}), -kInf);
  return diverged_by(s.judge(), "non_finite");
}

bool last_row_of_logits() {
  Sample s = honest_sample({.op = Op::kLmHead});
  Tensor last(DType::kBF16, {2, 1, s.config.vocab});
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t v = 0; v < s.config.vocab; ++v) last.set(b * s.config.vocab + v, s.actual.at(s.at({b, 4, v})));
  }
  s.actual = last;
  if (!matches(s.judge())) return false;
  s.actual.set(s.config.vocab + 77, 9.0);
  return s.judge().outcome == Outcome::kDiverged && s.judge().worst_index == Index{1, 0, 77};
}

// ---- What only many elements show -----------------------------------------------------------------------------------

// Errors of one sign pattern and size in a set of elements, none of them large enough to be seen alone.
template <typename Error>
Judgement judge_errors(const Error& error, std::int64_t tokens = 40) {
  Sample s = honest_sample({.op = Op::kAct, .dtype = DType::kF32, .num_tokens = tokens, .sigma = 1e-3});
  Random random(5);
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    const double gold = s.expected.value[static_cast<std::size_t>(i)];
    s.actual.set(i, gold + 1e-3 * error(i % s.config.intermediate, gold, random));
  }
  return s.judge();
}
bool weak_tile_is_found() {
  const double n = 2.0 * 40 * 150;
  const double size = 0.9 * bound(Op::kAct, DType::kF32, Statistic::kMaxExcess) * std::sqrt(2.0 * std::log(n + 10.0));
  const Judgement j = judge_errors([&](std::int64_t column, double, Random& random) {
    if (column < 144) return random.gaussian();
    return random.below(2) == 0 ? size : -size;
  });
  return j.outcome == Outcome::kDiverged && j.decisive_statistic == "worst_slice_rms" &&
         (j.statistics.worst_slice == "columns 144..149" || j.statistics.worst_slice.starts_with("column 14"));
}
// Two and a half times what the bound allows, at the 2^8 errors that a mean is taken to average (slices.h).
bool small_bias_is_found() {
  const double slices = 2.0 * 300 + 150;
  const double allowed = bound(Op::kAct, DType::kF32, Statistic::kBias) * std::sqrt(2.0 * std::log(slices));
  const double shift = 2.5 * allowed / 16.0;
  const auto shifted = [=](std::int64_t, double, Random& random) { return random.gaussian() + shift; };
  const Judgement j = judge_errors(shifted, 300);
  return j.outcome == Outcome::kDiverged && j.decisive_statistic == "bias";
}
bool small_scale_is_found() {
  const double factor = 2.5 * bound(Op::kAct, DType::kF32, Statistic::kSlope) / 16.0;
  const auto scaled = [=](std::int64_t, double gold, Random& random) { return random.gaussian() + factor * gold; };
  const Judgement j = judge_errors(scaled, 300);
  return j.outcome == Outcome::kDiverged && j.decisive_statistic == "slope";
}

}  // namespace

const std::vector<Check>& judge_checks() {
#define QDIFF_CHECK(function) \
  Check { #function, function }
  static const std::vector<Check> checks = {
      QDIFF_CHECK(honest_f32),
      QDIFF_CHECK(honest_bf16),
      QDIFF_CHECK(honest_f16),
      QDIFF_CHECK(shared_error_explained),
      QDIFF_CHECK(alike_rows_share_errors),
      QDIFF_CHECK(subnormals_have_a_floor),
      QDIFF_CHECK(flushed_subnormals_match),
      QDIFF_CHECK(finds_first_element),
      QDIFF_CHECK(finds_last_column),
      QDIFF_CHECK(finds_last_row),
      QDIFF_CHECK(finds_beyond_first_segment),
      QDIFF_CHECK(finds_in_heads),
      QDIFF_CHECK(finds_in_scores),
      QDIFF_CHECK(exact_last_row_found),
      QDIFF_CHECK(zero_sigma_means_no_room),
      QDIFF_CHECK(limits_are_inclusive),
      QDIFF_CHECK(nan_is_beyond_every_bound),
      QDIFF_CHECK(bounds_are_where_they_are),
      QDIFF_CHECK(nan_is_found),
      QDIFF_CHECK(number_for_nan_is_found),
      QDIFF_CHECK(infinity_for_number_is_found),
      QDIFF_CHECK(wrong_infinity_is_found),
      QDIFF_CHECK(number_for_infinity_is_found),
      QDIFF_CHECK(same_non_finite_matches),
      QDIFF_CHECK(earliest_offender_is_named),
      QDIFF_CHECK(overflow_may_go_either_way),
      QDIFF_CHECK(nan_in_exact_rows_is_found),
      QDIFF_CHECK(shape_is_checked),
      QDIFF_CHECK(all_zero_is_named),
      QDIFF_CHECK(zero_for_zero_matches),
      QDIFF_CHECK(unknown_rounding_is_doubt),
      QDIFF_CHECK(nan_probabilities_count),
      QDIFF_CHECK(unknown_probabilities_leave_the_rest),
      QDIFF_CHECK(exact_rows_round_gold),
      QDIFF_CHECK(exact_rows_allow_no_spacing),
      QDIFF_CHECK(zeros_of_both_signs_are_equal),
      QDIFF_CHECK(caches_of_spans_are_rounded_twice),
      QDIFF_CHECK(pads_hold_anything),
      QDIFF_CHECK(real_rows_after_pads_count),
      QDIFF_CHECK(only_pads_is_unjudged),
      QDIFF_CHECK(pad_keys_of_real_rows_count),
      QDIFF_CHECK(stand_ins_match),
      QDIFF_CHECK(visible_stand_ins_diverge),
      QDIFF_CHECK(masking_a_real_key_diverges),
      QDIFF_CHECK(last_row_of_logits),
      QDIFF_CHECK(weak_tile_is_found),
      QDIFF_CHECK(small_bias_is_found),
      QDIFF_CHECK(small_scale_is_found),
  };
#undef QDIFF_CHECK
  return checks;
}

}  // namespace qdiff::compare
