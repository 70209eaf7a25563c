#include "harness/diagnose/fitting.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "harness/contract/error.h"
#include "harness/diagnose/screening.h"

namespace qdiff::diagnose {
namespace {

// A rounding that explains takes away most of the distance that is left; one of several takes a good part of it.
constexpr double kGoodPart = 0.8;
constexpr double kMost = 0.5;

double to_digits(double value, int digits) {
  const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(value)));
  return std::round(value * unit) / unit;
}

// The minimum of `error` between `left` and `right`, where it falls and then rises, to within `precision` (Kiefer
// 1953).
template <typename Error>
double golden_section(double left, double right, double precision, Error error) {
  const double golden = 0.6180339887498949;
  double inner_left = right - golden * (right - left);
  double inner_right = left + golden * (right - left);
  double error_left = error(inner_left);
  double error_right = error(inner_right);
  while (right - left > precision) {
    if (error_left < error_right) {
      right = inner_right;
      inner_right = inner_left;
      error_right = error_left;
      inner_left = right - golden * (right - left);
      error_left = error(inner_left);
    } else {
      left = inner_left;
      inner_left = inner_right;
      error_left = error_right;
      inner_right = left + golden * (right - left);
      error_right = error(inner_right);
    }
  }
  return 0.5 * (left + right);
}

std::vector<RoundingPoint> points_of(const RowJudgement& row) {
  std::vector<RoundingPoint> points;
  for (const TensorKey& key : row.span) {
    for (RoundingPoint point : qdiff::row(key.id.op).points) {
      if (std::find(points.begin(), points.end(), point) == points.end()) points.push_back(point);
    }
  }
  // Probabilities that were handed out as softmax gave them may be rounded on their way into P·V.
  const bool takes_probs = row.key.id.op == Op::kAttnOutput;
  const auto probs = std::find(points.begin(), points.end(), RoundingPoint::kAttentionProbs);
  if (takes_probs && probs == points.end()) points.push_back(RoundingPoint::kAttentionProbs);
  // Sums in 16 bits come last, for they round the scores as attention.scores does, and P·V besides.
  std::stable_partition(points.begin(), points.end(),
                        [](RoundingPoint point) { return point != RoundingPoint::kAttentionAccumulate; });
  return points;
}

// Whether a softmax inside the span rounds, where no tensor shows if it divides before that or after P·V.
bool may_divide_last(const RowJudgement& row, const Precision& precision) {
  const bool inside =
      row.key.id.op != Op::kProbs &&
      std::any_of(row.span.begin(), row.span.end(), [](const TensorKey& key) { return key.id.op == Op::kProbs; });
  return inside && precision.points.contains(RoundingPoint::kAttentionProbs);
}

bool multiplies_by_matrix(Op op, const ModelConfig& config) {
  return op != Op::kEmbedTokens && !qdiff::row(op).weights.empty() && weight_shape(op, 0, config).size() == 2;
}

// What the engine may have done in this span and not declared.
std::vector<DeclarablePoint> undeclared_in(const RowJudgement& row, const Precision& precision,
                                           const ModelConfig& config) {
  std::vector<DeclarablePoint> candidates;
  for (RoundingPoint point : points_of(row)) {
    for (DType dtype : {DType::kBF16, DType::kF16}) candidates.push_back({point, dtype});
  }
  if (std::any_of(row.span.begin(), row.span.end(),
                  [&](const TensorKey& key) { return multiplies_by_matrix(key.id.op, config); })) {
    for (QuantizedInputs quantized : {QuantizedInputs::kGgml, QuantizedInputs::kQ8_0, QuantizedInputs::kQ8_K}) {
      candidates.push_back({std::nullopt, DType::kF32, quantized});
    }
  }
  // Quantised otherwise than it says is a mistake that nothing else reproduces.
  std::erase_if(candidates, [&](const DeclarablePoint& candidate) {
    return candidate.point ? candidate.is_declared(precision) : candidate.quantized == precision.quantized;
  });
  return candidates;
}

// Infinite where rows of this width are no whole blocks.
double distance_if_possible(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                            const Supposition& supposition, const Expectation& scale) {
  try {
    return distance(oracle, row, precision, supposition, scale);
  } catch (const InputError&) {
    return HUGE_VAL;
  }
}

