// What explains the wrong tensors of an operation where no known bug does: every mechanism is asked for theories, each
// theory is held against every tensor of the operation, and the one that is shortest to say is the explanation.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

// Which mechanisms are asked.
enum class Asked : std::uint8_t {
  kAll,
  kOfElements,  // those that solve for each element by itself, which costs little
  kOfAttention  // other heads, slots and sums, from the tensor's own inputs
};

// Nothing where no theory explains all wrong tensors of the scene and leaves the right ones right. `named` are theories
// that the caller has beside those of the mechanisms.
std::optional<Theory> explain(Scene& scene, const std::vector<Candidate>& named = {}, Asked asked = Asked::kAll);

}  // namespace qdiff::explain
