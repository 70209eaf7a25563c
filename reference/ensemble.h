// Expected rounding of a span of several operations: gold beside an ensemble of evaluations that round at random.
//
// First-order propagation is too wide for a span, since errors that all keys share cancel in the softmax. So sixteen
// members walk the span in fp64. After each unit every member gets noise of the size that noise.h expects there, and a
// random rounding where the engine would have stored the tensor. What of it reaches the target is measured. It may
// still be too wide by far, and is narrowed (emulation.h).
#pragma once

#include "reference/memory.h"
#include "reference/walk.h"

namespace qdiff::reference {

// Values of units of a walk: gold, and of all members.
struct Ensemble {
  Values gold, members;
};

// What is known of the walk's units is not computed again.
Evaluated evaluate_ensemble(const Walk& walk, WeightStore& weights, const Ensemble& known = {});
// All units but the last.
Ensemble ensemble_before_last(const Walk& walk, WeightStore& weights);

}  // namespace qdiff::reference
