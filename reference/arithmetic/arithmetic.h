// What computes a unit whose last row has an arithmetic of the table, and beside it the rounding that a correct engine
// is expected to make there: one file for each arithmetic, the three of attention together where they are fused.
#pragma once

#include "reference/setting.h"

namespace qdiff::reference {

// `inputs` in the order of unit_inputs(). Without a model the value alone.
using Evaluate = Evaluated(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                           const NoiseModel* model);

Evaluate evaluate_lookup;
Evaluate evaluate_norm;
Evaluate evaluate_product;
Evaluate evaluate_bias;  // alone or behind its product
Evaluate evaluate_rotate;
Evaluate evaluate_append;
Evaluate evaluate_attention;  // scores, softmax and weighted sum, alone or fused
Evaluate evaluate_gate;
Evaluate evaluate_add;

}  // namespace qdiff::reference
