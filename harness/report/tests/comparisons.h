// Comparisons of imagined traces, one of each kind that `qdiff compare` must show.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/compare/pairwise.h"

namespace qdiff::report::tests {

compare::PairwiseResult equal_traces();
compare::PairwiseResult far_apart();     // every tensor of 24 layers, the error jumps at layer 5
compare::PairwiseResult of_all_sorts();  // other shape, other type, NaN, within, missing on either side, notes
compare::PairwiseResult in_common_nothing();

std::vector<std::pair<std::string, compare::PairwiseResult>> all_comparisons();  // with their names

}  // namespace qdiff::report::tests
