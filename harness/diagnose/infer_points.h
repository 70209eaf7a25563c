// Which entries of `compute.points` a candidate should have declared.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/diagnose/judging.h"

namespace qdiff::diagnose {

// Whether undeclared roundings explain everything that is wrong.
bool only_roundings(const Judged& judged);
// The declaration with the points that findings of kind precision name.
Precision declaring_found(Precision declared, const Judged& judged);

// The points, declared ones included, under which no tensor is wrong by an undeclared rounding. What was found under
// the declaration proposes points; judging again under them shows whether more are needed. Where two findings want one
// point in different types, the more frequent one is taken.
std::map<std::string, std::string> infer_points(const std::vector<Subject>& subjects, Oracle& oracle,
                                                const Precision& declared, const Extent& extent, const Judged& judged,
                                                const JudgingOptions& options);

}  // namespace qdiff::diagnose
