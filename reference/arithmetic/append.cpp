
#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

// The cache after this step: what it held, then what this step adds. past [B, S-T, K, d] or undefined, now
// [B, T, K, d].
at::Tensor append_to_cache(const at::Tensor& past, const at::Tensor& now, const Rounding& rounding) {
  const at::Tensor stored = rounding.at(RoundingPoint::kKvCache, now);
  return past.defined() ? at::cat({past, stored}, 1) : stored;
}

// How far the codes of correct engines, multiplied out, lie from the reference's: a few roundings of float32, and a
// whole code where the quotient lies so near the middle between two that its own rounding decides.
at::Tensor int8_variance(const at::Tensor& now) {
  const Int8Codes codes = in_int8(now);
  const double unit = unit_roundoff(DType::kF32);
  const at::Tensor to_middle = (codes.quotient - at::floor(codes.quotient) - 0.5).abs();
  const at::Tensor is_near = to_middle.le(4.0 * unit * codes.quotient.abs());
  const at::Tensor rounding = codes.value().abs() * (4.0 * unit);
  return at::where(is_near, codes.scale.expand_as(now), rounding).square();
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
  if (setting.precision.cache == QuantizedCache::kInt8 && setting.variant == nullptr) {
    const at::Tensor now = inputs[1].dim() == 4 ? inputs[1] : split_heads(inputs[1], setting.config());
    at::Tensor variance = at::zeros(view.slots.sizes(), of_type(at::kDouble));
    variance.narrow(1, variance.size(1) - now.size(1), now.size(1)).copy_(int8_variance(now.to(at::kDouble)));
    result.noise.independent = variance;
  }
  if (view.unknown.defined()) {
    result.noise.independent = at::zeros(view.slots.sizes(), of_type(at::kDouble)).masked_fill(view.unknown, HUGE_VAL);
  }
  return result;
}

}  // namespace qdiff::reference
