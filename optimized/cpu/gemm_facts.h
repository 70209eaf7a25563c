// The engine's matrix products as facts, for people who look for a wrong stride.
#pragma once

#include <vector>

#include "harness/contract/engine.h"
#include "optimized/cpu/weight_store.h"

namespace qdiff::optimized::cpu {

// Reads the first layer's weights and one row of lm_head.
std::vector<GemmFacts> gemm_facts(const ModelConfig& config, WeightStore& weights);

}  // namespace qdiff::optimized::cpu
