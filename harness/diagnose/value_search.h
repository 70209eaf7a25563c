// The value of a parameter that somebody typed, where it is none of the listed ones: searched for on one wrong row. A
// continuous one (theta, eps, a scale) is written with as few digits as do; a whole number (a tile, a window, a shift)
// is looked for among those that a program may hold.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/diagnose/row_oracle.h"

namespace qdiff::diagnose {

// Values of the variant's parameter that come nearest to what the candidate computed, the shortest number first.
std::vector<Variant> fitted_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts);

// Whether the variant's parameter is a whole number of any size. One that says in what blocks a sum is rounded is left
// to compute.points.
bool takes_whole_number(const VariantFacts& facts);
// Whole numbers beside the listed ones that come nearest to what the candidate computed: all that no error on this row
// tells apart, those of round binary form first. Which they are hardly depends on what right code may round.
std::vector<Variant> nearest_whole_values(RowOracle& oracle, const RowJudgement& row, const VariantFacts& facts);

// How many slots a row of a cache may have where the steps of the input do not fill it, the fewest first: a few more
// than they fill, and the next multiples of powers of two and of ten.
std::vector<std::int64_t> likely_capacities(const CaseInput& input);

}  // namespace qdiff::diagnose
