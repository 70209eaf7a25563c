// Where a wrong tensor is wrong, in words.
#pragma once

#include <string>

#include "harness/contract/config.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"

namespace qdiff::diagnose {

// One phrase such as "heads 1, 2 and 4 of 6; every token row; up to 812 sigma", from the elements whose error exceeds
// half a spacing of the stored dtype plus eight expected deviations. Empty where no element does, or the shapes differ.
std::string describe_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                             const ModelConfig& config);

}  // namespace qdiff::diagnose
