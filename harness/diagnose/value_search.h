// The value of a continuous parameter (theta, eps, a scale) that somebody typed: searched for, and written with as few
// digits as do.
#pragma once

#include <vector>

#include "harness/diagnose/row_oracle.h"

namespace qdiff::diagnose {

// Values of the variant's parameter that come nearest to what the candidate computed, the shortest number first.
std::vector<Variant> fitted_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts);

}  // namespace qdiff::diagnose
