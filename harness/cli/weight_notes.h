// What a report says of the weights that an engine holds.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/diagnose/held_weights.h"

namespace qdiff::cli {

// "the engine's weights are not the file's: self_attn.q_proj.weight in layers 0-23: rounded to bfloat16, 0.2 % apart",
// one for each weight and pattern; else that all are the file's. Then names that the model has not.
std::vector<std::string> weight_notes(const diagnose::WeightComparison& comparison, const ModelConfig& config);

}  // namespace qdiff::cli
