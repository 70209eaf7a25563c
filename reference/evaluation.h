// Rows of the operation table as tensors in, tensor out. What computes a row, and how far honest rounding would move
// it, stands in arithmetic/, one file for each arithmetic of the table; here is which one is asked.
//
// Charter: the functions in arithmetic/ are what everything else is compared with, in the form of transformers'
// modeling_qwen2.py. They are pure, they are read rather than tuned, they fuse nothing that the table does not, and
// they share no arithmetic with the engines. They compute in the element type of their tensors (fp64 for gold) and
// round only where `Rounding` says so.
//
// Shapes: B batch, T tokens of this step, S valid cache slots, D hidden, H query heads, K key/value heads, d head dim.
#pragma once

#include "reference/setting.h"

namespace qdiff::reference {

// The row that is fused into this one; none: no row is.
std::optional<Op> fused_before(Op op);
// Inputs of a unit: those of its rows, in order, that are not themselves rows of the unit.
std::vector<Input> unit_inputs(const Unit& unit);

// Inputs in that order; an undefined one is the cache before the first step.
at::Tensor evaluate_unit(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting);
// Gold with its noise. `stored`: the type in which the unit's result is kept, none where it is not.
Evaluated evaluate_unit_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                   std::optional<DType> stored);
// A row by itself.
inline at::Tensor evaluate_row(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  return evaluate_unit({op, op}, inputs, setting);
}

}  // namespace qdiff::reference
