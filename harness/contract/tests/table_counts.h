// How much the operation table holds, so that a further row changes no test that counts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "harness/contract/config.h"
#include "harness/contract/operation_table.h"

namespace qdiff {

inline constexpr std::int64_t kRowsOfALayer = std::ranges::count(kOperationTable, Scope::kLayer, &OperationRow::scope);
// Those that an engine hands out which fuses what can be fused.
inline constexpr std::int64_t kFusedRowsOfALayer = std::ranges::count_if(
    kOperationTable, [](const OperationRow& row) { return row.scope == Scope::kLayer && !row.fuses_into; });

inline std::int64_t weights_of_a_layer(const ModelConfig& config) {
  std::int64_t weights = 0;
  for (const OperationRow& row : kOperationTable) {
    if (row.scope == Scope::kLayer && config.has(row.component)) weights += std::ssize(row.weights);
  }
  return weights;
}

}  // namespace qdiff
