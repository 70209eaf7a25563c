// What is said of tensors whose names are none of the table's.
#pragma once

#include <string>
#include <vector>

#include "harness/trace/trace_reader.h"

namespace qdiff::trace {

// One sentence for each kind of name, names that differ in their numbers alone being one kind: "step 0 holds
// model.layers.0.mlp.gate and 23 like it, which are no tensors of the table and are not compared".
std::vector<std::string> notes_on_unknown(const Trace& trace);

}  // namespace qdiff::trace
