// Stored elements as doubles, many at a time.
#pragma once

#include <cstddef>
#include <span>

#include "harness/contract/tensor.h"

namespace qdiff::compare {

// Elements [first, first + destination.size()) of a host view, exactly.
void load_elements(const TensorView& view, std::size_t first, std::span<double> destination);

}  // namespace qdiff::compare
