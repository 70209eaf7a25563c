#include "harness/compare/judge.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <utility>

#include "harness/compare/bounds.h"
#include "harness/compare/decode.h"
#include "harness/compare/gates.h"
#include "harness/compare/layout.h"
#include "harness/compare/mutants.h"
#include "harness/compare/slices.h"
#include "harness/compare/sums.h"
#include "harness/contract/number_text.h"

namespace qdiff::compare {
namespace {

// The two tensors side by side: row r of the candidate stands against row gold_row(r) of the expectation.
struct Sides {
  const Comparison& comparison;
  const Shape& actual_shape;
  Layout actual;
  Layout expected;

  std::int64_t gold_row(std::int64_t row) const {
    const std::int64_t gold = actual.row_in(expected, row);
    return mutated(Mutant::kFirstRowOfLmHead) && gold != row ? gold - expected.num_positions() + 1 : gold;
  }
};

void check_call(const Comparison& c) {
  if (c.actual.device.kind != DeviceKind::kCpu) {
    throw std::invalid_argument("judge: the candidate's tensor is not in host memory; copy it there first");
  }
  const auto n = static_cast<std::size_t>(num_elements(c.expected.shape));
  const bool complete =
      c.expected.value.size() == n &&
      (c.expected.exact || (c.expected.sigma_independent.size() == n && c.expected.sigma_shared.size() == n));
  if (!complete || !shape_fits(c.op, c.expected.shape, c.step, c.config)) {
    throw std::invalid_argument("judge: the expectation of " + std::string(row(c.op).name) + " has shape " +
                                to_string(c.expected.shape) + " and " + std::to_string(c.expected.value.size()) +
                                " values, which this step and model do not give");
  }
}

void set_worst(Judgement& judgement, const Sides& sides, std::int64_t element) {
  const std::int64_t width = sides.actual.num_columns();
  const std::int64_t gold = sides.gold_row(element / width) * width + element % width;
  judgement.worst_index = unravel(element, sides.actual_shape);
  judgement.actual =
      load_element(sides.comparison.actual.data, sides.comparison.actual.dtype, static_cast<std::size_t>(element));
  judgement.expected = sides.comparison.expected.value[static_cast<std::size_t>(gold)];
  if (mutated(Mutant::kSidesSwapped)) std::swap(judgement.actual, judgement.expected);
}

std::string place(const Judgement& judgement) {
  return " at " + to_string(judgement.worst_index) + ": " + digits(judgement.actual, 6) + " where " +
         digits(judgement.expected, 6) + " is expected";
}

// What is known of an operation's rounding beyond the oracle's two parts.
Coherence coherence_of(const Comparison& c) {
  const std::int64_t width = c.actual.shape.back();
  const auto declares = [&](RoundingPoint point) { return c.precision.points.contains(point); };
  // A few errors of the inputs reach every column of a row, and rows of like inputs have like ones.
  if (from_ensemble(c)) return {.columns = width, .rows = true};
  switch (arithmetic_of(c.op)) {
    case Arithmetic::kWeightedSum:  // all dimensions of a head see the same errors of the weights
      return {.columns = c.config.head_dim};
    case Arithmetic::kScores:  // all scores of a row see the same errors of a rounded query
      return {.columns = declares(RoundingPoint::kAttentionQuery) ? width : 1};
    case Arithmetic::kRotate:  // slow dimensions have cosines just below 1, all rounded up, at every position and head
      if (!declares(RoundingPoint::kRopeTable)) return {};
      return {.columns = c.config.q_width(), .rows = true};
    case Arithmetic::kAdd:  // a massive channel swallows small updates, in every row the same way
      return {.rows = true};
    default:
      return {};
  }
}

// Last: the statistics against their bounds.
void decide(Judgement& judgement, const Comparison& c) {
  const bool ensemble = from_ensemble(c);
  Statistic worst = Statistic::kMaxExcess;
  double worst_ratio = -1.0;
  for (std::size_t i = 0; i < kNumStatistics; ++i) {
    const auto statistic = static_cast<Statistic>(i);
    double limit = ensemble ? ensemble_bound(c.actual.dtype, statistic) : bound(c.op, c.actual.dtype, statistic);
    if (mutated(Mutant::kBoundDoubled)) limit *= 2.0;
    const double ratio = judgement.statistics.normalised[i] / limit;
    if (!(ratio <= worst_ratio)) {
      worst = statistic;
      worst_ratio = ratio;
    }
    if (std::isnan(ratio)) break;
  }
  judgement.decisive_statistic = name(worst);
  judgement.ratio_to_bound = worst_ratio;
  judgement.outcome = outcome_of(worst_ratio);
  const std::string what =
      in_words(judgement.decisive_statistic) + " is " + digits(worst_ratio, 4) + " times its bound";
  switch (judgement.outcome) {
    case Outcome::kMatch:
      judgement.reason = "explained by rounding: nearest to its bound, " + what;
      break;
    case Outcome::kInconclusive:
      judgement.reason = what + ", beyond every honest engine measured and not far enough to be sure";
      break;
    default:
      judgement.reason = "not explained by rounding: " + what;
      if (worst == Statistic::kSliceRms) judgement.reason += " (" + judgement.statistics.worst_slice + ")";
      if (!judgement.worst_index.empty()) judgement.reason += "; worst element" + place(judgement);
  }
}

// Walks the tensor in blocks of columns, so that the column sums of a block stay in cache while all rows pass.
struct Walk {
  std::int64_t unknown = 0;  // elements of which nothing is expected
  std::vector<SliceSums> rows;
  ColumnSums columns;
  TensorSums total;
};

// A cache whose input was not recorded: its rounding is data movement, which gold makes as well, on a value that is not
// the candidate's own. Each side brings half a spacing.
SpacingRule spacing_rule(const Comparison& c) {
  const bool gold_is_rounded = arithmetic_of(c.op) == Arithmetic::kAppend;
  return SpacingRule(c.actual.dtype, gold_is_rounded ? 2 : 1);
}

Walk walk(const Sides& sides, Gates& gates) {
  const Comparison& c = sides.comparison;
  const std::int64_t width = sides.actual.num_columns();
  Walk result{0,
              std::vector<SliceSums>(static_cast<std::size_t>(sides.actual.num_rows())),
              ColumnSums(static_cast<std::size_t>(width)),
              {}};
  const SpacingRule spacing = spacing_rule(c);
  std::array<double, kSegmentColumns> actual, gold, weight;
  std::int64_t end = width;
  if (mutated(Mutant::kTailSkipped) && width > 16) end = width / 16 * 16;
  std::int64_t num_rows = sides.actual.num_rows();
  if (mutated(Mutant::kLastRowSkipped) && num_rows > 1) --num_rows;
  for (std::int64_t first = 0; first < end; first += static_cast<std::int64_t>(kSegmentColumns)) {
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(end - first, kSegmentColumns));
    for (std::int64_t r = 0; r < num_rows; ++r) {
      if (!sides.actual.counts(r)) continue;
      const auto gold_first = static_cast<std::size_t>(sides.gold_row(r) * width + first);
      const auto actual_first = static_cast<std::size_t>(r * width + first);
      load_elements(c.actual, actual_first, {actual.data(), size});
      std::copy_n(c.expected.value.data() + gold_first, size, gold.data());
      if (mutated(Mutant::kSidesSwapped))
        std::swap_ranges(actual.begin(), actual.begin() + static_cast<std::ptrdiff_t>(size), gold.begin());
      std::int64_t unknown = 0;
      if (!c.expected.unknown.empty()) {
        // Zero where zero is expected without rounding says nothing; the gates leave it out.
        for (std::size_t i = 0; i < size; ++i) {
          if (c.expected.unknown[gold_first + i] == 0) continue;
          actual[i] = 0.0;
          ++unknown;
        }
      }
      const float* sigma_independent = c.expected.sigma_independent.data() + gold_first;
      const float* sigma_shared = c.expected.sigma_shared.data() + gold_first;
      const bool seen = gates.pass({actual.data(), size}, {gold.data(), size}, sigma_independent, sigma_shared,
                                   weight.data(), r, static_cast<std::int64_t>(actual_first));
      if (seen) result.unknown += unknown;
      accumulate({gold.data(), actual.data(), sigma_independent, sigma_shared, weight.data(), size,
                  static_cast<std::int64_t>(actual_first)},
                 spacing, static_cast<std::size_t>(first), result.rows[static_cast<std::size_t>(r)], result.columns,
                 result.total);
    }
  }
  return result;
}

Sides sides_of(const Comparison& c) {
  // A candidate may hold more rows of logits than the expectation, not the other way round.
  const Layout actual(c.op, c.actual.shape, c.step, c.config), expected(c.op, c.expected.shape, c.step, c.config);
  if (actual.num_rows() > expected.num_rows()) {
    throw std::invalid_argument("judge: the expectation of lm_head holds the last row, the candidate all rows");
  }
  return {c, c.actual.shape, actual, expected};
}

void close_by_gate(Judgement& judgement, const Sides& sides, const GateFailure& failure) {
  judgement.outcome = failure.outcome;
  judgement.decisive_statistic = failure.gate;
  judgement.ratio_to_bound = 0.0;
  set_worst(judgement, sides, failure.element);
  judgement.reason = failure.reason + place(judgement);
}

Judgement judge_rounded(const Sides& sides) {
  const Comparison& c = sides.comparison;
  Gates gates(c, sides.actual, [&sides](std::int64_t row) { return sides.gold_row(row); });
  const Walk sums = walk(sides, gates);
  Judgement judgement;
  judgement.statistics = statistics_of(
      {sides.actual, c.actual, sums.rows, sums.columns, sums.total, c.precision.accumulate, coherence_of(c)});
  judgement.statistics.elements_compared = gates.elements_seen() - sums.unknown;
  if (judgement.statistics.elements_compared <= 0) {
    judgement.outcome = mutated(Mutant::kUnjudgedIsMatch) ? Outcome::kMatch : Outcome::kUnjudged;
    judgement.reason = "nothing to compare: every row is padding or fully masked";
    return judgement;
  }
  if (const auto& failure = gates.failure()) {
    close_by_gate(judgement, sides, *failure);
    return judgement;
  }
  if (!(sums.total.max_excess_squared <= 0.0)) set_worst(judgement, sides, sums.total.max_excess_element);
  if (const auto failure = gates.all_zero()) {
    close_by_gate(judgement, sides, *failure);
    return judgement;
  }
  decide(judgement, c);
  // Doubt about one element's expected rounding does not outrank a divergence seen elsewhere.
  if (const auto& doubt = gates.doubt(); doubt && judgement.outcome != Outcome::kDiverged) {
    close_by_gate(judgement, sides, *doubt);
  }
  return judgement;
}

// Data only moves: equal values after gold is rounded to the stored type. -0.0 and 0.0 count as equal, for nothing
// later in the pass can tell them apart and an embedding read as a one-hot product has only 0.0; NaN equals NaN.
Judgement judge_exact(const Sides& sides) {
  const Comparison& c = sides.comparison;
  const std::int64_t width = sides.actual.num_columns();
  Judgement judgement;
  Statistics& statistics = judgement.statistics;
  std::vector<double> actual(static_cast<std::size_t>(width));
  // What is computed beside being moved differs between correct engines.
  const auto most_computed = [&](std::size_t element) {
    return element < c.expected.sigma_independent.size() ? double{c.expected.sigma_independent[element]} : 0.0;
  };
  std::optional<std::int64_t> first_wrong;
  std::int64_t num_wrong = 0, num_beyond = 0;
  double error_squared = 0.0, gold_squared = 0.0;
  const std::int64_t num_rows = sides.actual.num_rows() - (mutated(Mutant::kLastRowSkipped) ? 1 : 0);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    if (!sides.actual.counts(r)) continue;
    load_elements(c.actual, static_cast<std::size_t>(r * width), actual);
    const double* gold = c.expected.value.data() + sides.gold_row(r) * width;
    for (std::int64_t i = 0; i < width; ++i) {
      if (!c.expected.unknown.empty() &&
          c.expected.unknown[static_cast<std::size_t>(sides.gold_row(r) * width + i)] != 0) {
        continue;
      }
      ++statistics.elements_compared;
      const double a = actual[static_cast<std::size_t>(i)];
      if (std::isfinite(gold[i])) gold_squared += gold[i] * gold[i];
      if (a == gold[i]) continue;
      const double expected = mutated(Mutant::kGoldNotRounded) ? gold[i] : round_to(c.actual.dtype, gold[i]);
      if (a == expected || (std::isnan(a) && (std::isnan(expected) || mutated(Mutant::kNanValuesIgnored)))) continue;
      const double allowed = most_computed(static_cast<std::size_t>(sides.gold_row(r) * width + i));
      if (allowed > 0.0 && std::fabs(a - gold[i]) <= allowed + 0.5 * spacing(c.actual.dtype, gold[i])) continue;
      if (!first_wrong) first_wrong = r * width + i;
      ++num_wrong;
      const double error = std::fabs(a - expected);
      if (!std::isfinite(error)) continue;
      statistics.max_abs_error = std::max(statistics.max_abs_error, error);
      error_squared += error * error;
      if (!(error <= spacing(c.actual.dtype, std::max(std::fabs(a), std::fabs(expected))))) ++num_beyond;
    }
  }
  if (statistics.elements_compared == 0) {
    judgement.outcome = mutated(Mutant::kUnjudgedIsMatch) ? Outcome::kMatch : Outcome::kUnjudged;
    judgement.reason = "nothing to compare: every row is padding";
    return judgement;
  }
  if (!first_wrong) {
    judgement.outcome = Outcome::kMatch;
    judgement.reason = "all " + std::to_string(statistics.elements_compared) + " values moved unchanged";
    judgement.decisive_statistic = "values";
    return judgement;
  }
  statistics.max_excess = HUGE_VAL;
  statistics.relative_rms_error = error_squared == 0.0 ? 0.0 : std::sqrt(error_squared / gold_squared);
  statistics.share_beyond_one_spacing =
      static_cast<double>(num_beyond) / static_cast<double>(statistics.elements_compared);
  close_by_gate(judgement, sides,
                {"values", Outcome::kDiverged, *first_wrong,
                 "data that only moves arrived changed in " + std::to_string(num_wrong) + " of " +
                     std::to_string(statistics.elements_compared) + " elements, first"});
  return judgement;
}

}  // namespace

