// Whether judging a trace fits into memory.
#pragma once

#include "harness/cli/options.h"
#include "harness/contract/config.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::cli {

// Throws InputError where judging does not fit. Returns whether the reference's own forward pass fits beside it.
// `whole_passes`: forward passes are held against the trace, whatever it holds.
bool check_memory_for(const trace::Trace& trace, const ModelConfig& config, const CommonArguments& common,
                      bool whole_passes = false);

}  // namespace qdiff::cli
