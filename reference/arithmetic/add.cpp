#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {

Evaluated evaluate_add(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                       const NoiseModel* model) {
  const Tensors summands = taken(unit.last, inputs, setting);
  const at::Tensor value = summands[0] + summands[1];
  return {value, model == nullptr ? Noise() : addition_noise(value, *model)};
}

}  // namespace qdiff::reference