std::string in_words(std::string_view statistic) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kWords = {
      {{name(Statistic::kMaxExcess), "the largest error of an element"},
       {name(Statistic::kRms), "the root mean square error"},
       {name(Statistic::kSliceRms), "the root mean square error of the worst slice"},
       {name(Statistic::kBias), "the mean error"},
       {name(Statistic::kSlope), "the slope of the error on the expected values"},
       {name(Statistic::kShareBeyond), "the share of elements beyond one spacing"},
       {"non_finite", "NaN or infinity"},
       {"all_zero", "nothing but zeros"},
       {"mask", "a masked score that softmax sees"},
       {"values", "values that should only move, changed"},
       {"free_run_distance", "the distance from a whole forward pass of right code"},
       {"free_run_row", "the error of a row of a whole forward pass"},
       {"free_run_scale", "the scale of a row of a whole forward pass"},
       {"free_run_element", "the largest error of an element of a whole forward pass"}}};
  const auto* known = std::ranges::find(kWords, statistic, &std::pair<std::string_view, std::string_view>::first);
  return std::string(known == kWords.end() ? statistic : known->second);
}

bool from_ensemble(const Comparison& c) {
  if (!is_usual_fusion(c.operations)) return true;
  // An embedding whose weights are wider than the activations does not only move.
  const bool rounds_embedding =
      facts(c.precision.weights).significant_bits > facts(c.precision.activations).significant_bits;
  const bool starts_at_embedding = c.operations.size() > 1 && c.operations.front().id.op == Op::kEmbedTokens;
  if (starts_at_embedding && rounds_embedding) return true;
  const auto reads_unrounded = [&](Op op) {
    const auto& inputs = row(op).inputs;
    return std::ranges::any_of(inputs, [&](const Input& input) { return c.precision.taken_as.contains(input.op); });
  };
  return reads_unrounded(c.op) ||
         std::ranges::any_of(c.operations, [&](const TensorKey& key) { return reads_unrounded(key.id.op); });
}

