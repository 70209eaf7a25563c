// Whether a theory explains the wrong tensors of an operation.
//
// Every tensor of the operation, the wrong ones and the right ones, must fit right code outside the theory's scope and
// the theory inside it, by the judge as it is. And the theory must describe the candidate better than right code does
// by more bits than it takes to say the theory: sum of log2 of the errors' ratio over the elements of its scope, less
// the bits of its parameters and scope, is at least kMargin.
#pragma once

#include <optional>

#include "harness/explain/domain.h"
#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

// Bits by which the evidence must exceed the description. A prototype used 10: the smallest surplus of a true theory
// was 13.6 bits, that of an epsilon, and on 36 traces of right code with spoiled elements it explained nothing.
inline constexpr double kMargin = 10.0;

// The theory with its scope, sentence, bits and evidence; nothing where it does not explain.
std::optional<Theory> accept(Scene& scene, const Candidate& candidate);

// Right code outside the scope, the theory inside it.
Expectation mixed(Scene& scene, const Instance& instance, const Expectation& theory, const Domain& domain);

}  // namespace qdiff::explain
