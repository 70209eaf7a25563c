// What a trace declares of its rounding, held against what it shows. A declared rounding widens what is expected, so
// that it may hide a mistake; one that the engine does not make is left out of the judgement where the trace says so.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/contract/precision.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

struct Declaration {
  Precision precision;
  std::vector<std::string> unused;  // "attention.probs: bfloat16", in the words of the manifest
  std::string condition = {};       // of coarse sums that only some operations seem to make; empty: none
};

// The declared precision without those entries of `compute` that no judged tensor needs: whatever is right under the
// declaration is right without them. Tensors of the first and of the last judged layer stand for all, and those that
// are wrong under the declaration are asked as well. Each entry is tried by itself, the ones found unused before it
// left out.
Declaration tightest_declaration(const Subject& subject, const Judged& judged, Oracle& oracle,
                                 const Precision& declared);

// The operations whose tensors are stored in a narrower type than the engine is said to have held them in.
std::set<Op> stored_narrower(const Judged& judged, const TensorStore& recorded, const Precision& declared);

// Whether most tensors that read one of these operations are wrong, as they are where the recorder rounded them and the
// engine did not.
bool misfits_readers(const Subject& subject, const Judged& judged, const std::set<Op>& ops, const ModelConfig& config);

}  // namespace qdiff::diagnose
