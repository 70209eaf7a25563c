// What may be amiss with a tensor whose shape is not the expected one.
#pragma once

#include <string>

#include "harness/contract/tensor.h"

namespace qdiff::formats {

// "; these are its dimensions in another order, so it is written transposed", or that it only has to be viewed in the
// expected shape; empty where neither is so. Dimensions of `expected` that are 0 are not known.
std::string shape_hint(const Shape& actual, const Shape& expected);

}  // namespace qdiff::formats
