#include "reference/arithmetic/rotate.h"

#include <algorithm>
#include <functional>
#include <numbers>

#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {

using enum RoundingPoint;

namespace {

// Angles position * theta^(-2i/d) of RoPE, the d/2 of them twice over: [B, T, d] (Su et al. 2021, "RoFormer", section
// 3.2.2; Qwen2RotaryEmbedding.forward).
at::Tensor rope_angles(const at::Tensor& positions, std::int64_t head_dim, double theta, at::ScalarType compute) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, of_type(compute)) / head_dim;
  const at::Tensor inverse_frequency = 1.0 / at::pow(theta, exponents);               // [d/2]
  const at::Tensor angles = positions.to(compute).unsqueeze(-1) * inverse_frequency;  // [B, T, d/2]
  return at::cat({angles, angles}, -1);
}

// (x1, x2) -> (-x2, x1), the halves of the last dimension (rotate_half in modeling_qwen2.py).
at::Tensor rotate_half(const at::Tensor& x) {
  const std::int64_t half = x.size(-1) / 2;
  return at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
}

}  // namespace

at::Tensor rope(const at::Tensor& x, const at::Tensor& angles, const Rounding& rounding) {
  const at::Tensor cosine = rounding.at(kRopeTable, at::cos(angles)).unsqueeze(2);  // the same for all heads
  const at::Tensor sine = rounding.at(kRopeTable, at::sin(angles)).unsqueeze(2);
  return rounding.at(kRopeProducts, x * cosine) + rounding.at(kRopeProducts, rotate_half(x) * sine);
}

namespace {

at::Tensor positions_to_angles(const RopeRule& rule, const Setting& setting) {
  std::vector<std::int64_t> flat;
  for (const auto& row : rule.positions ? *rule.positions : setting.step.positions) {
    flat.insert(flat.end(), row.begin(), row.end());
  }
  const at::Tensor positions = at::tensor(flat, of_type(at::kLong))
                                   .view({setting.step.batch(), setting.step.num_tokens()})
                                   .repeat({setting.copies, 1});
  return rope_angles(positions, setting.config().head_dim, rule.theta, setting.rounding.compute());
}

// Angles and tables are computed in float32 at least.
double table_unit(const NoiseModel& model) { return std::min(model.unit(), unit_roundoff(DType::kF32)); }

// The angle is a product of the position with a power that fp32 holds to about one u, so it is off by 1.5 u |angle|.
// ggml (ggml_rope_cache_init() in ggml/src/ggml-cpu/ops.cpp) comes to pair i by i products with the same rounded ratio:
// i times its error, and i roundings more. The first angle of a head is the position itself, exact. [B, T, d]
at::Tensor angle_errors(const at::Tensor& angles, const NoiseModel& model) {
  constexpr double kAngleError = 1.5;  // in u |angle|
  const double unit = table_unit(model);
  const at::Tensor pair = at::arange(angles.size(-1) / 2, of_type(at::kDouble)).repeat({2});
  const at::Tensor units = at::sqrt(kAngleError * kAngleError + kOneRounding * (pair.square() + pair));
  return angles.abs() * units.masked_fill(pair.eq(0.0), 0.0) * unit;
}

// Variance of a sine or cosine as a library computes it: one unit of the largest value, 1, and not of its own, for it
// is a polynomial on a reduced angle.
double library_variance(const NoiseModel& model) {
  const double unit = table_unit(model);
  return 4.0 * kOneRounding * unit * unit;
}

// The same of the angle that it reduces first, each function by itself: pi/2 - angle, where a cosine is taken as a sine
// (tinygrad, and engines for hardware that has the sine alone), or the angle less a multiple of pi in parts. One
// rounding of numbers as large as angle + pi/2: tinygrad 0.14's cosine is off by at most 1.07 u (angle + pi/2), 0.29 in
// the root mean square, its sine by 0.57 and 0.17 (angles to 50). The first pair's angle is reduced as any other.
at::Tensor reduction_variance(const at::Tensor& angles, const NoiseModel& model) {
  return rounding_of(angles.abs() + std::numbers::pi / 2.0, table_unit(model));
}

// y = x cos + rotate_half(x) sin. Independent: the table (and its rounding to rope.table's type), the two products (or
// rope.products), their sum. Shared over heads: the angle's error, where dy/d(angle) = rotate_half(x) cos - x sin, and
// that of its reduction, which differs for the two functions.
Noise rope_noise(const at::Tensor& x, const at::Tensor& angles, const at::Tensor& y, const NoiseModel& model) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor partner = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  const at::Tensor cosine = at::cos(angles).unsqueeze(2), sine = at::sin(angles).unsqueeze(2);
  const at::Tensor table = (model.at(kRopeTable, cosine) + library_variance(model)) * x.square() +
                           (model.at(kRopeTable, sine) + library_variance(model)) * partner.square();
  const at::Tensor first = x * cosine, second = partner * sine;
  const at::Tensor products = model.declares(kRopeProducts)
                                  ? model.at(kRopeProducts, first) + model.at(kRopeProducts, second)
                                  : rounding_of(first, model.unit()) + rounding_of(second, model.unit());
  const at::Tensor slope = partner * cosine - x * sine;
  const at::Tensor error2 = angle_errors(angles, model).unsqueeze(2).square();
  // Where the slope is small the curvature counts: d2y = -y, and a Gaussian's E e^4 = 3 (E e^2)^2.
  const at::Tensor reduction = reduction_variance(angles, model).unsqueeze(2);
  const at::Tensor shared = error2 * slope.square() + error2.square() * y.square() * 0.75 +
                            reduction * ((x * sine).square() + (partner * cosine).square());
  return {table + products + rounding_of(y, model.unit()), shared};
}

