#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

// The cache after this step: what it held, then what this step adds. past [B, S-T, K, d] or undefined, stored
// [B, T, K, d].
at::Tensor append_to_cache(const at::Tensor& past, const at::Tensor& stored) {
  return past.defined() ? at::cat({past, stored}, 1) : stored;
}

at::Tensor new_vectors(std::span<const at::Tensor> inputs, const Setting& setting) {
  return inputs[1].dim() == 4 ? inputs[1] : split_heads(inputs[1], setting.config());
}

CacheView cache_view(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  if (parameters.cache) return parameters.cache(op, setting);
  const at::Tensor stored = setting.rounding.stored({op, setting.layer}, new_vectors(inputs, setting));
  return {append_to_cache(inputs[0], stored), {}};
}

}  // namespace

Evaluated evaluate_append(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                          const NoiseModel* model) {
  const CacheView view = cache_view(unit.last, inputs, setting);
  if (model == nullptr) return {view.slots, {}};
  Evaluated result{view.slots, no_noise(view.slots)};
  if (setting.precision.cache != QuantizedCache::kNone && setting.variant == nullptr) {
    const at::Tensor now = new_vectors(inputs, setting).to(at::kDouble);
    const CacheCodes codes = cache_codes(setting.precision, {unit.last, setting.layer}, now);
    at::Tensor variance = at::zeros(view.slots.sizes(), of_type(at::kDouble));
    variance.narrow(1, variance.size(1) - now.size(1), now.size(1))
        .copy_(codes.variance(setting.precision.activations));
    result.noise.independent = variance;
  }
  if (view.unknown.defined()) {
    result.noise.independent = at::zeros(view.slots.sizes(), of_type(at::kDouble)).masked_fill(view.unknown, HUGE_VAL);
  }
  return result;
}

}  // namespace qdiff::reference
