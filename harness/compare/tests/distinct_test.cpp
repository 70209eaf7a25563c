// What formulas_test.cpp does not ask: how halves are rounded, and more different values than usual.
#include "harness/compare/distinct.h"

#include <cmath>

#include "cmake/catch2.h"

namespace qdiff::compare {
namespace {

double share_of_equal_pairs(const std::vector<double>& values) {
  const auto count = static_cast<std::int64_t>(values.size());
  ModelConfig config;
  config.hidden = count;
  Step step;
  step.tokens = {{0}};
  step.left_padding = {0};
  set_default_positions(step);
  const Tensor row = Tensor::rounded(DType::kF64, {1, 1, count}, values);
  const Layout layout(Op::kOutput, row.shape(), step, config);
  return probability_of_equal({0, 1, 1, 0, 1, count}, layout, row.view());
}

TEST_CASE("values are equal to the eight bits of a bfloat16, halves to even", "[judge][distinct]") {
  const auto are_equal = [](double a, double b) { return share_of_equal_pairs({a, b}) == 1.0; };
  for (const double scale : {1.0, -0x1p-100, 0x1p90}) {
    CHECK(are_equal(scale, scale * (1 + 0x1p-9)));
    CHECK(are_equal(scale, scale * (1 + 0x1p-8)));  // half, to the even 1
    CHECK(!are_equal(scale, scale * (1 + 0x1p-8 + 0x1p-20)));
    CHECK(!are_equal(scale, scale * (1 + 0x1p-7)));
    CHECK(are_equal(scale * (1 + 0x1p-6), scale * (1 + 3 * 0x1p-8)));  // half, to the even 1 + 2^-6
    CHECK(are_equal(scale * 2, scale * (2 - 0x1p-9)));                 // into the next binade
    CHECK(!are_equal(scale, -scale));
    CHECK(!are_equal(scale, 2 * scale));
  }
}

TEST_CASE("as many values as are looked at may all differ", "[judge][distinct]") {
  std::vector<double> values;
  for (std::int64_t i = 0; i < kDistinctSample; ++i) {
    values.push_back(std::ldexp(1.0 + static_cast<double>(i % 128) / 128.0, static_cast<int>(i / 128)));
  }
  CHECK(share_of_equal_pairs(values) == 0.0);
  values.back() = values.front();
  CHECK(share_of_equal_pairs(values) == 2.0 / (1024.0 * 1023.0));
}

}  // namespace
}  // namespace qdiff::compare
