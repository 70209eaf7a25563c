#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {
namespace {

using enum RoundingPoint;

// silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer"; Qwen2MLP.forward).
at::Tensor silu_times(const at::Tensor& gate, const at::Tensor& up, const Rounding& rounding) {
  return rounding.at(kMlpSilu, at::silu(gate)) * up;
}

// y = g s(g) up with s(g) = 1/(1 + exp(-g)): the exponential to two units, and the rounding of its exponent where it is
// taken to base two; a share exp(-g)/(1 + exp(-g)) <= 1 of both reaches s. Then come a sum, a quotient and two
// products.
//
// A sigmoid that a library makes of a rational function or of tanh(g/2) is accurate to units of its largest value, 1,
// and not of its own: onnxruntime 1.32's is off by 2.8 u at most for all g, so below g = -15 nothing of it is right.
// scripts/engines/kernels.py has such kernels. Where exp(-g) overflows, s is 0, which that covers as well.
//
// An engine that declares mlp.silu may round the sigmoid as well as its product with g (mlx does): in float16 a sigmoid
// below 6e-5 is subnormal. It may take exp(-g) in that type, too, whose largest number it passes below g = -11.09 in
// float16: there mlx 0.32 gives 0 for a sigmoid of up to 1.5e-5.
Noise silu_times_noise(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y, const NoiseModel& model) {
  const double u = model.unit();
  const at::Tensor share = at::sigmoid(-gate);
  const at::Tensor exponential = rounding_of(gate, u) * kExponentRoundings + kTwoUlps * u * u;
  const at::Tensor relative = share.square() * exponential + 4 * kOneRounding * u * u;
  const at::Tensor absolute = (gate * up).square() * (kTwoUlps * u * u);
  const at::Tensor declared = model.at(kMlpSilu, at::silu(gate)) + model.at(kMlpSilu, 1.0 - share) * gate.square();
  const at::Tensor lost = y.square() * model.overflows(kMlpSilu, at::exp(-gate));
  return {y.square() * relative + declared * up.square() + lost, absolute};
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