Outcome outcome_of(double ratio_to_bound) {
  if (mutated(Mutant::kNanPassesBounds)) {
    return ratio_to_bound > kDivergedRatio ? Outcome::kDiverged
                                           : (ratio_to_bound > 1.0 ? Outcome::kInconclusive : Outcome::kMatch);
  }
  if (mutated(Mutant::kStrictBounds)) {
    return !(ratio_to_bound < kDivergedRatio) ? Outcome::kDiverged
                                              : (!(ratio_to_bound < 1.0) ? Outcome::kInconclusive : Outcome::kMatch);
  }
  if (!(ratio_to_bound <= kDivergedRatio)) return Outcome::kDiverged;
  if (!(ratio_to_bound <= 1.0)) return Outcome::kInconclusive;
  return Outcome::kMatch;
}

Judgement judge(const Comparison& comparison) {
  check_call(comparison);
  const TensorView& actual = comparison.actual;
  if (!shape_fits(comparison.op, actual.shape, comparison.step, comparison.config)) {
    Judgement judgement;
    judgement.outcome = mutated(Mutant::kShapeIgnored) ? Outcome::kMatch : Outcome::kDiverged;
    judgement.decisive_statistic = "shape";
    judgement.reason = "the shape is " + to_string(actual.shape) + " where " +
                       to_string(output_shape(comparison.op, comparison.config, comparison.step.batch(),
                                              comparison.step.num_tokens(), comparison.step.valid_length())) +
                       " is expected";
    return judgement;
  }
  const Sides sides = sides_of(comparison);
  return comparison.expected.exact ? judge_exact(sides) : judge_rounded(sides);
}

