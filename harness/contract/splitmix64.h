// SplitMix64 (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators"; constants as in
// https://prng.di.unimi.it/splitmix64.c): random numbers from integer arithmetic alone, the same on every machine.
#pragma once

#include <cstdint>

namespace qdiff {

// What a generator adds to its state for each number.
inline constexpr std::uint64_t kGoldenGamma = 0x9E3779B97F4A7C15U;

// From a generator's state to its number: a bijection of the 64-bit integers in which each bit depends on all.
constexpr std::uint64_t splitmix64(std::uint64_t state) {
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9U;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBU;
  return state ^ (state >> 31);
}

// The generator: one number after the other.
class SplitMix64 {
 public:
  explicit constexpr SplitMix64(std::uint64_t seed) : state_(seed) {}
  constexpr std::uint64_t bits() { return splitmix64(state_ += kGoldenGamma); }
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  // [0, end)
  constexpr std::int64_t below(std::int64_t end) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(end));
  }
  // [first, last]
  constexpr std::int64_t between(std::int64_t first, std::int64_t last) { return first + below(last - first + 1); }

 private:
  std::uint64_t state_;
};

}  // namespace qdiff
