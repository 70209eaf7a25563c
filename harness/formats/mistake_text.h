// Reads a mistake as text (contract/mistake.h): "bias:coefficient=2@self_attn.q_proj;phase=decode".
#pragma once

#include <string>

#include "harness/contract/mistake.h"

namespace qdiff::formats {

// Throws InputError that says what is wrong and, where that is near, what may have been meant: an unknown mechanism,
// tensor, parameter or scope, a value that is none of its kind, an operation without that mechanism. Whether the model
// has such a place is for the engine to say.
Mistake parse_mistake(const std::string& text);

}  // namespace qdiff::formats