// Where data only moves, a cache of a narrower type is the one rounding that there is.
std::vector<DeclarablePoint> rounded_cache(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                           const Variant* variant) {
  for (const DeclarablePoint& candidate : undeclared_in(row, precision, oracle.config())) {
    const std::vector<DeclarablePoint> declared = {candidate};
    if (judge_as(oracle, row, precision, {variant, declared}).outcome == compare::Outcome::kMatch) return declared;
  }
  return {};
}

// Two or three roundings at once, in one type: where scores are huge each rounding of them turns the softmax over, and
// one of several brings the reference no nearer than none does. Sums in 16 bits are left out: their bounds are so wide
// that they would explain anything.
std::vector<DeclarablePoint> several_points(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                            const Variant* variant, const Expectation& scale, double within) {
  if (is_long_span(row)) return {};
  std::vector<RoundingPoint> points = points_of(row);
  std::erase_if(points, [&](RoundingPoint point) {
    return precision.points.contains(point) || point == RoundingPoint::kAttentionAccumulate;
  });
  std::vector<DeclarablePoint> best;
  double best_distance = within;
  for (int size : {2, 3}) {
    for (unsigned set = 0; set < 1U << points.size(); ++set) {
      if (std::popcount(set) != size) continue;
      for (DType dtype : {DType::kBF16, DType::kF16}) {
        std::vector<DeclarablePoint> with;
        for (std::size_t i = 0; i < points.size(); ++i) {
          if ((set >> i & 1U) != 0) with.push_back({points[i], dtype});
        }
        const double reached = distance(oracle, row, precision, {variant, with}, scale);
        if (!(reached < best_distance)) continue;
        best_distance = reached;
        best = std::move(with);
      }
    }
    best_distance *= kGoodPart;  // one more must be worth it
  }
  const bool explains =
      !best.empty() && judge_as(oracle, row, precision, {variant, best}).outcome == compare::Outcome::kMatch;
  return explains ? best : std::vector<DeclarablePoint>{};
}

}  // namespace

double distance(Oracle& oracle, const RowJudgement& row, const Precision& precision, const Supposition& supposition,
                const Expectation& scale) {
  const Precision supposed = declaring(precision, supposition.points);
  const auto distance_to = [&](const Tensor& planted) {
    Expectation expected = scale;
    expected.exact = false;
    expected.value = to_doubles(planted.view());
    const compare::Judgement judgement = judge_against(row, row.actual(), expected, supposed, oracle.config());
    const bool gate = judgement.decisive_statistic == "non_finite" || judgement.decisive_statistic == "mask";
    return gate || !std::isfinite(judgement.statistics.rms) ? HUGE_VAL : judgement.statistics.rms;
  };
  const double nearest = distance_to(emulated(oracle, row, precision, supposition));
  if (!may_divide_last(row, supposed)) return nearest;
  return std::min(nearest, distance_to(emulated(oracle, row, precision, supposition, /*divides_last=*/true)));
}

