// Which known bugs explain the wrong rows of a layer: the reference with that bug planted, evaluated on the candidate's
// own inputs, must compute what the candidate computed, where that is wrong and where it is right.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

// What the layers judged before have shown: an engine has the same bug in most of its layers.
struct Known {
  std::vector<Fit> fits;
  // Layers in which no whole number fitted, and in which no two bugs did.
  std::map<std::pair<FaultId, Op>, int> searched_in_vain;
  std::map<Op, int> paired_in_vain;
};

// For each row of one layer (all operations, subjects and steps), what fits it; empty where it is right or nothing
// does. A variant must reproduce every row that it changes, the wrong ones and the right ones alike: a bug that would
// have shown where the candidate is right is not the candidate's bug. Adds to `known`.
std::vector<std::vector<Fit>> explain_layer(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                            const Precision& precision, Known& known);

// What is asked last, where neither a known bug nor anything else explains an operation: roundings that make it right
// once they are declared, then two known bugs inside one span. Adds to `fits`.
void explain_what_is_left(Oracle& oracle, const std::vector<RowJudgement>& rows, const Precision& precision,
                          Known& known, const std::set<Op>& explained_otherwise, std::vector<std::vector<Fit>>& fits);

}  // namespace qdiff::diagnose
