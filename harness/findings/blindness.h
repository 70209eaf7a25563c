// How much of a hypothesis the inputs of a run could not show.
#pragma once

#include "harness/findings/result.h"

namespace qdiff::findings {

// More of its variants stay unseen on these inputs than would show: that none shows says little.
inline bool is_mostly_blind(const HypothesisResult& hypothesis) {
  return hypothesis.blind_variants.size() > hypothesis.exercised_variants.size();
}

}  // namespace qdiff::findings
