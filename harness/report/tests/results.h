// Results of imagined runs, one of each kind that reports must show.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/findings/result.h"

namespace qdiff::report::tests {

findings::RunResult match();
findings::RunResult diverged();      // one bug, explained, in several layers
findings::RunResult ties();          // two hypotheses fit equally; a fitted value
findings::RunResult inconclusive();  // a tensor in doubt, and others that could not be judged
findings::RunResult unexplained();   // nothing known fits; precision findings too
findings::RunResult sparse();        // a trace of layer outputs, with a bug that fits one in doubt
findings::RunResult rounding();      // undeclared roundings alone
findings::RunResult ranked();        // a trace's logits alone, with the bugs that come nearest
findings::RunResult allowed();       // a trace whose undeclared roundings do not count, and what would declare them
findings::RunResult refused();   // by a pipeline: known, waived, uncounted and new findings, and a waiver that expired
findings::RunResult accepted();  // by a pipeline, though the verdict is diverged
findings::RunResult not_numbers();  // NaN and infinities wherever a number stands
findings::RunResult empty();        // nothing was run
findings::RunResult hostile();      // every text tries to break out of where it is shown

// A model of 72B's shape: 80 layers, 100 steps, all 25 tensors of a layer that are usually recorded. All of it agrees,
// or two bugs make two tensors of each layer wrong, one of them in the prompt alone.
findings::RunResult many_layers_match();
findings::RunResult many_layers_diverged();

std::vector<std::pair<std::string, findings::RunResult>> all();  // with their names

}  // namespace qdiff::report::tests
