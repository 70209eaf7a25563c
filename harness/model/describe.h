// A model in words, for `qdiff inspect`.
#pragma once

#include <string>

#include "harness/contract/weights.h"

namespace qdiff::model {

// Several lines, each ending in '\n': the config, how many parameters and bytes, the weights by kind with shape and
// dtype; then notes, and warnings for what differs from every published Qwen2.5 (eps 1e-6, theta 1e6, ...).
std::string describe(const WeightSource& source);

}  // namespace qdiff::model
