// Searches on one wrong row: the value of a continuous parameter, and the roundings that nobody declared.
#pragma once

#include <vector>

#include "harness/diagnose/attribution.h"

namespace qdiff::diagnose {

class Screening;

// How far the candidate is from the reference that really rounds, and really has the bug, under a supposition: the root
// mean square error in units of `scale`'s deviations and the stored type's spacing. Infinite where a hard gate tells
// them apart.
double distance(Oracle& oracle, const RowJudgement& row, const Precision& precision, const Supposition& supposition,
                const Expectation& scale);

// Values of the variant's parameter that come nearest to what the candidate computed, the shortest number first.
std::vector<Variant> fitted_values(Oracle& oracle, Screening& screening, const RowJudgement& row,
                                   const Precision& precision, const VariantFacts& facts);

// The roundings which, really made, bring the reference (under `variant`, which may be null) far nearer to the
// candidate, added one at a time, the best first; empty where none does.
std::vector<DeclarablePoint> undeclared_points(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                                               const Variant* variant);

// Bugs of this row under which the reference comes nearest to the candidate, though none reproduces it; at most three.
std::vector<Variant> nearest_variants(Oracle& oracle, Screening& screening, const RowJudgement& row);

}  // namespace qdiff::diagnose
