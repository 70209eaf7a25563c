// x weight^T, right and wrong.
#pragma once

#include "reference/quantized_input.h"
#include "reference/setting.h"

namespace qdiff::reference {

// x weight^T, without bias, by blocks of the weight's rows, in the form asked for. x [..., in], weight [out, in] as
// nn.Linear stores it.
at::Tensor project(const at::Tensor& x, const std::string& weight, const WeightForm& form, WeightStore& weights);

// How a row's GEMM takes its input.
InputRule input_rule(Op op, const Setting& setting);

}  // namespace qdiff::reference