// Serves a wrong rotation, which may pair other elements or turn them another way: `turned` gives y for any angles. By
// differences, for which element meets which is not known here: no product is larger than the pair is long.
Noise rope_noise(const std::function<at::Tensor(const at::Tensor&)>& turned, const at::Tensor& angles,
                 const at::Tensor& y, const NoiseModel& model) {
  constexpr double kTurn = 1e-4;  // small beside a radian, large beside the rounding of float64
  const at::Tensor slope = (turned(angles + kTurn) - turned(angles - kTurn)) / (2.0 * kTurn);
  // What no angle moves, a bias behind the rotation, is the mean over a full turn. The sum with it may be far smaller
  // than what was rounded before.
  at::Tensor fixed = y / 4.0;
  for (int quarter = 1; quarter < 4; ++quarter) fixed = fixed + turned(angles + quarter * std::numbers::pi / 2.0) / 4.0;
  const at::Tensor length = at::sqrt((y - fixed).square() + slope.square());
  const at::Tensor table = (model.at(kRopeTable, at::ones_like(length)) + library_variance(model)) * length.square();
  const at::Tensor products =
      model.declares(kRopeProducts) ? model.at(kRopeProducts, length) * 2.0 : rounding_of(length, model.unit()) * 2.0;
  const at::Tensor errors = at::sqrt(angle_errors(angles, model).square() + reduction_variance(angles, model));
  const at::Tensor above = turned(angles + errors), below = turned(angles - errors);
  const at::Tensor shared = ((above - below) / 2.0).square() + ((above + below) / 2.0 - y).square() * 3.0;
  return {table + products + rounding_of(y, model.unit()), shared};
}

}  // namespace

Evaluated evaluate_rotate(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                          const NoiseModel* model) {
  const RopeRule rule = setting.parameters(unit.last).rope;
  const at::Tensor heads = split_heads(taken(unit.last, inputs, setting)[0], setting.config());
  const at::Tensor angles = positions_to_angles(rule, setting);
  const auto turned = [&](const at::Tensor& by) {
    return rule.rope ? rule.rope(heads, by, unit.last, setting) : rope(heads, by, setting.rounding);
  };
  const at::Tensor value = turned(angles);
  if (model == nullptr) return {value, {}};
  return {value, rule.rope ? rope_noise(turned, angles, value, *model) : rope_noise(heads, angles, value, *model)};
}

}  // namespace qdiff::reference
