// What a report found, as something to plant: an engine that computes with it computes what was found.
#pragma once

#include <optional>

#include "harness/contract/mistake.h"
#include "harness/findings/result.h"

namespace qdiff::report {

// The mechanism of the finding's explanation, with its parameters and scope, at the finding's tensor in the layers
// where it holds; nothing where the explanation has no mechanism, or one that no engine plants.
std::optional<Mistake> mistake_of(const findings::Finding& finding);

// Where the explanation holds, but for its layers.
MistakeScope scope_of(const findings::Finding& finding);

}  // namespace qdiff::report
