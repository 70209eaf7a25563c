#include "harness/selftest/shifts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/compare/judge.h"
#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/diagnose/variants.h"

namespace qdiff::selftest {

std::vector<TensorKey> Shifts::changed(const std::vector<Op>& ops, int layer) const {
  std::vector<TensorKey> keys;
  for (const Step& step : source_.steps) {
    for (const OperationRow& operation : kOperationTable) {
      if ((operation.scope == Scope::kLayer) != (layer != kNoLayer)) continue;
      const TensorKey key{step.index, {operation.op, layer}};
      if (!source_.recorded.has(key)) continue;
      const std::vector<TensorKey> span = compare::replay_span(key, source_.recorded, oracle_.config());
      const bool concerned = std::ranges::any_of(
          span, [&](const TensorKey& part) { return std::ranges::find(ops, part.id.op) != ops.end(); });
      if (concerned) keys.push_back(key);
    }
  }
  return keys;
}

std::vector<TensorKey> Shifts::changed(const VariantFacts& a, const VariantFacts& b, int layer) const {
  std::vector<Op> ops = a.ops;
  ops.insert(ops.end(), b.ops.begin(), b.ops.end());
  return changed(ops, layer);
}

std::vector<Op> Shifts::changed_ops(const VariantFacts& facts, int layer) const {
  std::set<Op> ops;
  for (const TensorKey& key : changed(facts.ops, layer)) ops.insert(key.id.op);
  return {ops.begin(), ops.end()};
}

Query Shifts::query(const std::vector<TensorKey>& span, const Precision& precision) const {
  return {.operations = span,
          .recorded = source_.recorded,
          .steps = source_.steps,
          .precision = precision,
          .stored = source_.recorded.get(span.back()).dtype,
          .capacity = source_.capacity,
          .unwritten = source_.unwritten};
}

const Expectation& Shifts::gold(const TensorKey& key) {
  const auto found = gold_.find(key);
  if (found != gold_.end()) return found->second;
  const std::vector<TensorKey> span = compare::replay_span(key, source_.recorded, oracle_.config());
  return gold_.emplace(key, oracle_.evaluate(query(span, source_.precision))).first->second;
}

std::optional<Shifts::Planted> Shifts::planted(const TensorKey& key, const VariantFacts& facts,
                                               const Variant& variant) {
  const std::vector<TensorKey> span = compare::replay_span(key, source_.recorded, oracle_.config());
  Precision precision = source_.precision;
  Query asked = query(span, precision);
  try {
    if (facts.declares) {  // float64 rounds nowhere: a rounding is made by the emulated reference
      facts.declares->declare(precision);
      return Planted{oracle_.emulate(asked), {}};
    }
    asked.variant = &variant;
    Expectation expectation = oracle_.evaluate(asked);
    return Planted{std::move(expectation.value), std::move(expectation.unknown)};
  } catch (const NotEvaluable&) {
    return std::nullopt;
  }
}

double Shifts::distance(const TensorKey& key, const Planted& a, const Planted& b) {
  const Expectation& expected = gold(key);
  const Step& step = source_.steps[static_cast<std::size_t>(key.step)];
  const compare::Layout layout(key.id.op, expected.shape, step, oracle_.config());
  const DType stored = source_.recorded.get(key).dtype;
  const auto columns = static_cast<std::size_t>(layout.num_columns());
  double largest = 0.0;
  for (std::int64_t row = 0; row < layout.num_rows(); ++row) {
    if (!layout.counts(row)) continue;
    for (std::size_t i = static_cast<std::size_t>(row) * columns, end = i + columns; i < end; ++i) {
      if ((!a.unknown.empty() && a.unknown[i]) || (!b.unknown.empty() && b.unknown[i])) continue;
      const double gold_value = expected.value[i];
      // A masked score may be any number small enough; whether it is shows in the probabilities.
      if (gold_value == -std::numeric_limits<double>::infinity()) continue;
      const double difference = std::fabs(a.value[i] - b.value[i]);
      if (difference == 0.0) continue;
      if (!std::isfinite(difference)) {
        const bool same = a.value[i] == b.value[i] || (std::isnan(a.value[i]) && std::isnan(b.value[i]));
        if (!same) return std::numeric_limits<double>::infinity();
        continue;
      }
      const double deviations = difference / compare::deviation(expected.sigma_independent[i], expected.sigma_shared[i],
                                                                spacing(stored, gold_value));
      if (!(deviations <= largest)) largest = deviations;
    }
  }
  return largest;
}

Shift Shifts::of(const VariantFacts& facts, const Variant& variant, int layer) {
  Shift shift;
  for (const TensorKey& key : changed(facts.ops, layer)) {
    const std::optional<Planted> under = planted(key, facts, variant);
    if (!under) continue;
    const double deviations = distance(key, *under, {gold(key).value, {}});
    shift.deviations = std::max(shift.deviations, deviations);
    if (!(deviations > kDetectable)) continue;
    shift = {deviations, key};
    return shift;
  }
  return shift;
}

double Shifts::between(const VariantFacts& a, const Variant& variant_a, const VariantFacts& b, const Variant& variant_b,
                       int layer) {
  double largest = 0.0;
  for (const TensorKey& key : changed(a, b, layer)) {
    const std::optional<Planted> under_a = planted(key, a, variant_a);
    const std::optional<Planted> under_b = planted(key, b, variant_b);
    if (under_a && under_b) largest = std::max(largest, distance(key, *under_a, *under_b));
  }
  return largest;
}

bool Shifts::same(const VariantFacts& a, const Variant& variant_a, const VariantFacts& b, const Variant& variant_b,
                  int layer) {
  bool any = false;
  for (const TensorKey& key : changed(a, b, layer)) {
    const std::optional<Planted> under_a = planted(key, a, variant_a);
    const std::optional<Planted> under_b = planted(key, b, variant_b);
    if (!under_a || !under_b || under_a->unknown != under_b->unknown) return false;
    if (distance(key, *under_a, *under_b) != 0.0) return false;
    any = true;
  }
  return any;
}

}  // namespace qdiff::selftest
