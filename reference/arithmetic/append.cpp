#include <cmath>

#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

// The cache after this step: what it held, then what this step adds. past [B, S-T, K, d] or undefined, now
// [B, T, K, d].
at::Tensor append_to_cache(const at::Tensor& past, const at::Tensor& now, const Rounding& rounding) {
  const at::Tensor stored = rounding.at(RoundingPoint::kKvCache, now);
  return past.defined() ? at::cat({past, stored}, 1) : stored;
}

CacheView cache_view(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  if (parameters.cache) return parameters.cache(op, setting);
  const at::Tensor now = inputs[1].dim() == 4 ? inputs[1] : split_heads(inputs[1], setting.config());
  return {append_to_cache(inputs[0], now, setting.rounding), {}};
}

}  // namespace

Evaluated evaluate_append(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                          const NoiseModel* model) {
  const CacheView view = cache_view(unit.last, inputs, setting);
  if (model == nullptr) return {view.slots, {}};
  Evaluated result{view.slots, no_noise(view.slots)};
  if (view.unknown.defined()) {
    result.noise.independent = at::zeros(view.slots.sizes(), of_type(at::kDouble)).masked_fill(view.unknown, HUGE_VAL);
  }
  return result;
}

}  // namespace qdiff::reference
