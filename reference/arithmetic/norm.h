// RMSNorm.
#pragma once

#include "reference/setting.h"

namespace qdiff::reference {

// weight * x / sqrt(mean(x^2) + eps), over the last dimension (Zhang & Sennrich 2019, "Root Mean Square Layer
// Normalization", eq. 4; Qwen2RMSNorm.forward). x [..., D], weight [D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const Rounding& rounding);

}  // namespace qdiff::reference
