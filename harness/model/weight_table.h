// The weights that the operation table asks for, as one list.
#pragma once

#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::model {

// Every weight in execution order, each once, all of config.dtype. With tied embeddings there is no lm_head.weight.
std::vector<WeightInfo> expected_weights(const ModelConfig& config);

}  // namespace qdiff::model
