// Rows of the operation table as tensors in, tensor out: which function of operations.h computes a row, from which
// weights and under which fault, and which model of noise.h says how far honest rounding would move it.
#pragma once

#include <optional>
#include <span>

#include "reference/faults/fault.h"
#include "reference/noise.h"
#include "reference/operations.h"
#include "reference/weight_store.h"

namespace qdiff::reference {

// A step's batch may stand stacked several times over, once for each member of an ensemble: [copies * B, ...].
at::Tensor step_positions(const Step& step, std::int64_t copies);  // [copies * B, T]
// Slot s is visible to token t of row b: not after it (s <= past_length + t), and no pad. [copies * B, count, S] for
// the tokens [first, first + count).
at::Tensor step_visible(const Step& step, std::int64_t copies, std::int64_t first, std::int64_t count);

struct Setting {
  WeightStore& weights;
  const Precision& precision;
  const Rounding& rounding;
  const Step& step;
  int layer = kNoLayer;
  std::int64_t copies = 1;
  const Variant* variant = nullptr;

  const ModelConfig& config() const { return weights.config(); }
  Parameters parameters(Op op) const {
    return parameters_at({.op = op, .layer = layer, .step = step, .config = config()}, variant);
  }
  WeightForm form() const { return {precision.weights, rounding.compute(), false}; }
};

// Inputs in the order of the row's table entry; an undefined one is the cache before the first step.
at::Tensor evaluate_row(Op op, std::span<const at::Tensor> inputs, const Setting& setting);

// A stretch of rows that engines fuse and whose noise has a closed form: one row, a projection with its bias, or
// consecutive rows of scores, probs and attn_output. Only the last row's value is put out.
struct Unit {
  Op first;
  Op last;
};
struct Evaluated {
  at::Tensor value;
  Noise noise;
};
// Inputs of a unit: those of its rows, in order, that are not themselves rows of the unit.
std::vector<Input> unit_inputs(const Unit& unit);
at::Tensor evaluate_unit(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting);
// Gold with its noise. `stored`: the type in which the unit's result is kept, none where it is not.
Evaluated evaluate_unit_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                   std::optional<DType> stored);

// x weight^T by blocks of the weight's rows, in the form asked for.
at::Tensor project(const at::Tensor& x, const std::string& weight, const WeightForm& form, WeightStore& weights);
// Rows that multiply with a matrix, and its name.
bool is_projection(Op op);
std::string projection_weight(Op op, int layer, const ModelConfig& config);

}  // namespace qdiff::reference
