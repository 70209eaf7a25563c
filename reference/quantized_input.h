// GEMM inputs in ggml's blocks of 8-bit numbers. A quantiser is deterministic, so what an engine multiplied is known to
// the bit, but for numbers that lie almost in the middle between two steps: there the rounding of the scale's
// reciprocal decides, which engines compute in more than one way.
//
// Formulas: quantize_row_q8_0_ref(), quantize_row_q8_1_ref() and quantize_row_q8_K_ref() of ggml/src/ggml-quants.c, and
// quantize_row_q8_0() of ggml/src/ggml-cpu/arch/x86/quants.c, which takes another reciprocal (ggml 0.25).
#pragma once

#include <optional>
#include <string>

#include "harness/contract/precision.h"
#include "harness/contract/weights.h"
#include "reference/torch.h"

namespace qdiff::reference {

// In which form a GEMM takes its input.
enum class InputForm : std::uint8_t { kAsStored, kF16, kBF16, kQ8_0, kQ8_1, kQ8_K };

// Of the GEMM with this weight. Throws qdiff::InputError where no kernel of ggml takes such a weight, or where its rows
// are not whole blocks.
InputForm input_form(QuantizedInputs quantized, const WeightInfo& weight);

struct QuantizedInput {
  at::Tensor value;     // [..., n], the numbers that are multiplied, in the type of x
  at::Tensor variance;  // fp64, [..., n]: of those that may as well be a step away; undefined: there are none
  // What the kernels of Q4_1 and Q5_1 add for a block is its smallest weight times the sum of the input's block, which
  // is kept in float16 (block_q8_1::s). That sum less the sum of `value`: [..., n/32]; undefined in other forms.
  at::Tensor sum_errors;
};
QuantizedInput quantize(const at::Tensor& x, InputForm form);  // x [..., n]

// Distance between the numbers that x may be rounded to, fp64: [..., n].
at::Tensor quantization_step(const at::Tensor& x, InputForm form);

// The smallest weight of each block: [rows, n/32] of weight [rows, n].
at::Tensor block_minima(const at::Tensor& weight);

}  // namespace qdiff::reference
