// scores, probs and attn_output, alone or fused, over blocks of query rows.
#pragma once

#include "reference/evaluation.h"

namespace qdiff::reference {

bool is_attention(const Unit& unit);
// With noise where there is a model.
Evaluated evaluate_attention(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                             const NoiseModel* model);

}  // namespace qdiff::reference
