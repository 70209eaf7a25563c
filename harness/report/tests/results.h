// Results of imagined runs, one of each kind that reports must show.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/compare/result.h"

namespace qdiff::report::tests {

compare::RunResult match();
compare::RunResult diverged();      // one bug, explained, in several layers
compare::RunResult ties();          // two hypotheses fit equally; a fitted value
compare::RunResult inconclusive();  // a tensor in doubt, and others that could not be judged
compare::RunResult unexplained();   // nothing known fits; precision findings too
compare::RunResult rounding();      // undeclared roundings alone
compare::RunResult ranked();        // a trace's logits alone, with the bugs that come nearest
compare::RunResult allowed();       // a trace whose undeclared roundings do not count, and what would declare them
compare::RunResult not_numbers();   // NaN and infinities wherever a number stands
compare::RunResult empty();         // nothing was run
compare::RunResult hostile();       // every text tries to break out of where it is shown

std::vector<std::pair<std::string, compare::RunResult>> all();  // with their names

}  // namespace qdiff::report::tests
