// Random numbers from integers alone: element `index` of stream `key` is the same on every machine, in any order.
#pragma once

#include <cstdint>

#include "harness/contract/splitmix64.h"

namespace qdiff::reference {

constexpr std::uint64_t mix_bits(std::uint64_t x) { return splitmix64(x + kGoldenGamma); }

constexpr std::uint64_t random_bits(std::uint64_t key, std::uint64_t index) { return mix_bits(mix_bits(key) ^ index); }

// Uniform in (-1/2, 1/2), never 0.
constexpr double random_uniform(std::uint64_t key, std::uint64_t index) {
  return (static_cast<double>(random_bits(key, index) >> 12) + 0.5) * 0x1p-52 - 0.5;
}

// Mean 0, variance 1, nearly normal within +-3.4: four 16-bit uniforms added up (Irwin-Hall). Integer arithmetic up to
// the last line keeps it portable.
constexpr double random_normal(std::uint64_t key, std::uint64_t index) {
  const std::uint64_t bits = random_bits(key, index);
  std::int64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<std::int64_t>((bits >> (16 * i)) & 0xFFFFU);
  constexpr double kSquareRootOf3 = 1.7320508075688772;
  return (static_cast<double>(sum - 2 * 0xFFFF)) * (kSquareRootOf3 / 65536.0);
}

}  // namespace qdiff::reference
