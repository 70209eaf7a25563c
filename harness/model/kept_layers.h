// A model of which only some layers are kept: the smaller model that a reduced case runs on.
#pragma once

#include <memory>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::model {

// Layer i of the result is layer layers[i] of `whole`; everything outside the layers stays. `layers` is ascending and
// not empty. Throws InputError where the model lacks one of them.
std::unique_ptr<WeightSource> keep_layers(std::shared_ptr<const WeightSource> whole, const std::vector<int>& layers);

}  // namespace qdiff::model
