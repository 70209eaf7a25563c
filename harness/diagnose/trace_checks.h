// What must hold of a trace before anything of it is judged: it is of this model, and its tokens are of this
// vocabulary.
#pragma once

#include <string>
#include <vector>

#include "harness/contract/weights.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::diagnose {

// Throws InputError where shape keys of the manifest differ from the model's, a tensor has another shape than the steps
// and the model give it, a token lies outside the vocabulary, or a position beyond the model's. Returns what else
// deserves a word: keys in which manifest and model differ, unusual positions, tensors of unknown names.
std::vector<std::string> check_trace(const trace::Trace& trace, const WeightSource& model);

// Whether some compared row of the recorded embedding is a row of the model's table, or a multiple of its own token's,
// read as the table stands or as its transpose. True where none was recorded.
bool embedding_follows_from_table(const trace::Trace& trace, const WeightSource& model);

}  // namespace qdiff::diagnose
