#include "harness/diagnose/roundings.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "harness/contract/error.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

using Points = std::vector<DeclarablePoint>;

std::vector<RoundingPoint> points_of(const RowJudgement& row) {
  std::vector<RoundingPoint> points;
  const auto add = [&](RoundingPoint point) {
    if (std::ranges::find(points, point) == points.end()) points.push_back(point);
  };
  for (const TensorKey& key : row.span) std::ranges::for_each(qdiff::row(key.id.op).points, add);
  // Probabilities that were handed out as softmax gave them may be rounded on their way into P·V.
  if (row.key.id.op == Op::kAttnOutput) add(RoundingPoint::kAttentionProbs);
  // Sums in 16 bits come last, for they round the scores as attention.scores does, and P·V besides.
  std::stable_partition(points.begin(), points.end(),
                        [](RoundingPoint point) { return point != RoundingPoint::kAttentionAccumulate; });
  return points;
}

// What the engine may have done in this span and not declared.
Points undeclared_in(const RowJudgement& row, const Precision& precision) {
  Points candidates;
  for (RoundingPoint point : points_of(row)) {
    if (point == RoundingPoint::kKvCachePrefill) {  // k and v as they were handed out, and not rounded
      candidates.push_back({point, precision.activations});
      continue;
    }
    for (DType dtype : {DType::kBF16, DType::kF16}) candidates.push_back({point, dtype});
  }
  if (std::ranges::any_of(row.span,
                          [](const TensorKey& key) { return arithmetic_of(key.id.op) == Arithmetic::kAppend; })) {
    for (QuantizedCache cache : {QuantizedCache::kInt8, QuantizedCache::kE4M3, QuantizedCache::kE5M2}) {
      candidates.push_back({RoundingPoint::kKvCache, DType::kF32, QuantizedInputs::kNone, cache});
    }
  }
  if (std::ranges::any_of(row.span,
                          [](const TensorKey& key) { return arithmetic_of(key.id.op) == Arithmetic::kProduct; })) {
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

// Sums in 16 bits err so much that they would cover errors of any cause.
bool sums(RoundingPoint point) {
  return point == RoundingPoint::kAttentionAccumulate || point == RoundingPoint::kMatmulPartials;
}

// The search on one row, under a variant or none.
struct Search {
  const RowOracle& oracle;
  const RowJudgement& row;
  const Variant* variant;

  bool explains(const Points& points) const {
    return oracle.judge(row, {variant, points}).outcome == compare::Outcome::kMatch;
  }
  // Infinite where rows of this width are no whole blocks.
  double distance(const Points& points, const Expectation& scale) const {
    try {
      return oracle.distance(row, {variant, points}, scale);
    } catch (const InputError&) {
      return HUGE_VAL;
    }
  }
};

// Where data only moves, a cache of a narrower type is the one rounding that there is.
Points rounded_cache(const Search& search, const Points& candidates) {
  for (const DeclarablePoint& candidate : candidates) {
    if (search.explains({candidate})) return {candidate};
  }
  return {};
}

// All sets of so many undeclared roundings, each in one type. Sums in 16 bits are left out: their bounds are so wide
// that they would explain anything.
std::vector<Points> sets_of(const RowOracle& oracle, const RowJudgement& row, int size) {
  std::vector<RoundingPoint> points = points_of(row);
  std::erase_if(points, [&](RoundingPoint point) {
    return oracle.declared().points.contains(point) || sums(point) || point == RoundingPoint::kKvCachePrefill;
  });
  std::vector<Points> sets;
  for (unsigned set = 0; set < 1U << points.size(); ++set) {
    if (std::popcount(set) != size) continue;
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      Points& with = sets.emplace_back();
      for (std::size_t i = 0; i < points.size(); ++i) {
        if ((set >> i & 1U) != 0) with.push_back({points[i], dtype});
      }
    }
  }
  return sets;
}

// Two or three roundings at once, in one type: where scores are huge each rounding of them turns the softmax over, and
// one of several brings the reference no nearer than none does.
Points several_points(const Search& search, const Expectation& scale, double within) {
  if (search.row.is_long()) return {};
  Points best;
  for (int size : {2, 3}) {
    for (Points& with : sets_of(search.oracle, search.row, size)) {
      const double reached = search.oracle.distance(search.row, {search.variant, with}, scale);
      if (!(reached < within)) continue;
      within = reached;
      best = std::move(with);
    }
    within *= kLargestShareLeftByOneRounding;  // one more must be worth it
  }
  return !best.empty() && search.explains(best) ? best : Points{};
}

}  // namespace

