// What follows from the facts that the catalogue states of a variant.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <vector>

#include "harness/contract/oracle.h"

namespace qdiff::diagnose {

// A variant once for each value that the catalogue lists; once where it takes none.
inline std::vector<Variant> doses(const VariantFacts& facts) {
  if (facts.values.empty()) return {{facts.id, std::nullopt}};
  std::vector<Variant> variants;
  for (double value : facts.values) variants.push_back({facts.id, value});
  return variants;
}

// Whether a variant can change the target of a span.
inline bool concerns(const VariantFacts& facts, std::span<const TensorKey> span) {
  return std::ranges::any_of(
      span, [&](const TensorKey& key) { return std::ranges::find(facts.ops, key.id.op) != facts.ops.end(); });
}

inline bool changes_any(const VariantFacts& facts, std::span<const Parameter> parameters) {
  return std::ranges::any_of(facts.changes, [&](const Change& change) {
    return std::ranges::find(parameters, change.parameter) != parameters.end();
  });
}

// Whether what the bug does depends on how many slots a row of the cache has.
inline bool depends_on_capacity(const VariantFacts& facts) {
  constexpr std::array kStrides = {Parameter::kWriterBatchStride, Parameter::kWriterHeadStride,
                                   Parameter::kWriterSlotStride,  Parameter::kReaderBatchStride,
                                   Parameter::kReaderHeadStride,  Parameter::kPadWrite};
  return changes_any(facts, kStrides);
}

// Whether it depends on there being a slot behind the last one that the steps fill.
inline bool depends_on_room(const VariantFacts& facts) {
  return changes_any(facts, std::array{Parameter::kWriterSlot});
}

// A running sum in 16 bits errs by so much of its own that it would cover errors of any cause.
inline bool sums_in_16_bits(const VariantFacts& facts) {
  return std::ranges::any_of(facts.changes, [](const Change& change) {
    const bool is_sum = change.parameter == Parameter::kRunningSum || change.parameter == Parameter::kDenominator ||
                        change.parameter == Parameter::kSumOfSquares;
    return is_sum && (change.law == Law::kInBF16 || change.law == Law::kInF16);
  });
}

}  // namespace qdiff::diagnose
