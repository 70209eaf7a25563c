// Seeded, portable random numbers: the same on every machine.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "harness/contract/splitmix64.h"

namespace qdiff::calibration {

class Random : public SplitMix64 {
 public:
  using SplitMix64::SplitMix64;
  // Sum of four uniforms, scaled to variance 1: near enough to a Gaussian, and cheap for millions of weights.
  double gaussian() {
    const std::uint64_t word = bits();
    double sum = -2.0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>((word >> (16 * i)) & 0xFFFF) * 0x1p-16;
    return sum * 1.7320508075688772;
  }
  bool chance(double probability) { return uniform() < probability; }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + below(static_cast<std::int64_t>(choices.size())));
  }
};

}  // namespace qdiff::calibration
