// Numbers as text: what printf writes, to the byte.
#include "harness/contract/number_text.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/splitmix64.h"

namespace qdiff {
namespace {

std::string printed(const char* format, int precision, double value) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), format, precision, value);
  return text.data();
}

TEST_CASE("digits and decimals write what printf writes") {
  using Limits = std::numeric_limits<double>;
  std::vector<double> values = {0.0,
                                -0.0,
                                1.0,
                                -1.0,
                                0.5,
                                2.5,
                                1e6,
                                1e-6,
                                999999.5,
                                123456789.0,
                                1.0 / 3,
                                9.995,
                                1e22,
                                5e-324,
                                Limits::max(),
                                Limits::min(),
                                Limits::max(),
                                Limits::infinity(),
                                -Limits::infinity(),
                                Limits::quiet_NaN()};
  SplitMix64 random(1);
  for (int i = 0; i < 2000; ++i) values.push_back(std::bit_cast<double>(random.bits()));
  for (const double value : values) {
    for (const int precision : {1, 2, 3, 6, 9, 10, 15, 17}) {
      if (digits(value, precision) != printed("%.*g", precision, value)) FAIL(value << " in digits " << precision);
      if (decimals(value, precision) != printed("%.*f", precision, value)) FAIL(value << " in decimals " << precision);
    }
    CHECK(decimals(value, 0) == printed("%.*f", 0, value));
  }
  CHECK(digits(2.0 / 3, 3) == "0.667");
  CHECK(decimals(2.0 / 3, 1) == "0.7");
}

}  // namespace
}  // namespace qdiff
