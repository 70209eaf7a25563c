// The weights that the operation table asks for, as a source lists them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::model {

// Those of weights_of(config), all of config.dtype.
std::vector<WeightInfo> expected_weights(const ModelConfig& config);

// Throws std::out_of_range unless elements [first, first + count) are in the weight and `destination` holds them: a
// caller's mistake, not bad input.
void check_read_range(const WeightInfo& info, std::int64_t first, std::int64_t count,
                      std::span<const std::byte> destination);

}  // namespace qdiff::model
