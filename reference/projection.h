// Rows that multiply with a matrix, right and wrong: the product, and the sum of squares that its noise needs.
#pragma once

#include "reference/evaluation.h"
#include "reference/quantized_input.h"

namespace qdiff::reference {

// How a row's GEMM takes its input.
InputRule input_rule(Op op, const Setting& setting);

// x weight^T of a row, before any declared rounding.
at::Tensor project_row(Op op, const at::Tensor& x, const Setting& setting);
// The same with the noise of its sums.
Evaluated project_row_with_noise(Op op, const at::Tensor& x, const Setting& setting, const NoiseModel& model);
// ||a o b||^2 of each dot product of x weight^T.
at::Tensor product_squares(const at::Tensor& x, Op op, const Setting& setting);

}  // namespace qdiff::reference
