// GEMM inputs in ggml's blocks of 8-bit numbers. A quantiser is deterministic, so what an engine multiplied is known to
// the bit, but for numbers that lie almost in the middle between two steps: there the rounding of the scale's
// reciprocal decides, which engines compute in more than one way.
//
// Formulas: quantize_row_q8_0_ref(), quantize_row_q8_1_ref() and quantize_row_q8_K_ref() of ggml/src/ggml-quants.c, and
// quantize_row_q8_0() of ggml/src/ggml-cpu/arch/x86/quants.c, which takes another reciprocal (ggml 0.25).
#pragma once

#include <cstdint>

#include "harness/contract/precision.h"
#include "harness/contract/weights.h"
#include "reference/torch.h"

namespace qdiff::reference {

// The form in which a GEMM takes its input.
enum class InputForm : std::uint8_t { kAsStored, kF16, kBF16, kQ8_0, kQ8_1, kQ8_K };

struct InputRule {
  InputForm form = InputForm::kAsStored;
  // Where the weight's type has a smallest weight for so many elements and steps above it (Q4_1, Q4_K and others), its
  // kernels add the smallest weight times the sum of the input's block, apart from the rest. 0: other types.
  std::int64_t minimum_block = 0;
};

// The rule of the GEMM with this weight. Throws qdiff::InputError where no kernel of ggml takes such a weight, or where
// its rows are not whole blocks.
InputRule input_rule(QuantizedInputs quantized, const WeightInfo& weight);

struct QuantizedInput {
  at::Tensor value;     // [..., n], the numbers that are multiplied, in the type of x
  at::Tensor variance;  // fp64, [..., n]: of those that may as well be a step away; undefined: there are none
  // Sums of minimum_block elements, in the type of x: [..., n/block]; undefined where there is no such block. Q8_1
  // keeps the sums in float16 (block_q8_1::s), so that they are not those of `value`; others are.
  at::Tensor block_sums;
  at::Tensor block_sum_errors;  // block_sums less the sums of `value`; undefined: zeros
};
QuantizedInput quantize(const at::Tensor& x, const InputRule& rule);  // x [..., n]

// Distance between the numbers that x may be rounded to, fp64: [..., n].
at::Tensor quantization_step(const at::Tensor& x, InputForm form);

// The smallest of each `block` weights: [rows, n/block] of weight [rows, n].
at::Tensor block_minima(const at::Tensor& weight, std::int64_t block);

}  // namespace qdiff::reference
