// Wrong rotary position embedding. Right turns the pairs (i, i + d/2) of q and k by position * theta^(-2i/d) (Su et al.
// 2021; rotate_half and apply_rotary_pos_emb in modeling_qwen2.py).
#include <cmath>

#include "reference/arithmetic/rotate.h"

namespace qdiff::reference {
namespace {

at::Tensor turn_neighbours(const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor pairs = x.unflatten(-1, {half, 2}).transpose(-1, -2).flatten(-2);  // evens, then odds
  const at::Tensor turned = rope(pairs, angles, setting.rounding);
  return turned.unflatten(-1, {2, half}).transpose(-1, -2).flatten(-2);
}

void turn_some_pairs(Parameters& parameters, const Place& place, double divisor) {
  const std::int64_t pairs = place.config.head_dim / 2;
  const auto turning = static_cast<std::int64_t>(static_cast<double>(pairs) / divisor);
  parameters.rope.rope = [turning](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
    const at::Tensor still = at::arange(x.size(-1), of_type(at::kLong)).remainder(x.size(-1) / 2).ge(turning);
    return rope(x, angles.masked_fill(still, 0.0), setting.rounding);
  };
}

void turn(Parameters& parameters, int times) {
  parameters.rope.rope = [times](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
    at::Tensor y = x;
    for (int i = 0; i < std::abs(times); ++i) y = rope(y, times < 0 ? -angles : angles, setting.rounding);
    return y;
  };
}

void move_positions(Parameters& parameters, const Place& place, const NumberedLaw& law) {
  const Step& step = place.step;
  auto positions = step.positions;
  for (std::size_t b = 0; b < positions.size(); ++b) {
    const std::int64_t pads = std::max<std::int64_t>(0, step.left_padding[b] - step.past_length);
    for (std::size_t t = 0; t < positions[b].size(); ++t) {
      std::int64_t& position = positions[b][t];
      switch (law.law) {
        case Law::kNumber:
          position = std::llround(law.number);
          break;
        case Law::kPlus:
          position += std::llround(law.number);
          break;
        case Law::kWithinStep:
          position = std::max<std::int64_t>(0, static_cast<std::int64_t>(t) - pads);
          break;
        case Law::kOfFirstRow:
          position = step.positions[0][t];
          break;
        default:
          unknown_law(law);
      }
    }
  }
  parameters.rope.positions = std::move(positions);
}

}  // namespace

void plant_rotation(Parameters& parameters, const Place& place, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    switch (law.parameter) {
      case Parameter::kTheta:
        parameters.rope.theta = law.number;
        break;
      case Parameter::kFrequencyWidth:  // theta^(-2i/D) = (theta^(d/D))^(-2i/d)
        parameters.rope.theta = std::pow(place.config.rope_theta, static_cast<double>(place.config.head_dim) /
                                                                      static_cast<double>(place.config.hidden));
        break;
      case Parameter::kPairing:
        parameters.rope.rope = turn_neighbours;
        break;
      case Parameter::kTurnedPairs:
        turn_some_pairs(parameters, place, law.number);
        break;
      case Parameter::kTurns:
        turn(parameters, static_cast<int>(law.number));
        break;
      case Parameter::kPosition:
        move_positions(parameters, place, law);
        break;
      default:
        unknown_law(law);
    }
  }
}

}  // namespace qdiff::reference
