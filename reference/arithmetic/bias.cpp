#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

// x [..., out], bias [out].
at::Tensor with_bias(Op op, const at::Tensor& x, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  const at::Tensor bias = weight_of(op, parameters, setting);
  if (!parameters.bias) return x + bias;
  const at::Tensor other = parameters.bias(bias, op, setting);
  return other.defined() ? x + other : x;
}

}  // namespace

Evaluated evaluate_bias(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                        const NoiseModel* model) {
  Evaluated before = {inputs[0], {}};
  if (unit.first != unit.last) before = evaluate_product(unit, inputs, setting, model);
  const at::Tensor value = with_bias(unit.last, before.value, setting);
  if (model == nullptr) return {value, {}};
  Noise noise = addition_noise(value, *model);
  if (unit.first != unit.last) noise = {before.noise.independent + noise.independent, before.noise.shared};
  return {value, noise};
}

}  // namespace qdiff::reference
