// What must hold of a trace before anything of it is judged: it is of this model, and its tokens are of this
// vocabulary.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/weights.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::diagnose {

// Throws InputError where shape keys of the manifest differ from the model's, a tensor has another shape than the steps
// and the model give it, a token lies outside the vocabulary, a position beyond the model's, or where no row of the
// recorded embedding occurs in the model's table: then the trace was made with other weights. Throws CannotJudgeError
// where the manifest declares what no expectation is known for. Returns what else deserves a word: keys in which
// manifest and model differ, unusual positions, tensors of unknown names.
std::vector<std::string> check_trace(const trace::Trace& trace, const WeightSource& model);

}  // namespace qdiff::diagnose
