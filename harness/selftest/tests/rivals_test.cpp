// Other projects' rules, on tensors small enough to check by hand.
#include "harness/selftest/rivals.h"

#include <cmath>
#include <limits>
#include <vector>

#include "cmake/catch2.h"

namespace qdiff::selftest {
namespace {

const double kNaN = std::nan("");

TEST_CASE("cosine similarity", "[selftest][rivals]") {
  const std::vector<double> gold = {1.0, 0.0};
  CHECK_FALSE(cosine_finds(gold, gold));
  CHECK_FALSE(cosine_finds(std::vector{3.0, 0.0}, gold));   // blind to a factor
  CHECK_FALSE(cosine_finds(std::vector{1.0, 0.04}, gold));  // 0.99920
  CHECK(cosine_finds(std::vector{1.0, 0.05}, gold));        // 0.99875
  CHECK(cosine_finds(std::vector{1.0, kNaN}, gold));
  CHECK(cosine_finds(std::vector{0.0, 0.0}, gold));
}

TEST_CASE("normalised mean square error", "[selftest][rivals]") {
  const std::vector<double> gold = {10.0, 0.0};
  CHECK_FALSE(nmse_finds(gold, gold));
  CHECK_FALSE(nmse_finds(std::vector{10.0, 0.09}, gold));  // 0.81e-4
  CHECK(nmse_finds(std::vector{10.0, 0.11}, gold));        // 1.21e-4
  CHECK(nmse_finds(std::vector{10.0, kNaN}, gold));
}

TEST_CASE("assert_close with its defaults for each type", "[selftest][rivals]") {
  for (const auto& [dtype, rtol] : {std::pair{DType::kF32, 1.3e-6}, {DType::kF16, 1e-3}, {DType::kBF16, 1.6e-2}}) {
    INFO(name(dtype));
    const std::vector<double> gold = {4.0, 0.0};
    const double allowed = 1e-5 + rtol * 4.0;
    CHECK_FALSE(assert_close_finds(std::vector{4.0 + 0.99 * allowed, 0.99e-5}, gold, dtype));
    CHECK(assert_close_finds(std::vector{4.0 + 1.01 * allowed, 0.0}, gold, dtype));
    CHECK(assert_close_finds(std::vector{4.0, 1.01e-5}, gold, dtype));
    CHECK(assert_close_finds(std::vector{4.0, kNaN}, gold, dtype));
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK_FALSE(assert_close_finds(std::vector{infinity}, std::vector{infinity}, dtype));
  }
  // What it expects is of the stored type: 1.003 is 1 in bfloat16.
  CHECK_FALSE(assert_close_finds(std::vector{0.985}, std::vector{1.003}, DType::kBF16));
}

TEST_CASE("twice the error of a naive implementation", "[selftest][rivals]") {
  const std::vector<double> gold = {1.0, 2.0}, naive = {1.0, 2.1};
  CHECK_FALSE(twice_naive_finds(std::vector{1.19, 2.0}, gold, naive));
  CHECK(twice_naive_finds(std::vector{1.21, 2.0}, gold, naive));
  CHECK(twice_naive_finds(std::vector{kNaN, 2.0}, gold, naive));
  CHECK_FALSE(twice_naive_finds(gold, gold, gold));
}

}  // namespace
}  // namespace qdiff::selftest
