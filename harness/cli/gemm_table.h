// `--print-gemms`: what an engine multiplies, for the eye that knows how H03, H06, H07 and H09 come about.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"

namespace qdiff::cli {

// An aligned table. A line starts with '!' where a bias has another length than its projection is wide, or where a
// leading dimension is not the length of a row; both are then named behind the line.
std::string gemm_table(const std::vector<GemmFacts>& gemms, const ModelConfig& config, const std::string& engine,
                       const std::string& model);

}  // namespace qdiff::cli
