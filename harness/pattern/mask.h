// Which key slots attention sees that it should not, and which it does not see that it should; from scores or
// probabilities.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "harness/pattern/values.h"

namespace qdiff::pattern {

struct MaskError {
  std::string text;        // "slots beyond the diagonal are seen"
  std::string hypothesis;  // "H08" where only decode's cache length can be meant, else "H10"
};

// Query t of batch row b sees slots left_padding[b]..past_length + t. Nothing unless the same rule holds in most wrong
// rows and what is seen rightly is as expected, or, of probabilities, in proportion to it.
std::optional<MaskError> find_mask_error(const Values& values, std::span<const std::int64_t> rows);

}  // namespace qdiff::pattern