Points undeclared_points(const RowOracle& oracle, const RowJudgement& row, const Variant* variant) {
  const Search search{oracle, row, variant};
  const Points candidates = undeclared_in(row, oracle.declared());
  Points chosen;
  try {
    const Expectation scale = oracle.evaluate(row, {variant});
    if (scale.exact) return rounded_cache(search, candidates);
    const double start = search.oracle.distance(row, {variant}, scale);
    double now = start;
    while (true) {
      std::optional<DeclarablePoint> best;
      double best_distance = now * kLargestShareLeftByOneRounding;
      for (const DeclarablePoint& candidate : candidates) {
        if (std::ranges::any_of(chosen, [&](const auto& taken) { return taken.point == candidate.point; })) continue;
        Points with = chosen;
        with.push_back(candidate);
        const double reached = search.distance(with, scale);
        if (!(reached < best_distance)) continue;
        best_distance = reached;
        best = candidate;
      }
      if (!best) return several_points(search, scale, start * kLargestShareLeft);
      chosen.push_back(*best);
      now = best_distance;
      if (search.explains(chosen) && now <= start * kLargestShareLeft) return chosen;
    }
  } catch (const NotEvaluable&) {
    return {};
  }
}

std::vector<Points> covering_declarations(const RowOracle& oracle, const RowJudgement& row) {
  constexpr int kMostAtOnce =
      3;  // a scaled query, scores and probabilities: all that attention has between its tensors
  const Search search{oracle, row, nullptr};
  std::vector<Points> covering;
  for (int size = 1; size <= kMostAtOnce; ++size) {
    for (const Points& points : sets_of(oracle, row, size)) {
      // A type that the engine holds nothing in explains whatever is smaller than its roundings.
      const DType dtype = points.front().dtype;
      const bool is_held = dtype == row.actual().dtype || dtype == oracle.declared().activations;
      if (is_held && search.explains(points)) covering.push_back(points);
    }
  }
  return covering;
}

Precision rounding_as_it_stores(const Precision& precision, const RowJudgement& row) {
  const DType stored = row.actual().dtype;
  Precision rounding = precision;
  if (size_of(stored) != 2) return rounding;
  for (RoundingPoint point : points_of(row)) {
    if (!sums(point) && point != RoundingPoint::kKvCachePrefill) rounding.points.try_emplace(point, stored);
  }
  return rounding;
}

std::vector<Variant> nearest_variants(RowOracle& oracle, const RowJudgement& row, const Points& points) {
  std::vector<std::pair<double, Variant>> near;
  const double start = oracle.distance(row, {nullptr, points});
  for (const VariantFacts& facts : oracle.catalogue()) {
    if (facts.declares || !concerns(facts, row.span)) continue;
    for (const Variant& variant : doses(facts)) {
      try {
        const double reached = oracle.distance(row, {&variant, points});
        if (reached < kLargestShareLeft * start) near.emplace_back(reached, variant);
      } catch (const NotEvaluable&) {
      }
    }
  }
  std::ranges::stable_sort(near, {}, &std::pair<double, Variant>::first);
  std::vector<Variant> variants;
  for (std::size_t i = 0; i < std::min(near.size(), kVariantsBesideRoundings); ++i) variants.push_back(near[i].second);
  return variants;
}

}  // namespace qdiff::diagnose