bool misses_both(const Comparison& comparison, const Expectation& other) {
  check_call(comparison);
  const Expectation& one = comparison.expected;
  const std::size_t size = one.value.size();
  const bool are_rounded = !one.exact && !other.exact && other.value.size() == size &&
                           other.sigma_independent.size() == size && other.sigma_shared.size() == size;
  const TensorView& actual = comparison.actual;
  if (!are_rounded || !shape_fits(comparison.op, actual.shape, comparison.step, comparison.config)) return false;
  const Sides sides = sides_of(comparison);
  const std::int64_t width = sides.actual.num_columns();
  const SpacingRule spacing = spacing_rule(comparison);
  // Whatever operations the mixed expectation spans.
  const double most = std::max(bound(comparison.op, actual.dtype, Statistic::kMaxExcess),
                               ensemble_bound(actual.dtype, Statistic::kMaxExcess)) *
                      growth(static_cast<double>(num_elements(actual.shape)));
  const auto is_far = [&](double value, const Expectation& expected, std::size_t gold) {
    if (!expected.unknown.empty() && expected.unknown[gold] != 0) return false;
    if (!std::isfinite(expected.value[gold])) return false;
    // A row of nothing but zeros is fully masked, and what stands there is not looked at.
    if (comparison.op == Op::kProbs && expected.value[gold] == 0.0) return false;
    return excess_of(value, expected.value[gold], expected.sigma_independent[gold], expected.sigma_shared[gold],
                     spacing) > most;
  };
  std::vector<double> values(static_cast<std::size_t>(width));
  for (std::int64_t r = 0; r < sides.actual.num_rows(); ++r) {
    if (!sides.actual.counts(r)) continue;
    load_elements(actual, static_cast<std::size_t>(r * width), values);
    const auto first = static_cast<std::size_t>(sides.gold_row(r) * width);
    for (std::size_t c = 0; c < values.size(); ++c) {
      if (!std::isfinite(values[c])) continue;
      if (is_far(values[c], other, first + c) && is_far(values[c], one, first + c)) return true;
    }
  }
  return false;
}

Distance distance_of(const Comparison& comparison) {
  check_call(comparison);
  const TensorView& actual = comparison.actual;
  if (!shape_fits(comparison.op, actual.shape, comparison.step, comparison.config)) return {};
  const Sides sides = sides_of(comparison);
  if (comparison.expected.exact) return {.rms = 0.0, .max_excess = judge_exact(sides).statistics.max_excess};
  Gates gates(comparison, sides.actual, [&sides](std::int64_t row) { return sides.gold_row(row); });
  const Walk sums = walk(sides, gates);
  return {
      .rms = rms_of(sums.rows), .max_excess = max_excess_of(sums.total), .beyond_numbers = gates.failure().has_value()};
}

}  // namespace qdiff::compare
