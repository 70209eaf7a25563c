// Seeded, portable random numbers from integer arithmetic (splitmix64, Steele et al. 2014): the same on every machine.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace qdiff::calibration {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  // Sum of four uniforms, scaled to variance 1: near enough to a Gaussian, and cheap for millions of weights.
  double gaussian() {
    const std::uint64_t word = bits();
    double sum = -2.0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>((word >> (16 * i)) & 0xFFFF) * 0x1p-16;
    return sum * 1.7320508075688772;
  }
  std::int64_t below(std::int64_t end) { return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(end)); }
  std::int64_t between(std::int64_t first, std::int64_t last) { return first + below(last - first + 1); }
  bool chance(double probability) { return uniform() < probability; }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + below(static_cast<std::int64_t>(choices.size())));
  }

 private:
  std::uint64_t state_;
};

}  // namespace qdiff::calibration
