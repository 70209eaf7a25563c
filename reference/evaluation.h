// Rows of the operation table as tensors in, tensor out: which function of operations.h computes a row, from which
// weights and under which fault, and which model of noise.h says how far honest rounding would move it.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <stdexcept>

#include "reference/faults/fault.h"
#include "reference/noise.h"
#include "reference/operations.h"
#include "reference/weight_store.h"

namespace qdiff::reference {

// A fault asked for a tensor that nobody recorded.
class MissingTensor : public std::runtime_error {
 public:
  explicit MissingTensor(const TensorKey& key)
      : std::runtime_error(tensor_name(key.id) + " of step " + std::to_string(key.step)) {}
};

// What a fault may ask for beyond its row's inputs: other tensors of the case, other steps.
class Surroundings {
 public:
  virtual ~Surroundings() = default;
  // Throws MissingTensor.
  virtual at::Tensor tensor(const TensorKey& key) const = 0;
  virtual const std::vector<Step>& steps() const = 0;  // at least up to the present one
  virtual std::int64_t capacity() const = 0;           // cache slots of a row
  virtual bool is_full(const Step& step) const = 0;    // no slot is left behind the step's, as far as is known
  virtual double unwritten() const = 0;                // what memory holds that nobody wrote
};

// A step's batch may stand stacked several times over, once for each member of an ensemble: [copies * B, ...].
struct Setting {
  WeightStore& weights;
  const Precision& precision;
  const Rounding& rounding;
  const Step& step;
  int layer = kNoLayer;
  std::int64_t copies = 1;
  const Variant* variant = nullptr;
  const Surroundings* around = nullptr;  // needed where there is a variant
  bool quantizes = true;                 // false: inputs of GEMMs have been quantized, where the engine does that

  const ModelConfig& config() const { return weights.config(); }
  Parameters parameters(Op op) const {
    return parameters_at({.op = op, .layer = layer, .step = step, .config = config(), .first_decode = first_decode()},
                         variant);
  }
  bool first_decode() const {
    if (variant == nullptr || step.phase != Phase::kDecode) return false;  // right code does not ask
    const auto before = std::span(around->steps()).first(static_cast<std::size_t>(step.index));
    return std::none_of(before.begin(), before.end(), [](const Step& s) { return s.phase == Phase::kDecode; });
  }
  WeightForm form() const { return {precision.weights, rounding.compute(), false}; }
  at::Tensor tensor(Op op) const { return around->tensor({step.index, {op, layer}}); }  // of this step and layer
};

// Slots [0, num_slots) that the tokens [first, first + count) see: [copies * B, count, num_slots]. Right: not after the
// token (s <= past_length + t), and no pad.
at::Tensor visible_slots(const Step& step, const AttentionRule& rule, std::int64_t copies, std::int64_t first,
                         std::int64_t count, std::int64_t num_slots);

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
  Noise noise;  // an infinite variance: under the fault nothing is expected there
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
