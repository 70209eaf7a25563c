// What a model holds, as a number.
#pragma once

#include <string>

#include "harness/contract/weights.h"

namespace qdiff::cli {

// Of its config and its weights, all of which are read; what a synthetic model holds follows from its name.
std::string model_hash(const WeightSource& model);

}  // namespace qdiff::cli
