// What engines that really round where they declare to show of a span.
#pragma once

#include "reference/memory.h"
#include "reference/walk.h"

namespace qdiff::reference {

// An ensemble rounds each number at random. An engine rounds equal numbers equally: what becomes of a large bias is the
// same in every key, and a softmax does not see it. Behind a softmax, where tensors are stored in 16 bits, no row is
// given more error than emulations have there, each on inputs that are moved by a spacing, or than they have on average
// in rows of its size: whichever is more.
Evaluated narrowed_to_emulations(Evaluated from_ensemble, const Walk& walk, WeightStore& weights);

}  // namespace qdiff::reference
