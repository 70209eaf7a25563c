// The ensembles' random numbers: the same on every machine, and of the size that they claim.
#include "reference/random.h"

#include <cmath>

#include "cmake/catch2.h"

namespace qdiff::reference {
namespace {

TEST_CASE("random numbers come from integers alone", "[random]") {
  // The first output of SplitMix64 from state 0, as published with the algorithm.
  STATIC_REQUIRE(mix_bits(0) == 0xE220A8397B1DCDAFU);
  STATIC_REQUIRE(random_uniform(1, 2) != random_uniform(2, 1));
  double sum = 0.0, squares = 0.0, uniform_squares = 0.0, neighbours = 0.0;
  constexpr int kDraws = 200000;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double normal = random_normal(5, i), uniform = random_uniform(6, i);
    REQUIRE(std::fabs(normal) <= 3.47);
    REQUIRE(std::fabs(uniform) < 0.5);
    sum += normal;
    squares += normal * normal;
    neighbours += normal * random_normal(5, i + 1);
    uniform_squares += uniform * uniform;
  }
  CHECK(std::fabs(sum / kDraws) <= 0.01);  // four standard deviations of each estimate
  CHECK(std::fabs(squares / kDraws - 1.0) <= 0.013);
  CHECK(std::fabs(neighbours / kDraws) <= 0.01);
  CHECK(std::fabs(uniform_squares / kDraws * 12.0 - 1.0) <= 0.01);
}

}  // namespace
}  // namespace qdiff::reference
