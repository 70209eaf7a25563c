// Where no known bug and no rounding explains the wrong rows of an operation: what was solved for instead.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "harness/diagnose/span_mistakes.h"
#include "harness/diagnose/subject.h"
#include "harness/explain/theory.h"

namespace qdiff::diagnose {

using Theories = std::vector<std::shared_ptr<const explain::Theory>>;

// What the layers judged before have shown.
struct Solved {
  std::map<Op, int> in_vain;         // layers in which nothing explained an operation
  std::map<Op, Variant> by_variant;  // the known bug that explained it in part of its steps, heads or tokens
  std::map<Op, Mistakes> in_span;    // what explained it at the end of a span
  std::set<Op> by_mechanism;         // operations that a mechanism explained, which is no known bug
};

// For each row of one layer (all operations, subjects and steps) the theory that explains it; null where the row is
// right, has a fit, or no theory explains all wrong rows of its operation. Operations are left out that were not solved
// for in some layers before. Adds to `solved`.
Theories explain_unnamed(Oracle& oracle, const std::vector<RowJudgement>& rows,
                         const std::vector<std::vector<Fit>>& fits, const Precision& precision, Solved& solved);

}  // namespace qdiff::diagnose