// Searched over logarithms: the best of a grid around the listed and the right values by RMS error, or beyond its ends
// while that comes nearer, refined between its neighbours, and once more by the largest excess. That is convex near the
// truth and, where results are rounded to 16 bits, far sharper than the RMS, which the rounding dominates.
std::vector<Variant> fitted_values(Oracle& oracle, Screening& screening, const RowJudgement& row,
                                   const Precision& precision, const VariantFacts& facts) {
  const bool long_span = is_long_span(row);
  auto statistics_at = [&](double log_value) {
    const Variant variant{facts.id, std::exp(log_value)};
    if (long_span) return statistics_beside(oracle, row, precision, {&variant}, screening.right(row));
    return judge_as(oracle, row, precision, {&variant}).statistics;
  };
  auto finite = [](double error) { return std::isfinite(error) ? error : HUGE_VAL; };
  auto rms_at = [&](double log_value) { return finite(statistics_at(log_value).rms); };
  auto excess_at = [&](double log_value) { return finite(statistics_at(log_value).max_excess); };
  // An epsilon may be 0 by the file; there is no logarithm of that, and listed values alone say where to search.
  const bool has_log = *facts.right_value > 0.0;
  double low = has_log ? std::log(*facts.right_value) : HUGE_VAL;
  double high = has_log ? low : -HUGE_VAL;
  for (double value : facts.values) {
    if (!(value > 0.0)) continue;
    low = std::min(low, std::log(value));
    high = std::max(high, std::log(value));
  }
  constexpr int kGrid = 36;
  constexpr double kRoom = 9.210340371976184;  // a factor of 10000 beyond the values listed
  const double step = (high - low + 2.0 * kRoom) / kGrid;
  if (!(low <= high)) return {};
  const double right_log = has_log ? std::log(*facts.right_value) : -HUGE_VAL;  // whose exponential is 0
  double best = has_log ? right_log : low;  // small doses lie near the right value, where the grid may be too coarse
  double best_error = rms_at(best);
  const auto nearer = [&](double candidate) {
    const double error = rms_at(candidate);
    if (!(error < best_error)) return false;
    best_error = error;
    best = candidate;
    return true;
  };
  const double first = low - kRoom, last = first + kGrid * step;
  for (int i = 0; i <= kGrid; ++i) nearer(first + i * step);
  // What somebody typed may lie far from every value listed.
  constexpr int kBeyond = 24;
  int beyond = 0;
  if (best == last) {
    while (beyond < kBeyond && nearer(best + step)) ++beyond;
  } else if (best == first) {
    while (beyond < kBeyond && nearer(best - step)) ++beyond;
  }
  constexpr double kNear = 0.02;  // far more than the RMS leaves open
  best = golden_section(best - step, best + step, kNear / 10.0, rms_at);
  // A value that brings the reference no nearer is none; short spans are left to the judge.
  constexpr double kNearer = 0.9;
  if (long_span && !(rms_at(best) <= kNearer * rms_at(right_log))) return {};
  const double fitted = std::exp(golden_section(best - kNear, best + kNear, 1e-9, excess_at));
  // Rounding of the candidate leaves the fit a little off, and somebody typed the value: short numbers come first.
  std::vector<Variant> variants;
  for (int digits = 2; digits <= 7; ++digits) variants.push_back({facts.id, to_digits(fitted, digits)});
  variants.push_back({facts.id, fitted});
  return variants;
}

std::vector<DeclarablePoint> undeclared_points(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                               const Variant* variant) {
  std::vector<DeclarablePoint> chosen;
  try {
    const Expectation scale = evaluate(oracle, row, precision, {variant, {}});
    if (scale.exact) return rounded_cache(oracle, row, precision, variant);
    const double start = distance(oracle, row, precision, {variant, {}}, scale);
    const std::vector<DeclarablePoint> candidates = undeclared_in(row, precision, oracle.config());
    double now = start;
    while (true) {
      std::optional<DeclarablePoint> best;
      double best_distance = now * kGoodPart;
      for (const DeclarablePoint& candidate : candidates) {
        const bool taken = std::any_of(chosen.begin(), chosen.end(),
                                       [&](const DeclarablePoint& c) { return c.point == candidate.point; });
        if (taken) continue;
        std::vector<DeclarablePoint> with = chosen;
        with.push_back(candidate);
        const double reached = distance_if_possible(oracle, row, precision, {variant, with}, scale);
        if (!(reached < best_distance)) continue;
        best_distance = reached;
        best = candidate;
      }
      if (!best) return several_points(oracle, row, precision, variant, scale, start * kMost);
      chosen.push_back(*best);
      now = best_distance;
      if (judge_as(oracle, row, precision, {variant, chosen}).outcome == compare::Outcome::kMatch &&
          now <= start * kMost) {
        return chosen;
      }
    }
  } catch (const NotEvaluable&) {
  }
  return {};
}

std::vector<Variant> nearest_variants(Oracle& oracle, Screening& screening, const RowJudgement& row) {
  constexpr std::size_t kMost = 3;
  constexpr double kNear = 0.5;  // of the distance without the bug
  std::vector<std::pair<double, Variant>> near;
  const double start = screening.distance_of(row, nullptr);
  for (const VariantFacts& facts : oracle.catalogue()) {
    if (facts.declares || !concerns(facts, row.span)) continue;
    for (const Variant& variant : doses(facts)) {
      try {
        const double reached = screening.distance_of(row, &variant);
        if (reached < kNear * start) near.emplace_back(reached, variant);
      } catch (const NotEvaluable&) {
      }
    }
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Variant> variants;
  for (const auto& [reached, variant] : near) {
    if (variants.size() < kMost) variants.push_back(variant);
  }
  return variants;
}

}  // namespace qdiff::diagnose
