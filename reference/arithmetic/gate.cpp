#include <cmath>

#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

using enum RoundingPoint;

// silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer"; Qwen2MLP.forward).
at::Tensor silu_times(const at::Tensor& gate, const at::Tensor& up, const Rounding& rounding) {
  return rounding.at(kMlpSilu, at::silu(gate)) * up;
}

// y = g s(g) up with s(g) = 1/(1 + exp(-g)): the exponential to two units, of which a share exp(-g)/(1 + exp(-g)) <= 1
// reaches s, then a sum, a quotient and two products. Where exp(-g) overflows, s is 0 instead of what is left of it.
Noise silu_times_noise(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y, const NoiseModel& model) {
  const double u = model.unit();
  const at::Tensor share = at::sigmoid(-gate);
  const at::Tensor relative = share.square() * (kTwoUlps * u * u) + 4 * kOneRounding * u * u;
  const int largest = model.max_exponent();
  const at::Tensor overflows = gate.lt(-largest * std::log(2.0));
  const at::Tensor lost = (gate * up * std::ldexp(1.0, -largest)).masked_fill(overflows.logical_not(), 0.0).square();
  return {y.square() * relative + lost + model.at(kMlpSilu, at::silu(gate)) * up.square(), zeros_like_result(y)};
}

}  // namespace

Evaluated evaluate_gate(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                        const NoiseModel* model) {
  const Tensors gate_up = taken(unit.last, inputs, setting);
  const at::Tensor &gate = gate_up[0], &up = gate_up[1];
  const at::Tensor value = setting.parameters(unit.last).silu ? silu_times(gate, up, setting.rounding) : gate * up;
  if (model == nullptr) return {value, {}};
  return {value, silu_times_noise(gate, up, value, *model)};
}

}  // namespace qdiff::reference
