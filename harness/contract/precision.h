// What an engine declares about its own precision, so that honest rounding is expected and nothing else is.
#pragma once

#include <map>

#include "harness/contract/dtype.h"
#include "harness/contract/operation_table.h"

namespace qdiff {

// The manifest's `compute` block. Every intermediate is in `accumulate` precision unless `points` names it.
struct Precision {
  DType weights = DType::kBF16;      // rounded once to this, nearest even, when loaded
  DType activations = DType::kBF16;  // in which named tensors are stored
  DType accumulate = DType::kF32;    // dot products, softmax and norm sums
  std::map<RoundingPoint, DType> points;
  // Fused engines: the precision in which the *next* operation took a tensor of the table, where it is not the stored
  // one. The tensor handed out is then a rounded copy of the one that was used.
  std::map<Op, DType> taken_as;

  DType at(RoundingPoint point) const {
    const auto found = points.find(point);
    return found == points.end() ? accumulate : found->second;
  }
  bool operator==(const Precision&) const = default;
};

// What an ordinary engine of this storage type does: weights and activations in `dtype`, accumulation in float32.
inline Precision plain_precision(DType dtype) {
  return {.weights = dtype, .activations = dtype, .accumulate = DType::kF32, .points = {}, .taken_as = {}};
}

// Gold: everything in float64, but the weights are those that the candidate was given.
inline Precision gold_precision(DType weights) {
  return {.weights = weights, .activations = DType::kF64, .accumulate = DType::kF64, .points = {}, .taken_as = {}};
}

}  // namespace qdiff
