// What a row is evaluated with: the weights, the declared precision, the step, and under a fault what that changes and
// may ask for.
#pragma once

#include <algorithm>
#include <span>
#include <stdexcept>
#include <vector>

#include "reference/faults/fault.h"
#include "reference/noise.h"
#include "reference/weight_store.h"

namespace qdiff::reference {

// A fault asked for a tensor that nobody recorded.
class MissingTensor : public std::runtime_error {
 public:
  explicit MissingTensor(const TensorKey& key)
      : std::runtime_error(tensor_name(key.id) + " of step " + std::to_string(key.step)) {}
};

class PlantedMistake;  // mistakes.h

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
  const std::function<void(Parameters&)>* change = nullptr;  // of a mistake (mistakes.h)
  const Variant* beside = nullptr;                           // a second one, where there is a variant
  // Planted behind right code, where a unit ends in a row that they act on.
  const std::vector<PlantedMistake>* mistakes = nullptr;

  const ModelConfig& config() const { return weights.config(); }
  Parameters parameters(Op op) const {
    Parameters told =
        parameters_at({.op = op, .layer = layer, .step = step, .config = config(), .first_of_phase = first_of_phase()},
                      variant, beside);
    if (change != nullptr) (*change)(told);
    return told;
  }
  bool first_of_phase() const {
    if (variant == nullptr) return false;  // right code does not ask
    const auto before = std::span(around->steps()).first(static_cast<std::size_t>(step.index));
    return std::none_of(before.begin(), before.end(), [this](const Step& s) { return s.phase == step.phase; });
  }
  WeightForm form() const { return {precision.weights, rounding.compute(), false}; }
  at::Tensor tensor(Op op) const { return around->tensor({step.index, {op, layer}}); }  // of this step and layer
};

// A stretch of rows that engines fuse (OperationRow::fuses_into) and whose noise has a closed form: one row, a
// projection with its bias, or consecutive rows of scores, probs and attn_output. Only the last row's value is put out.
struct Unit {
  Op first;
  Op last;
};
struct Evaluated {
  at::Tensor value;
  Noise noise;  // an infinite variance: under the fault nothing is expected there
};

// The row's weight, or that of the layer which a fault takes it from.
inline at::Tensor weight_of(Op op, const Parameters& parameters, const Setting& setting) {
  const int layer = parameters.weight_layer.value_or(setting.layer);
  return setting.weights.get(weight_name({op, layer}, 0, setting.config()), setting.form());
}
// What the row takes: its own inputs, or others under a fault.
inline Tensors taken(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Tensors own(inputs.begin(), inputs.end());
  const Parameters parameters = setting.parameters(op);
  return parameters.inputs ? parameters.inputs(own, setting) : own;
}
// [B, T, heads * d] -> [B, T, heads, d]
inline at::Tensor split_heads(const at::Tensor& x, const ModelConfig& config) {
  return x.view({x.size(0), x.size(1), -1, config.head_dim});
}

}  // namespace qdiff::reference
