// Wrong operands of a right operation: another token, other terms of a sum, another gate, another layer's weights.
#include <algorithm>
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {

void plant_lookup(Parameters& parameters, const Place&, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.law != Law::kPlus) unknown_law(law);
    parameters.token_offset = std::llround(law.number);
  }
}

// The inputs of a residual sum are the stream and the product that is added to it.
void plant_sum(Parameters& parameters, const Place& place, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.law == Law::kProductTimes) {
      parameters.inputs = [factor = law.number - 1.0](const Tensors& own, const Setting&) {
        return Tensors{factor == 0.0 ? at::zeros_like(own[1]) : own[1] * factor, own[1]};
      };
    } else if (law.law == Law::kNormed) {
      const Op norm = place.op == Op::kResidMid ? Op::kInputLayernorm : Op::kPostAttentionLayernorm;
      parameters.inputs = [norm](const Tensors& own, const Setting& setting) {
        return Tensors{setting.tensor(norm), own[1]};
      };
    } else {
      unknown_law(law);
    }
  }
}

void plant_gate(Parameters& parameters, const Place&, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kActivation && law.law == Law::kLeftOut) {
      parameters.silu = false;
    } else if (law.parameter == Parameter::kGateInputs && law.law == Law::kExchanged) {
      parameters.inputs = [](const Tensors& own, const Setting&) { return Tensors{own[1], own[0]}; };
    } else {
      unknown_law(law);
    }
  }
}

void plant_source(Parameters& parameters, const Place& place, const Planting& planting) {
  const std::int64_t layers = place.config.num_layers;
  for (const NumberedLaw& law : planting.laws) {
    if (law.law == Law::kLayerBefore) {
      parameters.weight_layer = std::max(0, place.layer - 1);
    } else if (law.law == Law::kLayerPlus) {
      const std::int64_t shifted = (place.layer + std::llround(law.number)) % layers;
      parameters.weight_layer = static_cast<int>((shifted + layers) % layers);
    } else {
      unknown_law(law);
    }
  }
}

}  // namespace qdiff::reference
