// Mistakes to try where a span of many operations is wrong and no known bug explains it: of a trace of layer outputs
// alone nothing can be solved for, so the usual points of each mechanism are planted in the reference, inside the span.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/mistake.h"
#include "harness/contract/tensor.h"

namespace qdiff::diagnose {

// What one engine computes wrongly: one mistake, or the same one in several operations.
using Mistakes = std::vector<Mistake>;

// Those that a model of that config can have in the span, in every phase; the ones in one operation first.
std::vector<Mistakes> span_mistakes(std::span<const TensorKey> span, const ModelConfig& config);

Mistakes in_phase(Mistakes mistakes, Phase phase);
// One line: "self_attn.k_proj: the bias so many times (coefficient: 2), in decode alone".
std::string sentence_of(const Mistakes& mistakes);

}  // namespace qdiff::diagnose
