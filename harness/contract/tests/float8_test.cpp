// Rounding to the float8 types, held to the casts of PyTorch 2.11 (Tensor.to of float32), which saturate as little as
// these numbers need it.
#include "harness/contract/float8.h"

#include <cmath>
#include <utility>
#include <vector>

#include "cmake/catch2.h"

namespace qdiff {
namespace {

void check_casts(const Float8Facts& type, const std::vector<std::pair<double, double>>& casts) {
  for (const auto& [x, cast] : casts) {
    CHECK(round_to(type, x) == cast);
    CHECK(round_to(type, -x) == -cast);
  }
}

TEST_CASE("numbers become those of float8_e4m3fn as PyTorch casts them", "[float8]") {
  const std::vector<std::pair<double, double>> casts = {{1.0, 1.0},
                                                        {1.0625, 1.0},
                                                        {1.1875, 1.25},
                                                        {1.3, 1.25},
                                                        {17.0, 16.0},
                                                        {19.0, 20.0},
                                                        {0.1, 0.1015625},
                                                        {3.1415927, 3.25},
                                                        {447.0, 448.0},
                                                        {464.0, 448.0},
                                                        {0.015625, 0.015625},
                                                        {0.0146484375, 0.015625},
                                                        {250.0, 256.0},
                                                        {0.07, 0.0703125},
                                                        {0.01416015625, 0.013671875},
                                                        {0.0029296875, 0.00390625},
                                                        {0.001953125, 0.001953125},
                                                        {0.0009765625, 0.0},
                                                        {0.0009863281, 0.001953125},
                                                        {1.52587890625e-05, 0.0}};
  check_casts(kFloat8E4M3, casts);
}

TEST_CASE("numbers become those of float8_e5m2 as PyTorch casts them", "[float8]") {
  const std::vector<std::pair<double, double>> casts = {{1.0, 1.0},
                                                        {1.0625, 1.0},
                                                        {1.1875, 1.25},
                                                        {1.3, 1.25},
                                                        {17.0, 16.0},
                                                        {19.0, 20.0},
                                                        {0.1, 0.09375},
                                                        {3.1415927, 3.0},
                                                        {447.0, 448.0},
                                                        {464.0, 448.0},
                                                        {0.0146484375, 0.015625},
                                                        {0.01416015625, 0.013671875},
                                                        {0.0009863281, 0.0009765625},
                                                        {1.52587890625e-05, 1.52587890625e-05},
                                                        {7.62939453125e-06, 0.0},
                                                        {7.7e-06, 1.52587890625e-05},
                                                        {57344.0, 57344.0},
                                                        {61439.0, 57344.0},
                                                        {0.07, 0.0625}};
  check_casts(kFloat8E5M2, casts);
}

TEST_CASE("what lies beyond the largest number is that number, and NaN stays", "[float8]") {
  for (const Float8Facts& type : {kFloat8E4M3, kFloat8E5M2}) {
    CHECK(round_to(type, 2.0 * type.largest) == type.largest);
    CHECK(round_to(type, -HUGE_VAL) == -type.largest);
    CHECK(std::isnan(round_to(type, std::nan(""))));
    CHECK(round_to(type, 0.0) == 0.0);
  }
}

}  // namespace
}  // namespace qdiff
