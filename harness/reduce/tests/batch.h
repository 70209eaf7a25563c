// A ragged batch in three steps, for the tests of this room.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/contract/step.h"

namespace qdiff::reduce {

// Three rows with 0, 2 and 5 pads; steps of 4, 3 and 1 tokens. The token of row b in slot s is 100 b + s.
inline std::vector<Step> ragged_batch() {
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (const std::int64_t num_tokens : {4, 3, 1}) {
    Step step{.index = static_cast<int>(steps.size()),
              .phase = num_tokens == 1 ? Phase::kDecode : Phase::kPrefill,
              .tokens = {},
              .past_length = past,
              .positions = {},
              .left_padding = {0, 2, 5}};
    for (std::int32_t row = 0; row < 3; ++row) {
      std::vector<std::int32_t>& tokens = step.tokens.emplace_back();
      for (std::int64_t t = 0; t < num_tokens; ++t) tokens.push_back(100 * row + static_cast<std::int32_t>(past + t));
    }
    set_default_positions(step);
    past += num_tokens;
    steps.push_back(step);
  }
  return steps;
}

}  // namespace qdiff::reduce
