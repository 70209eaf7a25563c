// Roundings that an engine made and did not declare, found by really making them in the reference.
#pragma once

#include <vector>

#include "harness/diagnose/row_oracle.h"

namespace qdiff::diagnose {

// The roundings which, really made, bring the reference (under `variant`, which may be null) far nearer to the
// candidate, added one at a time, the best first; empty where none does.
std::vector<DeclarablePoint> undeclared_points(const RowOracle& oracle, const RowJudgement& row,
                                               const Variant* variant);

// Sets of roundings under which, once declared, the row would be right, the smallest first: of an engine that rounds in
// an order of its own, to which the reference that really rounds comes no nearer (a query rounded after the scale, an
// exponential of a polynomial in 16 bits).
std::vector<std::vector<DeclarablePoint>> covering_declarations(const RowOracle& oracle, const RowJudgement& row);

// `precision` of an engine that rounds to the type in which it stores this row wherever the operations of the row can,
// but for sums; the same where that is no 16-bit type.
Precision rounding_as_it_stores(const Precision& precision, const RowJudgement& row);

// Bugs beside which roundings are tried: those under which the reference comes nearest to the candidate, though none
// reproduces it; among those under which it rounds at `points` as well.
std::vector<Variant> nearest_variants(RowOracle& oracle, const RowJudgement& row,
                                      const std::vector<DeclarablePoint>& points = {});

}  // namespace qdiff::diagnose
