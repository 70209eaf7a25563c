// RoPE.
#pragma once

#include "reference/setting.h"

namespace qdiff::reference {

// x cos(angle) + rotate_half(x) sin(angle) (apply_rotary_pos_emb). x [B, T, heads, d], angles [B, T, d].
at::Tensor rope(const at::Tensor& x, const at::Tensor& angles, const Rounding& rounding);

}  // namespace qdiff::reference
