// A part of a recorded trace: some batch rows, the beginning of the sequence, some layers.
#pragma once

#include <filesystem>

#include "harness/reduce/inputs.h"
#include "harness/trace/recording.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::reduce {

// The trace's own inputs on all of the model's layers.
Inputs inputs_of(const trace::Trace& trace, std::int64_t num_layers);

// Those elements of the tensors that belong to the kept rows, slots and steps. Of a part on some layers: the tensors of
// those, what enters them, and what lies outside the layers. A kept slot keeps its values, so the slots before it have
// to be kept too, but for padding.
trace::Recording part_of(const trace::Trace& trace, const Inputs& inputs, std::int64_t num_layers);

// Writes that part as a trace of the same engine.
void write_part(const trace::Trace& trace, const Inputs& inputs, std::int64_t num_layers,
                const std::filesystem::path& directory);

}  // namespace qdiff::reduce
